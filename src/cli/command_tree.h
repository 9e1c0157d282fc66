// The verbs and options of the program as values, read from the parser: `--help`, shell completion and the
// man pages are made from this, so that none of them can know something else than the parser does.
//
// What the parser is told, and how it is read here:
// - The type name of an option says what completes its value: "FILE" any file, "FILE.gguf" files of that
//   ending, "FOLDER" folders. Values of an IsMember check are offered as they are.
// - A footer is paragraphs of text, then a line "Example:" or "Examples:" and a command on each line after
//   it (or one behind "Example: ").
// - Options of a group of their own are listed together under its name, after the others.
// - A verb or option of the group "" is hidden.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace hearth::cli {

struct OptionHelp {
  std::vector<std::string> names;  // "-m", "--model"; of a positional argument its name
  std::string value;               // "FILE", "N", "cache|lock"; "" for a flag
  std::vector<std::string> choices;
  std::string text;   // with default value and what it excludes
  std::string group;  // "" for none
  bool required = false;
  bool repeatable = false;
  [[nodiscard]] bool is_flag() const { return value.empty(); }
  [[nodiscard]] bool takes_file() const { return value == "FILE" || value.starts_with("FILE."); }
  // "gguf" of "FILE.gguf"; "" for any file.
  [[nodiscard]] std::string ending() const { return value.starts_with("FILE.") ? value.substr(5) : ""; }
  [[nodiscard]] bool takes_folder() const { return value == "FOLDER"; }
};

struct VerbHelp {
  std::string name;     // "run"; of the program itself "hearth"
  std::string summary;  // one line
  std::vector<OptionHelp> positionals, options;
  std::vector<std::string> notes;     // paragraphs
  std::vector<std::string> examples;  // commands
};

struct ProgramHelp {
  VerbHelp program;
  std::vector<VerbHelp> verbs;  // in the parser's order
};

[[nodiscard]] VerbHelp describe_verb(const CLI::App& app);
[[nodiscard]] ProgramHelp describe_program(const CLI::App& app);

// Groups of a verb's options: "" first, the others in their order.
[[nodiscard]] std::vector<std::string> option_groups(const VerbHelp& verb);

// The arguments of a verb in one line, what must be given first: "-m FILE.gguf [OPTIONS] [NAME...]".
[[nodiscard]] std::string synopsis(const VerbHelp& verb);

// What holds for all verbs.
struct Fact {
  std::string name, text;
};
[[nodiscard]] const std::vector<Fact>& exit_codes();
[[nodiscard]] const std::vector<Fact>& environment();
[[nodiscard]] const std::vector<Fact>& files();

}  // namespace hearth::cli
