#include "net/refusals.h"

#include <gtest/gtest.h>

namespace hearth::net {
namespace {

using std::chrono::milliseconds;

TEST(Refusals, ReportsAFewPerSecondAndCountsTheOthers) {
  Refusals refusals(2);
  const Refusals::TimePoint start{std::chrono::hours(1)};
  EXPECT_EQ(refusals.report(start, "1.2.3.4", "a")->reason, "a");
  EXPECT_EQ(refusals.report(start + milliseconds(1), "1.2.3.4", "b")->address, "1.2.3.4");
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(refusals.report(start + milliseconds(i % 900), "1.2.3.4", "c"));
  refusals.count(5);
  const auto next = refusals.report(start + milliseconds(1000), "1.2.3.4", "d");
  ASSERT_TRUE(next);
  EXPECT_EQ(next->reason, "d (1005 more refusals were not reported)");
  EXPECT_EQ(refusals.report(start + milliseconds(1001), "", "e")->reason, "e");
}

}  // namespace
}  // namespace hearth::net
