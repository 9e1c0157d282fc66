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
#include "cli/help.h"
#include "cli/long_names.h"
#include "cli/verbs.h"

namespace {

// The arguments in reverse, as CLI::App::parse takes them.
std::vector<std::string> arguments(int argc, char** argv) {
  std::vector<std::string> result;
  for (int i = argc - 1; i > 0; --i) {
    std::string argument = argv[i];
    for (const auto& [name, long_name] : hearth::cli::kLongNames)
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
  CLI::App app{"run a large language model on the devices of a household, joined into an encrypted ring"};
  app.name("hearth");
  app.formatter_fn(
      [](const CLI::App* of, const std::string&, CLI::AppFormatMode) { return cli::help_text(*of); });
  app.set_help_flag("-h,--help", "print this help");
  app.set_version_flag("--version", std::string("hearth ") + HEARTH_VERSION, "print the version");
  app.require_subcommand(1);
  app.footer(
      "One device, the head, has the prompt and leads; workers lend it memory and cores. `hearth VERB "
      "--help` "
      "and `man hearth-VERB` say more of each verb.\n"
      "Examples:\n"
      "  hearth demo\n"
      "  hearth run -m model.gguf -p 'Why is the sky blue?'");
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
  cli::add_completion(app, exit);
  cli::add_man(app, exit);
  if (argc == 1) {
    std::fprintf(stderr, "%s", cli::help_text(app).c_str());
    return cli::kUsage;
  }
  if (argv[1][0] != '-' && app.get_subcommand_no_throw(argv[1]) == nullptr) {
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
