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

// Visits of equally many parts.
Result<StreamPlan> plan(const Sizes& sizes, std::uint64_t budget, std::uint32_t visits,
                        std::uint64_t huge_page = 0) {
  std::vector<std::uint32_t> visit_of;
  for (std::size_t i = 0; i < sizes.size(); ++i)
    visit_of.push_back(static_cast<std::uint32_t>(i * visits / sizes.size()));
  return plan_stream(
      {.part_bytes = sizes, .budget_bytes = budget, .visit_of = visit_of, .huge_page_bytes = huge_page});
}

TEST(StreamPlan, WhatFitsIsPinnedAsAWhole) {
  const auto made = plan(Sizes{10, 20, 30}, 60, 1);
  ASSERT_TRUE(made);
  EXPECT_EQ(made->pinned, (std::vector<bool>{true, true, true}));
  EXPECT_EQ(made->pinned_bytes, 60U);
  EXPECT_EQ(made->slots_bytes, 0U);
  EXPECT_EQ(made->streamed_bytes, 0U);
}

TEST(StreamPlan, HalfOfTheMemoryStreamsEveryOtherPart) {
  // 24 parts of 10 pages; 160 pages of memory: slots for four parts take 40, 120 are pinned.
  const auto made = plan(Sizes(24, 10 * kPage), 160 * kPage, 1);
  ASSERT_TRUE(made);
  EXPECT_EQ(made->slots_bytes, 40 * kPage);
  EXPECT_EQ(made->page_bytes, kPage);
  EXPECT_EQ(made->pinned_bytes, 120 * kPage);
  EXPECT_EQ(made->streamed_bytes, 120 * kPage);
  for (std::size_t i = 0; i + 1 < 24; ++i) EXPECT_NE(made->pinned[i], made->pinned[i + 1]) << i;
}

TEST(StreamPlan, SeveralVisitsNeedSlotsForOneVisit) {
  // 100 parts of 10 in 820 pages: an excess of 180; 5 visits stream 50 each, one part more is being computed
  // with and one is being filled: 250 = 180 + 70.
  const auto made = plan(Sizes(100, 10 * kPage), 820 * kPage, 5);
  ASSERT_TRUE(made);
  EXPECT_EQ(made->slots_bytes, 70 * kPage);
  EXPECT_EQ(made->pinned_bytes, 750 * kPage);
  for (std::size_t i = 0; i < 100; i += 20)
    EXPECT_EQ(std::count(made->pinned.begin() + static_cast<std::ptrdiff_t>(i),
                         made->pinned.begin() + static_cast<std::ptrdiff_t>(i) + 20, false),
              5)
        << i;
}

// The first visit is much larger, the second comes back to its end: an output head behind the last layer.
TEST(StreamPlan, ALargeVisitStreamsNoMoreThanOthers) {
  // Visits of 8 (2 and 6), 4 and 4 parts of one page, 10 pages of memory: an excess of 6. Each streams 4 (12
  // = 6 + 4 + 2), which leaves memory for 4 of the large visit.
  const Sizes sizes(16, kPage);
  const std::vector<std::uint32_t> visit_of = {0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0};
  const auto made = plan_stream({.part_bytes = sizes, .budget_bytes = 10 * kPage, .visit_of = visit_of});
  ASSERT_TRUE(made);
  EXPECT_EQ(made->slots_bytes, 6 * kPage);
  EXPECT_EQ(made->pinned, (std::vector<bool>{false, true, false, false, false, false, false, false, false,
                                             false, false, true, false, true, false, true}));
}

TEST(StreamPlan, SmallPartsTakeLessOfTheSlots) {
  // One part of 30 pages and 20 of 10: 10.95 on average, 3 of them and the largest are 62 pages.
  Sizes sizes(20, 10 * kPage);
  sizes.push_back(30 * kPage);
  const auto made = plan(sizes, 150 * kPage, 1);
  ASSERT_TRUE(made);
  EXPECT_EQ(made->slots_bytes, 62 * kPage);
}

