// Texts written by hand after docs/reference/profile-cache.md.
#include "profile/profile_format.h"

#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/value_of.h"

namespace hearth::profile {
namespace {

using ::testing::HasSubstr;
using testing::value_of;

const std::string kHead =
    "hearth-profile 1\n"
    "key 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff\n"
    "measured 1790000000 0.0300\n";

residency::Digest key() {
  residency::Digest digest{};
  for (std::size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<std::uint8_t>(i);
  digest.back() = 255;
  return digest;
}

ProfileEntry entry_of(decltype(ProfileEntry::rates) rates) {
  return {.key = key(),
          .measured_at = std::chrono::sys_seconds(std::chrono::seconds(1'790'000'000)),
          .taken = 0.03,
          .rates = std::move(rates)};
}

TEST(ProfileFormat, OfEachKind) {
  struct Case {
    std::string text;
    ProfileEntry entry;
  };
  const Case cases[] = {
      {kHead + "compute 4294967296\npass 1 10000000000 0.0125 31\npass 512 250000000 0.0000 1\nend\n",
       entry_of(ComputeEntry{
           .memory_bytes = std::uint64_t{1} << 32,
           .passes = {{.n_tokens = 1, .bytes_per_s = 10'000'000'000, .spread = 0.0125, .n_passes = 31},
                      {.n_tokens = 512, .bytes_per_s = 250'000'000, .spread = 0, .n_passes = 1}}})},
      {kHead + "disk 150000000 1.5000\nend\n",
       entry_of(residency::DiskRate{.bytes_per_s = 150'000'000, .spread = 1.5})},
      {kHead + "memory 20000000000 0.0100 21000000000\nend\n",
       entry_of(
           MemoryRate{.bytes_per_s = 20'000'000'000, .spread = 0.01, .best_bytes_per_s = 21'000'000'000})}};
  for (const Case& c : cases) {
    EXPECT_TRUE(is_sane(c.entry));
    EXPECT_EQ(encode(c.entry), c.text);
    EXPECT_EQ(value_of(decode_profile(c.text)), c.entry);
    for (std::size_t n = 0; n < c.text.size(); ++n)
      EXPECT_FALSE(decode_profile(std::string_view(c.text).substr(0, n))) << n;
    EXPECT_FALSE(decode_profile(c.text + "x"));
    EXPECT_FALSE(decode_profile(c.text + c.text));
  }
}

TEST(ProfileFormat, WhatIsNotExactlyThatIsAnError) {
  const std::string end = "end\n";
  for (const std::string& text :
       {std::string(),
        std::string("garbage"),
        std::string(5000, '\0'),
        std::string(9000, ' '),
        kHead + "disk -5 0.0100\n" + end,
        kHead + "disk 0 0.0100\n" + end,
        kHead + "disk nan 0.0100\n" + end,
        kHead + "disk 100 nan\n" + end,
        kHead + "disk 100 inf\n" + end,
        kHead + "disk 100 -0.0100\n" + end,
        kHead + "disk 100 -0.0000\n" + end,
        kHead + "disk 100 101.0000\n" + end,
        kHead + "disk 100 1e2\n" + end,
        kHead + "disk 100 0.01\n" + end,
        kHead + "disk 0100 0.0100\n" + end,
        kHead + "disk +100 0.0100\n" + end,
        kHead + "disk 1000000000000001 0.0100\n" + end,
        kHead + "disk 99999999999999999999999 0.0100\n" + end,
        kHead + "disk 100 0.0100 1\n" + end,
        kHead + "disk 100  0.0100\n" + end,
        kHead + "disk 100\n" + end,
        kHead + "disk 100 0.0100\n",
        kHead + "disk 100 0.0100\r\n" + end,
        kHead + "disk 100 0.0100\nend",
        kHead + end,
        kHead + "tape 100 0.0100\n" + end,
        kHead + "memory 100 0.0100 99\n" + end,
        kHead + "memory 100 0.0100 1000000000000001\n" + end,
        kHead + "compute 5\n" + end,
        kHead + "compute 5\npass 2 100 0.0100 1\n" + end,
        kHead + "compute 5\npass 1 100 0.0100 0\n" + end,
        kHead + "compute 5\npass 1 100 0.0100 1000001\n" + end,
        kHead + "compute 5\npass 1 100 0.0100 1\npass 1 100 0.0100 1\n" + end,
        kHead + "compute 5\npass 1 100 0.0100 1\npass 8193 100 0.0100 1\n" + end,
        kHead + "compute 5\npass 1 100 0.0100 1\npass 4294967297 100 0.0100 1\n" + end}) {
    const auto entry = decode_profile(text);
    ASSERT_FALSE(entry) << text;
    EXPECT_EQ(entry.error().code, ErrorCode::kInvalidFile) << text;
  }
  std::string upper = kHead + "disk 100 0.0100\nend\n";
  upper[upper.find("0a0b")] = '1';
  EXPECT_TRUE(decode_profile(upper));
  upper[upper.find("1a0b") + 1] = 'A';
  EXPECT_FALSE(decode_profile(upper));
  std::string late = kHead + "disk 100 0.0100\nend\n";
  EXPECT_FALSE(decode_profile(late.replace(late.find("1790000000"), 10, "253402300800")));
  EXPECT_TRUE(decode_profile(late.replace(late.find("253402300800"), 12, "253402300799")));
  for (const char* share : {"1.0001", "-0.0000", "-0.1000", "nan", "0.03", ""}) {
    std::string busy = kHead + "disk 100 0.0100\nend\n";
    EXPECT_FALSE(decode_profile(busy.replace(busy.find("0.0300"), 6, share))) << share;
  }
  EXPECT_FALSE(decode_profile(late.replace(late.find("253402300799"), 12, "-1")));
}

TEST(ProfileFormat, SeedsOfTheFuzzerAreLegal) {
  std::size_t n = 0;
  for (const auto& seed : std::filesystem::directory_iterator(std::filesystem::path(HEARTH_SOURCE_DIR) /
                                                              "src/profile/corpus/profile_format_fuzz")) {
    std::ostringstream text;
    text << std::ifstream(seed.path(), std::ios::binary).rdbuf();
    EXPECT_TRUE(decode_profile(text.str())) << seed.path();
    ++n;
  }
  EXPECT_GE(n, 3U);
}

TEST(ProfileFormat, NoMorePassesThanTheLimit) {
  std::string text = kHead + "compute 5\n";
  for (int n = 1; n <= 64; ++n) text += "pass " + std::to_string(n) + " 100 0.0100 1\n";
  EXPECT_TRUE(decode_profile(text + "end\n"));
  EXPECT_FALSE(decode_profile(text + "pass 65 100 0.0100 1\nend\n"));
}

TEST(ProfileFormat, AnotherVersionIsNamed) {
  const auto entry = decode_profile("hearth-profile 2\nanything\n");
  ASSERT_FALSE(entry);
  EXPECT_EQ(entry.error().code, ErrorCode::kVersionMismatch);
  EXPECT_THAT(entry.error().message, HasSubstr("expected 'hearth-profile 1', got 'hearth-profile 2'"));
}

TEST(ProfileFormat, OnlySaneEntriesAreWritten) {
  EXPECT_FALSE(is_sane(entry_of(residency::DiskRate{.bytes_per_s = 0, .spread = 0})));
  EXPECT_FALSE(is_sane(
      entry_of(residency::DiskRate{.bytes_per_s = 1, .spread = std::numeric_limits<double>::quiet_NaN()})));
  EXPECT_FALSE(is_sane(entry_of(ComputeEntry{})));
  ProfileEntry old = entry_of(residency::DiskRate{.bytes_per_s = 1, .spread = 0});
  EXPECT_TRUE(is_sane(old));
  old.measured_at = std::chrono::sys_seconds(std::chrono::seconds(-1));
  EXPECT_FALSE(is_sane(old));
}

}  // namespace
}  // namespace hearth::profile
