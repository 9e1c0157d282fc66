// The texts that are made from the verbs and options: what --help prints, and the man pages.
// Pure functions; any thread.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include "cli/command_tree.h"

namespace hearth::cli {

// Of the program (a list of the verbs, and what holds for all of them) or of one verb; at most 80 columns,
// but for commands of examples, which are not broken. `app` is the parser of either.
[[nodiscard]] std::string help_text(const CLI::App& app);

// A page of section 1 in man macros: of the program, or of the verb of it that `verb` points to.
// `date` as "2026-11-28", or "".
[[nodiscard]] std::string man_page(const ProgramHelp& program, const VerbHelp* verb, const std::string& date);
// "hearth.1", "hearth-run.1".
[[nodiscard]] std::string man_page_name(const ProgramHelp& program, const VerbHelp* verb);

}  // namespace hearth::cli
