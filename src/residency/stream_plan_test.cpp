// By hand: sizes in bytes, as small as they can be.
#include "residency/stream_plan.h"

#include <algorithm>
#include <numeric>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace hearth::residency {
namespace {

using Sizes = std::vector<std::uint64_t>;

TEST(StreamPlan, WhatFitsIsPinnedAsAWhole) {
  const auto plan = plan_stream(Sizes{10, 20, 30}, 60, 1);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->pinned, (std::vector<bool>{true, true, true}));
  EXPECT_EQ(plan->pinned_bytes, 60U);
  EXPECT_EQ(plan->n_slots, 0U);
  EXPECT_EQ(plan->streamed_bytes, 0U);
}

TEST(StreamPlan, HalfOfTheMemoryStreamsEveryOtherPart) {
  // 24 parts of 10; 170 bytes: 5 slots take 50 with one visit more than two, 120 are pinned.
  const auto plan = plan_stream(Sizes(24, 10), 180, 1);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->n_slots, 6U);
  EXPECT_EQ(plan->pinned_bytes, 120U);
  EXPECT_EQ(plan->streamed_bytes, 120U);
  for (std::size_t i = 0; i + 1 < 24; ++i) EXPECT_NE(plan->pinned[i], plan->pinned[i + 1]) << i;
}

TEST(StreamPlan, SeveralVisitsNeedSlotsForOneVisit) {
  // 100 parts of 10 in 800 bytes: an excess of 200; with 5 visits 200 / 4 = 50 of slots, one more to compute
  // with and one for the rounding.
  const auto plan = plan_stream(Sizes(100, 10), 800, 5);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->n_slots, 7U);
  EXPECT_EQ(plan->pinned_bytes, 730U);
}

TEST(StreamPlan, TooLittleForTwoSlotsSaysWhatIsMissing) {
  const auto plan = plan_stream(Sizes{10, 40, 10}, 50, 1);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::kOutOfMemory);
  EXPECT_TRUE(plan.error().message.contains("2 buffers of 40 B")) << plan.error().message;
}

RC_GTEST_PROP(StreamPlan, NeverTakesMoreThanThereIsAndWastesLessThanAPart, ()) {
  const auto sizes = *rc::gen::resize(
      200, rc::gen::nonEmpty(rc::gen::container<Sizes>(rc::gen::inRange<std::uint64_t>(1, 1000))));
  const auto total = std::reduce(sizes.begin(), sizes.end());
  const auto budget = *rc::gen::inRange<std::uint64_t>(0, total + 100);
  const auto visits = *rc::gen::inRange<std::uint32_t>(1, 9);
  const auto largest = *std::ranges::max_element(sizes);
  const auto plan = plan_stream(sizes, budget, visits);
  if (!plan) {
    RC_ASSERT(budget < 2 * largest);
    return;
  }
  RC_ASSERT(plan->pinned.size() == sizes.size());
  std::uint64_t pinned = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) pinned += plan->pinned[i] ? sizes[i] : 0;
  RC_ASSERT(pinned == plan->pinned_bytes);
  RC_ASSERT(pinned + plan->streamed_bytes == total);
  RC_ASSERT(pinned + plan->slots_bytes() <= budget);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (!plan->pinned[i]) RC_ASSERT(sizes[i] <= plan->slot_bytes);
    // Nothing that would still fit is streamed.
    if (!plan->pinned[i]) RC_ASSERT(pinned + sizes[i] + plan->slots_bytes() > budget);
  }
}

}  // namespace
}  // namespace hearth::residency
