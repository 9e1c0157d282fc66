// Completion scripts for shells, made from the verbs and options: verbs, option names, values that are a
// choice, files where a value is one.
// Pure functions; any thread.
#pragma once

#include <string>

#include "cli/command_tree.h"

namespace hearth::cli {

[[nodiscard]] std::string bash_completion(const ProgramHelp& program);
[[nodiscard]] std::string zsh_completion(const ProgramHelp& program);
[[nodiscard]] std::string fish_completion(const ProgramHelp& program);

}  // namespace hearth::cli
