#include <cctype>
#include <format>
#include <string_view>

#include "cli/help.h"

namespace hearth::cli {
namespace {

// Text as roff takes it: nothing in it is an instruction, and quotes and dashes stay what they are.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '\\':
        out += "\\e";
        break;
      case '-':
        out += "\\-";
        break;
      case '\'':
        out += "\\(aq";
        break;
      case '`':
        out += "\\(ga";
        break;
      case '^':
        out += "\\(ha";
        break;
      case '~':
        out += "\\(ti";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// A sentence a line, so that roff spaces them, and no line too long.
std::string paragraph(std::string_view text) {
  std::string out;
  for (std::size_t used = 0; const char c : text) {
    const bool sentence = out.ends_with('.') && !out.ends_with("e.g.");
    if (c == ' ' && (used > 60 || sentence)) {
      out += '\n';
      used = 0;
    } else {
      out += used == 0 && c == '.' ? "\\&." : escaped({&c, 1});
      ++used;
    }
  }
  return out + '\n';
}

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

std::string bold(std::string_view text) {
  return "\\fB" + escaped(text) + "\\fR";
}
std::string italic(std::string_view text) {
  return "\\fI" + escaped(text) + "\\fR";
}

void add_options(std::string& page, const std::vector<OptionHelp>& options, const std::string& group,
                 bool positional) {
  for (const OptionHelp& option : options) {
    if (option.group != group) continue;
    page += ".TP\n";
    for (std::size_t i = 0; i < option.names.size(); ++i) {
      if (i > 0) page += ", ";
      page += positional ? italic(option.names[i]) : bold(option.names[i]);
    }
    if (!positional && !option.is_flag()) page += " " + italic(option.value);
    if (option.repeatable) page += " ...";
    page += "\n" + paragraph(option.text);
  }
}

void add_facts(std::string& page, std::string_view title, const std::vector<Fact>& facts) {
  page += std::format(".SH {}\n", title);
  for (const Fact& fact : facts) page += ".TP\n" + bold(fact.name) + "\n" + paragraph(fact.text);
}

std::string page_title(const ProgramHelp& program, const VerbHelp* verb) {
  return verb == nullptr ? program.program.name : program.program.name + "-" + verb->name;
}

void add_synopsis(std::string& page, const VerbHelp& verb, const std::string& program) {
  page += bold(program) + " " + bold(verb.name);
  for (const OptionHelp& option : verb.options)
    if (option.required) page += "\n" + bold(option.names.front()) + " " + italic(option.value);
  page += "\n[" + italic("OPTIONS") + "]";
  for (const OptionHelp& argument : verb.positionals) {
    const std::string name = italic(argument.names.front()) + (argument.repeatable ? "..." : "");
    page += "\n" + (argument.required ? name : "[" + name + "]");
  }
  page += "\n";
}

}  // namespace

std::string man_page_name(const ProgramHelp& program, const VerbHelp* verb) {
  return page_title(program, verb) + ".1";
}

std::string man_page(const ProgramHelp& program, const VerbHelp* verb, const std::string& date) {
  const VerbHelp& what = verb == nullptr ? program.program : *verb;
  const std::string title = page_title(program, verb);
  std::string page = std::format(".TH {} 1 \"{}\" \"hearth {}\" \"hearth manual\"\n", escaped(upper(title)),
                                 date, HEARTH_VERSION);
  page += std::format(".SH NAME\n{} \\- {}\n.SH SYNOPSIS\n", escaped(title), escaped(what.summary));
  if (verb == nullptr)
    page += bold(title) + "\n" + italic("VERB") + "\n[" + italic("OPTIONS") + "]\n";
  else
    add_synopsis(page, what, program.program.name);

  page += ".SH DESCRIPTION\n";
  std::string summary = what.summary + ".";
  summary[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(summary[0])));
  page += paragraph(summary);
  for (const std::string& note : what.notes) page += ".PP\n" + paragraph(note);
  if (verb == nullptr) {
    page += ".SH VERBS\nEach has a page of its own.\n";
    for (const VerbHelp& other : program.verbs)
      page += ".TP\n.BR " + escaped(title + "-" + other.name) + " (1)\n" + paragraph(other.summary);
  }
  if (!what.positionals.empty()) page += ".SH ARGUMENTS\n";
  add_options(page, what.positionals, "", true);
  page += ".SH OPTIONS\n";
  for (const std::string& group : option_groups(what)) {
    if (!group.empty()) page += ".SS " + escaped(group) + "\n";
    add_options(page, what.options, group, false);
  }
  if (!what.examples.empty()) {
    page += ".SH EXAMPLES\n.EX\n";
    for (const std::string& example : what.examples) page += "\\&" + escaped(example) + "\n";
    page += ".EE\n";
  }
  add_facts(page, "ENVIRONMENT", environment());
  add_facts(page, "FILES", files());
  add_facts(page, "EXIT STATUS", exit_codes());
  if (verb != nullptr) page += ".SH SEE ALSO\n.BR " + escaped(program.program.name) + " (1)\n";
  return page;
}

}  // namespace hearth::cli
