// By hand: parts of a few pages.
#include "residency/stream_plan.h"

#include <algorithm>
#include <numeric>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace hearth::residency {
namespace {

constexpr std::uint64_t kPage = 4096;

using Sizes = std::vector<std::uint64_t>;

TEST(StreamPlan, WhatFitsIsPinnedAsAWhole) {
  const auto plan = plan_stream(Sizes{10, 20, 30}, 60, 1);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->pinned, (std::vector<bool>{true, true, true}));
  EXPECT_EQ(plan->pinned_bytes, 60U);
  EXPECT_EQ(plan->slots_bytes, 0U);
  EXPECT_EQ(plan->streamed_bytes, 0U);
}

TEST(StreamPlan, HalfOfTheMemoryStreamsEveryOtherPart) {
  // 24 parts of 10 pages; 180 pages of memory: slots for six parts take 60, 120 are pinned.
  const auto plan = plan_stream(Sizes(24, 10 * kPage), 180 * kPage, 1);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->slots_bytes, 60 * kPage);
  EXPECT_EQ(plan->page_bytes, kPage);
  EXPECT_EQ(plan->pinned_bytes, 120 * kPage);
  EXPECT_EQ(plan->streamed_bytes, 120 * kPage);
  for (std::size_t i = 0; i + 1 < 24; ++i) EXPECT_NE(plan->pinned[i], plan->pinned[i + 1]) << i;
}

TEST(StreamPlan, SeveralVisitsNeedSlotsForOneVisit) {
  // 100 parts of 10 in 800 pages: an excess of 200; with 5 visits 200 / 4 = 50 of slots, one part more to
  // compute with and one to fill.
  const auto plan = plan_stream(Sizes(100, 10 * kPage), 800 * kPage, 5);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->slots_bytes, 70 * kPage);
  EXPECT_EQ(plan->pinned_bytes, 730 * kPage);
}

TEST(StreamPlan, SmallPartsTakeLessOfTheSlots) {
  // One part of 40 pages and 20 of 10: 11.4 on average, 5 of them and the largest are 97 pages.
  Sizes sizes(20, 10 * kPage);
  sizes.push_back(40 * kPage);
  const auto plan = plan_stream(sizes, 150 * kPage, 1);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->slots_bytes, 97 * kPage);
}

TEST(StreamPlan, LargePartsTakeHugePages) {
  constexpr std::uint64_t kMiB = 1U << 20;
  const auto plan = plan_stream(Sizes(20, 9 * kMiB), 150 * kMiB, 1);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->page_bytes, 2 * kMiB);
  EXPECT_EQ(plan->slots_bytes, 6 * 10 * kMiB);
  const auto small = plan_stream(Sizes(20, 7 * kMiB), 150 * kMiB / 2, 1);
  ASSERT_TRUE(small);
  EXPECT_EQ(small->page_bytes, kPage) << "of the last page of each too much would be lost";
}

TEST(StreamPlan, TooLittleForTwoSlotsSaysWhatIsMissing) {
  const auto plan = plan_stream(Sizes{10 * kPage, 40 * kPage, 10 * kPage}, 50 * kPage, 1);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::kOutOfMemory);
  EXPECT_TRUE(plan.error().message.contains("2 buffers of 163.8 kB")) << plan.error().message;
}

RC_GTEST_PROP(StreamPlan, NeverTakesMoreThanThereIsAndWastesLessThanAPart, ()) {
  auto sizes = *rc::gen::resize(
      200, rc::gen::nonEmpty(rc::gen::container<Sizes>(rc::gen::inRange<std::uint64_t>(1, 1000))));
  if (*rc::gen::arbitrary<bool>()) {
    for (auto& size : sizes) size *= kPage;
  }
  const auto total = std::reduce(sizes.begin(), sizes.end());
  const auto budget = *rc::gen::inRange<std::uint64_t>(0, total + 100);
  const auto visits = *rc::gen::inRange<std::uint32_t>(1, 9);
  const auto largest = *std::ranges::max_element(sizes);
  const auto plan = plan_stream(sizes, budget, visits);
  if (!plan) {
    RC_ASSERT(budget < total);
    RC_ASSERT(budget < 2 * in_slot(largest, kPage));
    return;
  }
  RC_ASSERT(plan->pinned.size() == sizes.size());
  std::uint64_t pinned = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) pinned += plan->pinned[i] ? sizes[i] : 0;
  RC_ASSERT(pinned == plan->pinned_bytes);
  RC_ASSERT(pinned + plan->streamed_bytes == total);
  RC_ASSERT(pinned + plan->slots_bytes <= budget);
  if (total > budget) RC_ASSERT(plan->slots_bytes >= 2 * in_slot(largest, plan->page_bytes));
  // Nothing that would still fit is streamed.
  for (std::size_t i = 0; i < sizes.size(); ++i)
    if (!plan->pinned[i]) RC_ASSERT(pinned + sizes[i] + plan->slots_bytes > budget);
}

}  // namespace
}  // namespace hearth::residency
