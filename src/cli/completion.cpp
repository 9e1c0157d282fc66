#include "cli/completion.h"

#include <format>
#include <string_view>

namespace hearth::cli {
namespace {

// `text` with `what` before each character of `of`.
std::string escaped(std::string_view text, std::string_view of, std::string_view what = "\\") {
  std::string out;
  for (const char c : text) {
    if (of.contains(c)) out += what;
    out += c;
  }
  return out;
}

// In single quotes, as bash and zsh read them; fish escapes within them.
std::string shell_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}
std::string fish_quoted(std::string_view text) {
  return "'" + escaped(text, "\\'") + "'";
}

std::string join(const std::vector<std::string>& words, std::string_view between = " ") {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : std::string(between)) + word;
  return text;
}

std::vector<std::string> option_names(const VerbHelp& verb) {
  std::vector<std::string> names;
  for (const OptionHelp& option : verb.options)
    names.insert(names.end(), option.names.begin(), option.names.end());
  return names;
}

std::vector<std::string> verb_names(const ProgramHelp& program) {
  std::vector<std::string> names;
  for (const VerbHelp& verb : program.verbs) names.push_back(verb.name);
  return names;
}

// What bash does where the value of an option, or an argument, is completed.
std::string bash_action(const OptionHelp& option) {
  if (!option.choices.empty()) return std::format("_hearth_words {}", shell_quoted(join(option.choices)));
  if (option.takes_folder()) return "_hearth_files /";
  if (option.takes_file())
    return option.ending().empty() ? "_hearth_files" : std::format("_hearth_files '*.{}'", option.ending());
  return "";
}

std::string zsh_action(const OptionHelp& option) {
  if (!option.choices.empty()) return std::format("({})", join(option.choices));
  if (option.takes_folder()) return "_files -/";
  if (option.takes_file())
    return option.ending().empty() ? "_files" : std::format("_files -g \"*.{}\"", option.ending());
  return " ";
}

// "[0-15,20]" means something in a specification of _arguments.
std::string zsh_text(std::string_view text) {
  return escaped(text, "[]:\\");
}

void add_zsh_arguments(std::string& script, const VerbHelp& verb) {
  for (const OptionHelp& option : verb.options) {
    const std::string once = option.repeatable ? std::string("*") : std::format("({})", join(option.names));
    for (const std::string& name : option.names) {
      std::string spec = once + name;
      if (!option.is_flag() && name.starts_with("--")) spec += "=";
      spec += std::format("[{}]", zsh_text(option.text));
      if (!option.is_flag()) spec += std::format(":{}:{}", zsh_text(option.value), zsh_action(option));
      script += std::format(" \\\n        {}", shell_quoted(spec));
    }
  }
  for (std::size_t i = 0; i < verb.positionals.size(); ++i) {
    const OptionHelp& argument = verb.positionals[i];
    const std::string place = argument.repeatable ? "*" : std::to_string(i + 1);
    script += std::format(
        " \\\n        {}",
        shell_quoted(std::format("{}:{}:{}", place, zsh_text(argument.names.front()), zsh_action(argument))));
  }
}

std::string fish_action(const OptionHelp& option) {
  if (!option.choices.empty()) return std::format(" -x -a {}", fish_quoted(join(option.choices)));
  if (option.takes_folder()) return " -x -a '(__fish_complete_directories)'";
  if (option.takes_file() && !option.ending().empty())
    return std::format(" -k -x -a '(__fish_complete_suffix .{})'", option.ending());
  if (option.takes_file()) return " -r -F";
  return " -x";
}

void add_fish_options(std::string& script, const VerbHelp& verb, std::string_view place) {
  for (const OptionHelp& option : verb.options) {
    script += std::format("complete -c hearth -n {}", fish_quoted(place));
    for (const std::string& name : option.names) {
      if (name.starts_with("--"))
        script += " -l " + name.substr(2);
      else
        script += (name.size() == 2 ? " -s " : " -o ") + name.substr(1);
    }
    if (!option.is_flag()) script += fish_action(option);
    script += std::format(" -d {}\n", fish_quoted(option.text));
  }
}

}  // namespace

std::string bash_completion(const ProgramHelp& program) {
  std::string takes_value, values, options, arguments;
  for (const VerbHelp& verb : program.verbs) {
    options +=
        std::format("      {}) _hearth_words {} ;;\n", verb.name, shell_quoted(join(option_names(verb))));
    for (const OptionHelp& option : verb.options) {
      if (option.is_flag()) continue;
      std::string patterns;
      for (const std::string& name : option.names)
        patterns += (patterns.empty() ? "" : " | ") + shell_quoted(verb.name + " " + name);
      takes_value += (takes_value.empty() ? "" : " | \\\n      ") + patterns;
      if (const std::string action = bash_action(option); !action.empty())
        values += std::format("      {}) {} ;;\n", patterns, action);
    }
    for (std::size_t i = 0; i < verb.positionals.size(); ++i) {
      const OptionHelp& argument = verb.positionals[i];
      const std::string place = argument.repeatable ? shell_quoted(verb.name + " ") + "*"
                                                    : shell_quoted(std::format("{} {}", verb.name, i));
      const std::string action = bash_action(argument);
      if (!action.empty()) arguments += std::format("    {}) {} ;;\n", place, action);
    }
  }
  return std::format(R"(# bash completion of hearth, made by `hearth completion bash`

_hearth_words() {{
  mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}}

# Files, of a pattern if one is given, and the folders on the way to them; "/": folders only.
_hearth_files() {{
  compopt -o filenames 2>/dev/null
  case ${{1-}} in
    '') mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    /) mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
    *) mapfile -t COMPREPLY < <(compgen -d -- "$cur"; compgen -f -X "!$1" -- "$cur") ;;
  esac
}}

