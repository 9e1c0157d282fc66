// Whether a GBNF grammar can be given to libllama, which ends the process, recurses without end or needs
// endless time for some. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "base/result.h"

namespace hearth::model {

inline constexpr std::size_t kMaxGrammarBytes = std::size_t{1} << 20;
// libllama refuses repetitions of 2000 and more, and takes {1,2001} as {1,}.
inline constexpr std::uint32_t kMaxGrammarRepetition = 1999;

// kInvalidArgument with line and column: syntax, a rule that is used and not there, there twice or not
// productive at its left (left recursion, a repetition of what may be empty), no rule `root`, more than
// bounds on size, nesting and the alternatives that may begin at one place. docs/reference/grammar.md has the
// syntax. `is_token` is asked whether a text like "<think>" is one token; empty: every one is.
[[nodiscard]] Result<> check_grammar(std::string_view grammar,
                                     const std::function<bool(std::string_view)>& is_token = {});

}  // namespace hearth::model