TEST(StreamPlan, PartsThatFillThemTakeHugePages) {
  constexpr std::uint64_t kMiB = 1U << 20, kHuge = 2 * kMiB;
  const auto made = plan(Sizes(20, 8 * kMiB - 7), 120 * kMiB, 1, kHuge);
  ASSERT_TRUE(made);
  EXPECT_EQ(made->page_bytes, kHuge);
  EXPECT_EQ(made->slots_bytes, 4 * 8 * kMiB);
  const auto small = plan(Sizes(20, 7 * kMiB), 105 * kMiB, 1, kHuge);
  ASSERT_TRUE(small);
  EXPECT_EQ(small->page_bytes, kPage) << "an eighth of the memory would be lost";
  const auto none = plan(Sizes(20, 8 * kMiB), 120 * kMiB, 1);
  ASSERT_TRUE(none);
  EXPECT_EQ(none->page_bytes, kPage) << "the system has none";
}

// 10 layers of 10 parts; half of them fit.
TEST(StreamPlan, SlotsHoldWhatIsStreamedOfALayer) {
  const Sizes sizes(100, kPage);
  std::vector<StreamRequest::Parts> layers;
  for (std::size_t i = 0; i < 100; i += 10) layers.push_back({i, i + 10});
  StreamRequest request = {.part_bytes = sizes, .layers = layers, .budget_bytes = 50 * kPage};
  const auto made = plan_stream(request);
  ASSERT_TRUE(made);
  for (const auto& layer : layers) {
    std::uint64_t streamed = 0;
    for (std::size_t i = layer.begin; i < layer.end; ++i) streamed += made->pinned[i] ? 0 : kPage;
    EXPECT_LE(streamed, made->slots_bytes);
  }
  EXPECT_EQ(made->slots_bytes, 6 * kPage);
  EXPECT_EQ(made->pinned_bytes, 44 * kPage);
  // 9 of 10 parts of a layer: more than a quarter of the memory. Then the layer is not held.
  request.budget_bytes = 15 * kPage;
  const auto little = plan_stream(request);
  ASSERT_TRUE(little);
  EXPECT_EQ(little->slots_bytes, 4 * kPage);
  // Two layers of 50.
  const std::vector<StreamRequest::Parts> two = {{0, 50}, {50, 100}};
  request.layers = two;
  request.budget_bytes = 95 * kPage;
  const auto most = plan_stream(request);
  ASSERT_TRUE(most);
  EXPECT_EQ(most->slots_bytes, 5 * kPage) << "5 and 5 of slots are 10 in two layers";
}

TEST(StreamPlan, ALayerOfFewPartsIsHeldAlsoWhereMemoryIsShort) {
  // 40 layers of 5 parts of 10 pages; 4 parts in slots would do, and 50 pages are more than a quarter of 150.
  std::vector<StreamRequest::Parts> layers;
  for (std::size_t i = 0; i < 200; i += 5) layers.push_back({i, i + 5});
  const Sizes sizes(200, 10 * kPage);
  const auto made = plan_stream({.part_bytes = sizes, .layers = layers, .budget_bytes = 150 * kPage});
  ASSERT_TRUE(made);
  EXPECT_EQ(made->slots_bytes, 50 * kPage);
}

TEST(StreamPlan, TooLittleForTwoSlotsSaysWhatIsMissing) {
  const auto made = plan(Sizes{10 * kPage, 40 * kPage, 10 * kPage}, 50 * kPage, 1);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kOutOfMemory);
  EXPECT_TRUE(made.error().message.contains("2 buffers of 163.8 kB")) << made.error().message;
}

