#include "engine/member.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/test_plan.h"

namespace hearth::engine {
namespace {

using ::testing::HasSubstr;

// Head, two workers, two rounds: 0 1 2 | 0 1 2.
wire::Prepare two_rounds() {
  return test_plan(3, 3, {0, 1, 2, 0, 1, 2});
}

bool runs(const Result<MemberCore::Verdict>& verdict) {
  return verdict && std::holds_alternative<MemberCore::Run>(*verdict);
}

TEST(MemberCore, LetsEachStepSeeEachBatchOnceAndInOrder) {
  MemberCore worker(two_rounds(), 1);
  EXPECT_TRUE(runs(worker.on_frame({.epoch = 3, .step = 1, .batch = 1}, 0)));
  EXPECT_TRUE(runs(worker.on_frame({.epoch = 3, .step = 1, .batch = 2}, 0)));
  EXPECT_TRUE(runs(worker.on_frame({.epoch = 3, .step = 4, .batch = 1}, 0)));
  EXPECT_TRUE(runs(worker.on_frame({.epoch = 3, .step = 1, .batch = 3}, 0)));
  EXPECT_EQ(worker.expected(1), 4u);
  EXPECT_EQ(worker.expected(4), 2u);

  const auto repeated = worker.on_frame({.epoch = 3, .step = 1, .batch = 3}, 0);
  ASSERT_FALSE(repeated);
  EXPECT_EQ(repeated.error().code, ErrorCode::kProtocol);
  EXPECT_THAT(repeated.error().message, HasSubstr("it was here before"));
  const auto gap = worker.on_frame({.epoch = 3, .step = 4, .batch = 3}, 0);
  ASSERT_FALSE(gap);
  EXPECT_THAT(gap.error().message, HasSubstr("expected batch 2: one is missing"));
  // An error changes nothing.
  EXPECT_TRUE(runs(worker.on_frame({.epoch = 3, .step = 4, .batch = 2}, 0)));
}

TEST(MemberCore, DropsOtherEpochs) {
  MemberCore worker(two_rounds(), 1);
  for (const std::uint32_t epoch : {2u, 4u, 0u}) {
    const auto verdict = worker.on_frame({.epoch = epoch, .step = 1, .batch = 1}, 0);
    ASSERT_TRUE(verdict);
    ASSERT_TRUE(std::holds_alternative<MemberCore::Drop>(*verdict));
    EXPECT_THAT(std::get<MemberCore::Drop>(*verdict).reason, HasSubstr("this is epoch 3"));
  }
  EXPECT_EQ(worker.expected(1), 1u);
}

TEST(MemberCore, AcceptsAStepOnlyFromTheDeviceBeforeIt) {
  MemberCore second(two_rounds(), 2);
  const auto from_head = second.on_frame({.epoch = 3, .step = 2, .batch = 1}, 0);
  ASSERT_FALSE(from_head);
  EXPECT_EQ(from_head.error().code, ErrorCode::kProtocol);
  EXPECT_THAT(from_head.error().message, HasSubstr("only worker1 may"));
  const auto foreign = second.on_frame({.epoch = 3, .step = 1, .batch = 1}, 1);
  ASSERT_FALSE(foreign);
  EXPECT_THAT(foreign.error().message, HasSubstr("that step belongs to worker1"));
  EXPECT_FALSE(second.on_frame({.epoch = 3, .step = 6, .batch = 1}, 2));  // the head's output stage
  EXPECT_FALSE(second.on_frame({.epoch = 3, .step = 7, .batch = 1}, 1));
  EXPECT_FALSE(second.on_frame({.epoch = 3, .step = 65535, .batch = 1}, 1));
  EXPECT_FALSE(second.on_frame({.epoch = 3, .step = 2, .batch = 1}, 999));
  EXPECT_FALSE(second.on_frame({.epoch = 3, .step = 2, .batch = 0}, 1));
  EXPECT_TRUE(runs(second.on_frame({.epoch = 3, .step = 2, .batch = 1}, 1)));
}

TEST(MemberCore, KnowsWhereFramesGo) {
  MemberCore head(two_rounds(), 0);
  EXPECT_EQ(head.entry().device, 0);
  EXPECT_EQ(head.entry().step, 0);
  EXPECT_EQ(head.destination(0).device, 1);
  EXPECT_EQ(head.destination(2).device, 0);
  EXPECT_EQ(head.destination(2).step, 3);
  EXPECT_EQ(head.destination(5).device, 0);
  EXPECT_EQ(head.destination(5).step, 6);
  // The head gets step 0 from itself, step 3 and the output stage from the last worker.
  EXPECT_TRUE(runs(head.on_frame({.epoch = 3, .step = 0, .batch = 1}, 0)));
  EXPECT_TRUE(runs(head.on_frame({.epoch = 3, .step = 3, .batch = 1}, 2)));
  EXPECT_TRUE(runs(head.on_frame({.epoch = 3, .step = 6, .batch = 1}, 2)));
  EXPECT_FALSE(head.on_frame({.epoch = 3, .step = 6, .batch = 2}, 1));

  MemberCore without(test_plan(1, 3, {1, 2}), 0);
  EXPECT_EQ(without.entry().device, 1);
}

TEST(MemberCore, HandsFramesToItselfWhenStepsFollowEachOther) {
  MemberCore worker(test_plan(1, 2, {1, 1}), 1);
  EXPECT_EQ(worker.destination(0).device, 1);
  EXPECT_TRUE(runs(worker.on_frame({.epoch = 1, .step = 0, .batch = 1}, 0)));
  EXPECT_FALSE(worker.on_frame({.epoch = 1, .step = 1, .batch = 1}, 0));
  EXPECT_TRUE(runs(worker.on_frame({.epoch = 1, .step = 1, .batch = 1}, 1)));
}

TEST(MemberCore, ACancelBeforeOrAfterTheFrameSuppressesIt) {
  MemberCore worker(two_rounds(), 1);
  worker.cancel(2, 3);
  EXPECT_FALSE(
      std::get<MemberCore::Run>(*worker.on_frame({.epoch = 3, .step = 1, .batch = 1}, 0)).suppressed);
  EXPECT_TRUE(std::get<MemberCore::Run>(*worker.on_frame({.epoch = 3, .step = 1, .batch = 2}, 0)).suppressed);
  EXPECT_FALSE(worker.suppressed(1));
  worker.cancel(1, 1);
  EXPECT_TRUE(worker.suppressed(1));
  EXPECT_TRUE(std::get<MemberCore::Run>(*worker.on_frame({.epoch = 3, .step = 4, .batch = 1}, 0)).suppressed);
  EXPECT_FALSE(worker.suppressed(4));
}

TEST(CancelSet, MeltsRangesThatTouch) {
  CancelSet set;
  set.add(10, 12);
  set.add(20, 22);
  set.add(13, 14);
  EXPECT_EQ(set.n_ranges(), 2u);
  set.add(15, 19);
  EXPECT_EQ(set.n_ranges(), 1u);
  EXPECT_FALSE(set.has(9));
  for (std::uint64_t id = 10; id <= 22; ++id) EXPECT_TRUE(set.has(id));
  EXPECT_FALSE(set.has(23));
  set.add(30, 29);  // empty
  EXPECT_FALSE(set.has(29));
  set.add(5, UINT64_MAX);
  EXPECT_TRUE(set.has(UINT64_MAX));
  EXPECT_EQ(set.n_ranges(), 1u);
  set.add(0, 4);
  EXPECT_TRUE(set.has(0));
  EXPECT_EQ(set.n_ranges(), 1u);
}

TEST(CancelSet, IsBoundedAndForgetsTheOldest) {
  CancelSet set;
  for (std::uint64_t i = 0; i < 10 * CancelSet::kMaxRanges; ++i) set.add(3 * i, 3 * i);
  EXPECT_EQ(set.n_ranges(), CancelSet::kMaxRanges);
  EXPECT_FALSE(set.has(0));
  EXPECT_TRUE(set.has(3 * (10 * CancelSet::kMaxRanges - 1)));
}

}  // namespace
}  // namespace hearth::engine
