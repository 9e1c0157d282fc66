#include "model/json_schema.h"

#include <algorithm>
#include <cmath>
#include <format>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "model/grammar_check.h"
#include "model/grammar_text.h"
#include "model/schema_rules.h"
#include "model/schema_sets.h"

namespace hearth::model {
namespace {

using Json = SchemaJson;

constexpr std::size_t kMaxNameBytes = 1024;  // of a property
constexpr std::size_t kMaxProperties = 1000;

// What an object's member is in the grammar.
struct Member {
  std::string text;
  bool required = false;
};

class Builder {
 public:
  explicit Builder(const Json& root) : sets_(root) {}

  Result<std::string> run() {
    HEARTH_TRY(const std::string start, visit(sets_.root(), "#", 0));
    return "root ::= " + start + "\n" + rules_.text();
  }

 private:
  // The item for a schema: a rule's name, mostly.
  Result<std::string> visit(const Json& given, const std::string& where, std::size_t depth) {
    if (depth > kMaxSchemaDepth)
      return fail(ErrorCode::kUnsupported, "{}: the schema is nested deeper than {}", where, kMaxSchemaDepth);
    if (given.is_object() && given.contains("$ref") && SchemaSets::is_only(given, "$ref"))
      return reference(given, where, depth);
    HEARTH_TRY(const Json schema, sets_.plain(given, where, depth));
    if (schema.is_boolean()) {
      if (schema.get<bool>()) return rules_.use("value");
      return fail(ErrorCode::kInvalidArgument, "{}: nothing matches false", where);
    }
    HEARTH_TRY_VOID(SchemaSets::check_keywords(schema, where));
    if (schema.contains("anyOf") || schema.contains("oneOf")) return choice(schema, where, depth);
    if (schema.contains("const") || schema.contains("enum")) return values(schema, where);
    std::vector<std::string> ways;
    for (const std::string& type : SchemaSets::made_types(schema)) {
      HEARTH_TRY(std::string way, of_type(type, schema, where, depth));
      if (!way.empty()) ways.push_back(std::move(way));
    }
    if (ways.empty()) return fail(ErrorCode::kInvalidArgument, "{}: nothing matches it", where);
    return gbnf_any(ways);
  }

  // A rule that is there once for each place that is referred to, so that schemas may contain themselves.
  Result<std::string> reference(const Json& schema, const std::string& where, std::size_t depth) {
    HEARTH_TRY(const SchemaSets::Target target, sets_.resolve(schema["$ref"], where + "/$ref"));
    const auto [at, is_new] = references_.emplace(target.where, "");
    if (!is_new) return at->second;
    const std::string name = rules_.reserve("ref");
    references_[target.where] = name;
    HEARTH_TRY(const std::string body, visit(*target.schema, target.where, depth + 1));
    rules_.define(name, body);
    return name;
  }

  Result<std::string> choice(const Json& schema, const std::string& where, std::size_t depth) {
    const bool one = schema.contains("oneOf");
    const char* key = one ? "oneOf" : "anyOf";
    if (one && schema.contains("anyOf"))
      return fail(ErrorCode::kUnsupported, "{}: oneOf beside anyOf cannot be used", where);
    const Json& list = schema[key];
    if (!list.is_array() || list.empty())
      return fail(ErrorCode::kInvalidArgument, "{}/{}: expected a list of schemas", where, key);
    const Json siblings = SchemaSets::without(schema, key);
    std::vector<Json> branches;
    std::vector<std::string> ways;
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::string at = std::format("{}/{}/{}", where, key, i);
      Json branch = list[i];
      if (!siblings.empty()) {
        HEARTH_TRY(branch, sets_.merge(siblings, branch, at, depth + 1));
      }
      HEARTH_TRY(std::string way, visit(branch, at, depth + 1));
      ways.push_back(std::move(way));
      branches.push_back(std::move(branch));
    }
    for (std::size_t i = 0; one && i < branches.size(); ++i)
      for (std::size_t j = i + 1; j < branches.size(); ++j)
        if (!sets_.disjoint(branches[i], branches[j], where, depth))
          return fail(ErrorCode::kUnsupported,
                      "{}/oneOf: {} and {} may match the same value; give them different types or a required "
                      "property with different constants, or use anyOf",
                      where, i, j);
    return gbnf_any(ways);
  }

