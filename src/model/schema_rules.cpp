#include "model/schema_rules.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <format>
#include <initializer_list>
#include <memory>

#include "base/result.h"
#include "model/grammar_text.h"

namespace hearth::model {
namespace {

struct Shared {
  std::string_view name, body;
  std::array<std::string_view, 4> needs{};
};

// Numbers stay within what double holds exactly; a character that is escaped is a whole one.
constexpr Shared kShared[] = {
    {"value", "object | array | string | number | boolean | null", {"object", "string", "number", "boolean"}},
    {"object",
     R"("{" ws (string ":" ws value ("," ws string ":" ws value)* ws)? "}")",
     {"value", "string", "ws"}},
    {"array", R"("[" ws (value ("," ws value)* ws)? "]")", {"value", "ws"}},
    {"string", R"("\"" char* "\"")", {"char"}},
    {"char",
     R"([ !#-\[\]-~\u0080-\uD7FF\uE000-\U0010FFFF] | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-Ce-fE-F] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2})))",
     {}},
    {"number", R"(integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?)", {"integer"}},
    {"integer", R"("-"? ("0" | [1-9] [0-9]{0,14}))", {}},
    {"boolean", R"("true" | "false")", {}},
    {"null", R"("null")", {}},
    {"ws", R"((" " | "\n" [ \t]{0,20})?)", {}},
    // No 29 February: not every year has one.
    {"date",
     R"([1-9] [0-9]{3} "-" (("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01]) | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8])))",
     {}},
    {"time",
     R"(([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]))",
     {}},
    {"date-time", R"(date "T" time)", {"date", "time"}},
    {"uuid", R"([0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12})", {}},
};

// Characters of a name without escapes.
const std::vector<CharRange> kNameChars = {
    {0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0x7E}, {0x80, 0xD7FF}, {0xE000, 0x10FFFF}};

struct Node {
  std::map<std::uint32_t, std::unique_ptr<Node>> next;
  bool is_name = false;
};

std::vector<CharRange> name_chars_without(const std::map<std::uint32_t, std::unique_ptr<Node>>& taken) {
  std::vector<CharRange> left;
  for (auto [low, high] : kNameChars) {
    for (auto at = taken.lower_bound(low); at != taken.end() && at->first <= high; ++at) {
      if (at->first > low) left.emplace_back(low, at->first - 1);
      low = at->first + 1;
    }
    if (low <= high) left.emplace_back(low, high);
  }
  return left;
}

std::vector<std::uint32_t> code_points(std::string_view text) {
  std::vector<std::uint32_t> all;
  for (std::size_t i = 0; i < text.size();) {
    auto value = static_cast<std::uint32_t>(static_cast<unsigned char>(text[i++]));
    if (value >= 0x80) value &= value >= 0xF0 ? 0x07U : value >= 0xE0 ? 0x0FU : 0x1FU;
    while (i < text.size() && (static_cast<unsigned char>(text[i]) & 0xC0U) == 0x80)
      value = value << 6U | (static_cast<unsigned char>(text[i++]) & 0x3FU);
    all.push_back(value);
  }
  return all;
}

// What may follow where `node` has been read: anything that does not end as a name.
std::string other_than(const Node& node, SchemaRules& rules) {
  static const std::string any = gbnf_class(kNameChars);
  std::vector<std::string> ways;
  if (!node.is_name) ways.emplace_back("\"\"");
  for (const auto& [c, next] : node.next)
    ways.push_back(gbnf_class({{c, c}}) + " " + rules.add("name", other_than(*next, rules)));
  ways.push_back(gbnf_class(name_chars_without(node.next)) + " " + any + "*");
  return gbnf_any(ways);
}

}  // namespace

std::string SchemaRules::use(std::string_view name) {
  if (shared_.contains(name)) return std::string(name);
  const auto* found = std::ranges::find(kShared, name, &Shared::name);
  HEARTH_CHECK(found != std::end(kShared));
  shared_.emplace(name, found->body);
  for (const std::string_view needed : found->needs)
    if (!needed.empty()) use(needed);
  if (name == "value") use("array"), use("null");
  return std::string(name);
}

std::string SchemaRules::add(std::string_view kind, std::string body) {
  const auto [at, is_new] = by_body_.emplace(body, "");
  if (!is_new) return at->second;
  at->second = reserve(kind);
  define(at->second, std::move(body));
  return at->second;
}

std::string SchemaRules::reserve(std::string_view kind) {
  return std::format("{}-{}", kind, ++count_);
}

void SchemaRules::define(const std::string& name, std::string body) {
  own_.emplace_back(name, std::move(body));
}

std::string SchemaRules::other_name(const std::set<std::string>& names) {
  Node root;
  for (const std::string& name : names) {
    const auto points = code_points(name);
    // One that needs an escape is never written by the rule.
    const bool is_plain = std::ranges::all_of(points, [](std::uint32_t c) {
      return std::ranges::any_of(kNameChars,
                                 [c](const CharRange& r) { return r.first <= c && c <= r.second; });
    });
    if (!is_plain) continue;
    Node* node = &root;
    for (const std::uint32_t c : points) {
      auto& next = node->next[c];
      if (next == nullptr) next = std::make_unique<Node>();
      node = next.get();
    }
    node->is_name = true;
  }
  return "\"\\\"\" " + add("name", other_than(root, *this)) + " \"\\\"\"";
}

std::string SchemaRules::text() const {
  std::string all;
  for (const auto& [name, body] : own_) all += name + " ::= " + body + "\n";
  for (const auto& [name, body] : shared_) all += name + " ::= " + body + "\n";
  return all;
}

}  // namespace hearth::model
