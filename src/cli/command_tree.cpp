#include "cli/command_tree.h"

#include <algorithm>
#include <format>
#include <set>
#include <sstream>
#include <string_view>

#include "cli/long_names.h"

namespace hearth::cli {
namespace {

std::string join(const std::vector<std::string>& words, std::string_view between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : std::string(between)) + word;
  return text;
}

// What the parser says of an option's value: "TEXT" or a name given by type_name(), and a text for each
// check:
// "{cache,lock}", "INT in [1 - 512]", "1 to 128 or auto", "FILE" for a file that must be there.
struct ValueType {
  std::string name;
  std::vector<std::string> checks;
};

ValueType type_of(const CLI::Option& option) {
  ValueType type = {.name = option.get_type_name(), .checks = {}};
  std::size_t checks_size = 0;
  try {
    for (int i = 0;; ++i) {
      // It has no const form, and an exception for an end.
      const std::string check = const_cast<CLI::Option&>(option).get_validator(i)->get_description();
      if (check.empty()) continue;
      type.checks.push_back(check);
      checks_size += 1 + check.size();
    }
  } catch (const CLI::OptionNotFound&) {
  }
  // They follow the name, each after a colon.
  type.name.resize(type.name.size() - std::min(checks_size, type.name.size()));
  return type;
}

std::vector<std::string> choices_of(const ValueType& type) {
  std::vector<std::string> choices;
  for (const std::string& check : type.checks) {
    if (check.starts_with('{') && check.ends_with('}')) {
      std::istringstream list(check.substr(1, check.size() - 2));
      for (std::string one; std::getline(list, one, ',');) choices.push_back(one);
    } else if (const auto at = check.rfind(" or "); at != std::string::npos) {
      choices.push_back(check.substr(at + 4));
    }
  }
  return choices;
}

std::string value_of(const ValueType& type, const std::vector<std::string>& choices) {
  const auto is_list = [](const std::string& check) { return check.starts_with('{'); };
  if (std::ranges::any_of(type.checks, is_list)) return join(choices, "|");
  if (type.name == "UINT" || type.name == "INT" || type.name == "FLOAT")
    return choices.empty() ? "N" : "N|" + join(choices, "|");
  return type.name == "TEXT" && std::ranges::contains(type.checks, "FILE") ? "FILE" : type.name;
}

// Excluded and needed options, by name: the parser's sets are sorted by address.
std::string names_of(const std::set<CLI::Option*>& options) {
  std::vector<std::string> names;
  for (const CLI::Option* option : options) names.push_back(option->get_name());
  std::ranges::sort(names);
  return join(names, ", ");
}

OptionHelp describe_option(const CLI::Option& option) {
  OptionHelp help;
  if (option.get_positional()) {
    help.names.push_back(option.get_name(true));
  } else {
    for (const std::string& name : option.get_snames()) help.names.push_back("-" + name);
    for (const auto& [alias, name] : kLongNames)
      if (option.check_lname(std::string(name.substr(2)))) help.names.emplace_back(alias);
    for (const std::string& name : option.get_lnames()) help.names.push_back("--" + name);
  }
  help.required = option.get_required();
  if (option.get_group() != CLI::OptionDefaults().get_group()) help.group = option.get_group();
  help.text = option.get_description();
  if (option.get_items_expected_max() > 0) {
    const ValueType type = type_of(option);
    help.choices = choices_of(type);
    help.value = value_of(type, help.choices);
    help.repeatable = option.get_expected_max() == CLI::detail::expected_max_vector_size;
    const std::string given = option.get_default_str();
    if (!given.empty() && !help.text.contains("default:")) help.text += std::format(" (default: {})", given);
  }
  if (help.required && !option.get_positional()) help.text += " (required)";
  if (!option.get_needs().empty()) help.text += std::format(" (needs {})", names_of(option.get_needs()));
  if (!option.get_excludes().empty())
    help.text += std::format(" (not with {})", names_of(option.get_excludes()));
  return help;
}

void read_footer(const std::string& footer, VerbHelp& verb) {
  std::istringstream lines(footer);
  bool examples = false, new_paragraph = true;
  for (std::string line; std::getline(lines, line);) {
    line.erase(0, line.find_first_not_of(' '));
    for (const std::string_view title : {"Examples:", "Example:"}) {
      if (examples || !line.starts_with(title)) continue;
      examples = true;
      line.erase(0, title.size());
      line.erase(0, line.find_first_not_of(' '));
    }
    if (line.empty()) {
      new_paragraph = true;
    } else if (examples) {
      verb.examples.push_back(line);
    } else if (new_paragraph) {
      verb.notes.push_back(line);
      new_paragraph = false;
    } else {
      verb.notes.back() += " " + line;
    }
  }
}

}  // namespace

