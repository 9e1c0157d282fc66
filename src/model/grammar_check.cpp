#include "model/grammar_check.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/text.h"

namespace hearth::model {
namespace {

constexpr std::size_t kMaxDepth = 64;          // of parentheses; libllama recurses
constexpr std::size_t kMaxElements = 400'000;  // after repetitions have been written out
constexpr std::size_t kMaxRules = 100'000;
constexpr std::uint64_t kMaxBegins = 16'384;   // alternatives that may begin at one place
constexpr std::uint64_t kMaxWork = 5'000'000;  // of libllama's own search for left recursion
constexpr std::size_t kMaxLeftDepth = 4'096;   // rules that begin with rules; libllama recurses

using RuleId = std::uint32_t;
constexpr RuleId kTerminal = std::numeric_limits<RuleId>::max();
using Sequence = std::vector<RuleId>;  // kTerminal for whatever takes characters or a token

struct Rule {
  std::vector<Sequence> alternatives{};  // none: not defined
  std::string name{};
  std::size_t where = 0;  // byte of the grammar
};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '-';
}
bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// Reads the text into rules, the way libllama does: groups and repetitions become rules of their own.
class Reader {
 public:
  Reader(std::string_view text, const std::function<bool(std::string_view)>& is_token)
      : text_(text), is_token_(is_token) {}

  [[nodiscard]] Result<std::vector<Rule>> run() {
    space(true);
    while (!at_end()) HEARTH_TRY_VOID(rule());
    return std::move(rules_);
  }
  [[nodiscard]] std::unexpected<Error> wrong(std::size_t where, std::string_view what) const {
    const std::string_view before = text_.substr(0, where);
    const auto line = std::ranges::count(before, '\n') + 1;
    const auto start = before.rfind('\n');
    return fail(ErrorCode::kInvalidArgument, "the grammar, line {}, column {}: {}", line,
                where - (start == std::string_view::npos ? 0 : start + 1) + 1, what);
  }

 private:
  [[nodiscard]] bool at_end() const { return at_ == text_.size(); }
  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  [[nodiscard]] std::unexpected<Error> expected(std::string_view what) const {
    return wrong(at_, std::format("expected {}, got {}", what,
                                  at_end() ? std::string("the end") : quote(text_.substr(at_, 1))));
  }
  void space(bool newlines) {
    while (!at_end()) {
      const char c = peek();
      if (c == '#')
        at_ = std::min(text_.find_first_of("\r\n", at_), text_.size());
      else if (c == ' ' || c == '\t' || (newlines && (c == '\r' || c == '\n')))
        ++at_;
      else
        return;
    }
  }
  std::string_view name() {
    const std::size_t begin = at_;
    while (is_name(peek())) ++at_;
    return text_.substr(begin, at_ - begin);
  }
  [[nodiscard]] Result<RuleId> add_rule(std::string_view its_name, std::size_t where) {
    if (rules_.size() == kMaxRules)
      return wrong(where, std::format("more than {} rules, groups and repetitions", kMaxRules));
    rules_.push_back({.name = std::string(its_name), .where = where});
    return static_cast<RuleId>(rules_.size() - 1);
  }
  [[nodiscard]] Result<RuleId> id_of(std::string_view its_name, std::size_t where) {
    const auto found = ids_.find(its_name);
    if (found != ids_.end()) return found->second;
    HEARTH_TRY(const RuleId id, add_rule(its_name, where));
    ids_.emplace(its_name, id);
    return id;
  }
  [[nodiscard]] Result<> count(std::size_t n) {
    n_elements_ += n;
    if (n_elements_ > kMaxElements)
      return wrong(at_, std::format("more than {} elements, repetitions written out", kMaxElements));
    return {};
  }

  [[nodiscard]] Result<> rule() {
    const std::size_t where = at_;
    const std::string_view its_name = name();
    if (its_name.empty()) return expected("the name of a rule (letters, digits and -)");
    space(false);
    if (!text_.substr(at_).starts_with("::=")) return expected("::=");
    at_ += 3;
    space(true);
    HEARTH_TRY(const RuleId id, id_of(its_name, where));
    if (!rules_[id].alternatives.empty())
      return wrong(where, std::format("the rule {} is there already", quote(its_name)));
    HEARTH_TRY(auto all, alternatives(0));
    rules_[id].alternatives = std::move(all);
    rules_[id].where = where;
    if (!at_end() && peek() != '\r' && peek() != '\n') return expected("the end of the line");
    space(true);
    return {};
  }

  [[nodiscard]] Result<std::vector<Sequence>> alternatives(std::size_t depth) {
    std::vector<Sequence> all;
    HEARTH_TRY(all.emplace_back(), sequence(depth));
    while (peek() == '|') {
      ++at_;
      space(true);
      HEARTH_TRY(all.emplace_back(), sequence(depth));
    }
    return all;
  }

