// Predictions of plans whose times can be counted by hand.
#include "plan/prediction.h"

#include <cmath>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "plan/test_profiles.h"

namespace hearth::plan {
namespace {

Plan plan_of(const RingProfile& ring, std::vector<Step> steps) {
  Plan plan = {.n_layer = ring.model.n_layer(), .devices = {}, .steps = std::move(steps)};
  for (const DeviceProfile& device : ring.devices) plan.devices.push_back(device.name);
  return plan;
}

Prediction predicted(const RingProfile& ring, const Plan& plan, const Traffic& traffic = {},
                     const std::vector<std::uint32_t>& gpu_layers = {}) {
  const auto made = predict(ring, traffic, ring.model.batches[0], plan, gpu_layers);
  EXPECT_TRUE(made);
  return made.value_or(Prediction{.devices = std::vector<DeviceUse>(ring.devices.size())});
}

TEST(ComputeProfile, IsLinearBetweenPointsAndBeyondThem) {
  const ComputeProfile cpu = {
      .passes = {{.n_tokens = 1, .bytes_per_s = 10}, {.n_tokens = 5, .bytes_per_s = 2}}};
  EXPECT_DOUBLE_EQ(cpu.pass_s(20, 1), 2);
  EXPECT_DOUBLE_EQ(cpu.pass_s(20, 5), 10);
  EXPECT_DOUBLE_EQ(cpu.pass_s(20, 3), 6);
  EXPECT_DOUBLE_EQ(cpu.pass_s(20, 10), 20);
  EXPECT_FALSE(ComputeProfile{}.known());
}

TEST(GroupNeeds, AreASmallPartOfWhatIsLeftOrNothing) {
  const GroupNeeds group = {.least_tokens = 256, .most_tokens = 1000, .token_bytes = 10};
  EXPECT_EQ(group.tokens_in(16 * 10 * 5000), 1000U);
  EXPECT_EQ(group.tokens_in(16 * 10 * 300), 300U);
  EXPECT_EQ(group.tokens_in(16 * 10 * 255), 0U);
  EXPECT_EQ(group.bytes_in(16 * 10 * 300), 3000U);
}

TEST(Prediction, WhatFitsTakesItsComputing) {
  const RingProfile ring = test_ring(8, {test_device("a", 2000 * kMB)});
  const Prediction made = predicted(ring, plan_of(ring, {{0, {0, 8}}}));
  EXPECT_NEAR(made.period_s, 0.085, 1e-9);  // 850 MB at 10 GB/s
  EXPECT_FALSE(made.streams());
  EXPECT_EQ(made.limit, Limit::kComputing);
  EXPECT_EQ(made.devices[0].weight_bytes, 850 * kMB);
  EXPECT_EQ(made.devices[0].kv_bytes, 8 * kMB);
  EXPECT_EQ(made.devices[0].buffer_bytes, 4 * kMB);
  EXPECT_EQ(made.devices[0].weight_memory_bytes, 1988 * kMB);
  EXPECT_EQ(made.devices[0].n_visits, 1U);
}

TEST(Prediction, DevicesTakeTurnsAndPassOn) {
  const RingProfile ring = test_ring(8, {test_device("a", 2000 * kMB), test_device("b", 2000 * kMB)});
  const Prediction made =
      predicted(ring, plan_of(ring, {{0, {0, 2}}, {1, {2, 4}}, {0, {4, 6}}, {1, {6, 8}}}));
  EXPECT_NEAR(made.period_s, 0.085 + 4 * 0.001, 1e-9);
  EXPECT_EQ(made.devices[0].n_visits, 2U);
  EXPECT_NEAR(made.devices[1].hops_s, 0.002, 1e-12);
  EXPECT_NEAR(made.devices[1].computing_s, 0.040, 1e-12);
}

TEST(Prediction, LayersOfDifferentSizesCountAsTheyAre) {
  RingProfile ring = test_ring(2, {test_device("a", 2000 * kMB), test_device("b", 2000 * kMB)});
  ring.model.layer_bytes = {100 * kMB, 300 * kMB};
  const Prediction made = predicted(ring, plan_of(ring, {{0, {0, 1}}, {1, {1, 2}}}));
  EXPECT_NEAR(made.devices[0].computing_s, 0.015, 1e-12);
  EXPECT_NEAR(made.devices[1].computing_s, 0.030, 1e-12);
}

// Alone, a device waits for all that its memory lacks, and for the first of its slots.
TEST(Prediction, OneDeviceThatStreamsTakesItsDisksTime) {
  const RingProfile ring = test_ring(8, {test_device("a", (4 + 8 + 450) * kMB)});
  const Prediction made = predicted(ring, plan_of(ring, {{0, {0, 8}}}));
  EXPECT_TRUE(made.streams());
  // 850 MB of weights, 450 MB for them: 400 MB and the slots' 20 are read at 1 GB/s.
  EXPECT_EQ(made.devices[0].streamed_bytes, 420 * kMB);
  EXPECT_EQ(made.devices[0].slot_bytes, 20 * kMB);
  EXPECT_NEAR(made.period_s, 0.42, 0.42 * 0.02);
  EXPECT_EQ(made.limit, Limit::kDisk);
  EXPECT_EQ(made.limited_by, 0U);
}

TEST(Prediction, DisksOverlapInRounds) {
  const auto half = [](const char* name) { return test_device(name, (4 + 4 + 240) * kMB); };
  const RingProfile ring = test_ring(8, {half("a"), half("b")});
  const double one = predicted(ring, plan_of(ring, {{0, {0, 4}}, {1, {4, 8}}})).period_s;
  std::vector<Step> steps;
  for (std::uint32_t il = 0; il < 8; ++il)
    steps.push_back({static_cast<std::uint16_t>(il % 2), {il, il + 1}});
  const double four = predicted(ring, plan_of(ring, steps)).period_s;
  // 210 MB and 160 MB are missing. In one round they are read one after the other; in four at the same time,
  // and 4 / 3 of them.
  EXPECT_GT(one, 0.210 + 0.160);
  EXPECT_GE(four, 0.280);
  EXPECT_LT(four, 0.320);
}

TEST(Prediction, MemoryThatDoesNotHoldTheLeastIsNoPlan) {
  const RingProfile ring = test_ring(8, {test_device("a", (4 + 8 + 10) * kMB)});
  const Plan plan = plan_of(ring, {{0, {0, 8}}});
  EXPECT_TRUE(predict(ring, {}, ring.model.batches[0], plan));
  RingProfile less = ring;
  less.devices[0].memory_bytes -= 1;  // two slots of 5 MB
  EXPECT_FALSE(predict(less, {}, ring.model.batches[0], plan));
  EXPECT_TRUE(predict(less, {}, ring.model.batches[1], plan));
  less.devices[0].memory_bytes = 11 * kMB;  // not even buffers and KV cache
  EXPECT_FALSE(predict(less, {}, ring.model.batches[0], plan));
}

TEST(Prediction, WhatIsLackingIsCountedByLayer) {
  RingProfile ring = test_ring(4, {test_device("a", 40 * kMB), test_device("b", 40 * kMB)});
  ring.model.layer_kv_bytes = {30 * kMB, kMB, 30 * kMB, kMB};
  const BatchNeeds& batch = ring.model.batches[0];
  // 26 MB beside 4 of buffers and two slots of 5.
  EXPECT_EQ(lacking_bytes(ring, batch, plan_of(ring, {{0, {0, 2}}, {1, {2, 4}}}), {}), 2 * 5 * kMB);
  EXPECT_EQ(lacking_bytes(ring, batch, plan_of(ring, {{0, {0, 1}}, {1, {1, 4}}}), {}), (4 + 6) * kMB);
  // On a's GPU, 4 MB of buffers and two slots beside them, every second layer and its KV cache.
  ring.devices[0].gpu = test_gpu(16 * kMB);
  EXPECT_EQ(lacking_bytes(ring, batch, plan_of(ring, {{0, {0, 4}}}), {2, 0}), (62 - 26 - 2) * kMB);
  ring.devices[0].memory_bytes = 74 * kMB;
  const Prediction made = predicted(ring, plan_of(ring, {{0, {0, 4}}}), {}, {2, 0});
  EXPECT_EQ(made.devices[0].kv_bytes, 62 * kMB);
  EXPECT_EQ(made.devices[0].weight_memory_bytes, 10 * kMB);
}

// As devices do. Of the 16 MB left one may be waiting; not where two slots of 8 MB need all.
TEST(Prediction, NoneWaitsWhereSlotsNeedTheMemory) {
  RingProfile ring = test_ring(8, {test_device("a", (4 + 8 + 16) * kMB)});
  ring.model.batches[0].group = {.least_tokens = 1, .most_tokens = 1000, .token_bytes = kMB};
  EXPECT_EQ(predicted(ring, plan_of(ring, {{0, {0, 8}}})).devices[0].buffer_bytes, 5 * kMB);
  ring.model.parts.largest_bytes = 8 * kMB;
  EXPECT_EQ(predicted(ring, plan_of(ring, {{0, {0, 8}}})).devices[0].buffer_bytes, 4 * kMB);
}

TEST(Prediction, LayersOnAGpuTakeItsTimeAndMemory) {
  RingProfile ring = test_ring(8, {test_device("a", 2000 * kMB)});
  ring.devices[0].gpu = test_gpu(410 * kMB);
  const Plan plan = plan_of(ring, {{0, {0, 8}}});
  const Prediction made = predicted(ring, plan, {}, {4});
  EXPECT_NEAR(made.period_s, 0.045 + 0.004, 1e-9);
  EXPECT_EQ(made.devices[0].gpu_weight_bytes, 400 * kMB);
  // 410 MB less 4 of buffers and 5 of KV cache hold 401 of 500: 99 MB and two slots of 5 are brought there
  // for each token, at 5 GB/s.
  const Prediction more = predicted(ring, plan, {}, {5});
  EXPECT_NEAR(more.period_s, 0.035 + 0.0218, 1e-9);
  ring.devices[0].gpu->memory_bytes = 13 * kMB;  // not even KV cache and slots
  EXPECT_FALSE(predict(ring, {}, ring.model.batches[0], plan, {4}));
}

TEST(Prediction, AUnifiedGpuSharesTheMemory) {
  RingProfile ring = test_ring(8, {test_device("a", (4 + 8 + 450) * kMB)});
  ring.devices[0].gpu = {.name = "gpu",
                         .memory_bytes = 0,
                         .unified = true,
                         .compute = {.passes = {{.n_tokens = 1, .bytes_per_s = 100e9}}},
                         .upload_bytes_per_s = 0};
  const Prediction made = predicted(ring, plan_of(ring, {{0, {0, 8}}}), {}, {8});
  EXPECT_EQ(made.devices[0].streamed_bytes, 420 * kMB);
  EXPECT_NEAR(made.devices[0].computing_s, 0.008 + 0.005, 1e-9);
}

TEST(Prediction, UsersShareAPass) {
  RingProfile ring = test_ring(8, {test_device("a", 2000 * kMB)});
  ring.devices[0].cpu.passes = {{.n_tokens = 1, .bytes_per_s = 10e9}, {.n_tokens = 9, .bytes_per_s = 5e9}};
  const Prediction made = predicted(ring, plan_of(ring, {{0, {0, 8}}}), {.users = 9, .prompt_tokens = 1});
  EXPECT_NEAR(made.period_s, 0.17, 1e-9);
}

// 1024 tokens in two batches: they follow each other through two devices.
TEST(Prediction, BatchesOfAPromptFollowEachOther) {
  const RingProfile ring = test_ring(8, {test_device("a", 2000 * kMB), test_device("b", 2000 * kMB)});
  const Prediction made =
      predicted(ring, plan_of(ring, {{0, {0, 4}}, {1, {4, 8}}}), {.users = 1, .prompt_tokens = 1024});
  // 4 s each device and batch (400 MB at 0.1 GB/s), 5 ms the output head for one token, 2 hops.
  EXPECT_NEAR(made.ttft_s, 3 * 4 + 0.005 + 0.002, 1e-6);
}

TEST(Prediction, WithoutAPassOfManyTokensTheFirstTokenIsNotKnown) {
  RingProfile ring = test_ring(8, {test_device("a", 2000 * kMB)});
  ring.devices[0].cpu.passes.resize(1);
  EXPECT_TRUE(std::isinf(predicted(ring, plan_of(ring, {{0, {0, 8}}})).ttft_s));
  EXPECT_TRUE(
      std::isfinite(predicted(ring, plan_of(ring, {{0, {0, 8}}}), {.users = 1, .prompt_tokens = 8}).ttft_s));
}

TEST(Prediction, AStreamingDeviceReadsOnceForAGroup) {
  RingProfile ring = test_ring(8, {test_device("a", (4 + 8 + 450) * kMB)});
  ring.devices[0].cpu.passes[1].bytes_per_s = 10e9;
  const Plan plan = plan_of(ring, {{0, {0, 8}}});
  const Prediction apart = predicted(ring, plan, {.users = 1, .prompt_tokens = 2048});
  EXPECT_NEAR(apart.ttft_s, 4 * 0.42, 1e-9);
  ring.model.batches[0].group = {.least_tokens = 1024, .most_tokens = 2048, .token_bytes = 1000};
  const Prediction together = predicted(ring, plan, {.users = 1, .prompt_tokens = 2048});
  EXPECT_NEAR(together.ttft_s, 0.42, 0.01);
}

// No plan is faster than its slowest disk, whatever the sizes of windows and parts.
RC_GTEST_PROP(PredictionProperty, NeverFasterThanADisk, ()) {
  const auto n_devices = *rc::gen::inRange<std::size_t>(1, 4);
  std::vector<DeviceProfile> devices;
  for (std::size_t m = 0; m < n_devices; ++m) {
    devices.push_back(test_device("d" + std::to_string(m), *rc::gen::inRange<std::uint64_t>(40, 600) * kMB));
    devices.back().disk_bytes_per_s = *rc::gen::inRange(50, 3000) * 1e6;
  }
  RingProfile ring = test_ring(*rc::gen::inRange(1U, 24U), std::move(devices));
  ring.model.parts.mean_bytes = *rc::gen::inRange<std::uint64_t>(1, 6) * kMB;
  std::vector<Step> steps;
  for (std::uint32_t next = 0; next < ring.model.n_layer();) {
    const auto size = std::min(*rc::gen::inRange(1U, 6U), ring.model.n_layer() - next);
    steps.push_back(
        {*rc::gen::inRange<std::uint16_t>(0, static_cast<std::uint16_t>(n_devices)), {next, next + size}});
    next += size;
  }
  const auto made = predict(ring, {}, ring.model.batches[0], plan_of(ring, steps));
  if (!made) return;
  double computing = 0;
  for (const DeviceUse& use : made->devices) {
    RC_ASSERT(made->period_s >= use.disk_s);
    computing += use.computing_s;
    // What is streamed is what its memory lacks, and slots at most.
    if (use.streamed_bytes > 0)
      RC_ASSERT(use.streamed_bytes >= use.weight_bytes - std::min(use.weight_bytes, use.weight_memory_bytes));
  }
  RC_ASSERT(made->period_s >= computing * 0.999999);
}

}  // namespace
}  // namespace hearth::plan