VerbHelp describe_verb(const CLI::App& app) {
  VerbHelp verb = {.name = app.get_name(),
                   .summary = app.get_description(),
                   .positionals = {},
                   .options = {},
                   .notes = {},
                   .examples = {}};
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;
    (option->get_positional() ? verb.positionals : verb.options).push_back(describe_option(*option));
  }
  read_footer(app.get_footer(), verb);
  return verb;
}

ProgramHelp describe_program(const CLI::App& app) {
  ProgramHelp help = {.program = describe_verb(app), .verbs = {}};
  for (const CLI::App* verb : app.get_subcommands({}))
    if (!verb->get_group().empty()) help.verbs.push_back(describe_verb(*verb));
  return help;
}

std::vector<std::string> option_groups(const VerbHelp& verb) {
  std::vector<std::string> groups = {""};
  for (const OptionHelp& option : verb.options)
    if (!std::ranges::contains(groups, option.group)) groups.push_back(option.group);
  return groups;
}

std::string synopsis(const VerbHelp& verb) {
  std::string text;
  for (const OptionHelp& option : verb.options)
    if (option.required) text += std::format("{} {} ", option.names.front(), option.value);
  text += "[OPTIONS]";
  for (const OptionHelp& argument : verb.positionals) {
    const std::string name = argument.names.front() + (argument.repeatable ? "..." : "");
    text += argument.required ? " " + name : " [" + name + "]";
  }
  return text;
}

const std::vector<Fact>& exit_codes() {
  static const std::vector<Fact> facts = {
      {"0", "success"},
      {"1", "an error without a number of its own"},
      {"2", "wrong usage: a flag or value that cannot be, a file that is not there"},
      {"3", "a model or key file that is damaged or not supported, or not the model of the ring"},
      {"4", "out of memory: nothing was taken"},
      {"5", "a device of the ring is gone, silent or not allowed"},
      {"130", "interrupted"},
  };
  return facts;
}

const std::vector<Fact>& environment() {
  static const std::vector<Fact> facts = {
      {"HEARTH_CACHE", "folder of the packs and of what was measured; --cache-dir goes before it"},
      {"XDG_STATE_HOME", "where the history of chats is kept, in hearth/ (default: ~/.local/state)"},
      {"XDG_CACHE_HOME", "the user's cache, where HEARTH_CACHE is not set (default: ~/.cache)"},
      {"GGML_VK_VISIBLE_DEVICES",
       "numbers of the Vulkan devices that are GPUs here, e.g. 0; empty: none; without it all but those in "
       "software"},
      {"GOMP_SPINCOUNT",
       "how long idle compute threads spin before they sleep; hearth sets 10000 where it is not set"},
  };
  return facts;
}

const std::vector<Fact>& files() {
  static const std::vector<Fact> facts = {
      {"~/.cache/hearth/packs/*.pack",
       "layers as they are streamed; hearth cache lists and removes them, they are made anew when needed"},
      {"~/.cache/hearth/packs/profiles", "what this device was measured to do, kept for 30 days"},
      {"~/.local/state/hearth/chat-history",
       "lines typed in chats, for their owner only; --no-history keeps none"},
  };
  return facts;
}

}  // namespace hearth::cli
