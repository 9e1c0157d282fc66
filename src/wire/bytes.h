// Reader and Writer: little-endian numbers in and out of bytes, with bounds. Private to the codec.
//
// A Reader never reads outside its bytes. Its first failure sticks: later reads return 0 and leave the first
// error in place, so that a message can be read straight down and checked once, by finish().
#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace hearth::wire {

template <std::unsigned_integral T>
[[nodiscard]] constexpr T load_le(const std::uint8_t* from) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(value | (static_cast<T>(from[i]) << (8 * i)));
  return value;
}

template <std::unsigned_integral T>
constexpr void store_le(T value, std::uint8_t* to) {
  for (std::size_t i = 0; i < sizeof(T); ++i) to[i] = static_cast<std::uint8_t>(value >> (8 * i));
}

class Reader {
 public:
  // `what` names the message in errors and must outlive the reader.
  Reader(std::span<const std::uint8_t> bytes, std::string_view what) : bytes_(bytes), what_(what) {}

  // An unsigned number in low..high.
  template <std::unsigned_integral T>
  [[nodiscard]] T number(std::string_view field, T low = 0, T high = std::numeric_limits<T>::max()) {
    const std::uint8_t* from = take(field, sizeof(T));
    if (from == nullptr) return 0;
    const T value = load_le<T>(from);
    if (value < low || value > high) {
      refuse(field, std::format("is {}, allowed are {} to {}", value, low, high));
      return 0;
    }
    return value;
  }

  // The next n bytes, or an empty span once the reader has failed.
  [[nodiscard]] std::span<const std::uint8_t> raw(std::string_view field, std::size_t n) {
    const std::uint8_t* from = take(field, n);
    return from == nullptr ? std::span<const std::uint8_t>{} : std::span{from, n};
  }

  // Marks the message as wrong: "<what>: <field> <why>".
  void refuse(std::string_view field, std::string_view why) {
    if (!error_) error_ = Error{ErrorCode::kProtocol, std::format("{}: {} {}", what_, field, why)};
  }

  [[nodiscard]] bool failed() const { return error_.has_value(); }
  [[nodiscard]] std::size_t left() const { return bytes_.size() - at_; }

  // The first error, also when bytes are left over.
  [[nodiscard]] Result<> finish() {
    if (!error_ && left() != 0)
      error_ = Error{ErrorCode::kProtocol, std::format("{}: {} bytes too many at the end", what_, left())};
    if (error_) return std::unexpected(*std::move(error_));
    return {};
  }

 private:
  const std::uint8_t* take(std::string_view field, std::size_t n) {
    if (error_) return nullptr;
    if (left() < n) {
      refuse(field, std::format("is cut off: {} bytes needed, {} left", n, left()));
      return nullptr;
    }
    const std::uint8_t* from = bytes_.data() + at_;
    at_ += n;
    return from;
  }

  std::span<const std::uint8_t> bytes_;
  std::string_view what_;
  std::size_t at_ = 0;
  std::optional<Error> error_;
};

class Writer {
 public:
  // Appends to `out`.
  explicit Writer(std::vector<std::uint8_t>& out) : out_(out) {}

  template <std::unsigned_integral T>
  void number(std::type_identity_t<T> value) {
    store_le(value, grow(sizeof(T)));
  }
  // A size that the limits keep within T.
  template <std::unsigned_integral T>
  void count(std::size_t value) {
    HEARTH_CHECK(value <= std::numeric_limits<T>::max(), "a count does not fit its field");
    number<T>(static_cast<T>(value));
  }
  // n bytes more, for the caller to fill.
  [[nodiscard]] std::uint8_t* grow(std::size_t n) {
    out_.resize(out_.size() + n);
    return out_.data() + out_.size() - n;
  }
  void raw(std::span<const std::uint8_t> bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }

 private:
  std::vector<std::uint8_t>& out_;
};

}  // namespace hearth::wire
