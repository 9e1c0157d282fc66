// What a head decides, with numbers of a real model file.
#include "node/ring_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/kv_storage.h"
#include "residency/division.h"
#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::node {
namespace {

using hearth::testing::small_spec;
using hearth::testing::test_model;
using hearth::testing::value_of;
using ::testing::HasSubstr;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGraphs = kMiB / 2;  // of a window

class RingPlanning : public ::testing::Test {
 protected:
  RingPlanning() : model(value_of(model::ModelFile::open(test_model(small_spec("llama", "F16"))))) {
    for (std::uint32_t il = 0; il < model.params().n_layer; ++il)
      weights += model.segment_bytes(model::SegmentId::of_layer(il));
    weights += model.segment_bytes(model::SegmentId::output());
  }
  // Buffers of a device as the plan counts them, without logits.
  [[nodiscard]] std::uint64_t buffers(std::uint32_t n_ubatch, int n_devices = 1) const {
    const std::uint64_t n_embd = model.params().n_embd, n_ff = model.params().n_ff;
    return n_ubatch * (256 * 4ULL + 16 * (n_embd + n_ff) + 2 * n_ff + (n_devices > 1 ? 12 * n_embd : 0)) +
           2 * (256 * 44 + kGraphs) + kMiB / 4 + 4 * kMiB;
  }
  [[nodiscard]] static RingRequest request() { return {.n_ctx = 256, .windows = {}}; }
  // n devices; disks are slow, computing is fast.
  [[nodiscard]] std::vector<RingDevice> devices(std::size_t n, std::uint64_t bytes) {
    std::vector<RingDevice> all;
    for (std::size_t m = 0; m < n; ++m)
      all.push_back({.name = "d" + std::to_string(m), .memory_bytes = bytes, .rates = [this] {
                       ++asked;
                       return plan::DeviceRates{.compute_bytes_per_s = 10'000'000'000,
                                                .disk_bytes_per_s = 100'000};
                     }});
    return all;
  }

  model::ModelFile model;
  std::uint64_t weights = 0;
  int asked = 0;
};

TEST_F(RingPlanning, WhatFitsRunsInOneRoundWithFullBatches) {
  const RingPlan made = value_of(plan_ring(model, request(), devices(2, 1024 * kMiB)));
  EXPECT_EQ(made.n_ubatch, 256U);
  EXPECT_EQ(made.rounds, 1U);
  EXPECT_FALSE(made.streams);
  EXPECT_EQ(made.plan.steps.size(), 2U);
  EXPECT_EQ(asked, 0);
}

TEST_F(RingPlanning, BatchesAreNoLargerThanTheContext) {
  RingRequest small = request();
  small.n_ctx = 100;
  EXPECT_EQ(value_of(plan_ring(model, small, devices(1, 1024 * kMiB))).n_ubatch, 100U);
}

TEST_F(RingPlanning, SmallerBatchesComeBeforeStreaming) {
  // Room for weights, KV, logits and the buffers of 128 tokens, not for those of 256.
  const std::uint64_t kv =
      compute::KvStorage::bytes(model.params(), model.params().n_layer, wire::KvType::kF16, 256);
  const std::uint64_t logits = 4ULL * model.params().n_vocab;
  const std::uint64_t between = weights + kv + logits + (buffers(128) + buffers(256)) / 2;
  const RingPlan made = value_of(plan_ring(model, request(), devices(1, between)));
  EXPECT_FALSE(made.streams);
  EXPECT_EQ(made.n_ubatch, 128U);
}

TEST_F(RingPlanning, BatchesAreAsSmallAsTheLeastSlotsAskFor) {
  const std::uint64_t kv =
      compute::KvStorage::bytes(model.params(), model.params().n_layer, wire::KvType::kF16, 256);
  std::uint64_t largest = 0;
  for (std::uint32_t il = 0; il <= model.params().n_layer; ++il) {
    const auto id = il < model.params().n_layer ? model::SegmentId::of_layer(il) : model::SegmentId::output();
    for (const auto& part : residency::divide(model, id, residency::kPartBytes, residency::kBlockBytes))
      largest = std::max(largest, residency::part_bytes(model, id, part));
  }
  const auto batch_with = [&](std::uint64_t room) {
    const auto made =
        plan_ring(model, request(), devices(1, kv + 4ULL * model.params().n_vocab + 2 * largest + room));
    return made ? made->n_ubatch : 0;
  };
  EXPECT_EQ(batch_with(buffers(128)), 128U);
  EXPECT_EQ(batch_with(buffers(128) - 1), 64U);
  EXPECT_EQ(batch_with(buffers(64)), 64U);
  EXPECT_EQ(batch_with(buffers(64) - 1), 32U);
}

TEST_F(RingPlanning, WhatDoesNotFitIsStreamedInTheBestNumberOfRounds) {
  const RingPlan made = value_of(plan_ring(model, request(), devices(2, buffers(128) + weights / 2)));
  EXPECT_TRUE(made.streams);
  EXPECT_EQ(made.n_ubatch, 128U);
  EXPECT_EQ(asked, 2);
  // Disks this slow decide alone: as many rounds as there are layers on a device.
  EXPECT_GT(made.rounds, 1U);
  EXPECT_LE(made.rounds, model.params().n_layer);
  EXPECT_GT(made.period_s, 1.0);
  EXPECT_GE(made.plan.steps.size(), 2 * made.rounds - 1);
}

TEST_F(RingPlanning, DisksThatWereNotMeasuredAreAssumedSlowAndNothingIsPredicted) {
  std::vector<RingDevice> unknown = devices(2, buffers(128) + weights / 2);
  for (RingDevice& device : unknown)
    device.rates = [] {
      return plan::DeviceRates{.compute_bytes_per_s = 10'000'000'000, .disk_bytes_per_s = 0};
    };
  const RingPlan made = value_of(plan_ring(model, request(), unknown));
  EXPECT_TRUE(made.streams);
  EXPECT_EQ(made.period_s, 0);
}

TEST_F(RingPlanning, WhatTheUserSaysCounts) {
  RingRequest said = request();
  said.rounds = 2;
  said.n_ubatch = 64;
  const RingPlan made = value_of(plan_ring(model, said, devices(2, buffers(64) + weights / 2)));
  EXPECT_TRUE(made.streams);
  EXPECT_EQ(made.n_ubatch, 64U);
  EXPECT_EQ(made.rounds, 2U);
  EXPECT_EQ(asked, 2) << "which layers go where depends on the disks";
  EXPECT_GT(made.period_s, 1.0);
}

TEST_F(RingPlanning, WindowsTakeAsManyRoundsAsTheyNeed) {
  RingRequest windows = request();
  windows.windows = {1, 1};
  ASSERT_EQ(model.params().n_layer, 8U);
  const RingPlan made = value_of(plan_ring(model, windows, devices(2, 1024 * kMiB)));
  EXPECT_EQ(made.rounds, 4U);
  EXPECT_EQ(made.plan.steps.size(), 8U);
  EXPECT_FALSE(made.streams);
  EXPECT_EQ(made.n_ubatch, 256U);
  const RingPlan tight = value_of(plan_ring(model, windows, devices(2, buffers(128, 2) + weights / 2)));
  EXPECT_TRUE(tight.streams);
  EXPECT_EQ(tight.n_ubatch, 128U);

  windows.windows = {8};
  const auto wrong = plan_ring(model, windows, devices(2, 1024 * kMiB));
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(wrong.error().message, HasSubstr("names 1 devices, the ring has 2"));
}

// A window knows 44 bytes of a cell, and there is one for each step.
TEST_F(RingPlanning, CellsOfAllWindowsCount) {
  RingRequest windows = request();
  windows.n_ctx = 65536;
  windows.n_ubatch = 32;
  const std::uint64_t n_embd = model.params().n_embd, n_ff = model.params().n_ff;
  const std::uint64_t buffers_of_head = 32 * (65536 * 4ULL + 16 * (n_embd + n_ff) + 2 * n_ff) + kMiB / 4 +
                                        4 * kMiB + 4ULL * model.params().n_vocab;
  const std::uint64_t kv =
      compute::KvStorage::bytes(model.params(), model.params().n_layer, wire::KvType::kF16, 65536);
  // One device in 8 rounds, and the head's own table.
  windows.windows = {1};
  const std::uint64_t needed = weights + kv + buffers_of_head + 9 * (44ULL * 65536 + kGraphs);
  EXPECT_FALSE(value_of(plan_ring(model, windows, devices(1, needed))).streams);
  EXPECT_TRUE(value_of(plan_ring(model, windows, devices(1, needed - 1))).streams);
}

TEST_F(RingPlanning, WithoutRoomForBuffersTheErrorSaysWhatEachNeeds) {
  const auto none = plan_ring(model, request(), devices(2, 1 * kMiB));
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(none.error().message, HasSubstr("d0 lends 1.0 MB and needs "));
  EXPECT_THAT(none.error().message, HasSubstr("d1 lends 1.0 MB and needs "));
  EXPECT_THAT(none.error().message, HasSubstr("--memory"));
}

}  // namespace
}  // namespace hearth::node
