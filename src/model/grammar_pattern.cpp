// gbnf_pattern: regular expressions as JSON schema has them.
#include <algorithm>
#include <charconv>
#include <format>

#include "base/text.h"
#include "model/grammar_check.h"
#include "model/grammar_text.h"

namespace hearth::model {
namespace {

constexpr std::size_t kMaxPatternBytes = 4096;
constexpr int kMaxPatternDepth = 32;
constexpr std::uint32_t kLastChar = 0x10FFFF;

using Ranges = std::vector<CharRange>;

Ranges sorted(Ranges ranges) {
  std::ranges::sort(ranges);
  Ranges merged;
  for (const auto& [low, high] : ranges) {
    if (!merged.empty() && low <= merged.back().second + 1)
      merged.back().second = std::max(merged.back().second, high);
    else
      merged.emplace_back(low, high);
  }
  return merged;
}

Ranges complement(const Ranges& ranges) {
  Ranges rest;
  std::uint32_t next = 0;
  for (const auto& [low, high] : sorted(ranges)) {
    if (low > next) rest.emplace_back(next, low - 1);
    next = high + 1;
  }
  if (next <= kLastChar) rest.emplace_back(next, kLastChar);
  return rest;
}

Ranges without(const Ranges& ranges, const Ranges& removed) {
  Ranges both = complement(ranges);
  both.insert(both.end(), removed.begin(), removed.end());
  return complement(both);
}

bool holds(const Ranges& ranges, std::uint32_t c) {
  return std::ranges::any_of(ranges, [c](const CharRange& r) { return r.first <= c && c <= r.second; });
}

const Ranges kDigits = {{'0', '9'}};
const Ranges kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
// White space and line ends of ECMA 262.
const Ranges kSpaces = {{0x9, 0xD},       {0x20, 0x20},     {0xA0, 0xA0},     {0x1680, 0x1680},
                        {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                        {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const Ranges kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
// These cannot stand in a JSON string as they are, or in no text at all.
const Ranges kNotPlain = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}, {0x7F, 0x7F}, {0xD800, 0xDFFF}};

// One character of a JSON string; "" where none can be written.
std::string json_char(const Ranges& ranges) {
  std::vector<std::string> ways;
  if (auto plain = gbnf_class(without(ranges, kNotPlain)); !plain.empty()) ways.push_back(std::move(plain));
  static constexpr std::pair<std::uint32_t, const char*> kEscaped[] = {
      {'"', "\\\""}, {'\\', "\\\\"}, {'\n', "\\n"}, {'\r', "\\r"},
      {'\t', "\\t"}, {'\b', "\\b"},  {'\f', "\\f"}};
  for (const auto& [c, text] : kEscaped)
    if (holds(ranges, c)) ways.push_back(gbnf_literal(text));
  return gbnf_any(ways);
}

struct Part {
  std::string text;  // one item or several in a row
  bool may_be_empty = false;
};

class Reader {
 public:
  explicit Reader(std::string_view pattern) : text_(pattern) {}

  Result<Part> run() {
    HEARTH_TRY(Part part, alternatives(0));
    if (at_ < text_.size()) return wrong("a ) without its (");
    return part;
  }

 private:
  [[nodiscard]] std::unexpected<Error> wrong(std::string_view what) const {
    return fail(ErrorCode::kInvalidArgument, "the pattern {}, character {}: {}", quote(text_, 60), at_ + 1,
                what);
  }
  [[nodiscard]] std::unexpected<Error> unsupported(std::string_view what) const {
    return fail(ErrorCode::kUnsupported, "the pattern {}, character {}: {} cannot be used", quote(text_, 60),
                at_ + 1, what);
  }
  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  [[nodiscard]] bool at_end() const { return at_ == text_.size(); }

  Result<Part> alternatives(int depth) {
    if (depth > kMaxPatternDepth) return unsupported("so deep a group");
    std::vector<std::string> ways;
    bool may_be_empty = false;
    while (true) {
      HEARTH_TRY(Part one, sequence(depth));
      may_be_empty = may_be_empty || one.may_be_empty;
      ways.push_back(one.text.empty() ? "\"\"" : std::move(one.text));
      if (peek() != '|' || at_end()) return Part{gbnf_any(ways), may_be_empty};
      ++at_;
    }
  }

  Result<Part> sequence(int depth) {
    Part all{.text = "", .may_be_empty = true};
    while (!at_end() && peek() != '|' && peek() != ')') {
      HEARTH_TRY(Part item, atom(depth));
      HEARTH_TRY_VOID(repetition(item));
      if (item.text.empty()) continue;
      all.text += (all.text.empty() ? "" : " ") + item.text;
      all.may_be_empty = all.may_be_empty && item.may_be_empty;
    }
    return all;
  }

  Result<Part> atom(int depth) {
    const char c = peek();
    if (c == '^' || c == '$') return unsupported("^ or $ within it");
    if (c == '*' || c == '+' || c == '?' || c == '{') return wrong("nothing before it to repeat");
    if (c == '(') return group(depth);
    Ranges ranges;
    if (c == '.') {
      ++at_;
      ranges = complement(kLineEnds);
    } else if (c == '[') {
      HEARTH_TRY(ranges, char_class());
    } else {
      HEARTH_TRY(ranges, character(false));
    }
    Part part{.text = json_char(ranges), .may_be_empty = false};
    if (part.text.empty()) return unsupported("a character that JSON text cannot hold");
    return part;
  }

  Result<Part> group(int depth) {
    ++at_;
    if (peek() == '?') {
      if (peek(1) != ':') return unsupported("a group that begins with (?");
      at_ += 2;
    }
    HEARTH_TRY(Part inner, alternatives(depth + 1));
    if (peek() != ')') return wrong("a ( without its )");
    ++at_;
    inner.text = "(" + inner.text + ")";
    return inner;
  }

  Result<std::uint64_t> number() {
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (parsed.ec == std::errc::invalid_argument) return wrong("expected a number");
    if (parsed.ec != std::errc() || value > kMaxGrammarRepetition)
      return unsupported(std::format("a repetition of more than {}", kMaxGrammarRepetition));
    at_ = static_cast<std::size_t>(parsed.ptr - text_.data());
    return value;
  }

  Result<> repetition(Part& item) {
    std::uint64_t least = 0;
    std::optional<std::uint64_t> most;
    switch (at_end() ? '\0' : peek()) {
      case '*':
        break;
      case '+':
        least = 1;
        break;
      case '?':
        most = 1;
        break;
      case '{': {
        ++at_;
        HEARTH_TRY(least, number());
        most = least;
        if (peek() == ',') {
          ++at_;
          most.reset();
          if (peek() != '}') {
            HEARTH_TRY(most, number());
          }
        }
        if (peek() != '}') return wrong("expected }");
        if (most && *most < least) return wrong("the most repetitions are fewer than the least");
        break;
      }
      default:
        return {};
    }
    ++at_;
    if (peek() == '?' && !at_end()) ++at_;  // lazy: the same texts
    const char next = at_end() ? '\0' : peek();
    if (next == '*' || next == '+' || next == '?' || next == '{') return wrong("nothing before it to repeat");
    if (item.may_be_empty && (!most || *most > 1)) return unsupported("a repetition of what may be empty");
    item.text = gbnf_repeat(item.text, least, most);
    item.may_be_empty = item.may_be_empty || least == 0;
    return {};
  }

  // A character or an escape; several characters for \d and its kin.
  Result<Ranges> character(bool in_class) {
    if (peek() != '\\') {
      const std::size_t begin = at_;
      std::uint32_t value = static_cast<unsigned char>(text_[at_++]);
      if (value >= 0x80) value &= value >= 0xF0 ? 0x07U : value >= 0xE0 ? 0x0FU : 0x1FU;
      while ((static_cast<unsigned char>(peek()) & 0xC0U) == 0x80)
        value = value << 6U | (static_cast<unsigned char>(text_[at_++]) & 0x3FU);
      // Each is half of what people mean by it, where characters are not whole.
      if (!in_class && (text_[begin] == ']' || text_[begin] == '}')) {
        at_ = begin;
        return wrong("it closes nothing; write a \\ before it");
      }
      return Ranges{{value, value}};
    }
    const char kind = peek(1);
    at_ += 2;
    switch (kind) {
      case 'd':
        return kDigits;
      case 'D':
        return complement(kDigits);
      case 'w':
        return kWord;
      case 'W':
        return complement(kWord);
      case 's':
        return kSpaces;
      case 'S':
        return complement(kSpaces);
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 'x':
        return hex(2);
      case 'u':
        return hex(4);
      default:
        break;
    }
    static constexpr std::string_view kSyntax = "^$\\.*+?()[]{}|/-\"'@#%&=!<>,:;~` _";
    if (kind != '\0' && kSyntax.contains(kind)) return one(static_cast<unsigned char>(kind));
    at_ -= 2;
    return unsupported(std::format("the escape {}", quote(text_.substr(at_, 2))));
  }
  static Ranges one(std::uint32_t c) { return {{c, c}}; }
  Result<Ranges> hex(std::size_t n) {
    std::uint32_t value = 0;
    const std::string_view digits = text_.substr(at_, n);
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (parsed.ec != std::errc() || parsed.ptr != digits.data() + n) return wrong("expected hex digits");
    if (value >= 0xD800 && value <= 0xDFFF) return unsupported("half of a character");
    at_ += n;
    return one(value);
  }

  Result<Ranges> char_class() {
    ++at_;
    const bool is_negated = peek() == '^';
    if (is_negated) ++at_;
    Ranges all;
    while (peek() != ']') {
      if (at_end()) return wrong("a [ without its ]");
      HEARTH_TRY(const Ranges low, character(true));
      if (peek() != '-' || peek(1) == ']') {
        all.insert(all.end(), low.begin(), low.end());
        continue;
      }
      ++at_;
      if (at_end()) return wrong("a [ without its ]");
      HEARTH_TRY(const Ranges high, character(true));
      const auto is_one = [](const Ranges& r) { return r.size() == 1 && r[0].first == r[0].second; };
      if (!is_one(low) || !is_one(high) || high[0].first < low[0].first)
        return wrong("it is no range of characters");
      all.emplace_back(low[0].first, high[0].first);
    }
    ++at_;
    return is_negated ? complement(all) : sorted(all);
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

// Whether the character at `i` is text by a backslash before it.
bool is_escaped(std::string_view pattern, std::size_t i) {
  std::size_t n = 0;
  while (n < i && pattern[i - n - 1] == '\\') ++n;
  return n % 2 == 1;
}

// a|b at the top, where ^ and $ belong to one alternative alone.
bool has_top_alternative(std::string_view pattern) {
  int depth = 0;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') {
      ++i;
    } else if (in_class) {
      in_class = c != ']';
    } else if (c == '[') {
      in_class = true;
    } else if (c == '(' || c == ')') {
      depth += c == '(' ? 1 : -1;
    } else if (c == '|' && depth == 0) {
      return true;
    }
  }
  return false;
}

}  // namespace

Result<std::string> gbnf_pattern(std::string_view pattern, const std::string& any) {
  if (pattern.size() > kMaxPatternBytes)
    return fail(ErrorCode::kUnsupported, "a pattern of {} bytes, expected at most {}", pattern.size(),
                kMaxPatternBytes);
  std::string_view inner = pattern;
  const bool at_begin = inner.starts_with('^');
  if (at_begin) inner.remove_prefix(1);
  const bool at_end = inner.ends_with('$') && !is_escaped(inner, inner.size() - 1);
  if (at_end) inner.remove_suffix(1);
  if ((at_begin || at_end) && has_top_alternative(inner))
    return fail(ErrorCode::kUnsupported,
                "the pattern {}: ^ or $ beside | cannot be used; write ^(a|b)$ for ^a|b$",
                quote(pattern, 60));
  HEARTH_TRY(const Part part, Reader(inner).run());
  std::string text = at_begin ? "" : any + "*";
  if (!part.text.empty()) text += (text.empty() ? "" : " ") + part.text;
  if (!at_end) text += (text.empty() ? "" : " ") + any + "*";
  return text;
}

}  // namespace hearth::model
