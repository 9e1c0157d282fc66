#include "wire/text.h"

#include <cstdint>

#include "wire/limits.h"

namespace hearth::wire {
namespace {

struct Character {
  std::size_t n_bytes;  // >= 1, also where invalid
  char32_t code;
  bool valid;
};

// The character at the start of `text`, which is not empty.
Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return {1, lead, true};
  const std::size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < n) return {1, 0, false};
  char32_t code = lead & (0x7fu >> n);
  for (std::size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {1, 0, false};
    code = (code << 6) | (byte(i) & 0x3fu);
  }
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  if (code < kSmallest[n] || code > 0x10ffff || surrogate) return {1, 0, false};
  return {n, code, true};
}

bool printable(char32_t code) {
  if (code < 0x20 || (code >= 0x7f && code < 0xa0)) return false;       // C0, DEL, C1
  if (code == 0x61c || code == 0x200e || code == 0x200f) return false;  // direction marks
  if (code >= 0x2028 && code <= 0x202e) return false;                   // separators, direction overrides
  if (code >= 0x2066 && code <= 0x2069) return false;                   // direction isolates
  if (code == 0xfeff) return false;                                     // byte order mark
  if ((code & 0xfffe) == 0xfffe || (code >= 0xfdd0 && code <= 0xfdef)) return false;  // non-characters
  return true;
}

}  // namespace

bool printable_utf8(std::string_view text) {
  while (!text.empty()) {
    const Character c = first_character(text);
    if (!c.valid || !printable(c.code)) return false;
    text.remove_prefix(c.n_bytes);
  }
  return true;
}

std::string to_printable(std::string_view text, std::size_t max_bytes) {
  std::string out;
  while (!text.empty()) {
    const Character c = first_character(text);
    const bool keep = c.valid && printable(c.code);
    if (out.size() + (keep ? c.n_bytes : 1) > max_bytes) break;
    if (keep) {
      out.append(text.substr(0, c.n_bytes));
    } else {
      const bool blank = c.valid && (c.code == '\n' || c.code == '\r' || c.code == '\t');
      out.push_back(blank ? ' ' : '?');
    }
    text.remove_prefix(c.n_bytes);
  }
  return out;
}

Result<> check_device_name(std::string_view name) {
  if (name.empty()) return fail(ErrorCode::kInvalidArgument, "a device name must not be empty");
  if (name.size() > kMaxNameBytes)
    return fail(ErrorCode::kInvalidArgument, "the device name has {} bytes, at most {} are allowed",
                name.size(), kMaxNameBytes);
  if (!printable_utf8(name))
    return fail(ErrorCode::kInvalidArgument, "the device name '{}' holds characters that cannot be printed",
                to_printable(name, kMaxNameBytes));
  if (name.front() == ' ' || name.back() == ' ')
    return fail(ErrorCode::kInvalidArgument, "the device name '{}' begins or ends with a space", name);
  return {};
}

Result<> check_host(std::string_view host) {
  if (host.empty()) return fail(ErrorCode::kInvalidArgument, "a host must not be empty");
  if (host.size() > kMaxHostBytes)
    return fail(ErrorCode::kInvalidArgument, "the host has {} bytes, at most {} are allowed", host.size(),
                kMaxHostBytes);
  for (const char c : host) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool digit = c >= '0' && c <= '9';
    if (!letter && !digit && c != '.' && c != '-' && c != '_' && c != ':' && c != '%')
      return fail(ErrorCode::kInvalidArgument, "the host '{}' is neither an address nor a host name",
                  to_printable(host, kMaxHostBytes));
  }
  return {};
}

}  // namespace hearth::wire
