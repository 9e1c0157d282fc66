// What is planned for small homes whose best plan is plain to see.
#include "plan/planner.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan/shortage.h"
#include "plan/test_profiles.h"

namespace hearth::plan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Proposal proposed(const RingProfile& ring, const PlanRequest& request = {}) {
  auto made = propose(ring, request);
  EXPECT_TRUE(made) << made.error().message;
  if (!made) {
    Proposal none;
    none.prediction.devices.resize(ring.devices.size());
    return none;
  }
  EXPECT_TRUE(validate(made->plan));
  return *std::move(made);
}

std::vector<std::uint32_t> layers_of(const Proposal& made) {
  std::vector<std::uint32_t> layers;
  for (std::uint16_t m = 0; m < made.plan.devices.size(); ++m) layers.push_back(made.plan.layers_of(m));
  return layers;
}

TEST(Planner, WhatFitsOneDeviceStaysThere) {
  const Proposal made = proposed(test_ring(8, {test_device("a", 2000 * kMB), test_device("b", 2000 * kMB)}));
  EXPECT_THAT(layers_of(made), ElementsAre(8, 0));
  EXPECT_EQ(made.rounds, 1U);
  EXPECT_EQ(made.n_ubatch, 512U);
  EXPECT_NEAR(made.prediction.period_s, 0.085, 1e-9);
  EXPECT_FALSE(made.any_assumed());
}

TEST(Planner, AFasterDeviceGetsWhatFitsIt) {
  RingProfile ring = test_ring(16, {test_device("a", 2000 * kMB), test_device("b", 1200 * kMB)});
  ring.devices[1].cpu.passes[0].bytes_per_s = 100e9;
  for (DeviceProfile& device : ring.devices) device.disk_bytes_per_s = 0.01e9;
  const Proposal made = proposed(ring);
  // 1.2 GB less 4 MB of buffers hold 11 layers of 101 MB.
  EXPECT_THAT(layers_of(made), ElementsAre(5, 11));
  EXPECT_NEAR(made.prediction.period_s, 0.05 + 0.005 + 0.011 + 0.002, 1e-9);
}

TEST(Planner, AWeakDeviceIsLeftOutUnlessMemoryForcesIt) {
  const auto ring_with = [](std::uint64_t bytes) {
    RingProfile ring =
        test_ring(16, {test_device("a", bytes), test_device("b", bytes), test_device("weak", bytes)});
    ring.devices[2].cpu.passes[0].bytes_per_s = 1e9;
    ring.devices[2].disk_bytes_per_s = 0.1e9;
    for (std::size_t other : {0, 1})
      ring.links[2][other] = ring.links[other][2] = {.latency_s = 0.02, .bytes_per_s = 0};
    return ring;
  };
  const RingProfile roomy = ring_with(1200 * kMB);
  const Proposal out = proposed(roomy);
  EXPECT_EQ(layers_of(out)[2], 0U);
  const auto why = alternatives(roomy, {}, out);
  ASSERT_TRUE(why[2].with_it_s);
  // A layer takes 100 ms there instead of 10, and passing on 40 ms instead of 1.
  EXPECT_NEAR(*why[2].with_it_s, out.prediction.period_s + 0.09 + 0.039, 0.003);
  EXPECT_FALSE(why[2].without_it_s);

  // 40 MB are 1 of buffers, 10 of slots, and the KV cache of 7 layers; there are 16.
  RingProfile tight = ring_with(40 * kMB);
  tight.model.kv_bytes = 4 * kMB;
  const Proposal in = proposed(tight);
  EXPECT_GT(layers_of(in)[2], 0U);
  EXPECT_FALSE(alternatives(tight, {}, in)[2].without_it_s);
}