  [[nodiscard]] Result<Sequence> sequence(std::size_t depth) {
    Sequence all;
    std::size_t last = 0;       // where the last item begins
    std::uint64_t n_rules = 1;  // rules of the last item, as libllama counts them
    while (!at_end()) {
      const char c = peek();
      const std::size_t where = at_;
      if (c == '*' || c == '+' || c == '?' || c == '{') {
        HEARTH_TRY_VOID(repetition(all, last, n_rules, depth > 0));
        continue;
      }
      const std::size_t before = all.size();
      if (c == '"' || c == '[') {
        HEARTH_TRY(const std::size_t n, c == '"' ? literal() : char_class());
        all.insert(all.end(), n, kTerminal);
        HEARTH_TRY_VOID(count(n));
        n_rules = 1;
      } else if (c == '.') {
        ++at_;
        all.push_back(kTerminal);
        n_rules = 1;
      } else if (c == '<' || c == '!') {
        HEARTH_TRY_VOID(token());
        all.push_back(kTerminal);
        n_rules = 1;
      } else if (is_name(c)) {
        HEARTH_TRY(const RuleId id, id_of(name(), where));
        all.push_back(id);
        n_rules = 1;
      } else if (c == '(') {
        if (depth == kMaxDepth) return wrong(at_, std::format("more than {} nested parentheses", kMaxDepth));
        ++at_;
        space(true);
        const std::size_t n_before = rules_.size();
        HEARTH_TRY(const RuleId id, add_rule("", where));
        HEARTH_TRY(auto inner, alternatives(depth + 1));
        rules_[id].alternatives = std::move(inner);
        n_rules = rules_.size() - n_before;
        if (peek() != ')') return expected(")");
        ++at_;
        all.push_back(id);
      } else {
        break;
      }
      last = before;
      HEARTH_TRY_VOID(count(1));
      space(depth > 0);
    }
    return all;
  }

  // Gives the number of characters.
  [[nodiscard]] Result<std::size_t> literal() {
    ++at_;
    std::size_t n = 0;
    while (peek() != '"') {
      HEARTH_TRY_VOID(character());
      ++n;
    }
    ++at_;
    return n;
  }

  [[nodiscard]] Result<std::size_t> char_class() {
    const std::size_t where = at_++;
    if (peek() == '^') ++at_;
    if (peek() == ']') return wrong(where, "the character class is empty");
    while (peek() != ']') {
      const std::size_t begin = at_;
      HEARTH_TRY(const std::uint32_t low, character());
      if (peek() != '-' || peek(1) == ']') continue;
      ++at_;
      HEARTH_TRY(const std::uint32_t high, character());
      if (high < low) return wrong(begin, "the range of characters ends before it begins");
    }
    ++at_;
    return 1;
  }

  [[nodiscard]] Result<std::uint32_t> character() {
    if (at_end()) return expected("the end of the text or class that began");
    if (peek() == '\n' || peek() == '\r')
      return wrong(at_, "the line ends within a text or class; write \\n for a line break");
    if (peek() != '\\') {
      // The text is valid UTF-8.
      std::uint32_t value = static_cast<unsigned char>(text_[at_++]);
      if (value >= 0x80) value &= value >= 0xF0 ? 0x07U : value >= 0xE0 ? 0x0FU : 0x1FU;
      while ((static_cast<unsigned char>(peek()) & 0xC0U) == 0x80)
        value = value << 6U | (static_cast<unsigned char>(text_[at_++]) & 0x3FU);
      return value;
    }
    const char kind = peek(1);
    const std::size_t digits = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
    if (digits == 0) {
      static constexpr std::string_view kPlain = "\\\"[]-";
      const std::size_t where = at_;
      at_ += 2;
      if (kind == 't') return '\t';
      if (kind == 'r') return '\r';
      if (kind == 'n') return '\n';
      if (kind != '\0' && kPlain.contains(kind)) return static_cast<unsigned char>(kind);
      at_ = where;
      return wrong(at_, R"(expected one of \\ \" \[ \] \- \t \r \n \xHH \uHHHH \UHHHHHHHH)");
    }
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < digits; ++i)
      if (!is_hex(peek(2 + i))) return wrong(at_, std::format("expected {} hex digits", digits));
    std::from_chars(text_.data() + at_ + 2, text_.data() + at_ + 2 + digits, value, 16);
    if (value > 0x10FFFF) return wrong(at_, "there is no such character");
    at_ += 2 + digits;
    return value;
  }