  Result<std::string> values(const Json& schema, const std::string& where) {
    for (const auto& [key, value] : schema.items())
      if (key != "type" && key != "const" && key != "enum" && !SchemaSets::is_annotation(key))
        return fail(ErrorCode::kUnsupported, "{}/{}: cannot be used beside enum or const", where,
                    SchemaSets::escaped(key));
    HEARTH_TRY(const auto all, SchemaSets::values_of(schema, where));
    std::vector<std::string> ways;
    for (const Json& value : all) ways.push_back(gbnf_literal(value.dump()));
    if (ways.empty()) return fail(ErrorCode::kInvalidArgument, "{}: no value of enum has its type", where);
    return gbnf_any(ways);
  }

  Result<std::string> of_type(const std::string& type, const Json& schema, const std::string& where,
                              std::size_t depth) {
    HEARTH_TRY_VOID(SchemaSets::check_usable(type, schema, where));
    if (type == "object") return object(schema, where, depth);
    if (type == "array") return array(schema, where, depth);
    if (type == "string") return string(schema, where);
    if (type == "integer" || type == "number") return number(type == "integer", schema, where);
    return rules_.use(type);  // boolean, null
  }

  // A whole number from 0 to the most that can be repeated; nothing where the keyword is missing.
  Result<std::optional<std::uint64_t>> count(const Json& schema, const char* key, const std::string& where) {
    const auto at = schema.find(key);
    if (at == schema.end()) return std::nullopt;
    if (!at->is_number() || at->get<double>() < 0 || at->get<double>() != std::floor(at->get<double>()))
      return fail(ErrorCode::kInvalidArgument, "{}/{}: expected a whole number from 0", where, key);
    if (at->get<double>() > kMaxGrammarRepetition)
      return fail(ErrorCode::kUnsupported, "{}/{}: expected at most {}", where, key, kMaxGrammarRepetition);
    return static_cast<std::uint64_t>(at->get<double>());
  }

  struct Counts {
    std::uint64_t least = 0;
    std::optional<std::uint64_t> most;
  };
  Result<Counts> counts(const Json& schema, const char* least, const char* most, const std::string& where) {
    Counts result;
    HEARTH_TRY(const auto low, count(schema, least, where));
    HEARTH_TRY(result.most, count(schema, most, where));
    result.least = low.value_or(0);
    if (result.most && *result.most < result.least)
      return fail(ErrorCode::kInvalidArgument, "{}: {} is more than {}", where, least, most);
    return result;
  }

  Result<std::string> string(const Json& schema, const std::string& where) {
    HEARTH_TRY(const Counts length, counts(schema, "minLength", "maxLength", where));
    const bool has_length = schema.contains("minLength") || schema.contains("maxLength");
    const bool has_pattern = schema.contains("pattern"), has_format = schema.contains("format");
    if (has_length + has_pattern + has_format > 1)
      return fail(ErrorCode::kUnsupported,
                  "{}: only one of pattern, format and a length can be used for a string", where);
    const auto quoted = [](const std::string& inner) { return "\"\\\"\" " + inner + " \"\\\"\""; };
    if (has_pattern) {
      if (!schema["pattern"].is_string())
        return fail(ErrorCode::kInvalidArgument, "{}/pattern: expected text", where);
      auto pattern = gbnf_pattern(schema["pattern"].get<std::string>(), rules_.use("char"));
      if (!pattern) return fail(pattern.error().code, "{}/pattern: {}", where, pattern.error().message);
      return rules_.add("string", quoted(*pattern));
    }
    if (has_format) {
      const std::string format = schema["format"].is_string() ? schema["format"].get<std::string>() : "";
      if (format != "date" && format != "time" && format != "date-time" && format != "uuid")
        return fail(ErrorCode::kUnsupported,
                    "{}/format: {} cannot be used; there are date, time, date-time and uuid", where,
                    quote(format, 40));
      return rules_.add("string", quoted(rules_.use(format)));
    }
    if (!has_length) return rules_.use("string");
    return rules_.add("string", quoted(gbnf_repeat(rules_.use("char"), length.least, length.most)));
  }

