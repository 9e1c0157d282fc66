// Pieces of GBNF text for what JSON is made of. Internal to model.
//
// Pure functions; an argument that is put into a sequence is one item, or stands in parentheses already.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace hearth::model {

// `text` as a GBNF literal: "\"a\"" for "a" in quotes.
[[nodiscard]] std::string gbnf_literal(std::string_view text);
// (a | b | c); the item itself where there is one.
[[nodiscard]] std::string gbnf_any(const std::vector<std::string>& alternatives);
// `item` from `least` to `most` times (none: any); "" for none at all.
[[nodiscard]] std::string gbnf_repeat(const std::string& item, std::uint64_t least,
                                      std::optional<std::uint64_t> most);

// Code points, each range with both ends.
using CharRange = std::pair<std::uint32_t, std::uint32_t>;
// [a-z...]; "" for none.
[[nodiscard]] std::string gbnf_class(const std::vector<CharRange>& ranges);

// Whole numbers and their decimal digits without leading zeros. Bounds are of kMaxInteger at most.
inline constexpr std::int64_t kMaxInteger = 999'999'999'999'999;
// A whole number from `least` to `most`.
[[nodiscard]] std::string gbnf_integer(std::int64_t least, std::int64_t most);

struct NumberBound {
  std::int64_t value = 0;
  bool is_exclusive = false;
};
// A number between whole bounds, with up to 15 digits after the point; "" where there is none.
[[nodiscard]] std::string gbnf_number(NumberBound least, NumberBound most);

// What a JSON string holds that matches a regular expression (ECMA 262, as JSON schema has them): characters,
// classes, groups, alternatives, repetitions, ^ at the beginning and $ at the end. `any` is the item for any
// character of a string. kUnsupported for what else there is, kInvalidArgument for what is none.
[[nodiscard]] Result<std::string> gbnf_pattern(std::string_view pattern, const std::string& any);

}  // namespace hearth::model
