#include "model/schema_sets.h"

#include <algorithm>
#include <array>
#include <format>

#include "base/text.h"
#include "model/json_schema.h"

namespace hearth::model {
namespace {

using Json = SchemaJson;

constexpr int kMaxJsonDepth = 256;
constexpr std::array<std::string_view, 7> kTypes = {"object",  "array",   "string", "number",
                                                    "integer", "boolean", "null"};

struct Keyword {
  std::string_view name;
  std::string_view type;  // "": of every one; "annotation": says nothing of values
  bool usable = true;
};
constexpr Keyword kKeywords[] = {
    {"title", "annotation"},
    {"description", "annotation"},
    {"default", "annotation"},
    {"examples", "annotation"},
    {"deprecated", "annotation"},
    {"readOnly", "annotation"},
    {"writeOnly", "annotation"},
    {"$schema", "annotation"},
    {"$id", "annotation"},
    {"$comment", "annotation"},
    {"$defs", "annotation"},
    {"definitions", "annotation"},
    {"contentEncoding", "annotation"},
    {"contentMediaType", "annotation"},
    {"contentSchema", "annotation"},
    {"type", ""},
    {"enum", ""},
    {"const", ""},
    {"anyOf", ""},
    {"oneOf", ""},
    {"allOf", ""},
    {"$ref", ""},
    {"not", "", false},
    {"if", "", false},
    {"then", "", false},
    {"else", "", false},
    {"$dynamicRef", "", false},
    {"$recursiveRef", "", false},
    {"properties", "object"},
    {"required", "object"},
    {"additionalProperties", "object"},
    {"patternProperties", "object", false},
    {"propertyNames", "object", false},
    {"minProperties", "object", false},
    {"maxProperties", "object", false},
    {"dependentRequired", "object", false},
    {"dependentSchemas", "object", false},
    {"dependencies", "object", false},
    {"unevaluatedProperties", "object", false},
    {"items", "array"},
    {"prefixItems", "array"},
    {"minItems", "array"},
    {"maxItems", "array"},
    {"additionalItems", "array", false},
    {"contains", "array", false},
    {"minContains", "array", false},
    {"maxContains", "array", false},
    {"uniqueItems", "array", false},
    {"unevaluatedItems", "array", false},
    {"minLength", "string"},
    {"maxLength", "string"},
    {"pattern", "string"},
    {"format", "string"},
    {"minimum", "number"},
    {"maximum", "number"},
    {"exclusiveMinimum", "number"},
    {"exclusiveMaximum", "number"},
    {"multipleOf", "number", false},
};

const Keyword* keyword(std::string_view name) {
  const auto* found = std::ranges::find(kKeywords, name, &Keyword::name);
  return found == std::end(kKeywords) ? nullptr : found;
}

std::unexpected<Error> unsupported(const std::string& where, std::string_view key) {
  return fail(ErrorCode::kUnsupported, "{}/{}: the keyword cannot be used", where, SchemaSets::escaped(key));
}

// Number and integer are one kind here.
std::string kind_of(const std::string& type) {
  return type == "integer" ? "number" : type;
}

std::string type_of(const Json& value) {
  if (value.is_object()) return "object";
  if (value.is_array()) return "array";
  if (value.is_string()) return "string";
  if (value.is_number()) return "number";
  return value.is_boolean() ? "boolean" : "null";
}

bool is_whole(const Json& value) {
  return value.is_number_integer() ||
         (value.is_number() && value.get<double>() == static_cast<double>(static_cast<std::int64_t>(
                                                          std::clamp(value.get<double>(), -9e18, 9e18))));
}

std::vector<std::string> named_types(const Json& schema) {
  const auto at = schema.find("type");
  std::vector<std::string> types;
  if (at == schema.end()) return types;
  if (at->is_string()) return {at->get<std::string>()};
  for (const Json& one : *at) types.push_back(one.get<std::string>());
  // An integer is a number, too.
  if (std::ranges::contains(types, "number")) std::erase(types, "integer");
  return types;
}

// Kinds of values that may match; empty: any.
std::vector<std::string> kinds(const Json& schema) {
  std::vector<std::string> all;
  for (const std::string& type : named_types(schema)) all.push_back(kind_of(type));
  if (const auto values = SchemaSets::values_of(schema, "#"); all.empty() && values)
    for (const Json& value : *values) all.push_back(type_of(value));
  return all;
}

bool overlap(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  return a.empty() || b.empty() ||
         std::ranges::any_of(a, [&b](const std::string& kind) { return std::ranges::contains(b, kind); });
}

}  // namespace

Result<Json> SchemaSets::parse(std::string_view text) {
  if (text.size() > kMaxSchemaBytes)
    return fail(ErrorCode::kInvalidArgument, "the schema has {} bytes, expected at most {}", text.size(),
                kMaxSchemaBytes);
  bool too_deep = false;
  const Json root = Json::parse(
      text,
      [&too_deep](int depth, Json::parse_event_t, Json&) {
        too_deep = too_deep || depth > kMaxJsonDepth;
        return !too_deep;
      },
      false);
  if (too_deep)
    return fail(ErrorCode::kInvalidArgument, "the schema is nested deeper than {}", kMaxJsonDepth);
  if (root.is_discarded())
    return fail(ErrorCode::kInvalidArgument, "the schema {} is no JSON", quote(text, 60));
  return root;
}

bool SchemaSets::is_annotation(std::string_view name) {
  const Keyword* known = keyword(name);
  return name.starts_with("x-") || (known != nullptr && known->type == "annotation");
}

std::string SchemaSets::escaped(std::string_view name) {
  std::string text;
  for (const char c : name) {
    if (c == '~')
      text += "~0";
    else if (c == '/')
      text += "~1";
    else
      text += c;
  }
  const std::string shown = quote(text, 60);
  return shown == "'" + text + "'" ? text : shown;
}

bool SchemaSets::is_only(const Json& schema, std::string_view name) {
  for (const auto& [key, value] : schema.items())
    if (key != name && !is_annotation(key)) return false;
  return true;
}

Json SchemaSets::without(const Json& schema, std::string_view name) {
  Json rest = Json::object();
  for (const auto& [key, value] : schema.items())
    if (key != name && !is_annotation(key)) rest[key] = value;
  return rest;
}

Result<> SchemaSets::check_keywords(const Json& schema, const std::string& where) {
  if (!schema.is_object())
    return fail(ErrorCode::kInvalidArgument, "{}: expected a schema (an object, true or false)", where);
  for (const auto& [key, value] : schema.items()) {
    const Keyword* known = keyword(key);
    if (is_annotation(key)) continue;
    if (known == nullptr || (known->type.empty() && !known->usable)) return unsupported(where, key);
  }
  const auto type = schema.find("type");
  if (type == schema.end()) return {};
  const Json list = type->is_array() ? *type : Json::array({*type});
  for (const Json& one : list)
    if (!one.is_string() || !std::ranges::contains(kTypes, one.get<std::string>()))
      return fail(
          ErrorCode::kInvalidArgument,
          "{}/type: expected object, array, string, number, integer, boolean, null or a list of these",
          where);
  return {};
}

Result<> SchemaSets::check_usable(std::string_view type, const Json& schema, const std::string& where) {
  const std::string kind = kind_of(std::string(type));
  for (const auto& [key, value] : schema.items()) {
    const Keyword* known = keyword(key);
    const bool says_nothing = key == "uniqueItems" && value == false;
    if (known != nullptr && known->type == kind && !known->usable && !says_nothing)
      return unsupported(where, key);
  }
  return {};
}

std::vector<std::string> SchemaSets::made_types(const Json& schema) {
  if (schema.contains("type")) return named_types(schema);
  std::vector<std::string> types;
  for (const auto& [key, value] : schema.items())
    if (const Keyword* known = keyword(key); known != nullptr && std::ranges::contains(kTypes, known->type) &&
                                             !std::ranges::contains(types, known->type))
      types.emplace_back(known->type);
  if (types.empty()) types = {"object", "array", "string", "number", "boolean", "null"};
  return types;
}

Result<std::vector<Json>> SchemaSets::values_of(const Json& schema, const std::string& where) {
  std::vector<Json> all;
  if (const auto at = schema.find("enum"); at != schema.end()) {
    if (!at->is_array() || at->empty())
      return fail(ErrorCode::kInvalidArgument, "{}/enum: expected a list of values", where);
    all.assign(at->begin(), at->end());
    if (const auto one = schema.find("const"); one != schema.end())
      std::erase_if(all, [&](const Json& value) { return value != *one; });
  } else if (const auto one = schema.find("const"); one != schema.end()) {
    all.push_back(*one);
  }
  const auto types = named_types(schema);
  if (!types.empty())
    std::erase_if(all, [&](const Json& value) {
      return !std::ranges::contains(types, type_of(value)) &&
             !(std::ranges::contains(types, "integer") && is_whole(value));
    });
  return all;
}

Result<std::vector<std::string>> SchemaSets::required_of(const Json& schema, const std::string& where) {
  std::vector<std::string> names;
  const auto at = schema.find("required");
  if (at == schema.end()) return names;
  if (!at->is_array())
    return fail(ErrorCode::kInvalidArgument, "{}/required: expected a list of names", where);
  for (const Json& name : *at) {
    if (!name.is_string())
      return fail(ErrorCode::kInvalidArgument, "{}/required: expected a list of names", where);
    if (!std::ranges::contains(names, name.get<std::string>())) names.push_back(name.get<std::string>());
  }
  return names;
}

Result<SchemaSets::Target> SchemaSets::resolve(const Json& reference, const std::string& where) const {
  if (!reference.is_string()) return fail(ErrorCode::kInvalidArgument, "{}: expected text", where);
  const std::string text = reference.get<std::string>();
  if (text != "#" && !text.starts_with("#/"))
    return fail(ErrorCode::kUnsupported,
                "{}: {} cannot be used; only places of the same schema, like #/$defs/name", where,
                quote(text, 60));
  const Json* at = &root_;
  std::string_view rest = std::string_view(text).substr(1);
  while (!rest.empty()) {
    rest.remove_prefix(1);
    std::string name(rest.substr(0, rest.find('/')));
    rest.remove_prefix(name.size());
    for (const auto& [code, c] : {std::pair{"~1", "/"}, std::pair{"~0", "~"}})
      for (std::size_t i = name.find(code); i != std::string::npos; i = name.find(code, i + 1))
        name.replace(i, 2, c);
    std::size_t index = at->size();
    if (at->is_array() && !name.empty() && name.size() < 7 &&
        std::ranges::all_of(name, [](char c) { return c >= '0' && c <= '9'; }))
      index = std::stoul(name);
    if (at->is_object() && at->contains(name))
      at = &(*at)[name];
    else if (at->is_array() && index < at->size())
      at = &(*at)[index];
    else
      return fail(ErrorCode::kInvalidArgument, "{}: {} is not there", where, quote(text, 60));
  }
  return Target{at, text};
}

Result<Json> SchemaSets::plain(const Json& schema, const std::string& where, std::size_t depth) const {
  if (depth > kMaxSchemaDepth)
    return fail(ErrorCode::kUnsupported, "{}: $ref and allOf lead on more than {} times", where,
                kMaxSchemaDepth);
  if (!schema.is_object() || (!schema.contains("$ref") && !schema.contains("allOf"))) return schema;
  if (schema.contains("$ref")) {
    HEARTH_TRY(const Target target, resolve(schema["$ref"], where + "/$ref"));
    HEARTH_TRY(const Json named, plain(*target.schema, target.where, depth + 1));
    return merge(without(schema, "$ref"), named, where, depth + 1);
  }
  const Json& list = schema["allOf"];
  if (!list.is_array() || list.empty())
    return fail(ErrorCode::kInvalidArgument, "{}/allOf: expected a list of schemas", where);
  Json all = without(schema, "allOf");
  for (std::size_t i = 0; i < list.size(); ++i) {
    HEARTH_TRY(all, merge(all, list[i], std::format("{}/allOf/{}", where, i), depth + 1));
  }
  return all;
}

Result<Json> SchemaSets::merge(const Json& given_a, const Json& given_b, const std::string& where,
                               std::size_t depth) const {
  HEARTH_TRY(const Json a, plain(given_a, where, depth));
  HEARTH_TRY(const Json b, plain(given_b, where, depth));
  if (a == true || b == false) return b;
  if (b == true || a == false) return a;
  if (!a.is_object() || !b.is_object())
    return fail(ErrorCode::kInvalidArgument, "{}: expected a schema (an object, true or false)", where);
  Json both = without(a, "");
  for (const auto& [key, value] : b.items()) {
    if (is_annotation(key)) continue;
    if (!both.contains(key) || both[key] == value) {
      both[key] = value;
      continue;
    }
    HEARTH_TRY(both[key], merge_keyword(key, both[key], value, where, depth));
  }
  // What one of them has no word for, the other's additionalProperties may forbid.
  for (const auto& [one, other] : {std::pair{&a, &b}, std::pair{&b, &a}}) {
    if (!one->contains("additionalProperties") || (*one)["additionalProperties"] == true) continue;
    const Json none = Json::object();
    const Json& known = one->contains("properties") ? (*one)["properties"] : none;
    const Json& more = other->contains("properties") ? (*other)["properties"] : none;
    for (const auto& [name, value] : more.items())
      if (!known.contains(name))
        return fail(ErrorCode::kUnsupported,
                    "{}: additionalProperties of one schema beside the property {} of another cannot be used",
                    where, escaped(name));
  }
  return both;
}

Result<Json> SchemaSets::merge_keyword(const std::string& key, const Json& a, const Json& b,
                                       const std::string& where, std::size_t depth) const {
  const auto cannot = [&] {
    return fail(ErrorCode::kUnsupported, "{}: two different {} together cannot be used", where, escaped(key));
  };
  if (key.starts_with("min") || key == "exclusiveMinimum")
    return a.is_number() && b.is_number() ? Result<Json>(std::max(a, b)) : cannot();
  if (key.starts_with("max") || key == "exclusiveMaximum")
    return a.is_number() && b.is_number() ? Result<Json>(std::min(a, b)) : cannot();
  if (key == "properties" && a.is_object() && b.is_object()) {
    Json both = a;
    for (const auto& [name, value] : b.items()) {
      if (both.contains(name)) {
        HEARTH_TRY(both[name], merge(both[name], value, where + "/properties/" + escaped(name), depth + 1));
      } else {
        both[name] = value;
      }
    }
    return both;
  }
  if (key == "items" || key == "additionalProperties") return merge(a, b, where + "/" + key, depth + 1);
  if (key == "required" && a.is_array() && b.is_array()) {
    Json both = a;
    both.insert(both.end(), b.begin(), b.end());
    return both;
  }
  if (key == "enum" && a.is_array() && b.is_array()) {
    Json both = Json::array();
    for (const Json& value : a)
      if (std::ranges::contains(b, value)) both.push_back(value);
    if (both.empty()) return fail(ErrorCode::kInvalidArgument, "{}/enum: nothing matches both", where);
    return both;
  }
  if (key == "type") {
    const Json left = a.is_array() ? a : Json::array({a}), right = b.is_array() ? b : Json::array({b});
    Json both = Json::array();
    for (const Json& type : left) {
      if (std::ranges::contains(right, type) ||
          (type == "integer" && std::ranges::contains(right, Json("number"))))
        both.push_back(type);
      else if (type == "number" && std::ranges::contains(right, Json("integer")))
        both.push_back("integer");
    }
    if (both.empty()) return fail(ErrorCode::kInvalidArgument, "{}/type: nothing matches both", where);
    return both.size() == 1 ? both[0] : both;
  }
  return cannot();
}

bool SchemaSets::disjoint(const Json& given_a, const Json& given_b, const std::string& where,
                          std::size_t depth) const {
  const auto plain_a = plain(given_a, where, depth), plain_b = plain(given_b, where, depth);
  if (!plain_a || !plain_b || !plain_a->is_object() || !plain_b->is_object()) return false;
  const Json &a = *plain_a, &b = *plain_b;
  if (!overlap(kinds(a), kinds(b))) return true;
  const auto values_a = values_of(a, where), values_b = values_of(b, where);
  if (!values_a || !values_b) return false;
  if (!values_a->empty() && !values_b->empty())
    return std::ranges::none_of(*values_a,
                                [&](const Json& value) { return std::ranges::contains(*values_b, value); });
  // Made of objects alone, both with a property that tells them apart.
  const std::vector<std::string> objects = {"object"};
  if (a.contains("anyOf") || b.contains("anyOf") || a.contains("oneOf") || b.contains("oneOf")) return false;
  if (made_types(a) != objects || made_types(b) != objects) return false;
  const auto required_a = required_of(a, where), required_b = required_of(b, where);
  if (!required_a || !required_b) return false;
  return std::ranges::any_of(*required_a, [&](const std::string& name) {
    const bool in_both = std::ranges::contains(*required_b, name) && a.contains("properties") &&
                         b.contains("properties") && a["properties"].contains(name) &&
                         b["properties"].contains(name);
    return in_both && disjoint(a["properties"][name], b["properties"][name], where, depth + 1);
  });
}

}  // namespace hearth::model
