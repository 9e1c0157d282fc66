#include "residency/disk_rate.h"

#include <algorithm>
#include <fstream>
#include <vector>

#include <gtest/gtest.h>

#include "base/test_dir.h"

namespace hearth::residency {
namespace {

TEST(DiskRate, OfANewFolderOfWhichNothingStaysBehind) {
  const TestDir dir;
  const auto folder = dir.path() / "new";
  const auto rate = measure_disk(folder, 16 << 20);
  ASSERT_TRUE(rate) << rate.error().message;
  EXPECT_GT(rate->bytes_per_s, 1'000'000U);
  EXPECT_GE(rate->spread, 0);
  EXPECT_TRUE(std::filesystem::is_directory(folder));
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

// When each of reads that take so many seconds ends.
std::vector<double> ends(const std::vector<double>& seconds) {
  std::vector<double> out;
  for (const double s : seconds) out.push_back(s + (out.empty() ? 0 : out.back()));
  return out;
}

TEST(DiskRate, TheFirstReadsDoNotCount) {
  // 2 of 8 reads at once, then one each eighth of a second.
  const auto burst = steady_rate(ends({0.01, 0.01, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125}), 1000);
  EXPECT_NEAR(static_cast<double>(burst.bytes_per_s), 8000, 1);
  EXPECT_NEAR(burst.spread, 0, 1e-6);
  const std::vector<double> three = {0.1, 0.6, 1.1};
  EXPECT_NEAR(static_cast<double>(steady_rate(three, 1000).bytes_per_s), 2000, 1);
  EXPECT_NEAR(static_cast<double>(steady_rate(std::span(three).first(2), 1000).bytes_per_s), 2000, 1);
  EXPECT_NEAR(static_cast<double>(steady_rate(std::span(three).first(1), 1000).bytes_per_s), 10000, 1);
}

TEST(DiskRate, AThrottleThatAllowsABurstFirst) {
  // 20 of 100 reads in no time, the others at 10 a second.
  std::vector<double> seconds(100, 0.1);
  std::fill_n(seconds.begin(), 20, 0.001);
  const auto rate = steady_rate(ends(seconds), 1000);
  EXPECT_NEAR(static_cast<double>(rate.bytes_per_s), 10000, 1);
  EXPECT_NEAR(rate.spread, 0, 1e-6);
}

TEST(DiskRate, AThrottleThatGivesInSlices) {
  // Two reads at once each quarter of a second: windows of 6 reads never see half a slice.
  std::vector<double> seconds;
  for (int slice = 0; slice < 48; ++slice) seconds.insert(seconds.end(), {0.249, 0.001});
  EXPECT_NEAR(static_cast<double>(steady_rate(ends(seconds), 1000).bytes_per_s), 8000, 1);
}

TEST(DiskRate, AThrottleWhoseSlicesFitNoWindow) {
  // Three reads at once each tenth of a second: windows of 7 or 8 reads see two or three slices. However many
  // reads there are, not more than one slice of 15 is too much or too little.
  for (std::size_t n = 60; n < 66; ++n) {
    std::vector<double> seconds;
    while (seconds.size() < n) seconds.insert(seconds.end(), {0.1, 0.0, 0.0});
    seconds.resize(n);
    EXPECT_NEAR(static_cast<double>(steady_rate(ends(seconds), 1000).bytes_per_s), 30'000, 2'000) << n;
  }
}

TEST(DiskRate, AStallDoesNotCount) {
  std::vector<double> seconds(64, 0.01);
  seconds[40] = 1;  // the mean falls to a third
  const auto rate = steady_rate(ends(seconds), 1000);
  EXPECT_NEAR(static_cast<double>(rate.bytes_per_s), 100'000, 1);
  EXPECT_NEAR(rate.spread, 0, 1e-6);
}

TEST(DiskRate, RateAndSpreadByHand) {
  // One read that does not count, then windows of one read each: 1, 2, 4, 5 and 8 a second. The first of them
  // takes four times the median.
  const auto rate = steady_rate(ends({0.001, 1, 0.5, 0.25, 0.2, 0.125}), 1000);
  EXPECT_NEAR(static_cast<double>(rate.bytes_per_s), 4000 / 1.075, 1);
  EXPECT_NEAR(rate.spread, 1.5 / 4, 1e-6);  // quartiles 2 and 5
}

TEST(DiskRate, AFolderThatCannotBeIsAnError) {
  const TestDir dir;
  std::ofstream(dir.path() / "file") << "x";
  const auto rate = measure_disk(dir.path() / "file" / "packs");
  ASSERT_FALSE(rate);
  EXPECT_EQ(rate.error().code, ErrorCode::kIo);
  EXPECT_NE(rate.error().message.find("cannot measure the disk of"), std::string::npos)
      << rate.error().message;
}

}  // namespace
}  // namespace hearth::residency