TEST(Planner, EqualDevicesThatStreamShareEvenlyInRounds) {
  const Proposal made = proposed(test_ring(16, {test_device("a", 500 * kMB), test_device("b", 500 * kMB)}));
  EXPECT_TRUE(made.prediction.streams());
  EXPECT_GT(made.rounds, 1U);
  const auto layers = layers_of(made);
  EXPECT_NEAR(layers[0], layers[1], 1);
  EXPECT_GE(made.prediction.period_s, made.optimum->period_s * 0.95);
  EXPECT_LE(made.prediction.period_s, made.optimum->period_s * 1.25);
}

TEST(Planner, AFasterDiskStreamsMore) {
  RingProfile ring = test_ring(16, {test_device("a", 400 * kMB), test_device("b", 400 * kMB)});
  ring.devices[1].disk_bytes_per_s = 3e9;
  const Proposal made = proposed(ring);
  EXPECT_GT(made.prediction.devices[1].streamed_bytes,
            1.5 * static_cast<double>(made.prediction.devices[0].streamed_bytes));
}

TEST(Planner, SmallerBatchesWhereTheirBuffersSaveReading) {
  const Proposal roomy = proposed(test_ring(8, {test_device("a", (4 + 8 + 850) * kMB)}));
  EXPECT_EQ(roomy.n_ubatch, 512U);
  EXPECT_FALSE(roomy.prediction.streams());
  const Proposal tight = proposed(test_ring(8, {test_device("a", (1 + 8 + 850) * kMB)}));
  EXPECT_EQ(tight.n_ubatch, 128U);
  EXPECT_FALSE(tight.prediction.streams());
}

TEST(Planner, OrderFollowsTheLinks) {
  std::vector<DeviceProfile> devices;
  for (const char* name : {"a", "b", "c", "d"}) devices.push_back(test_device(name, 420 * kMB));
  RingProfile ring = test_ring(15, devices);
  // A line a - c - b - d: neighbours 1 ms, others 20 ms.
  for (auto& row : ring.links) std::ranges::fill(row, LinkProfile{.latency_s = 0.02, .bytes_per_s = 0});
  for (const auto& [x, y] : {std::pair(0, 2), {2, 1}, {1, 3}, {3, 0}})
    ring.links[static_cast<std::size_t>(x)][static_cast<std::size_t>(y)] =
        ring.links[static_cast<std::size_t>(y)][static_cast<std::size_t>(x)] = {.latency_s = 0.001,
                                                                                .bytes_per_s = 0};
  const Proposal made = proposed(ring);
  std::vector<std::uint16_t> order;
  for (const Step& step : made.plan.steps) order.push_back(step.device);
  ASSERT_GE(order.size(), 4U);
  order.resize(4);
  EXPECT_TRUE(order == std::vector<std::uint16_t>({0, 2, 1, 3}) ||
              order == std::vector<std::uint16_t>({0, 3, 1, 2}));
}

TEST(Planner, WhatTheUserSaysCounts) {
  const RingProfile ring = test_ring(8, {test_device("a", 2000 * kMB), test_device("b", 2000 * kMB)});
  const Proposal by_hand = proposed(ring, {.traffic = {}, .windows = {1, 3}});
  EXPECT_THAT(layers_of(by_hand), ElementsAre(2, 6));
  EXPECT_EQ(by_hand.rounds, 2U);
  EXPECT_NEAR(by_hand.prediction.period_s, 0.085 + 0.004, 1e-9);
  // Two devices that need each other.
  const RingProfile both = test_ring(8, {test_device("a", 600 * kMB), test_device("b", 600 * kMB)});
  EXPECT_EQ(proposed(both, {.traffic = {}, .rounds = 3}).rounds, 3U);
  const Proposal without = proposed(ring, {.traffic = {}, .excluded = {true, false}});
  EXPECT_THAT(layers_of(without), ElementsAre(0, 8));

  const auto wrong = propose(ring, {.traffic = {}, .windows = {8}});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(wrong.error().message, HasSubstr("names 1 devices, the ring has 2"));
}

