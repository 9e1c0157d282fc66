#include "model/json_schema.h"

#include <regex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "model/grammar_text.h"
#include "model/test_grammar.h"

namespace hearth::model {
namespace {

using nlohmann::json;
using testing::HasSubstr;

struct Case {
  const char* schema;
  std::vector<std::string> good, bad;
};

void check(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const auto grammar = grammar_of_json_schema(c.schema);
    ASSERT_TRUE(grammar) << c.schema << ": " << grammar.error().message;
    TestGrammar matcher(*grammar);
    for (const std::string& text : c.good)
      EXPECT_TRUE(matcher.matches(text)) << c.schema << ": " << text << "\n" << *grammar;
    for (const std::string& text : c.bad)
      EXPECT_FALSE(matcher.matches(text)) << c.schema << ": " << text << "\n" << *grammar;
  }
}

TEST(JsonSchema, AnyValue) {
  for (const char* schema : {"{}", "true", R"({"title": "x", "$defs": {}, "x-mine": 1})"})
    check({{schema,
            {"1", "-0.5e+10", "\"\"", "null", "true", "[]", "{}", R"({"a": [1, {"b": null}],"c":"\u00e9\n"})",
             "[ 1, 2 ]"},
            {"", "01", "1.", "nul", "'a'", "[1,]", "{1: 2}", "{\"a\": 1,}", "\"\n\"", "\"\\x\"",
             "\"\\ud800\"", " 1", "1 "}}});
}

TEST(JsonSchema, Types) {
  check({{R"({"type": "boolean"})", {"true", "false"}, {"null", "True", "1"}},
         {R"({"type": "null"})", {"null"}, {"0", ""}},
         {R"({"type": ["integer", "null"]})", {"7", "-7", "null", "0"}, {"1.5", "1e3", "\"\"", "00", "-"}},
         {R"({"type": "number"})", {"7", "-7.25", "1e3", "0.5E-2"}, {".5", "+1", "1e", "1e1000"}},
         {R"({"type": "string"})", {"\"\"", "\"\xC3\xA9\\\"\""}, {"\"", "a", "\"\x7F\"", "\"\t\""}}});
}

TEST(JsonSchema, Strings) {
  check({{R"({"type": "string", "minLength": 2, "maxLength": 3})",
          {"\"ab\"", "\"\xC3\xA9\xC3\xA9\xC3\xA9\"", R"("\n\u0041")"},
          {"\"a\"", "\"abcd\"", "\"\""}},
         {R"({"minLength": 2})", {"\"ab\"", "\"abcdefgh\""}, {"\"a\"", "12"}},
         {R"({"type": "string", "maxLength": 0})", {"\"\""}, {"\"a\""}},
         {R"({"type": "string", "format": "date"})",
          {"\"2024-02-28\"", "\"1999-12-31\"", "\"2026-04-30\""},
          {"\"2024-02-30\"", "\"2024-04-31\"", "\"2024-13-01\"", "\"2024-00-10\"", "\"24-01-01\"",
           "\"2024-01-00\""}},
         {R"({"type": "string", "format": "time"})",
          {"\"23:59:59Z\"", "\"00:00:00.123+01:30\""},
          {"\"24:00:00Z\"", "\"12:60:00Z\"", "\"12:00:00\""}},
         {R"({"type": "string", "format": "date-time"})",
          {"\"2024-02-28T23:59:59Z\""},
          {"\"2024-02-28 23:59:59Z\""}},
         {R"({"type": "string", "format": "uuid"})",
          {"\"123e4567-e89b-12d3-a456-426614174000\""},
          {"\"123e4567e89b12d3a456426614174000\"", "\"123e4567-e89b-12d3-a456-42661417400g\""}}});
}

TEST(JsonSchema, Numbers) {
  check({{R"({"type": "integer", "minimum": 3, "maximum": 120})",
          {"3", "9", "10", "99", "100", "119", "120"},
          {"2", "121", "0", "-5", "03", "200", "1000", "3.0"}},
         {R"({"type": "integer", "exclusiveMinimum": -2, "maximum": 1.9})", {"-1", "0", "1"}, {"-2", "2"}},
         {R"({"type": "integer", "minimum": -15, "maximum": -2})",
          {"-15", "-10", "-9", "-2"},
          {"-16", "-1", "0", "2", "15"}},
         {R"({"type": "integer", "minimum": 0})", {"0", "999999999999999"}, {"-1", "1000000000000000"}},
         {R"({"type": "number", "minimum": 0, "maximum": 1})",
          {"0", "0.5", "1", "1.0", "0.0"},
          {"1.5", "-0.5", "2", "1e3"}},
         {R"({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10})",
          {"0.001", "9.99", "1"},
          {"0", "0.0", "10", "10.0"}},
         {R"({"type": "number", "minimum": -3, "maximum": 2})",
          {"-3", "-3.0", "-2.5", "-0.1", "0", "1.9", "2.0"},
          {"-3.1", "2.1"}},
         {R"({"minimum": 5})", {"5", "5.5", "123456"}, {"4.9", "\"5\""}}});
}

// Bounds of every kind, against arithmetic.
TEST(JsonSchema, IntegersBetweenBounds) {
  for (const auto& [low, high] : {std::pair{0, 0},
                                  {0, 9},
                                  {7, 7},
                                  {5, 12},
                                  {95, 1003},
                                  {100, 999},
                                  {199, 201},
                                  {-12, 30},
                                  {-130, -99},
                                  {-1, 0}}) {
    TestGrammar matcher("root ::= " + gbnf_integer(low, high) + "\n");
    for (int i = -1100; i <= 1100; ++i)
      EXPECT_EQ(matcher.matches(std::to_string(i)), low <= i && i <= high)
          << i << " in " << low << " to " << high;
  }
}

TEST(JsonSchema, NumbersBetweenBounds) {
  for (int low = -12; low <= 12; low += 3)
    for (int high = low; high <= 13; high += 4)
      for (const bool open_low : {false, true})
        for (const bool open_high : {false, true}) {
          const std::string number = gbnf_number({low, open_low}, {high, open_high});
          if (number.empty()) {
            EXPECT_TRUE(low == high && (open_low || open_high));
            continue;
          }
          TestGrammar matcher("root ::= " + number + "\n");
          for (int tenth = -140; tenth <= 140; ++tenth) {
            const bool inside = (open_low ? tenth > low * 10 : tenth >= low * 10) &&
                                (open_high ? tenth < high * 10 : tenth <= high * 10);
            const std::string text =
                std::format("{}{}.{}", tenth < 0 ? "-" : "", std::abs(tenth) / 10, std::abs(tenth) % 10);
            EXPECT_EQ(matcher.matches(text), inside)
                << text << " in " << low << " to " << high << open_low << open_high;
          }
        }
}

TEST(JsonSchema, EnumAndConst) {
  check({{R"({"enum": ["a", 1, null, {"b": [2]}]})",
          {"\"a\"", "1", "null", "{\"b\":[2]}"},
          {"a", "2", "\"b\""}},
         {R"({"const": "q\"\\\n\u00e9"})", {"\"q\\\"\\\\\\n\xC3\xA9\""}, {"\"q\""}},
         {R"({"type": "string", "enum": ["a", 1]})", {"\"a\""}, {"1"}},
         {R"({"type": "integer", "enum": [1, 2.0, 2.5]})", {"1", "2.0"}, {"2.5"}}});
}

