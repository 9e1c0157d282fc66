// On numbers worked out by hand.
#include "base/os_cpu_load.h"

#include <gtest/gtest.h>

namespace hearth {
namespace {

constexpr const char* kStat = "cpu  100 20 30 400 50 6 4 90 7 8\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n";
constexpr const char* kSelf =
    "4711 (a b) S ) R 1 4711 4711 0 -1 4194304 100 0 0 0 33 11 0 0 20 0 1 0 12345 1000 100\n";

TEST(CpuLoad, ParsesProc) {
  const Result<CpuTimes> times = parse_cpu_times(kStat, kSelf);
  ASSERT_TRUE(times) << times.error().message;
  EXPECT_EQ(times->total, 100u + 20 + 30 + 400 + 50 + 6 + 4 + 90);
  EXPECT_EQ(times->idle, 450u);
  EXPECT_EQ(times->steal, 90u);
  EXPECT_EQ(times->own, 44u);
}

TEST(CpuLoad, RefusesOtherText) {
  EXPECT_FALSE(parse_cpu_times("", kSelf));
  EXPECT_FALSE(parse_cpu_times("cpu  1 2 3\n", kSelf));
  EXPECT_FALSE(parse_cpu_times(kStat, ""));
  EXPECT_FALSE(parse_cpu_times(kStat, "1 (x) R 1 2"));
}

TEST(CpuLoad, ReadsThisMachine) {
  const Result<CpuTimes> times = read_cpu_times();
  ASSERT_TRUE(times) << times.error().message;
  EXPECT_GT(times->total, 0u);
  EXPECT_LE(times->idle + times->steal, times->total);
}

TEST(CpuLoad, SharesOfTheTimeBetween) {
  const CpuTimes before{.total = 1000, .idle = 500, .steal = 10, .own = 100};
  // 200 ticks: 50 idle, 20 stolen, 130 busy of which 100 are ours.
  const CpuTimes after{.total = 1200, .idle = 550, .steal = 30, .own = 200};
  const Taken taken = taken_between(before, after);
  EXPECT_DOUBLE_EQ(taken.steal, 0.1);
  EXPECT_DOUBLE_EQ(taken.others, 0.15);
  EXPECT_DOUBLE_EQ(taken.sum(), 0.25);
  EXPECT_EQ(taken_between(before, before).sum(), 0);
}

}  // namespace
}  // namespace hearth
