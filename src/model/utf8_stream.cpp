#include <algorithm>
#include <array>
#include <cstdint>

#include "model/tokenizer.h"

namespace hearth::model {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

struct Sequence {
  std::size_t length;      // of the whole character; 0: this byte begins none
  std::uint8_t low, high;  // the second byte must lie between them (RFC 3629, section 4)
};

Sequence sequence_of(std::uint8_t first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};
  if (first < 0xF0) return {3, 0x80, 0xBF};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first < 0xF4) return {4, 0x80, 0xBF};
  if (first == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// The longest start of `bytes` that is a character or the beginning of one: at least 1 byte.
struct Taken {
  std::size_t bytes;
  bool complete;
  bool may_continue;  // incomplete, and everything there is fits
};

Taken take(std::string_view bytes) {
  const Sequence sequence = sequence_of(static_cast<std::uint8_t>(bytes[0]));
  if (sequence.length == 0) return {1, false, false};
  std::size_t n = 1;
  for (; n < sequence.length && n < bytes.size(); ++n) {
    const auto byte = static_cast<std::uint8_t>(bytes[n]);
    const bool fits = n == 1 ? byte >= sequence.low && byte <= sequence.high : byte >= 0x80 && byte <= 0xBF;
    if (!fits) return {n, false, false};
  }
  return {n, n == sequence.length, n < sequence.length};
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Taken taken = take(rest);
    if (taken.may_continue) break;
    text += taken.complete ? rest.substr(0, taken.bytes) : kReplacement;
    rest.remove_prefix(taken.bytes);
  }
  pending_ = std::string(rest);
  return text;
}

std::string Utf8Stream::finish() {
  // What waits is the beginning of one character, never more.
  const bool is_cut = !pending_.empty();
  pending_.clear();
  return is_cut ? std::string(kReplacement) : "";
}

}  // namespace hearth::model
