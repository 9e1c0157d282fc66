// The verbs that print what is made from all the others: completion, and the hidden one that writes man
// pages when hearth is built.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <format>
#include <memory>
#include <string>
#include <vector>

#include "base/os_file.h"
#include "cli/completion.h"
#include "cli/console.h"
#include "cli/help.h"
#include "cli/verbs.h"

namespace hearth::cli {
namespace {

struct PageFlags {
  std::string verb;
  std::string folder;
  std::string date;
};

Result<> write(const std::filesystem::path& path, const std::string& text) {
  return replace_file(path, std::vector<std::uint8_t>(text.begin(), text.end()));
}

// Into FOLDER: a page for the program and each verb, and the completion of each shell under the name that it
// looks for.
Result<> write_all(const ProgramHelp& program, const PageFlags& flags) {
  const std::filesystem::path folder = flags.folder;
  HEARTH_TRY_VOID(write(folder / man_page_name(program, nullptr), man_page(program, nullptr, flags.date)));
  for (const VerbHelp& verb : program.verbs)
    HEARTH_TRY_VOID(write(folder / man_page_name(program, &verb), man_page(program, &verb, flags.date)));
  HEARTH_TRY_VOID(write(folder / program.program.name, bash_completion(program)));
  HEARTH_TRY_VOID(write(folder / ("_" + program.program.name), zsh_completion(program)));
  return write(folder / (program.program.name + ".fish"), fish_completion(program));
}

int run_man(const CLI::App& app, const PageFlags& flags) {
  const ProgramHelp program = describe_program(app);
  if (!flags.folder.empty()) {
    const auto written = write_all(program, flags);
    return written ? kOk : report(written.error());
  }
  if (flags.verb.empty()) return (void)put(man_page(program, nullptr, flags.date)), kOk;
  const auto verb = std::ranges::find(program.verbs, flags.verb, &VerbHelp::name);
  if (verb == program.verbs.end())
    return report({ErrorCode::kInvalidArgument, std::format("there is no verb '{}'", flags.verb)});
  (void)put(man_page(program, &*verb, flags.date));
  return kOk;
}

}  // namespace

void add_completion(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("completion", "print the completion script of a shell");
  const auto shell = std::make_shared<std::string>();
  verb->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->footer(
      "It completes verbs, options, their values and file names. An installed hearth has the scripts where "
      "shells look for them.\n"
      "Examples:\n"
      "  hearth completion bash > ~/.local/share/bash-completion/completions/hearth\n"
      "  hearth completion zsh > ~/.zfunc/_hearth    # a folder of $fpath\n"
      "  hearth completion fish > ~/.config/fish/completions/hearth.fish");
  verb->callback([shell, &app, &exit] {
    const ProgramHelp program = describe_program(app);
    (void)put(*shell == "bash"  ? bash_completion(program)
              : *shell == "zsh" ? zsh_completion(program)
                                : fish_completion(program));
    exit = kOk;
  });
}

void add_man(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("man", "print the man page of a verb, or of hearth");
  verb->group("");
  const auto flags = std::make_shared<PageFlags>();
  verb->add_option("VERB", flags->verb, "a verb");
  verb->add_option("--folder", flags->folder, "write all pages and completion scripts to this folder");
  verb->add_option("--date", flags->date, "date of the pages, as 2026-11-28");
  verb->callback([flags, &app, &exit] { exit = run_man(app, *flags); });
}

}  // namespace hearth::cli