TEST(JsonSchema, Objects) {
  check(
      {{R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["a", "b"]})",
        {R"({"a": 1, "b": true})", "{\"a\":1,\"b\":true}", "{\n  \"a\": 1,\n  \"b\": true\n}"},
        {R"({"b": true, "a": 1})", R"({"a": 1})", "{}", R"({"a": 1, "b": true, "c": 2})",
         R"({"a": 1.5, "b": true})", R"({"a": 1, "b": true, })"}},
       {R"({"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, "required": ["b"]})",
        {R"({"b": 2})", R"({"a": 1, "b": 2})", R"({"b": 2, "c": 3})", R"({"a": 1, "b": 2, "c": 3})"},
        {"{}", R"({"a": 1})", R"({"a": 1, "c": 3})", R"({, "b": 2})", R"({"b": 2, "b": 2})"}},
       {R"({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}})",
        {"{}", "{ }", R"({"a": 1})", R"({"b": 2})", R"({"a": 1, "b": 2})"},
        {R"({"a": 1,})", R"({"b": 2, "a": 1})"}},
       {R"({"type": "object", "additionalProperties": {"type": "integer"}})",
        {"{}", R"({"x": 1})", R"({"x": 1, "": 2})"},
        {R"({"x": "1"})", "{x: 1}"}},
       {R"({"type": "object", "additionalProperties": false})", {"{}"}, {R"({"x": 1})"}},
       {R"({"type": "object", "properties": {"ab": {"const": 1}, "ac": {"const": 2}}, "additionalProperties": {"type": "null"}})",
        {"{}", R"({"ab": 1})", R"({"ab": 1, "x": null})", R"({"a": null})",
         R"({"abc": null, "ad": null, "": null})", R"({"ab": 1, "ac": 2, "b": null})"},
        {R"({"ab": null})", R"({"ac": null})", R"({"x": 1})", R"({"\u0061b": null})",
         R"({"x": null, "ab": 1})"}},
       {R"({"type": "object", "properties": {"a": false, "b": {"const": 1}}, "additionalProperties": true})",
        {"{}", R"({"b": 1, "c": []})"},
        {R"({"a": 1})"}},
       {R"({"type": "object", "required": ["x"], "additionalProperties": {"type": "integer"}})",
        {R"({"x": 1})", R"({"x": 1, "y": 2})"},
        {"{}", R"({"y": 2})", R"({"x": 1, "x": 2})"}},
       {R"({"type": "object", "required": ["x"]})", {R"({"x": [1]})"}, {"{}"}}});
}

