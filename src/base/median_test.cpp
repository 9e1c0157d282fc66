#include "base/median.h"

#include <gtest/gtest.h>

namespace hearth {
namespace {

TEST(Median, ByHand) {
  EXPECT_DOUBLE_EQ(median_of({7}).value, 7);
  EXPECT_DOUBLE_EQ(median_of({7}).spread, 0);
  EXPECT_DOUBLE_EQ(median_of({4, 2}).value, 3);
  EXPECT_DOUBLE_EQ(median_of({4, 2}).spread, 1.0 / 6);  // quartiles 2.5 and 3.5
  EXPECT_DOUBLE_EQ(median_of({5, 1, 3, 2, 4}).value, 3);
  EXPECT_DOUBLE_EQ(median_of({5, 1, 3, 2, 4}).spread, 1.0 / 3);  // quartiles 2 and 4
}

TEST(Median, OneOutlierHardlyMatters) {
  const Median calm = median_of({100, 101, 99, 100, 102, 98, 100});
  const Median stalled = median_of({100, 101, 99, 100, 102, 0.01, 100});
  EXPECT_DOUBLE_EQ(calm.value, 100);
  EXPECT_DOUBLE_EQ(stalled.value, 100);
  EXPECT_DOUBLE_EQ(calm.spread, 0.005);     // quartiles 99.5 and 100.5
  EXPECT_DOUBLE_EQ(stalled.spread, 0.005);  // the same
}

}  // namespace
}  // namespace hearth
