#include "base/device_key.h"

namespace hearth {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::string DeviceKey::hex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (std::uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string DeviceKey::short_hex() const {
  return hex().substr(0, 8);
}

Result<DeviceKey> DeviceKey::from_hex(std::string_view text) {
  DeviceKey key;
  if (text.size() != key.bytes.size() * 2)
    return fail(ErrorCode::kInvalidArgument,
                "a device key has {} hexadecimal digits, got {} characters; `hearth keygen` prints it",
                key.bytes.size() * 2, text.size());
  for (std::size_t i = 0; i < key.bytes.size(); ++i) {
    const int high = hex_digit(text[2 * i]);
    const int low = hex_digit(text[2 * i + 1]);
    if (high < 0 || low < 0)
      return fail(ErrorCode::kInvalidArgument,
                  "a device key has hexadecimal digits only, got '{}' at character {}", text.substr(2 * i, 2),
                  2 * i);
    key.bytes[i] = static_cast<std::uint8_t>(high * 16 + low);
  }
  return key;
}

}  // namespace hearth