RC_GTEST_PROP(StreamPlan, NeverTakesMoreThanThereIsAndWastesLessThanAPart, ()) {
  auto sizes = *rc::gen::resize(
      200, rc::gen::nonEmpty(rc::gen::container<Sizes>(rc::gen::inRange<std::uint64_t>(1, 1000))));
  if (*rc::gen::arbitrary<bool>()) {
    for (auto& size : sizes) size *= kPage;
  }
  const auto total = std::reduce(sizes.begin(), sizes.end());
  const auto budget = *rc::gen::inRange<std::uint64_t>(0, total + 100);
  const auto visits = *rc::gen::inRange<std::uint32_t>(
      1, 1 + static_cast<std::uint32_t>(std::min<std::size_t>(sizes.size(), 9)));
  const auto largest = *std::ranges::max_element(sizes);
  const auto made = plan(sizes, budget, visits);
  if (!made) {
    RC_ASSERT(budget < total);
    RC_ASSERT(budget < 2 * in_slot(largest, kPage));
    return;
  }
  RC_ASSERT(made->pinned.size() == sizes.size());
  std::uint64_t pinned = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) pinned += made->pinned[i] ? sizes[i] : 0;
  RC_ASSERT(pinned == made->pinned_bytes);
  RC_ASSERT(pinned + made->streamed_bytes == total);
  RC_ASSERT(pinned + made->slots_bytes <= budget);
  if (total > budget) RC_ASSERT(made->slots_bytes >= 2 * in_slot(largest, made->page_bytes));
  // Nothing that would still fit is streamed.
  for (std::size_t i = 0; i < sizes.size(); ++i)
    if (!made->pinned[i]) RC_ASSERT(pinned + sizes[i] + made->slots_bytes > budget);
}

// The last visit's parts belong to the first one: an output head behind the last layer.
RC_GTEST_PROP(StreamPlan, NoVisitStreamsMuchMoreThanItMust, ()) {
  auto sizes = *rc::gen::resize(
      200, rc::gen::nonEmpty(rc::gen::container<Sizes>(rc::gen::inRange<std::uint64_t>(1, 1000))));
  for (auto& size : sizes) size *= kPage;
  const auto n = std::min<std::size_t>(sizes.size(), *rc::gen::inRange<std::size_t>(2, 12));
  std::vector<std::uint32_t> visit_of;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::size_t visit = i * (n + 1) / sizes.size();
    visit_of.push_back(visit < n ? static_cast<std::uint32_t>(visit) : 0);
  }
  const std::uint32_t n_visits = *std::ranges::max_element(visit_of) + 1;
  const auto total = std::reduce(sizes.begin(), sizes.end());
  const auto largest = *std::ranges::max_element(sizes);
  RC_PRE(total > 2 * largest);
  const auto budget = *rc::gen::inRange<std::uint64_t>(2 * largest, total);
  const auto made = plan_stream({.part_bytes = sizes, .budget_bytes = budget, .visit_of = visit_of});
  RC_ASSERT(made.has_value());
  std::vector<std::uint64_t> all(n_visits), streams(n_visits);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    all[visit_of[i]] += sizes[i];
    if (!made->pinned[i]) streams[visit_of[i]] += sizes[i];
  }
  // Where a visit streams more than another by several parts, that one streams all it has, but for parts.
  for (std::uint32_t a = 0; a < n_visits; ++a)
    for (std::uint32_t b = 0; b < n_visits; ++b)
      if (streams[a] > streams[b] + 3 * largest) RC_ASSERT(all[b] - streams[b] <= 2 * largest);
}

// --- pins that are given back

using Flags = std::vector<bool>;
using Visits = std::vector<std::uint32_t>;
using Parts = std::vector<std::size_t>;

TEST(PinsToGiveBack, AreSpreadOverTheOrderOfUse) {
  EXPECT_EQ(pins_to_give_back(Sizes(8, 10), {}, Flags(8, true), Flags(8, false), 20), (Parts{1, 5}));
}