// A layer takes 10 ms, the output head 5, a hop 1.
TEST(Planner, WindowsOfEachVisitArePredictedToo) {
  const RingProfile ring = test_ring(8, {test_device("a", 2000 * kMB), test_device("b", 2000 * kMB)});
  const Proposal three = proposed(ring, {.traffic = {}, .windows = {2, 1, 1, 1, 1, 2}, .n_window_rounds = 3});
  EXPECT_THAT(layers_of(three), ElementsAre(4, 4));
  EXPECT_EQ(three.rounds, 3U);
  EXPECT_NEAR(three.prediction.period_s, 0.085 + 6 * 0.001, 1e-9);
  // b's last two windows follow each other without a hop.
  const Proposal left_out =
      proposed(ring, {.traffic = {}, .windows = {2, 1, 1, 2, 0, 2}, .n_window_rounds = 3});
  EXPECT_THAT(layers_of(left_out), ElementsAre(3, 5));
  EXPECT_NEAR(left_out.prediction.period_s, 0.085 + 4 * 0.001, 1e-9);

  const auto refusal = [&](PlanRequest request) {
    const auto made = propose(ring, request);
    return made ? std::string() : made.error().message;
  };
  EXPECT_THAT(refusal({.traffic = {}, .windows = {4, 2, 2, 0, 0, 0}, .n_window_rounds = 2}),
              HasSubstr("names 3 devices in each round, the ring has 2"));
  EXPECT_THAT(refusal({.traffic = {}, .rounds = 3, .windows = {2, 2, 2, 2}, .n_window_rounds = 2}),
              HasSubstr("the windows of 2 rounds, --rounds asks for 3"));
  EXPECT_THAT(refusal({.traffic = {}, .windows = {2, 2, 2, 3}, .n_window_rounds = 2}),
              HasSubstr("4 + 5 = 9 layers, expected the model's 8"));
  EXPECT_THAT(
      refusal({.traffic = {}, .windows = {4, 0, 3, 1}, .n_window_rounds = 2, .excluded = {false, true}}),
      HasSubstr("b is excluded (--exclude) and has a window of 1"));
}

TEST(Planner, WhatDoesNotFitSaysWhatIsMissing) {
  // Each needs 1 MB of buffers and 10 MB of slots; then 8 layers of KV cache want 1 MB each.
  const RingProfile ring = test_ring(8, {test_device("a", 8 * kMB), test_device("b", 13 * kMB)});
  const auto none = propose(ring, {});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(none.error().message,
              HasSubstr("a, the head, lends 8.0 MB and needs 11.0 MB for buffers and slots (lacks 3.0 MB), "
                        "b lends 13.0 MB and needs 11.0 MB for buffers and slots; what is left holds the KV "
                        "cache of 2 of 8 layers, 1.0 MB each. 9.0 MB more, lent by a, would do"));
}

// The memory that is said to be missing is: with it there is a plan, with a byte less there is none.
TEST(Planner, WhatIsMissingWouldDo) {
  std::mt19937 random(3);
  const auto between = [&](std::uint64_t least, std::uint64_t most) {
    return std::uniform_int_distribution<std::uint64_t>(least, most)(random);
  };
  int lacking = 0;
  for (int i = 0; i < 200; ++i) {
    std::vector<DeviceProfile> devices;
    for (std::size_t m = 0; m < 1 + static_cast<std::size_t>(i % 3); ++m)
      devices.push_back(test_device("d" + std::to_string(m), between(0, 30) * kMB));
    RingProfile ring = test_ring(8, std::move(devices));
    ring.model.kv_bytes = between(0, 5) * kMB;
    PlanRequest request;
    if (i % 4 == 0 && ring.devices.size() > 1) {
      request.excluded.resize(ring.devices.size(), false);
      request.excluded[between(0, ring.devices.size() - 1)] = true;
    }
    SCOPED_TRACE(i);
    if (propose(ring, request)) continue;
    ++lacking;
    const Shortage lack = shortage_of(ring, 0, request.excluded);
    ASSERT_GT(lack.bytes, 0U);
    // The head needs its own in any case.
    const std::uint64_t head = lack.best_device == 0 ? 0 : lack.devices[0].lacks_bytes;
    ring.devices[0].memory_bytes += head;
    ring.devices[lack.best_device].memory_bytes += lack.bytes - head;
    EXPECT_TRUE(propose(ring, request));
    --ring.devices[lack.best_device].memory_bytes;
    EXPECT_FALSE(propose(ring, request));
  }
  EXPECT_GT(lacking, 30);
}