_hearth_takes_value() {{ # VERB OPTION
  case "$1 $2" in
    {0}) return 0 ;;
  esac
  return 1
}}

_hearth() {{
  COMPREPLY=()
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} verb='' n=0 i word
  # The shell makes three words of NAME=VALUE and HOST:PORT.
  if [[ $cur == = ]]; then
    cur=''
  elif [[ $prev == = ]]; then
    prev=${{COMP_WORDS[COMP_CWORD - 2]}}
  fi
  for ((i = 1; i < COMP_CWORD; ++i)); do
    word=${{COMP_WORDS[i]}}
    if [[ -z $verb ]]; then
      [[ $word == -* ]] || verb=$word
    elif [[ $word == [=:]* ]]; then
      ((++i))
    elif _hearth_takes_value "$verb" "$word"; then
      [[ ${{COMP_WORDS[i + 1]}} == = ]] || ((++i))
    elif [[ $word != -* ]]; then
      ((++n))
    fi
  done
  if _hearth_takes_value "$verb" "$prev"; then
    case "$verb $prev" in
{1}    esac
    return
  fi
  if [[ -z $verb ]]; then
    if [[ $cur == -* ]]; then _hearth_words {2}; else _hearth_words {3}; fi
    return
  fi
  if [[ $cur == -* ]]; then
    case $verb in
{4}    esac
    return
  fi
  case "$verb $n" in
{5}  esac
}}

complete -F _hearth hearth
)",
                     takes_value, values, shell_quoted(join(option_names(program.program))),
                     shell_quoted(join(verb_names(program))), options, arguments);
}

std::string zsh_completion(const ProgramHelp& program) {
  std::string script = R"(#compdef hearth
# zsh completion of hearth, made by `hearth completion zsh`

_hearth() {
  local curcontext=$curcontext state line
  typeset -A opt_args
  local -a verbs=(
)";
  for (const VerbHelp& verb : program.verbs)
    script += std::format("    {}\n", shell_quoted(verb.name + ":" + escaped(verb.summary, ":\\")));
  script += "  )\n  _arguments -C";
  add_zsh_arguments(script, program.program);
  script += R"( \
        '1:verb:->verb' \
        '*::argument:->argument'
  case $state in
    verb) _describe verb verbs ;;
    argument)
      case $words[1] in
)";
  for (const VerbHelp& verb : program.verbs) {
    script += std::format("      {})\n        _arguments", verb.name);
    add_zsh_arguments(script, verb);
    script += " ;;\n";
  }
  return script + R"(      esac ;;
  esac
}

# Loaded by compinit from a folder of $fpath, or evaluated.
if [[ $funcstack[1] == _hearth ]]; then
  _hearth "$@"
else
  compdef _hearth hearth
fi
)";
}

std::string fish_completion(const ProgramHelp& program) {
  std::string takes_value;
  for (const VerbHelp& verb : program.verbs)
    for (const OptionHelp& option : verb.options)
      for (const std::string& name : option.names)
        if (!option.is_flag()) takes_value += std::format(" '{} {}'", verb.name, name);
  std::string script = std::format(R"(# fish completion of hearth, made by `hearth completion fish`

set -g __hearth_takes_value{}

# Whether the verb before the cursor is VERB ('' for none yet), and COUNT arguments follow it, if a count is given.
function __hearth_at --argument-names verb count
    set -l words
    set -l is_value no
    set -l tokens (commandline -xpc 2>/dev/null; or commandline -opc)  # fish 4 and before
    for token in $tokens[2..-1]
        if test $is_value = yes
            set is_value no
        else if string match -q -- '-*' $token
            contains -- "$words[1] $token" $__hearth_takes_value; and set is_value yes
        else
            set -a words $token
        end
    end
    test "$words[1]" = "$verb"; or return 1
    test -z "$count"; or test (count $words) -eq (math $count + 1)
end

complete -c hearth -f
)",
                                   takes_value);
  add_fish_options(script, program.program, "__hearth_at ''");
  for (const VerbHelp& verb : program.verbs)
    script += std::format("complete -c hearth -n {} -a {} -d {}\n", fish_quoted("__hearth_at ''"), verb.name,
                          fish_quoted(verb.summary));
  for (const VerbHelp& verb : program.verbs) {
    add_fish_options(script, verb, "__hearth_at " + verb.name);
    for (std::size_t i = 0; i < verb.positionals.size(); ++i) {
      const OptionHelp& argument = verb.positionals[i];
      const std::string place = argument.repeatable ? std::format("__hearth_at {}", verb.name)
                                                    : std::format("__hearth_at {} {}", verb.name, i);
      const std::string action = fish_action(argument);
      if (action != " -x") script += std::format("complete -c hearth -n {}{}\n", fish_quoted(place), action);
    }
  }
  return script;
}

}  // namespace hearth::cli