TEST(JsonSchema, Arrays) {
  check({{R"({"type": "array"})", {"[]", "[ ]", "[1, \"a\"]"}, {"[1 2]", "{}"}},
         {R"({"items": {"type": "integer"}, "minItems": 2, "maxItems": 3})",
          {"[1, 2]", "[1,2,3]", "[ 1, 2 ]"},
          {"[]", "[1]", "[1, 2, 3, 4]", "[1, \"a\"]"}},
         {R"({"items": {"type": "integer"}, "minItems": 1})", {"[1]", "[1, 2, 3, 4]"}, {"[]"}},
         {R"({"items": {"type": "integer"}, "maxItems": 1})", {"[]", "[1]"}, {"[1, 2]"}},
         {R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"}},
         {R"({"type": "array", "items": false})", {"[]"}, {"[1]"}},
         {R"({"prefixItems": [{"type": "integer"}, {"type": "string"}]})",
          {"[1, \"a\"]"},
          {"[1]", "[\"a\", 1]", "[1, \"a\", 2]"}},
         {R"({"prefixItems": [{"type": "integer"}], "items": {"type": "boolean"}, "maxItems": 3})",
          {"[1]", "[1, true]", "[1, true, false]"},
          {"[]", "[1, 2]", "[1, true, true, true]"}},
         {R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "maxItems": 1})",
          {"[1]"},
          {"[1, \"a\"]"}},
         {R"({"prefixItems": [{"type": "integer"}], "minItems": 2})", {"[1, null]"}, {"[1]", "[1, 2, 3]"}},
         {R"({"type": "array", "uniqueItems": false, "items": {"const": 1}})", {"[1, 1]"}, {"[2]"}}});
}

TEST(JsonSchema, Together) {
  check(
      {{R"({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]})",
        {"5", "\"a\""},
        {"\"ab\"", "true"}},
       {R"({"oneOf": [{"type": "integer"}, {"type": "string"}]})", {"5", "\"a\""}, {"null"}},
       {R"({"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}, "x": {"type": "integer"}}, "required": ["k", "x"]},
                       {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"]}]})",
        {R"({"k": "a", "x": 1})", R"({"k": "b"})"},
        {R"({"k": "a"})", R"({"k": "b", "x": 1})"}},
       {R"({"allOf": [{"properties": {"a": {"type": "number", "minimum": 1}}, "required": ["a"]}, {"properties": {"a": {"type": "integer"}, "b": {"const": 2}}, "required": ["b"]}]})",
        {R"({"a": 1, "b": 2})"},
        {R"({"a": 1})", R"({"a": 0, "b": 2})", R"({"a": 1.5, "b": 2})"}},
       {R"({"type": "object", "properties": {"a": {"const": 1}}, "anyOf": [{"required": ["a"]}, {"properties": {"b": {"const": 2}}, "required": ["b"]}]})",
        {R"({"a": 1})", R"({"b": 2})", R"({"a": 1, "b": 2})"},
        {"{}"}},
       {R"({"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}], "const": 3})", {"3"}, {"2"}},
       {R"({"allOf": [true, {"type": ["string", "number"]}, {"type": "integer"}]})",
        {"3"},
        {"3.5", "\"\""}}});
}

