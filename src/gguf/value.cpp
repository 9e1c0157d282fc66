#include "gguf/value.h"

#include <array>
#include <format>
#include <type_traits>

#include "base/text.h"

namespace hearth::gguf {
namespace {

// In the order of Value's alternatives.
constexpr std::array<std::string_view, std::variant_size_v<Value>> kTypeNames = {
    "u8",           "i8",           "u16",          "i16",          "u32",           "i32",
    "u64",          "i64",          "f32",          "f64",          "bool",          "string",
    "array of u8",  "array of i8",  "array of u16", "array of i16", "array of u32",  "array of i32",
    "array of u64", "array of i64", "array of f32", "array of f64", "array of bool", "array of string",
};

template <class T>
std::string scalar_text(const T& value, std::size_t max_bytes) {
  if constexpr (std::is_convertible_v<T, std::string_view>)
    return quote(value, max_bytes);
  else
    return std::format("{}", value);
}

template <class Array>
std::string array_text(const Array& array, std::size_t max_elements, std::size_t max_bytes) {
  std::string text = "[";
  std::size_t shown = 0;
  for (const auto& element : array) {
    if (shown == max_elements) break;
    if (shown++ > 0) text += ", ";
    if constexpr (std::is_same_v<Array, std::vector<bool>>)
      text += element ? "true" : "false";
    else
      text += scalar_text(element, max_bytes);
  }
  if (array.size() > shown) text += std::format("{}... {} in all", shown > 0 ? ", " : "", array.size());
  return text + "]";
}

template <class T>
constexpr bool kIsArray = false;
template <class T>
constexpr bool kIsArray<std::vector<T>> = true;
template <>
constexpr bool kIsArray<StringArray> = true;

}  // namespace

std::string_view type_name(const Value& value) {
  return kTypeNames[value.index()];
}

std::string to_text(const Value& value, std::size_t max_elements, std::size_t max_bytes) {
  return std::visit(
      [&]<class T>(const T& held) -> std::string {
        if constexpr (kIsArray<T>)
          return array_text(held, max_elements, max_bytes);
        else
          return scalar_text(held, max_bytes);
      },
      value);
}

}  // namespace hearth::gguf
