// DeviceKey: the CURVE public key that is a device's identity everywhere (allow-lists, plans, logs).
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hearth {

struct DeviceKey {
  std::array<std::uint8_t, 32> bytes{};

  friend auto operator<=>(const DeviceKey&, const DeviceKey&) = default;

  // 64 lower-case hexadecimal digits.
  [[nodiscard]] std::string hex() const;
  // The first 8 digits, for logs and errors.
  [[nodiscard]] std::string short_hex() const;
  // Error kInvalidArgument unless `text` is exactly 64 hexadecimal digits.
  [[nodiscard]] static Result<DeviceKey> from_hex(std::string_view text);
};

}  // namespace hearth