TEST(Planner, WhatIsMissingIsOfBatchesThatHoldAllUsers) {
  // 4 MB of buffers for 512 tokens, 1 MB for 128; 10 MB of slots and 8 MB of KV cache.
  RingProfile ring = test_ring(8, {test_device("a", 20 * kMB)});
  ASSERT_TRUE(propose(ring, {}));
  const PlanRequest request = {.traffic = {.users = 512}};
  const auto none = propose(ring, request);
  ASSERT_FALSE(none);
  EXPECT_THAT(none.error().message, HasSubstr("a, the head, lends 20.0 MB and needs 14.0 MB"));
  EXPECT_THAT(none.error().message, HasSubstr("2.0 MB more, lent by a, would do"));
  ring.devices[0].memory_bytes += 2 * kMB;
  EXPECT_TRUE(propose(ring, request));
}

TEST(Planner, ADeviceThatHoldsOnlyMeanPartsIsLeftOut) {
  RingProfile ring = test_ring(8, {test_device("a", 400 * kMB), test_device("b", 20 * kMB)});
  ring.model.parts.largest_bytes = 10 * kMB;  // two of them do not fit b beside its buffers
  ring.model.batches.resize(1);
  ring.devices[0].cpu.passes[0].bytes_per_s = 1e8;  // a layer less would be worth a lot
  EXPECT_THAT(layers_of(proposed(ring)), ElementsAre(8, 0));
  ring.devices[1].memory_bytes = 40 * kMB;
  EXPECT_GT(layers_of(proposed(ring))[1], 0U);
}

TEST(Planner, NamesThatTwoDevicesHaveExcludeNone) {
  const RingProfile ring =
      test_ring(8, {test_device("a", kMB), test_device("phone", kMB), test_device("phone", kMB)});
  EXPECT_THAT(*named(ring, {"a"}), ElementsAre(true, false, false));
  const auto found = named(ring, {"phone"});
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(found.error().message, HasSubstr("more than one device is called 'phone'"));
}

TEST(Planner, SmallerBatchesWhereTheFastDeviceHoldsMoreThen) {
  // 3 MB less of buffers are one layer more on a, which is ten times as fast; all fits either way.
  RingProfile ring = test_ring(8, {test_device("a", (1 + 50 + 4 * 101) * kMB), test_device("b", 2000 * kMB)});
  ring.devices[1].cpu.passes[0].bytes_per_s = 1e9;
  for (DeviceProfile& device : ring.devices) device.disk_bytes_per_s = 1e7;
  const Proposal made = proposed(ring);
  EXPECT_FALSE(made.prediction.streams());
  EXPECT_EQ(made.n_ubatch, 128U);
  EXPECT_THAT(layers_of(made), ElementsAre(4, 4));
}

TEST(Planner, ALimitOnTheFirstTokenIsKept) {
  // b is fast with one token, slow with prompts; a the reverse.
  RingProfile ring = test_ring(8, {test_device("a", 2000 * kMB), test_device("b", 2000 * kMB)});
  ring.devices[0].cpu.passes = {{.n_tokens = 1, .bytes_per_s = 5e9}, {.n_tokens = 512, .bytes_per_s = 1e9}};
  ring.devices[1].cpu.passes = {{.n_tokens = 1, .bytes_per_s = 50e9},
                                {.n_tokens = 512, .bytes_per_s = 0.1e9}};
  const Proposal fastest = proposed(ring);
  EXPECT_THAT(layers_of(fastest), ElementsAre(0, 8));
  EXPECT_NEAR(fastest.prediction.ttft_s, 8, 0.1);
  const Proposal limited = proposed(ring, {.traffic = {}, .max_ttft_s = 5});
  EXPECT_LE(limited.prediction.ttft_s, 5);
  EXPECT_GE(limited.prediction.ttft_s, 0.8);
  EXPECT_GT(limited.prediction.period_s, fastest.prediction.period_s);
  const auto none = propose(ring, {.traffic = {}, .max_ttft_s = 0.5});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(none.error().message, HasSubstr("within 0.5 s; the least found is 0.8"));
}

