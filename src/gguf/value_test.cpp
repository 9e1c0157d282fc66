#include "gguf/value.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace hearth::gguf {
namespace {

TEST(StringArray, KeepsStringsApart) {
  StringArray array;
  array.push_back("a");
  array.push_back("");
  array.push_back(std::string_view("\0b", 2));
  array.push_back("cd");
  ASSERT_EQ(array.size(), 4U);
  EXPECT_EQ(array[0], "a");
  EXPECT_EQ(array[1], "");
  EXPECT_EQ(array[2], std::string_view("\0b", 2));
  EXPECT_EQ(array[3], "cd");
  const std::vector<std::string> copy(array.begin(), array.end());
  EXPECT_EQ(copy, (std::vector<std::string>{"a", "", std::string("\0b", 2), "cd"}));
  EXPECT_EQ(std::ranges::find(array, "cd"), std::ranges::next(array.begin(), 3));
}

TEST(StringArray, EmptyHasNoElements) {
  const StringArray array;
  EXPECT_TRUE(array.empty());
  EXPECT_EQ(array.begin(), array.end());
}

TEST(Value, NamesItsType) {
  EXPECT_EQ(type_name(Value(std::uint8_t{1})), "u8");
  EXPECT_EQ(type_name(Value(std::int8_t{1})), "i8");
  EXPECT_EQ(type_name(Value(std::uint16_t{1})), "u16");
  EXPECT_EQ(type_name(Value(std::int16_t{1})), "i16");
  EXPECT_EQ(type_name(Value(std::uint32_t{1})), "u32");
  EXPECT_EQ(type_name(Value(std::int32_t{1})), "i32");
  EXPECT_EQ(type_name(Value(std::uint64_t{1})), "u64");
  EXPECT_EQ(type_name(Value(std::int64_t{1})), "i64");
  EXPECT_EQ(type_name(Value(1.0F)), "f32");
  EXPECT_EQ(type_name(Value(1.0)), "f64");
  EXPECT_EQ(type_name(Value(true)), "bool");
  EXPECT_EQ(type_name(Value(std::string("x"))), "string");
  EXPECT_EQ(type_name(Value(std::vector<std::uint8_t>())), "array of u8");
  EXPECT_EQ(type_name(Value(std::vector<std::int8_t>())), "array of i8");
  EXPECT_EQ(type_name(Value(std::vector<std::uint16_t>())), "array of u16");
  EXPECT_EQ(type_name(Value(std::vector<std::int16_t>())), "array of i16");
  EXPECT_EQ(type_name(Value(std::vector<std::uint32_t>())), "array of u32");
  EXPECT_EQ(type_name(Value(std::vector<std::int32_t>())), "array of i32");
  EXPECT_EQ(type_name(Value(std::vector<std::uint64_t>())), "array of u64");
  EXPECT_EQ(type_name(Value(std::vector<std::int64_t>())), "array of i64");
  EXPECT_EQ(type_name(Value(std::vector<float>())), "array of f32");
  EXPECT_EQ(type_name(Value(std::vector<double>())), "array of f64");
  EXPECT_EQ(type_name(Value(std::vector<bool>())), "array of bool");
  EXPECT_EQ(type_name(Value(StringArray())), "array of string");
}

TEST(Value, ShowsItself) {
  EXPECT_EQ(to_text(Value(std::int8_t{-5})), "-5");
  EXPECT_EQ(to_text(Value(std::uint8_t{65})), "65");
  EXPECT_EQ(to_text(Value(1e-5F)), "1e-05");
  EXPECT_EQ(to_text(Value(true)), "true");
  EXPECT_EQ(to_text(Value(std::string("two\nlines"))), "'two\\x0alines'");
  EXPECT_EQ(to_text(Value(std::string(100, 'x')), 4, 5), "'xxxxx'...");
  EXPECT_EQ(to_text(Value(std::vector<std::int32_t>{})), "[]");
  EXPECT_EQ(to_text(Value(std::vector<std::int32_t>{1, -2})), "[1, -2]");
  EXPECT_EQ(to_text(Value(std::vector<std::uint8_t>{1, 2, 3, 4, 5})), "[1, 2, 3, 4, ... 5 in all]");
  EXPECT_EQ(to_text(Value(std::vector<bool>{true, false}), 1), "[true, ... 2 in all]");
  EXPECT_EQ(to_text(Value(std::vector<float>{0.5F}), 0), "[... 1 in all]");
  StringArray strings;
  strings.push_back("a");
  strings.push_back("b");
  EXPECT_EQ(to_text(Value(strings)), "['a', 'b']");
}

}  // namespace
}  // namespace hearth::gguf
