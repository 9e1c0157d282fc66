#include "base/device_key.h"

#include <string>

#include <gtest/gtest.h>

namespace hearth {
namespace {

constexpr std::string_view kDigits = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";

TEST(DeviceKey, ReadsAndWritesHexadecimal) {
  const auto key = DeviceKey::from_hex(kDigits);
  ASSERT_TRUE(key.has_value()) << key.error().message;
  EXPECT_EQ(key->bytes[0], 0x00);
  EXPECT_EQ(key->bytes[10], 0x0A);
  EXPECT_EQ(key->bytes[31], 0xFF);
  EXPECT_EQ(key->hex(), kDigits);
  EXPECT_EQ(key->short_hex(), "00010203");
}

TEST(DeviceKey, CaseDoesNotMatter) {
  std::string upper(kDigits);
  for (char& c : upper)
    if (c >= 'a') c = static_cast<char>(c - 'a' + 'A');
  EXPECT_EQ(DeviceKey::from_hex(upper).value(), DeviceKey::from_hex(kDigits).value());
}

TEST(DeviceKey, RefusesOtherLengthsAndLetters) {
  for (const std::string& text :
       {std::string(), std::string(kDigits.substr(1)), std::string(kDigits) + "0", std::string(64, 'g'),
        std::string(kDigits).replace(63, 1, " "), std::string(kDigits).replace(0, 2, "0x")}) {
    const auto key = DeviceKey::from_hex(text);
    ASSERT_FALSE(key.has_value()) << text;
    EXPECT_EQ(key.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(DeviceKey, OrdersByBytes) {
  DeviceKey low;
  DeviceKey high;
  high.bytes[0] = 1;
  low.bytes[31] = 255;
  EXPECT_LT(low, high);
  EXPECT_EQ(DeviceKey(), DeviceKey());
}

}  // namespace
}  // namespace hearth
