#include "base/units.h"

#include <cstdint>
#include <string>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

namespace hearth {
namespace {

constexpr std::uint64_t kMax = ~std::uint64_t{0};

TEST(FormatBytes, HasOneDigitAfterThePoint) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1'000), "1.0 kB");
  EXPECT_EQ(format_bytes(1'049), "1.0 kB");
  EXPECT_EQ(format_bytes(1'050), "1.1 kB");
  EXPECT_EQ(format_bytes(1'234'567'890), "1.2 GB");
  EXPECT_EQ(format_bytes(7'866'624), "7.9 MB");
  EXPECT_EQ(format_bytes(2'000'000'000'000), "2.0 TB");
  EXPECT_EQ(format_bytes(kMax), "18.4 EB");
}

TEST(FormatBytes, RoundsIntoTheNextUnit) {
  EXPECT_EQ(format_bytes(999'949), "999.9 kB");
  EXPECT_EQ(format_bytes(999'950), "1.0 MB");
  EXPECT_EQ(format_bytes(999'999'999), "1.0 GB");
  EXPECT_EQ(format_bytes(999'949'999'999'999'999), "999.9 PB");
  EXPECT_EQ(format_bytes(999'950'000'000'000'000), "1.0 EB");
}

TEST(ParseBytes, KnowsTheUnits) {
  const auto expect = [](std::string_view text, std::uint64_t bytes) {
    const auto parsed = parse_bytes(text);
    ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
    EXPECT_EQ(*parsed, bytes) << text;
  };
  expect("0", 0);
  expect("4096", 4'096);
  expect("12B", 12);
  expect("1K", 1'024);
  expect("1KiB", 1'024);
  expect("1kB", 1'000);
  expect("512M", 536'870'912);
  expect("512MiB", 536'870'912);
  expect("512MB", 512'000'000);
  expect("4GiB", 4'294'967'296);
  expect("4g", 4'294'967'296);
  expect("4gb", 4'000'000'000);
  expect("2T", 2'199'023'255'552);
  expect("2TB", 2'000'000'000'000);
  expect("1TiB", 1'099'511'627'776);
  expect("800 MB", 800'000'000);
  expect("1.5G", 1'610'612'736);
  expect("0.5KiB", 512);
  expect("0.0001K", 0);
  expect("1.999999kB", 1'999);
  expect("18446744073709551615", kMax);
}

TEST(ParseBytes, RefusesWhatIsNoAmount) {
  const auto expect_refused = [](std::string_view text, std::string_view words) {
    const auto parsed = parse_bytes(text);
    ASSERT_FALSE(parsed.has_value()) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(parsed.error().message.find(words), std::string::npos) << parsed.error().message;
    EXPECT_NE(parsed.error().message.find("write e.g. 4GiB"), std::string::npos) << parsed.error().message;
  };
  expect_refused("", "'' is not an amount of bytes: expected a digit first");
  expect_refused("G", "expected a digit first");
  expect_refused("-4G", "expected a digit first");
  expect_refused("+4G", "expected a digit first");
  expect_refused(" 4G", "expected a digit first");
  expect_refused(".5G", "expected a digit first");
  expect_refused("4.G", "expected a digit after the point");
  expect_refused("1.1234567G", "more than 6 digits");
  expect_refused("1.5", "a fraction of a byte");
  expect_refused("1.5B", "a fraction of a byte");
  expect_refused("4 parsecs", "unknown unit 'parsecs'");
  expect_refused("4GG", "unknown unit 'GG'");
  expect_refused("4G ", "unknown unit 'G '");
  expect_refused("1e9", "unknown unit 'e9'");
  expect_refused("0x10", "unknown unit 'x10'");
  expect_refused("18446744073709551616", "more than 64 bits");
  expect_refused("99999999999999999999999", "more than 64 bits");
  expect_refused("16777216T", "more than 64 bits");
  expect_refused("16777215.999999TiB0", "unknown unit");
  expect_refused("18446744073709551.616kB", "more than 64 bits");
  expect_refused("4\x1b[2J", "'4\\x1b[2J'");
}

RC_GTEST_PROP(ParseBytes, ReadsEveryWholeNumber, (std::uint64_t bytes)) {
  RC_ASSERT(parse_bytes(std::to_string(bytes)).value() == bytes);
}

// What is printed is at most 0.05 of a unit away from the truth, and the truth is at least one unit.
RC_GTEST_PROP(ParseBytes, ReadsWhatFormatPrints, ()) {
  const auto bytes = *rc::gen::inRange<std::uint64_t>(0, 999'000'000'000'000) >> *rc::gen::inRange(0, 48);
  const std::uint64_t back = parse_bytes(format_bytes(bytes)).value();
  RC_ASSERT((back > bytes ? back - bytes : bytes - back) <= bytes / 20);
}

TEST(ParseRate, KnowsBytesAndBits) {
  EXPECT_DOUBLE_EQ(parse_rate("500 MB/s").value(), 500e6);
  EXPECT_DOUBLE_EQ(parse_rate("1.5GB/s").value(), 1.5e9);
  EXPECT_DOUBLE_EQ(parse_rate(" 2 MiB/s ").value(), 2.0 * 1024 * 1024);
  EXPECT_DOUBLE_EQ(parse_rate("400 Mbit/s").value(), 50e6);
  EXPECT_DOUBLE_EQ(parse_rate("1Gbit/s").value(), 125e6);
}

TEST(ParseRate, RefusesWhatIsNone) {
  for (const char* text : {"", "500", "500 MB", "0 MB/s", "-1 MB/s", "MB/s", "5 /s", "nan MB/s", "inf MB/s",
                           "5 XB/s", "5 mbit/s", "1e400 MB/s", "5 MB/s more"}) {
    const auto rate = parse_rate(text);
    ASSERT_FALSE(rate) << text;
    EXPECT_EQ(rate.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(rate.error().message.find("500 MB/s"), std::string::npos);
  }
}

TEST(ParseSeconds, KnowsItsUnitsAndRefusesOthers) {
  EXPECT_DOUBLE_EQ(parse_seconds("3 ms").value(), 0.003);
  EXPECT_DOUBLE_EQ(parse_seconds("0.25s").value(), 0.25);
  EXPECT_DOUBLE_EQ(parse_seconds("250us").value(), 0.00025);
  EXPECT_DOUBLE_EQ(parse_seconds("0 ms").value(), 0);
  for (const char* text : {"", "3", "-1 ms", "3 min", "ms", "nan s"})
    EXPECT_EQ(parse_seconds(text).error().code, ErrorCode::kInvalidArgument) << text;
}

}  // namespace
}  // namespace hearth
