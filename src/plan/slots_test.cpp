// Against numbers worked out by hand.
#include "plan/slots.h"

#include <vector>

#include <gtest/gtest.h>

namespace hearth::plan {
namespace {

using VisitBytes = std::vector<std::uint64_t>;

TEST(Slots, HoldWhatOneVisitStreamsAndWhatIsInUse) {
  const PartSizes parts = {.largest_bytes = 50, .mean_bytes = 30};
  // As much as four parts, the largest among them.
  EXPECT_EQ(slots_wanted(VisitBytes{1400}, 400, 1000, parts), 3 * 30U + 50);
  // 5 visits stream 120 each: 600 = 400 + 120 + 30 + 50.
  EXPECT_EQ(slots_wanted(VisitBytes(5, 280), 400, 1000, parts), 120 + 30U + 50);
  EXPECT_EQ(slots_wanted(VisitBytes(2, 700), 400, 1000, parts), 480 + 30U + 50);
  EXPECT_EQ(slots_wanted(VisitBytes(2, 275), 400, 150, parts), 150U) << "all memory";
  EXPECT_EQ(slots_wanted(VisitBytes(9, 112), 10, 1000, parts), 100U) << "two of the largest";
  EXPECT_EQ(slots_wanted(VisitBytes(2, 230), 400, 60, parts), 100U)
      << "also where there is no memory for them";
}

TEST(Slots, DoNotGrowForAVisitThatCannotBeEvenedOut) {
  const PartSizes parts = {.largest_bytes = 50, .mean_bytes = 30};
  // 90 of each visit: 270 = 100 + 90 + 80.
  EXPECT_EQ(slots_wanted(VisitBytes{500, 100, 100}, 100, 600, parts), 90 + 80U);
  // All of the small visits is not enough: 200 + 100 + 80, of that 180 in the large one.
  EXPECT_EQ(slots_wanted(VisitBytes{100, 500, 100}, 200, 500, parts), 100 + 80U);
}

TEST(Slots, VisitsStreamAsMuchAsEachOtherWhereTheyCan) {
  EXPECT_DOUBLE_EQ(most_per_visit(VisitBytes{500, 100, 100}, 270), 90);
  EXPECT_DOUBLE_EQ(most_per_visit(VisitBytes{500, 100, 100}, 380), 180);
  EXPECT_DOUBLE_EQ(most_per_visit(VisitBytes{500, 100, 300}, 500), 200);
  EXPECT_DOUBLE_EQ(most_per_visit(VisitBytes{500, 100, 100}, 700), 500);
  EXPECT_DOUBLE_EQ(most_per_visit(VisitBytes{7}, 0), 0);
}

}  // namespace
}  // namespace hearth::plan
