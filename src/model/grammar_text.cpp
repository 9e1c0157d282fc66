#include "model/grammar_text.h"

#include <algorithm>
#include <format>

namespace hearth::model {
namespace {

// A whole number that is not negative.
std::string digits_between(std::uint64_t least, std::uint64_t most);

// [a-b]; the digit alone where they are the same.
std::string digit(char a, char b) {
  return a == b ? std::format("\"{}\"", a) : std::format("[{}-{}]", a, b);
}

std::string any_digits(std::size_t n) {
  return n == 0 ? "" : n == 1 ? "[0-9]" : std::format("[0-9]{{{}}}", n);
}

std::string joined(std::string_view a, std::string_view b) {
  return b.empty() ? std::string(a) : std::format("{} {}", a, b);
}

// Digits from `least` to `most`, which are as many.
std::string same_length(const std::string& least, const std::string& most) {
  if (least.empty()) return "";
  const std::size_t n = least.size() - 1;
  const std::string least_rest = least.substr(1), most_rest = most.substr(1);
  const std::string zeros(n, '0'), nines(n, '9');
  if (least_rest == zeros && most_rest == nines) return joined(digit(least[0], most[0]), any_digits(n));
  if (least[0] == most[0]) return joined(digit(least[0], least[0]), same_length(least_rest, most_rest));
  std::vector<std::string> ways;
  char first = least[0], last = most[0];
  if (least_rest != zeros)
    ways.push_back(joined(digit(first, first), same_length(least_rest, nines))), ++first;
  std::string end;
  if (most_rest != nines) end = joined(digit(last, last), same_length(zeros, most_rest)), --last;
  if (first <= last) ways.push_back(joined(digit(first, last), any_digits(n)));
  if (!end.empty()) ways.push_back(end);
  return gbnf_any(ways);
}

std::string digits_between(std::uint64_t least, std::uint64_t most) {
  std::vector<std::string> ways;
  std::string low = std::to_string(least);
  const std::string high = std::to_string(most);
  for (; low.size() < high.size(); low = "1" + std::string(low.size(), '0'))
    ways.push_back(same_length(low, std::string(low.size(), '9')));
  ways.push_back(same_length(low, high));
  return gbnf_any(ways);
}

// A number that is not negative, from a to b.
std::string positive_number(std::uint64_t a, bool without_a, std::uint64_t b, bool without_b) {
  static constexpr const char* kFraction = "(\".\" [0-9]{1,15})?";
  std::vector<std::string> ways;
  if (a == b)
    return without_a || without_b ? "" : std::format("{} (\".\" \"0\"{{1,15}})?", digits_between(a, b));
  const std::uint64_t first = without_a ? a + 1 : a;
  if (without_a) ways.push_back(std::format("\"{}.\" \"0\"{{0,7}} [1-9] [0-9]{{0,7}}", a));
  if (first <= b - 1) ways.push_back(std::format("{} {}", digits_between(first, b - 1), kFraction));
  if (!without_b) ways.push_back(std::format("\"{}\" (\".\" \"0\"{{1,15}})?", b));
  return gbnf_any(ways);
}

}  // namespace

std::string gbnf_literal(std::string_view text) {
  std::string literal = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      literal += std::format("\\{}", c);
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
      literal += std::format("\\x{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    else
      literal += c;
  }
  return literal + '"';
}

std::string gbnf_any(const std::vector<std::string>& alternatives) {
  if (alternatives.size() == 1) return alternatives[0];
  std::string all;
  for (const std::string& one : alternatives) all += (all.empty() ? "(" : " | ") + one;
  return all.empty() ? "" : all + ")";
}

std::string gbnf_repeat(const std::string& item, std::uint64_t least, std::optional<std::uint64_t> most) {
  if (most == 0) return "";
  if (least == 1 && most == 1) return item;
  if (least == 0 && most == 1) return item + "?";
  if (least <= 1 && !most) return item + (least == 0 ? "*" : "+");
  if (least == most) return std::format("{}{{{}}}", item, least);
  return most ? std::format("{}{{{},{}}}", item, least, *most) : std::format("{}{{{},}}", item, least);
}

std::string gbnf_class(const std::vector<CharRange>& ranges) {
  if (ranges.empty()) return "";
  std::string text = "[";
  const auto add = [&text](std::uint32_t c) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (plain)
      text += static_cast<char>(c);
    else
      text += c < 0x100 ? std::format("\\x{:02X}", c) : std::format("\\U{:08X}", c);
  };
  for (const auto& [low, high] : ranges) {
    add(low);
    if (high == low) continue;
    text += '-';
    add(high);
  }
  return text + "]";
}

std::string gbnf_integer(std::int64_t least, std::int64_t most) {
  std::vector<std::string> ways;
  if (least < 0)
    ways.push_back(std::format("\"-\" {}", digits_between(static_cast<std::uint64_t>(most < 0 ? -most : 1),
                                                          static_cast<std::uint64_t>(-least))));
  if (most >= 0)
    ways.push_back(digits_between(static_cast<std::uint64_t>(std::max<std::int64_t>(least, 0)),
                                  static_cast<std::uint64_t>(most)));
  return gbnf_any(ways);
}

std::string gbnf_number(NumberBound least, NumberBound most) {
  std::vector<std::string> ways;
  const auto add = [&ways](const std::string& sign, const std::string& number) {
    if (!number.empty()) ways.push_back(sign + number);
  };
  const auto size = [](std::int64_t value) { return static_cast<std::uint64_t>(value < 0 ? -value : value); };
  if (least.value > most.value) return "";
  if (least.value < 0) {
    const bool ends_negative = most.value < 0;
    // Zero belongs to the other side.
    add("\"-\" ", positive_number(ends_negative ? size(most.value) : 0, !ends_negative || most.is_exclusive,
                                  size(least.value), least.is_exclusive));
  }
  if (most.value >= 0)
    add("", positive_number(least.value < 0 ? 0 : size(least.value), least.value >= 0 && least.is_exclusive,
                            size(most.value), most.is_exclusive));
  return gbnf_any(ways);
}

}  // namespace hearth::model
