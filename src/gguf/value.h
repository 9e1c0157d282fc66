// The values of GGUF metadata: scalars, strings, and flat arrays of them.
//
// Plain values; safe to read from any thread. Strings are bytes as they stand in the file: vocabularies hold
// pieces that are no valid UTF-8, so use quote() of base/text.h before showing one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace hearth::gguf {

// Numbers of the file format.
enum class ValueType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// Many short strings in one block of memory: a vocabulary of 150,000 pieces costs two allocations, and a
// hostile array of empty strings less memory than it takes in the file.
class StringArray {
 public:
  class Iterator {
   public:
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::forward_iterator_tag;

    Iterator() = default;
    Iterator(const StringArray* array, std::size_t index) : array_(array), index_(index) {}
    std::string_view operator*() const { return (*array_)[index_]; }
    Iterator& operator++() {
      ++index_;
      return *this;
    }
    Iterator operator++(int) {
      Iterator before = *this;
      ++index_;
      return before;
    }
    friend bool operator==(const Iterator&, const Iterator&) = default;

   private:
    const StringArray* array_ = nullptr;
    std::size_t index_ = 0;
  };

  [[nodiscard]] std::size_t size() const { return ends_.size(); }
  [[nodiscard]] bool empty() const { return ends_.empty(); }
  // Valid as long as this array is neither changed nor destroyed. index < size().
  [[nodiscard]] std::string_view operator[](std::size_t index) const {
    const std::size_t begin = index == 0 ? 0 : ends_[index - 1];
    return std::string_view(text_).substr(begin, ends_[index] - begin);
  }
  [[nodiscard]] Iterator begin() const { return {this, 0}; }
  [[nodiscard]] Iterator end() const { return {this, size()}; }

  void reserve(std::size_t count) { ends_.reserve(count); }
  // All strings together stay below 4 GiB (gguf/limits.h bounds them to 128 MiB).
  void push_back(std::string_view text) {
    text_ += text;
    ends_.push_back(static_cast<std::uint32_t>(text_.size()));
  }
  // Gives back what growing has reserved too much.
  void shrink_to_fit() { text_.shrink_to_fit(); }

  friend bool operator==(const StringArray&, const StringArray&) = default;

 private:
  std::string text_;
  std::vector<std::uint32_t> ends_;  // end of string i in text_
};

using Value = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t,
                           std::int32_t, std::uint64_t, std::int64_t, float, double, bool, std::string,
                           std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
                           std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
                           std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<float>,
                           std::vector<double>, std::vector<bool>, StringArray>;

struct KeyValue {
  std::string key;
  Value value;

  friend bool operator==(const KeyValue&, const KeyValue&) = default;
};

// "u32", "string", "array of f32".
[[nodiscard]] std::string_view type_name(const Value& value);

// The value on one line, for people: "32", "1e-05", "true", "'llama'", "[0.1, 0.2, ... 64 in all]". Strings
// are cut to `max_bytes` and arrays to `max_elements`.
[[nodiscard]] std::string to_text(const Value& value, std::size_t max_elements = 4,
                                  std::size_t max_bytes = 80);

}  // namespace hearth::gguf
