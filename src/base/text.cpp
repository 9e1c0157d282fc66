#include "base/text.h"

#include <cstdint>
#include <format>
#include <iterator>

namespace hearth {
namespace {

// Length of the well-formed UTF-8 sequence at the start of `bytes` (not empty), 0 when it is ill-formed.
std::size_t sequence_bytes(std::string_view bytes) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(bytes[i]); };
  const auto is_continuation = [&](std::size_t i) { return i < bytes.size() && (byte(i) & 0xC0) == 0x80; };
  const std::uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xC2) return 0;  // a continuation byte, or an overlong form of ASCII
  if (first < 0xE0) return is_continuation(1) ? 2 : 0;
  if (first < 0xF0) {
    if (!is_continuation(1) || !is_continuation(2)) return 0;
    if (first == 0xE0 && byte(1) < 0xA0) return 0;   // overlong
    if (first == 0xED && byte(1) >= 0xA0) return 0;  // surrogates
    return 3;
  }
  if (first > 0xF4 || !is_continuation(1) || !is_continuation(2) || !is_continuation(3)) return 0;
  if (first == 0xF0 && byte(1) < 0x90) return 0;   // overlong
  if (first == 0xF4 && byte(1) >= 0x90) return 0;  // above U+10FFFF
  return 4;
}

}  // namespace

bool is_valid_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::size_t length = sequence_bytes(bytes);
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

std::string quote(std::string_view bytes, std::size_t max_bytes) {
  std::string text = "'";
  std::size_t shown = 0;
  while (shown < bytes.size()) {
    const std::string_view rest = bytes.substr(shown);
    const std::size_t length = sequence_bytes(rest);
    if (shown + (length == 0 ? 1 : length) > max_bytes) break;
    const auto first = static_cast<std::uint8_t>(rest[0]);
    // U+0080..U+009F (C2 80..9F) are control characters too.
    const bool is_control = length == 0 || first < 0x20 || first == 0x7F ||
                            (first == 0xC2 && static_cast<std::uint8_t>(rest[1]) < 0xA0);
    const std::size_t step = length == 0 ? 1 : length;
    for (char c : rest.substr(0, step)) {
      if (is_control)
        std::format_to(std::back_inserter(text), "\\x{:02x}", static_cast<std::uint8_t>(c));
      else
        text += c;
    }
    shown += step;
  }
  text += "'";
  if (shown < bytes.size()) text += "...";
  return text;
}

}  // namespace hearth