TEST(Planner, GpusAreUsedOnlyWhereTheyMayBe) {
  RingProfile ring = test_ring(8, {test_device("a", 2000 * kMB)});
  ring.devices[0].gpu = test_gpu(410 * kMB);
  EXPECT_THAT(proposed(ring).gpu_layers, ElementsAre(0));
  EXPECT_THAT(proposed(ring, {.traffic = {}, .gpus = true}).gpu_layers, ElementsAre(4));
}

TEST(Planner, WhatWasNotMeasuredIsAssumedToBeLikeTheSlowest) {
  RingProfile ring =
      test_ring(16, {test_device("a", 500 * kMB), test_device("b", 500 * kMB), test_device("c", 500 * kMB)});
  ring.devices[1].disk_bytes_per_s = 0.5e9;
  ring.devices[2].disk_bytes_per_s = 0;
  ring.devices[2].cpu = {};
  const Assumptions made = with_assumptions(ring);
  EXPECT_THAT(made.assumed, ElementsAre(false, false, true));
  EXPECT_EQ(made.ring.devices[2].disk_bytes_per_s, 0.5e9);
  EXPECT_EQ(made.ring.devices[2].cpu, ring.devices[0].cpu);
  EXPECT_TRUE(proposed(ring).any_assumed());
}

TEST(Planner, AlternativesSayWhatWouldHelp) {
  const RingProfile ring = test_ring(16, {test_device("a", 500 * kMB), test_device("b", 500 * kMB)});
  const Proposal made = proposed(ring);
  const auto other = alternatives(ring, {}, made);
  // 1 GiB more holds all.
  ASSERT_TRUE(other[0].with_more_memory_s);
  EXPECT_LT(*other[0].with_more_memory_s, 0.75 * made.prediction.period_s);
  ASSERT_TRUE(other[1].with_faster_disk_s);
  EXPECT_LT(*other[1].with_faster_disk_s, made.prediction.period_s);
  ASSERT_TRUE(other[1].without_it_s);
  EXPECT_GT(*other[1].without_it_s, made.prediction.period_s);
}

TEST(Planner, StopsWhereItIsCancelled) {
  const RingProfile ring = test_ring(16, {test_device("a", 500 * kMB), test_device("b", 500 * kMB)});
  int asked = 0;
  PlanRequest request;
  request.cancelled = [&] { return ++asked > 3; };
  const auto made = propose(ring, request);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kCancelled);
  EXPECT_LT(asked, 10);
  for (const Alternatives& other : alternatives(ring, request, proposed(ring)))
    EXPECT_FALSE(other.without_it_s || other.with_more_memory_s);
}

// Eight unequal devices that stream 80 layers: how long a plan and its explanation take is printed, not
// judged.
TEST(Planner, ManyDevicesThatStream) {
  std::mt19937 random(5);
  const auto between = [&](double least, double most) {
    return std::uniform_real_distribution<double>(least, most)(random);
  };
  std::vector<DeviceProfile> devices;
  for (int m = 0; m < 8; ++m) {
    devices.push_back(
        test_device("d" + std::to_string(m), static_cast<std::uint64_t>(between(300, 900)) * kMB));
    devices.back().cpu.passes[0].bytes_per_s = between(5e9, 40e9);
    devices.back().disk_bytes_per_s = between(0.2e9, 3e9);
  }
  const RingProfile ring = test_ring(80, std::move(devices));
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const Proposal made = proposed(ring);
  const double planned = seconds();
  const auto other = alternatives(ring, {}, made);
  std::printf("8 devices, 80 layers: %.2f s for the plan, %.2f s to explain it\n", planned,
              seconds() - planned);
  EXPECT_TRUE(made.prediction.streams());
  ASSERT_EQ(other.size(), 8U);
  for (const Alternatives& one : other) EXPECT_TRUE(one.with_more_memory_s);
}