  // <[123]>, <text> or one of these after !: one token.
  [[nodiscard]] Result<> token() {
    if (peek() == '!') ++at_;
    if (peek() != '<') return expected("<");
    const auto end = text_.find('>', at_);
    const std::string_view inner = text_.substr(at_ + 1, end - at_ - 1);
    if (end == std::string_view::npos || inner.empty() ||
        inner.find_first_of("\r\n") != std::string_view::npos)
      return wrong(at_, "expected a token as <[NUMBER]> or <TEXT>");
    if (inner[0] == '[') {
      const std::string_view digits = inner.substr(1, inner.size() - 2);
      if (inner.size() < 3 || inner.size() > 12 || inner.back() != ']' ||
          !std::ranges::all_of(digits, is_digit))
        return wrong(at_, "expected a token as <[NUMBER]> or <TEXT>");
    } else if (const std::string_view all = text_.substr(at_, end + 1 - at_); is_token_ && !is_token_(all)) {
      return wrong(at_, std::format("{} is not one token of the model", quote(all, 40)));
    }
    at_ = end + 1;
    return {};
  }

  [[nodiscard]] Result<std::uint64_t> number() {
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (parsed.ec == std::errc::invalid_argument) return expected("a number");
    if (parsed.ec != std::errc() || value > kMaxGrammarRepetition)
      return wrong(at_, std::format("expected at most {} repetitions", kMaxGrammarRepetition));
    at_ = static_cast<std::size_t>(parsed.ptr - text_.data());
    return value;
  }

  // Replaces the last item, all[last..], by its repetition.
  [[nodiscard]] Result<> repetition(Sequence& all, std::size_t last, std::uint64_t& n_rules, bool newlines) {
    const std::size_t where = at_;
    std::uint64_t least = peek() == '+' ? 1 : 0;
    std::optional<std::uint64_t> most;
    if (peek() == '?') most = 1;
    if (peek() == '{') {
      ++at_;
      space(newlines);
      HEARTH_TRY(least, number());
      space(newlines);
      most = least;
      if (peek() == ',') {
        ++at_;
        space(newlines);
        most.reset();
        if (is_digit(peek())) {
          HEARTH_TRY(most, number());
        }
        space(newlines);
      }
      if (peek() != '}') return expected("}");
      if (most && *most < least) return wrong(where, "the most repetitions are fewer than the least");
    }
    ++at_;
    space(newlines);
    if (last == all.size()) return wrong(where, "there is nothing before it to repeat");
    const std::uint64_t times = most && *most > 0 ? *most : std::max<std::uint64_t>(least, 1);
    if (n_rules * times > kMaxGrammarRepetition)
      return wrong(where, std::format("{} repetitions of {} rules, expected at most {} together; take the "
                                      "repeated part into a rule of its own, or repeat it less often",
                                      times, n_rules, kMaxGrammarRepetition));
    n_rules *= times;
    const Sequence item(all.begin() + static_cast<std::ptrdiff_t>(last), all.end());
    const std::uint64_t n_optional = most ? *most - least : 1;
    HEARTH_TRY_VOID(count(item.size() * (least + n_optional)));
    all.resize(last);
    for (std::uint64_t i = 0; i < least; ++i) all.insert(all.end(), item.begin(), item.end());
    std::optional<RuleId> inner;
    for (std::uint64_t i = 0; i < n_optional; ++i) {
      HEARTH_TRY(const RuleId id, add_rule("", where));
      Sequence again = item;
      if (!most) again.push_back(id);
      if (inner) again.push_back(*inner);
      rules_[id].alternatives = {std::move(again), {}};
      inner = id;
    }
    if (inner) all.push_back(*inner);
    return {};
  }

  std::string_view text_;
  const std::function<bool(std::string_view)>& is_token_;
  std::size_t at_ = 0;
  std::vector<Rule> rules_;
  std::map<std::string, RuleId, std::less<>> ids_;
  std::size_t n_elements_ = 0;
};

// Which rules may be the empty text.
std::vector<bool> nullable_rules(const std::vector<Rule>& rules) {
  struct Pending {
    RuleId rule;
    std::size_t n_left;  // elements that may not be empty, as far as is known
  };
  std::vector<Pending> pending;
  std::vector<std::vector<std::size_t>> users(rules.size());  // rule -> where it stands in pending
  std::vector<bool> nullable(rules.size());
  std::vector<RuleId> found;
  const auto set = [&](RuleId rule) {
    if (!nullable[rule]) found.push_back(rule);
    nullable[rule] = true;
  };
  for (RuleId id = 0; id < rules.size(); ++id)
    for (const Sequence& sequence : rules[id].alternatives) {
      if (sequence.empty()) set(id);
      if (sequence.empty() || std::ranges::contains(sequence, kTerminal)) continue;
      for (const RuleId element : sequence) users[element].push_back(pending.size());
      pending.push_back({id, sequence.size()});
    }
  while (!found.empty()) {
    const RuleId id = found.back();
    found.pop_back();
    for (const std::size_t at : users[id])
      if (--pending[at].n_left == 0) set(pending[at].rule);
  }
  return nullable;
}