  // A bound that is there, rounded inwards for whole numbers.
  Result<std::optional<NumberBound>> bound(bool whole, bool is_least, const Json& schema,
                                           const std::string& where) {
    std::optional<NumberBound> result;
    for (const bool exclusive : {false, true}) {
      const char* key = is_least ? (exclusive ? "exclusiveMinimum" : "minimum")
                                 : (exclusive ? "exclusiveMaximum" : "maximum");
      const auto at = schema.find(key);
      if (at == schema.end()) continue;
      if (!at->is_number()) return fail(ErrorCode::kInvalidArgument, "{}/{}: expected a number", where, key);
      const double value = at->get<double>();
      const double rounded = is_least ? std::ceil(value) : std::floor(value);
      if (!(std::abs(rounded) < static_cast<double>(kMaxInteger)))
        return fail(ErrorCode::kUnsupported, "{}/{}: expected a number of at most 15 digits", where, key);
      if (!whole && rounded != value)
        return fail(ErrorCode::kUnsupported,
                    "{}/{}: expected a whole number; a bound with a fraction cannot be used", where, key);
      NumberBound found{static_cast<std::int64_t>(rounded), exclusive};
      if (whole) {
        if (exclusive && rounded == value) found.value += is_least ? 1 : -1;
        found.is_exclusive = false;
      }
      const bool tighter = !result ||
                           (is_least ? found.value > result->value : found.value < result->value) ||
                           (found.value == result->value && exclusive);
      if (tighter) result = found;
    }
    return result;
  }

  Result<std::string> number(bool whole, const Json& schema, const std::string& where) {
    HEARTH_TRY(const auto low, bound(whole, true, schema, where));
    HEARTH_TRY(const auto high, bound(whole, false, schema, where));
    if (!low && !high) return rules_.use(whole ? "integer" : "number");
    const NumberBound least = low.value_or(NumberBound{-kMaxInteger}),
                      most = high.value_or(NumberBound{kMaxInteger});
    const std::string body = least.value > most.value ? ""
                             : whole                  ? gbnf_integer(least.value, most.value)
                                                      : gbnf_number(least, most);
    if (body.empty()) return fail(ErrorCode::kInvalidArgument, "{}: no number is between its bounds", where);
    return rules_.add(whole ? "integer" : "number", body);
  }

  Result<std::string> array(const Json& schema, const std::string& where, std::size_t depth) {
    HEARTH_TRY(const Counts length, counts(schema, "minItems", "maxItems", where));
    std::vector<std::string> prefix;
    if (const auto at = schema.find("prefixItems"); at != schema.end()) {
      if (!at->is_array() || at->size() > kMaxProperties)
        return fail(ErrorCode::kInvalidArgument, "{}/prefixItems: expected a list of at most {} schemas",
                    where, kMaxProperties);
      for (std::size_t i = 0; i < at->size() && (!length.most || i < *length.most); ++i) {
        HEARTH_TRY(std::string item, visit((*at)[i], std::format("{}/prefixItems/{}", where, i), depth + 1));
        prefix.push_back(std::move(item));
      }
    }
    const auto items = schema.find("items");
    const bool no_more = items != schema.end() && *items == false;
    const std::uint64_t n = prefix.size();
    if (items != schema.end() && items->is_array())
      return fail(ErrorCode::kUnsupported, "{}/items: a list cannot be used; write prefixItems", where);
    if (no_more && length.least > n)
      return fail(ErrorCode::kInvalidArgument, "{}: minItems is {}, but there can be {} items", where,
                  length.least, n);
    // All of the prefix, then as many of the rest as are asked for. Where nothing is said of the rest, only
    // what minItems asks for.
    const std::uint64_t least = length.least > n ? length.least - n : 0;
    std::optional<std::uint64_t> most;
    if (length.most) most = *length.most - n;
    if (no_more || (n > 0 && items == schema.end())) most = least;
    std::string rest;
    if (most != 0) {
      if (items == schema.end()) {
        rest = rules_.use("value");
      } else {
        HEARTH_TRY(rest, visit(*items, where + "/items", depth + 1));
      }
    }
    const std::string ws = rules_.use("ws");
    std::string inner;
    for (const std::string& item : prefix) inner += (inner.empty() ? "" : " \",\" ws ") + item;
    if (!inner.empty() && !rest.empty()) {
      inner += " " + gbnf_repeat("(\",\" ws " + rest + ")", least, most);
    } else if (!rest.empty()) {
      const std::optional<std::uint64_t> more = most ? std::optional(*most - 1) : std::nullopt;
      const std::string others = gbnf_repeat("(\",\" ws " + rest + ")", least > 0 ? least - 1 : 0, more);
      inner = rest + (others.empty() ? "" : " " + others);
      if (least == 0) return rules_.add("array", "\"[\" ws (" + inner + " ws)? \"]\"");
    }
    return rules_.add("array", "\"[\" ws " + inner + (inner.empty() ? "" : " ws") + " \"]\"");
  }