// All counts of layers on each device, in every number of rounds with windows as even as they can be, each
// device visited once or in every round: what the planner's way of searching is compared with, on layers of
// different size.
double best_of_all(const RingProfile& ring) {
  double best = std::numeric_limits<double>::infinity();
  const std::size_t n = ring.devices.size();
  const std::uint32_t n_layer = ring.model.n_layer();
  std::vector<std::uint32_t> counts(n, 0);
  const auto play = [&](std::uint32_t rounds, std::size_t once) {
    Plan plan = {.n_layer = n_layer, .devices = {}, .steps = {}};
    for (const DeviceProfile& device : ring.devices) plan.devices.push_back(device.name);
    std::uint32_t next = 0;
    for (std::uint32_t r = 0; r < rounds; ++r) {
      for (std::size_t m = 0; m < n; ++m) {
        const bool is_once = (once >> m & 1) != 0;
        const std::uint32_t size =
            is_once ? (r == 0 ? counts[m] : 0) : (r + 1) * counts[m] / rounds - r * counts[m] / rounds;
        if (size > 0) plan.steps.push_back({static_cast<std::uint16_t>(m), {next, next + size}});
        next += size;
      }
    }
    for (const BatchNeeds& batch : ring.model.batches)
      if (const auto made = predict(ring, {}, batch, plan)) best = std::min(best, made->period_s);
  };
  const auto extend = [&](const auto& self, std::size_t m, std::uint32_t left) -> void {
    if (m + 1 == n) {
      counts[m] = left;
      for (std::uint32_t rounds = 1; rounds <= n_layer; ++rounds)
        for (std::size_t once = 0; once < (rounds == 1 ? 1U : std::size_t{1} << n); ++once)
          play(rounds, once);
      return;
    }
    for (std::uint32_t k = 0; k <= left; ++k) {
      counts[m] = k;
      self(self, m + 1, left - k);
    }
  };
  extend(extend, 0, n_layer);
  return best;
}

TEST(Planner, IsCloseToTheBestOfAllPlansForMixedLayers) {
  std::mt19937 random(7);
  const auto between = [&](std::uint64_t least, std::uint64_t most) {
    return std::uniform_int_distribution<std::uint64_t>(least, most)(random);
  };
  std::vector<double> ratios;
  for (int i = 0; i < 60; ++i) {
    std::vector<DeviceProfile> devices;
    for (std::size_t m = 0; m < 2 + static_cast<std::size_t>(i % 2); ++m) {
      devices.push_back(test_device("d" + std::to_string(m), between(60, 500) * kMB));
      devices.back().cpu.passes[0].bytes_per_s = static_cast<double>(between(2, 40)) * 1e9;
      devices.back().disk_bytes_per_s = static_cast<double>(between(1, 30)) * 1e8;
    }
    RingProfile ring = test_ring(i % 2 == 0 ? 10 : 7, std::move(devices));
    for (std::uint64_t& bytes : ring.model.layer_bytes) bytes = between(80, 130) * kMB;
    const auto made = propose(ring, {});
    ASSERT_TRUE(made) << made.error().message;
    ratios.push_back(made->prediction.period_s / best_of_all(ring));
  }
  std::ranges::sort(ratios);
  std::printf("of the best of all plans: median %.3f, nine of ten within %.3f, the worst of %zu %.3f\n",
              ratios[ratios.size() / 2], ratios[ratios.size() * 9 / 10], ratios.size(), ratios.back());
  EXPECT_LE(ratios[ratios.size() / 2], 1.02);
  EXPECT_LE(ratios[ratios.size() * 9 / 10], 1.10);
  EXPECT_LE(ratios.back(), 1.20);
}

}  // namespace
}  // namespace hearth::plan