// The rules that may begin a rule, once for each place; `n_terminals` counts the places of others.
std::vector<RuleId> left_of(const Rule& rule, const std::vector<bool>& nullable, std::uint64_t& n_terminals) {
  std::vector<RuleId> left;
  for (const Sequence& sequence : rule.alternatives)
    for (const RuleId element : sequence) {
      if (element == kTerminal) {
        ++n_terminals;
        break;
      }
      left.push_back(element);
      if (!nullable[element]) break;
    }
  return left;
}

// Looks for rules that begin with themselves, and for too many ways to begin.
class LeftSearch {
 public:
  explicit LeftSearch(const std::vector<Rule>& rules) : rules_(rules), nullable_(nullable_rules(rules)) {}

  struct Offence {
    RuleId rule;
    std::string what;
  };
  std::optional<Offence> run() {
    begins_.assign(rules_.size(), 0);
    std::uint64_t work = 0;
    for (RuleId id = 0; id < rules_.size(); ++id) {
      if (auto offence = visit(id)) return offence;
      work += begins_[id];
      if (work > kMaxWork)
        return Offence{id, "the rules can begin in too many ways; make fewer alternatives"};
    }
    return std::nullopt;
  }

 private:
  struct Step {
    RuleId rule;
    std::vector<RuleId> left;
    std::size_t next = 0;
  };
  [[nodiscard]] Step step(RuleId id) {
    std::uint64_t n_terminals = 1;
    Step made{id, left_of(rules_[id], nullable_, n_terminals)};
    sums_.push_back(n_terminals);
    in_progress_[id] = true;
    return made;
  }
  std::optional<Offence> visit(RuleId start) {
    if (begins_[start] != 0) return std::nullopt;
    in_progress_.resize(rules_.size());
    std::vector<Step> stack;
    stack.push_back(step(start));
    while (!stack.empty()) {
      Step& top = stack.back();
      if (top.next == top.left.size()) {
        const std::uint64_t sum = sums_.back();
        const RuleId id = top.rule;
        if (sum > kMaxBegins)
          return Offence{id, std::format("the rule can begin in more than {} ways; make fewer alternatives",
                                         kMaxBegins)};
        begins_[id] = sum;
        in_progress_[id] = false;
        sums_.pop_back();
        stack.pop_back();
        if (!sums_.empty()) sums_.back() += sum;
        continue;
      }
      const RuleId next = top.left[top.next++];
      if (in_progress_[next])
        return Offence{
            next, "the rule begins with itself (left recursion), or something that may be empty is repeated"};
      if (begins_[next] != 0) {
        sums_.back() += begins_[next];
        continue;
      }
      if (stack.size() == kMaxLeftDepth)
        return Offence{next, std::format("more than {} rules begin with one another", kMaxLeftDepth)};
      stack.push_back(step(next));
    }
    return std::nullopt;
  }

  const std::vector<Rule>& rules_;
  std::vector<bool> nullable_, in_progress_{};
  std::vector<std::uint64_t> begins_{}, sums_{};  // 0: not yet known; sums of the steps on the stack
};

}  // namespace

Result<> check_grammar(std::string_view grammar, const std::function<bool(std::string_view)>& is_token) {
  if (grammar.size() > kMaxGrammarBytes)
    return fail(ErrorCode::kInvalidArgument, "the grammar has {} bytes, expected at most {}", grammar.size(),
                kMaxGrammarBytes);
  if (!is_valid_utf8(grammar) || grammar.contains('\0'))
    return fail(ErrorCode::kInvalidArgument, "the grammar is not valid UTF-8 without zero bytes");
  Reader reader(grammar, is_token);
  HEARTH_TRY(const std::vector<Rule> rules, reader.run());
  for (const Rule& rule : rules)
    if (rule.alternatives.empty())
      return reader.wrong(rule.where,
                          std::format("the rule {} is used and nowhere defined", quote(rule.name)));
  if (std::ranges::none_of(rules, [](const Rule& rule) { return rule.name == "root"; }))
    return fail(ErrorCode::kInvalidArgument, "the grammar has no rule 'root', with which the text begins");
  if (const auto offence = LeftSearch(rules).run())
    return reader.wrong(rules[offence->rule].where, offence->what);
  return {};
}

}  // namespace hearth::model
