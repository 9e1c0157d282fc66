#include <array>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/os_process.h"
#include "cli/console.h"
#include "cli/verbs.h"

namespace {

// llama.cpp's and prima.cpp's names of one dash and several letters, which the command line parser reads as
// several flags.
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kLongNames = {{
    {"-lw", "--layer-window"},
    {"-ub", "--ubatch-size"},
    {"-ctk", "--cache-type-k"},
    {"-ctv", "--cache-type-v"},
}};

// The arguments in reverse, as CLI::App::parse takes them.
std::vector<std::string> arguments(int argc, char** argv) {
  std::vector<std::string> result;
  for (int i = argc - 1; i > 0; --i) {
    std::string argument = argv[i];
    for (const auto& [name, long_name] : kLongNames)
      if (argument == name || argument.starts_with(std::string(name) + "="))
        argument.replace(0, name.size(), long_name);
    result.push_back(std::move(argument));
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace hearth;
  open_standard_streams();
  // An idle OpenMP team should spin a moment, not for long: the devices of a ring wait for each other, and
  // other programs want the cores. libgomp reads this before main().
  require_environment("GOMP_SPINCOUNT", "10000", argv);
  ignore_broken_pipes();
  int exit = cli::kOk;
  CLI::App app{
      "hearth runs a large language model on the devices of a household, joined into an encrypted ring."};
  app.name("hearth");
  app.set_version_flag("--version", std::string("hearth ") + HEARTH_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Each verb has its own help and an example: hearth run --help\n"
      "Exit codes: 0 success, 1 other errors, 2 usage (a file that is not there, too), 3 bad or unsupported\n"
      "model or key file, 4 out of memory, 5 a device of the ring is gone, silent or not allowed,\n"
      "130 interrupted.");
  cli::add_demo(app, exit);
  cli::add_run(app, exit);
  cli::add_worker(app, exit);
  cli::add_show(app, exit);
  cli::add_bench(app, exit);
  cli::add_plan(app, exit);
  cli::add_profile(app, exit);
  cli::add_pack(app, exit);
  cli::add_cache(app, exit);
  cli::add_keygen(app, exit);
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommand_no_throw(argv[1]) == nullptr) {
    std::fprintf(stderr, "hearth: there is no verb '%s'; hearth --help lists them\n", argv[1]);
    return cli::kUsage;
  }
  try {
    app.parse(arguments(argc, argv));
  } catch (const CLI::ParseError& error) {
    const int shown = app.exit(error) == 0 ? cli::kOk : cli::kUsage;
    std::cout.flush();
    return cli::finish_output(shown);
  } catch (const std::exception& error) {  // std::bad_alloc and its like, from libraries
    std::fprintf(stderr, "hearth: %s\n", error.what());
    return cli::kError;
  }
  return cli::finish_output(exit);
}
