// JSON schemas as sets of values: what a schema refers to, two of them together, whether two have a value in
// common. Internal to model.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/result.h"

namespace hearth::model {

using SchemaJson = nlohmann::ordered_json;  // properties keep their order

class SchemaSets {
 public:
  explicit SchemaSets(const SchemaJson& root) : root_(root) {}
  [[nodiscard]] const SchemaJson& root() const { return root_; }

  // Text of a schema; kInvalidArgument: no JSON, too large or too deep, no valid UTF-8.
  [[nodiscard]] static Result<SchemaJson> parse(std::string_view text);

  struct Target {
    const SchemaJson* schema;
    std::string where;
  };
  // The schema that a $ref names: "#" or "#/a/b". kUnsupported for others, kInvalidArgument for none.
  [[nodiscard]] Result<Target> resolve(const SchemaJson& reference, const std::string& where) const;

  // The schema without $ref and allOf: what they name is merged into it. A boolean stays one.
  [[nodiscard]] Result<SchemaJson> plain(const SchemaJson& schema, const std::string& where,
                                         std::size_t depth) const;
  // What matches both. kUnsupported where that cannot be said by one schema.
  [[nodiscard]] Result<SchemaJson> merge(const SchemaJson& a, const SchemaJson& b, const std::string& where,
                                         std::size_t depth) const;
  // Whether no value matches both, as far as is seen: by types, constants, or those of a required property.
  [[nodiscard]] bool disjoint(const SchemaJson& a, const SchemaJson& b, const std::string& where,
                              std::size_t depth) const;

  // kUnsupported for a keyword that is not known, or known and of no use here.
  [[nodiscard]] static Result<> check_keywords(const SchemaJson& schema, const std::string& where);
  // The same for those that say something of values of this type alone.
  [[nodiscard]] static Result<> check_usable(std::string_view type, const SchemaJson& schema,
                                             const std::string& where);
  // Types that texts are made of: as `type` says, else those that its keywords are about, else all.
  [[nodiscard]] static std::vector<std::string> made_types(const SchemaJson& schema);
  // Values of const or enum that have the schema's type.
  [[nodiscard]] static Result<std::vector<SchemaJson>> values_of(const SchemaJson& schema,
                                                                 const std::string& where);
  [[nodiscard]] static Result<std::vector<std::string>> required_of(const SchemaJson& schema,
                                                                    const std::string& where);

  [[nodiscard]] static bool is_annotation(std::string_view keyword);
  // Whether it has no other keyword that means something.
  [[nodiscard]] static bool is_only(const SchemaJson& schema, std::string_view keyword);
  // The schema without a keyword and without annotations.
  [[nodiscard]] static SchemaJson without(const SchemaJson& schema, std::string_view keyword);
  // Part of a JSON pointer, fit for a terminal.
  [[nodiscard]] static std::string escaped(std::string_view name);

 private:
  [[nodiscard]] Result<SchemaJson> merge_keyword(const std::string& key, const SchemaJson& a,
                                                 const SchemaJson& b, const std::string& where,
                                                 std::size_t depth) const;
  const SchemaJson& root_;
};

}  // namespace hearth::model