  Result<std::string> object(const Json& schema, const std::string& where, std::size_t depth) {
    static const Json kNone = Json::object();
    const auto at = schema.find("properties");
    const Json& properties = at == schema.end() ? kNone : *at;
    if (!properties.is_object() || properties.size() > kMaxProperties)
      return fail(ErrorCode::kInvalidArgument, "{}/properties: expected an object of at most {} schemas",
                  where, kMaxProperties);
    HEARTH_TRY(std::vector<std::string> required, SchemaSets::required_of(schema, where));
    const auto others = schema.find("additionalProperties");
    const bool names_some = !properties.empty() || !required.empty();
    const bool has_others = others == schema.end() ? !names_some : *others != false;
    std::string other_value;
    std::vector<Member> members;
    std::set<std::string> names;
    const auto add = [&](const std::string& name, const std::string& value) -> Result<> {
      if (name.size() > kMaxNameBytes)
        return fail(ErrorCode::kUnsupported, "{}: the name of a property has {} bytes, expected at most {}",
                    where, name.size(), kMaxNameBytes);
      names.insert(name);
      members.push_back(
          {gbnf_literal(Json(name).dump() + ":") + " ws " + value, std::erase(required, name) > 0});
      return {};
    };
    rules_.use("ws");
    for (const auto& [name, value] : properties.items()) {
      const bool never = value == false && !std::ranges::contains(required, name);
      if (never) continue;
      HEARTH_TRY(const std::string item,
                 visit(value, std::format("{}/properties/{}", where, SchemaSets::escaped(name)), depth + 1));
      HEARTH_TRY_VOID(add(name, item));
    }
    if (has_others || !required.empty()) {
      if (others != schema.end() && *others == false)
        return fail(ErrorCode::kInvalidArgument, "{}/required: {} is no property, and others are not allowed",
                    where, quote(required[0], 40));
      if (others == schema.end() || *others == true) {
        other_value = rules_.use("value");
      } else {
        HEARTH_TRY(other_value, visit(*others, where + "/additionalProperties", depth + 1));
      }
    }
    for (const std::string& name : std::vector<std::string>(required))
      HEARTH_TRY_VOID(add(name, other_value));
    for (const auto& [name, value] : properties.items()) names.insert(name);
    const std::string other = has_others ? rules_.other_name(names) + " \":\" ws " + other_value : "";
    return rules_.add("object", "\"{\" ws " + rules_.add("members", in_order(members, other)) + " \"}\"");
  }

  // The members in their order, those that are not required or not; then any number of others.
  std::string in_order(const std::vector<Member>& members, const std::string& other) {
    const std::string others = other.empty() ? "" : "(\",\" ws " + other + ")* ";
    // What may follow: after a member, and where none has come yet.
    std::string after = others + "ws";
    std::string first = other.empty() ? "\"\"" : "(" + other + " " + others + "ws)?";
    for (std::size_t i = members.size(); i-- > 0;) {
      const Member& member = members[i];
      const std::string rest = i + 1 == members.size() && other.empty() ? after : rules_.add("after", after);
      first = member.required ? member.text + " " + rest
                              : member.text + " " + rest + " | " + rules_.add("first", first);
      after = member.required ? "\",\" ws " + member.text + " " + rest
                              : "(\",\" ws " + member.text + ")? " + rest;
    }
    return first;
  }

  SchemaSets sets_;
  SchemaRules rules_;
  std::map<std::string, std::string> references_;  // place -> rule
};

}  // namespace

Result<std::string> grammar_of_json_schema(std::string_view text) {
  HEARTH_TRY(const Json root, SchemaSets::parse(text));
  HEARTH_TRY(std::string grammar, Builder(root).run());
  if (auto checked = check_grammar(grammar); !checked)
    return fail(
        ErrorCode::kUnsupported,
        "the schema needs a grammar that cannot be used: {} (a schema that contains itself and nothing "
        "else, or too large repetitions?)",
        checked.error().message);
  return grammar;
}

}  // namespace hearth::model