TEST(PinsToGiveBack, ComeFromTheVisitsThatStreamLeast) {
  // Two visits of four parts; the first streams two of them, so the first two to go are the second's.
  const Visits visits = {0, 0, 0, 0, 1, 1, 1, 1};
  Flags pinned(8, true);
  pinned[0] = pinned[2] = false;
  EXPECT_EQ(pins_to_give_back(Sizes(8, 10), visits, pinned, Flags(8, false), 20), (Parts{4, 6}));
  // Four: two of each would be 40, so one of the first's two and three of the second's make 3 and 3.
  EXPECT_EQ(pins_to_give_back(Sizes(8, 10), visits, pinned, Flags(8, false), 40), (Parts{1, 4, 5, 7}));
}

TEST(PinsToGiveBack, AtLeastOneAndNoneThatIsHeld) {
  EXPECT_EQ(pins_to_give_back(Sizes(3, 100), {}, Flags(3, true), Flags{true, false, false}, 1), Parts{1});
  EXPECT_EQ(pins_to_give_back(Sizes(3, 100), {}, Flags(3, true), Flags{false, true, true}, 300), Parts{0});
  EXPECT_EQ(pins_to_give_back(Sizes(3, 100), {}, Flags(3, true), Flags{true, false, false}, 150),
            (Parts{1, 2}))
      << "what the held one cannot give, others do";
  EXPECT_EQ(pins_to_give_back(Sizes(3, 100), {}, Flags(3, true), Flags(3, true), 300), Parts{});
  EXPECT_EQ(pins_to_give_back(Sizes(3, 100), {}, Flags(3, false), Flags(3, false), 300), Parts{});
}

RC_GTEST_PROP(PinsToGiveBack, StayLevelOverVisitsStepByStep, ()) {
  const auto n_visits = *rc::gen::inRange<std::uint32_t>(1, 6);
  const auto per_visit = *rc::gen::inRange<std::size_t>(2, 12);
  const Sizes sizes =
      *rc::gen::container<Sizes>(n_visits * per_visit, rc::gen::inRange<std::uint64_t>(50, 100));
  Visits visits;
  for (std::size_t i = 0; i < sizes.size(); ++i) visits.push_back(static_cast<std::uint32_t>(i / per_visit));
  Flags pinned(sizes.size(), true);
  const auto step = *rc::gen::inRange<std::uint64_t>(1, 500);
  const auto n_held = *rc::gen::inRange<std::size_t>(0, 3);
  Flags held(sizes.size(), false);
  for (std::size_t i = 0; i < n_held; ++i) held[*rc::gen::inRange<std::size_t>(0, sizes.size())] = true;
  const auto left_to_give = [&] {
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) bytes += pinned[i] && !held[i] ? sizes[i] : 0;
    return bytes;
  };
  while (left_to_give() > 0) {
    const std::uint64_t before = left_to_give();
    const Parts gone = pins_to_give_back(sizes, visits, pinned, held, step);
    RC_ASSERT(!gone.empty());
    std::uint64_t given = 0;
    for (const std::size_t part : gone) {
      RC_ASSERT(pinned[part] && !held[part]);
      pinned[part] = false;
      given += sizes[part];
    }
    RC_ASSERT(given + 100 >= std::min(step, before));
    RC_ASSERT(given <= step + 100);
    // No visit streams more than another by more than two parts, where that has anything left to give.
    std::vector<std::uint64_t> streams(n_visits, 0), left(n_visits, 0);
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      if (!pinned[i]) streams[visits[i]] += sizes[i];
      if (pinned[i] && !held[i]) left[visits[i]] += sizes[i];
    }
    for (std::uint32_t a = 0; a < n_visits; ++a)
      for (std::uint32_t b = 0; b < n_visits; ++b) RC_ASSERT(left[b] == 0 || streams[a] <= streams[b] + 200);
  }
}

}  // namespace
}  // namespace hearth::residency