TEST(JsonSchema, References) {
  check(
      {{R"({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}})", {"1"}, {"\"a\""}},
       {R"({"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#"}}, "required": ["v"]})",
        {R"({"v": 1})", R"({"v": 1, "next": {"v": 2, "next": {"v": 3}}})"},
        {R"({"v": 1, "next": {}})"}},
       {R"({"$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "$ref": "#/$defs/tree"})",
        {"[]", "[[], [[]]]"},
        {"[1]"}},
       {R"({"$defs": {"p": {"properties": {"a": {"const": 1}}, "required": ["a"]}}, "$ref": "#/$defs/p", "properties": {"b": {"const": 2}}, "required": ["b"]})",
        {R"({"b": 2, "a": 1})"},
        {R"({"a": 1})", R"({"b": 2})"}},
       {R"({"prefixItems": [{"const": 1}, {"$ref": "#/prefixItems/0"}]})", {"[1, 1]"}, {"[1, 2]"}}});
}

TEST(JsonSchema, WhatCannotBeUsedIsSaidWithItsPlace) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  std::string nested = "true";
  for (int i = 0; i < 70; ++i) nested = R"({"items": )" + nested + "}";
  const std::tuple<std::string, ErrorCode, std::string> cases[] = {
      {"", ErrorCode::kInvalidArgument, "is no JSON"},
      {"{", ErrorCode::kInvalidArgument, "is no JSON"},
      {"{\"const\": \"\xFF\"}", ErrorCode::kInvalidArgument, "is no JSON"},
      {deep, ErrorCode::kInvalidArgument, "nested deeper than 256"},
      {nested, ErrorCode::kUnsupported, "nested deeper than 64"},
      {"[]", ErrorCode::kInvalidArgument, "#: expected a schema"},
      {"false", ErrorCode::kInvalidArgument, "#: nothing matches false"},
      {R"({"properties": {"a/b": 1}})", ErrorCode::kInvalidArgument, "#/properties/a~1b: expected a schema"},
      {R"({"type": "text"})", ErrorCode::kInvalidArgument, "#/type: expected object"},
      {R"({"type": [1]})", ErrorCode::kInvalidArgument, "#/type: expected object"},
      {R"({"typ": "string"})", ErrorCode::kUnsupported, "#/typ: the keyword cannot be used"},
      {R"({"\u001b[2J": 1})", ErrorCode::kUnsupported, R"(#/'\x1b[2J': the keyword)"},
      {R"({"not": {}})", ErrorCode::kUnsupported, "#/not: the keyword"},
      {R"({"items": {"type": "object", "patternProperties": {}}})", ErrorCode::kUnsupported,
       "#/items/patternProperties"},
      {R"({"type": "array", "uniqueItems": true})", ErrorCode::kUnsupported, "#/uniqueItems"},
      {R"({"type": "number", "multipleOf": 2})", ErrorCode::kUnsupported, "#/multipleOf"},
      {R"({"type": "number", "minimum": 0.5})", ErrorCode::kUnsupported,
       "#/minimum: expected a whole number"},
      {R"({"type": "integer", "minimum": 1e30})", ErrorCode::kUnsupported,
       "#/minimum: expected a number of at most 15"},
      {R"({"type": "integer", "minimum": 3, "maximum": 2})", ErrorCode::kInvalidArgument,
       "no number is between"},
      {R"({"type": "integer", "minimum": "3"})", ErrorCode::kInvalidArgument, "#/minimum: expected a number"},
      {R"({"type": "string", "maxLength": 2000})", ErrorCode::kUnsupported,
       "#/maxLength: expected at most 1999"},
      {R"({"type": "string", "maxLength": -1})", ErrorCode::kInvalidArgument,
       "#/maxLength: expected a whole number"},
      {R"({"type": "string", "minLength": 3, "maxLength": 2})", ErrorCode::kInvalidArgument,
       "minLength is more than maxLength"},
      {R"({"type": "string", "format": "email"})", ErrorCode::kUnsupported,
       "#/format: 'email' cannot be used"},
      {R"({"type": "string", "pattern": "a", "minLength": 3})", ErrorCode::kUnsupported,
       "only one of pattern"},
      {R"_({"type": "string", "pattern": "(?=a)"})_", ErrorCode::kUnsupported,
       "#/pattern: the pattern '(?=a)', character 2"},
      {R"({"enum": []})", ErrorCode::kInvalidArgument, "#/enum: expected a list"},
      {R"({"enum": [1], "minimum": 0})", ErrorCode::kUnsupported, "#/minimum: cannot be used beside enum"},
      {R"({"type": "string", "enum": [1]})", ErrorCode::kInvalidArgument, "no value of enum has its type"},
      {R"({"anyOf": []})", ErrorCode::kInvalidArgument, "#/anyOf: expected a list"},
      {R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", ErrorCode::kUnsupported,
       "#/oneOf: 0 and 1 may match"},
      {R"({"oneOf": [{"properties": {}}, {"type": "string"}]})", ErrorCode::kUnsupported,
       "#/oneOf: 0 and 1 may match"},
      {R"({"allOf": [{"pattern": "a"}, {"pattern": "b"}]})", ErrorCode::kUnsupported,
       "#/allOf/1: two different pattern"},
      {R"({"allOf": [{"type": "string"}, {"type": "null"}]})", ErrorCode::kInvalidArgument,
       "#/allOf/1/type: nothing matches"},
      {R"({"allOf": [{"additionalProperties": false}, {"properties": {"a": {}}}]})", ErrorCode::kUnsupported,
       "additionalProperties of one schema"},
      {R"({"$ref": "http://x/y"})", ErrorCode::kUnsupported, "#/$ref: 'http://x/y' cannot be used"},
      {R"({"$ref": "#/$defs/a"})", ErrorCode::kInvalidArgument, "#/$ref: '#/$defs/a' is not there"},
      {R"({"$ref": "#"})", ErrorCode::kUnsupported, ""},
      {R"({"allOf": [{"$ref": "#"}]})", ErrorCode::kUnsupported, "more than 64 times"},
      {R"({"anyOf": [{"$ref": "#"}, {"const": 1}]})", ErrorCode::kUnsupported, "begins with itself"},
      {R"({"required": ["a"], "additionalProperties": false})", ErrorCode::kInvalidArgument,
       "#/required: 'a' is no property"},
      {R"({"required": "a"})", ErrorCode::kInvalidArgument, "#/required: expected a list"},
      {R"({"items": [{}]})", ErrorCode::kUnsupported, "#/items: a list cannot be used"},
      {R"({"items": false, "minItems": 1})", ErrorCode::kInvalidArgument, "there can be 0 items"},
  };
  for (const auto& [schema, code, message] : cases) {
    const auto grammar = grammar_of_json_schema(schema);
    ASSERT_FALSE(grammar) << schema << "\n" << *grammar;
    EXPECT_EQ(grammar.error().code, code) << schema << ": " << grammar.error().message;
    EXPECT_THAT(grammar.error().message, HasSubstr(message)) << schema;
  }
}

// The string's contents compared with another reader of regular expressions.
TEST(JsonSchema, Patterns) {
  const char* patterns[] = {"^[a-c]{2,3}$",
                            "^a|b",
                            "b",
                            "^(a|bc)*d?$",
                            "^\\d+(\\.\\d{1,2})?$",
                            "^[^ab]$",
                            "^\\w\\W\\s?\\S$",
                            "^.$",
                            "^\\/\\\\\"$",
                            "a$",
                            "^(?:ab)+$",
                            "^$",
                            "",
                            "^[\\d-]+$",
                            "^a{2}b{0,1}c{1,}$",
                            "^[a\\]\\\\]*$",
                            "^\\$\\^$"};
  const char* texts[] = {"",    "a",     "b",    "ab",  "abc", "aabc", "cab", "bcad",  "d",    "12",
                         "1.5", "1.555", ".5",   "a b", "a-",  "-",    "é",   "/\\\"", "abab", "ba",
                         "aac", "aabcc", "a]\\", "$^",  " ",   "\n",   "xbx", "aaa",   "b\\"};
  for (const char* pattern : patterns) {
    const auto grammar = grammar_of_json_schema(json{{"type", "string"}, {"pattern", pattern}}.dump());
    if (std::string_view(pattern) == "^a|b") {
      EXPECT_THAT(grammar.error().message, HasSubstr("beside |"));
      continue;
    }
    ASSERT_TRUE(grammar) << pattern << ": " << grammar.error().message;
    TestGrammar matcher(*grammar);
    for (const char* text : texts) {
      const std::regex regex(pattern, std::regex::ECMAScript);
      // std::regex takes bytes, not characters.
      if (!std::all_of(text, text + std::strlen(text),
                       [](char c) { return static_cast<signed char>(c) >= 0; }))
        continue;
      EXPECT_EQ(matcher.matches(json(text).dump()), std::regex_search(text, regex))
          << pattern << ": " << text << "\n"
          << *grammar;
    }
  }
  TestGrammar one(*grammar_of_json_schema(R"({"type": "string", "pattern": "^[^a].$"})"));
  EXPECT_TRUE(one.matches("\"\xC3\xA9\xE2\x82\xAC\""));
  EXPECT_FALSE(one.matches("\"a\xC3\xA9\""));
  for (const char* bad : {"(", ")", "[a", "*", "a**", "(a*)*", "\\1", "\\b", "a{2001}", "[z-a]", "\\p{L}",
                          "(?<n>a)", "a^", "\\ud800", "a{3,2}", "{", "x{,2}"})
    EXPECT_FALSE(grammar_of_json_schema(json{{"type", "string"}, {"pattern", bad}}.dump())) << bad;
}

// Whatever a model writes under the grammar is JSON and matches: drawn at random, read by another reader.
TEST(JsonSchema, EveryTextOfTheGrammarMatches) {
  const auto is_tag = [](const json& v) {
    return v.is_string() && std::regex_match(v.get<std::string>(), std::regex("[a-z]{1,8}"));
  };
  struct Drawn {
    const char* schema;
    std::function<bool(const json&)> matches;
  };
  const Drawn cases[] = {
      {"{}", [](const json&) { return true; }},
      {R"({"type": "object", "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
           "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,8}$"}, "maxItems": 3}}, "required": ["name", "tags"], "additionalProperties": {"type": "boolean"}})",
       [&](const json& v) {
         for (const auto& [key, value] : v.items()) {
           if (key == "name") {
             const auto text = value.get<std::string>();
             const auto n = std::count_if(text.begin(), text.end(), [](char c) {
               return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
             });
             if (n < 1 || n > 5) return false;
           } else if (key == "age") {
             if (!value.is_number_integer() || value < 0 || value > 150) return false;
           } else if (key == "tags") {
             if (value.size() > 3 || !std::ranges::all_of(value, is_tag)) return false;
           } else if (!value.is_boolean()) {
             return false;
           }
         }
         return v.contains("name") && v.contains("tags");
       }},
      {R"({"type": "number", "minimum": -7, "exclusiveMaximum": 3})",
       [](const json& v) { return v >= -7 && v < 3; }},
      {R"({"$defs": {"n": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1}]}}, "$ref": "#/$defs/n"})",
       [](const json& v) {
         std::function<bool(const json&)> good = [&](const json& n) {
           return n.is_null() || (n.is_array() && !n.empty() && std::ranges::all_of(n, good));
         };
         return good(v);
       }},
  };
  std::mt19937 random(1);
  for (const Drawn& c : cases) {
    const auto grammar = grammar_of_json_schema(c.schema);
    ASSERT_TRUE(grammar) << grammar.error().message;
    TestGrammar drawer(*grammar);
    int n_whole = 0;
    for (int i = 0; i < 60; ++i) {
      const auto text = drawer.draw(random, 400);
      if (!text) continue;
      ++n_whole;
      // Bytes that are no UTF-8 are libllama's leniency, and Utf8Stream replaces them.
      if (!is_valid_utf8(*text)) continue;
      const json value = json::parse(*text, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << *text;
      EXPECT_TRUE(c.matches(value)) << *text;
    }
    EXPECT_GT(n_whole, 10) << c.schema;
  }
}

}  // namespace
}  // namespace hearth::model
