#include "cli/help.h"

#include <cctype>
#include <format>
#include <sstream>
#include <string_view>

namespace hearth::cli {
namespace {

constexpr std::size_t kWidth = 80;
constexpr std::size_t kColumn = 26;  // where the texts of a list begin

// Appends words to text whose last line has `used` columns, each further line from column `indent` on.
void wrap(std::string& text, const std::string& words, std::size_t indent, std::size_t used) {
  std::istringstream in(words);
  bool first = true;
  for (std::string word; in >> word;) {
    if (!first && used + 1 + word.size() > kWidth) {
      text += '\n' + std::string(indent, ' ');
      used = indent;
      first = true;
    }
    text += (first ? "" : " ") + word;
    used += word.size() + (first ? 0 : 1);
    first = false;
  }
  text += '\n';
}

// "  name      text", the text on lines of its own where the name is too long.
void add_item(std::string& text, const std::string& name, const std::string& words) {
  text += "  " + name;
  std::size_t used = name.size() + 2;
  if (used + 2 > kColumn) {
    text += '\n';
    used = 0;
  }
  text += std::string(kColumn - used, ' ');
  wrap(text, words, kColumn, kColumn);
}

std::string option_names(const OptionHelp& option) {
  std::string text = option.names.front().starts_with("--") ? "    " : "";
  for (std::size_t i = 0; i < option.names.size(); ++i) text += (i > 0 ? ", " : "") + option.names[i];
  if (!option.is_flag()) text += " " + option.value;
  if (option.repeatable) text += " ...";
  return text;
}

void add_facts(std::string& text, std::string_view title, const std::vector<Fact>& facts) {
  text += std::format("\n{}:\n", title);
  for (const Fact& fact : facts) add_item(text, fact.name, fact.text);
}

std::string capitalised(std::string text) {
  if (!text.empty()) text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text;
}

}  // namespace

std::string help_text(const CLI::App& app) {
  const bool is_program = app.get_parent() == nullptr;
  const VerbHelp verb = describe_verb(app);
  std::string text;
  wrap(text,
       is_program ? std::format("Usage: {} VERB ...", verb.name)
                  : std::format("Usage: {} {} {}", app.get_parent()->get_name(), verb.name, synopsis(verb)),
       7, 0);
  text += '\n';
  wrap(text, capitalised(verb.summary) + ".", 0, 0);
  for (const std::string& note : verb.notes) {
    text += '\n';
    wrap(text, note, 0, 0);
  }
  if (is_program) {
    text += "\nVerbs:\n";
    for (const VerbHelp& other : describe_program(app).verbs) add_item(text, other.name, other.summary);
  }
  if (!verb.positionals.empty()) text += "\nArguments:\n";
  for (const OptionHelp& argument : verb.positionals) {
    const std::string kind = argument.takes_file() ? " (" + argument.value + ")" : "";
    add_item(text, argument.names.front() + (argument.repeatable ? "..." : ""), argument.text + kind);
  }
  for (const std::string& group : option_groups(verb)) {
    text += std::format("\n{}:\n", group.empty() ? "Options" : group);
    for (const OptionHelp& option : verb.options)
      if (option.group == group) add_item(text, option_names(option), option.text);
  }
  if (is_program) {
    add_facts(text, "Environment", environment());
    add_facts(text, "Exit codes", exit_codes());
  }
  if (!verb.examples.empty()) text += verb.examples.size() == 1 ? "\nExample:\n" : "\nExamples:\n";
  for (const std::string& example : verb.examples) text += "  " + example + '\n';
  return text;
}

}  // namespace hearth::cli
