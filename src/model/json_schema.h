// JSON schema -> a GBNF grammar whose texts are JSON that is valid for the schema.
//
// docs/reference/json-schema.md says which keywords can be used. A grammar may allow less than its schema
// (one order of properties, no numbers of more than 15 digits, ...), never more. Pure functions; any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace hearth::model {

inline constexpr std::size_t kMaxSchemaBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxSchemaDepth = 64;  // of the schema and of what it includes by $ref and allOf

// kInvalidArgument: no JSON, no schema, a schema that nothing matches; kUnsupported: a keyword or value that
// cannot be used. Both name the place as a JSON pointer. The grammar passes check_grammar().
[[nodiscard]] Result<std::string> grammar_of_json_schema(std::string_view schema);

}  // namespace hearth::model
