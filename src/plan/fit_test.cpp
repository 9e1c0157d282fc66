// Where layers differ in their KV cache, as with sliding windows: a plan is found wherever one fits.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "plan/planner.h"
#include "plan/shortage.h"
#include "plan/test_profiles.h"

namespace hearth::plan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What a device needs of memory besides KV cache: buffers for 128 tokens, and slots.
constexpr std::uint64_t kBesides = 11 * kMB;

// Devices with room for so much KV cache beside the least they need.
RingProfile ring_of(const std::vector<std::uint64_t>& layer_kv_mb,
                    const std::vector<std::uint64_t>& room_mb) {
  std::vector<DeviceProfile> devices;
  for (const std::uint64_t room : room_mb)
    devices.push_back(test_device("d" + std::to_string(devices.size()), kBesides + room * kMB));
  RingProfile ring = test_ring(static_cast<std::uint32_t>(layer_kv_mb.size()), std::move(devices));
  for (const std::uint64_t kv : layer_kv_mb) ring.model.layer_kv_bytes.push_back(kv * kMB);
  const std::uint64_t all = ring.model.kv_bytes_of({0, ring.model.n_layer()});
  ring.model.kv_bytes = (all + ring.model.n_layer() - 1) / ring.model.n_layer();
  return ring;
}

std::vector<std::uint32_t> layers_of(const Plan& plan) {
  std::vector<std::uint32_t> layers;
  for (std::uint16_t m = 0; m < plan.devices.size(); ++m) layers.push_back(plan.layers_of(m));
  return layers;
}

// The windows of one round, in the order of the ring, that take the least time; nullopt: none fit.
std::optional<double> best_by_hand(const RingProfile& ring) {
  std::optional<double> best;
  std::vector<std::uint32_t> windows(ring.devices.size(), 0);
  const auto extend = [&](const auto& self, std::size_t m, std::uint32_t left) -> void {
    const bool last = m + 1 == windows.size();
    for (windows[m] = last ? left : 0; windows[m] <= left; ++windows[m]) {
      if (!last) {
        self(self, m + 1, left - windows[m]);
      } else if (const auto made = propose(ring, {.traffic = {}, .rounds = 1, .windows = windows})) {
        best = std::min(best.value_or(made->prediction.period_s), made->prediction.period_s);
      }
    }
  };
  extend(extend, 0, ring.model.n_layer());
  return best;
}

TEST(Fit, WhatOnlyMeanLayersWouldFitIsLaidOutElsewhere) {
  // Of mean layers, 4 MB each, d0 holds two; of the real ones not the first.
  RingProfile ring = ring_of({10, 1, 1, 1, 1, 10}, {9, 24});
  ring.devices[1].cpu.passes[0].bytes_per_s = 1e9;
  ASSERT_TRUE(propose(ring, {.traffic = {}, .windows = {0, 6}}));
  const auto made = propose(ring, {.traffic = {}, .rounds = 1});
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_THAT(layers_of(made->plan), ElementsAre(0, 6));
}

TEST(Fit, WhatMeanLayersWouldNotFitIsFound) {
  // Of mean layers d0 holds three and d1 two; there are six.
  const RingProfile ring = ring_of({10, 1, 1, 1, 1, 10}, {13, 11});
  ASSERT_TRUE(propose(ring, {.traffic = {}, .windows = {4, 2}}));
  const auto made = propose(ring, {});
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_THAT(layers_of(made->plan), ElementsAre(4, 2));
  EXPECT_FALSE(made->optimum);  // the solvers have none
}

TEST(Fit, TheOrderOfTheRingIsFoundToo) {
  // The only two layers in a row that d1 holds are the last; then those before must be d2's.
  const RingProfile ring = ring_of({10, 1, 10, 1, 1, 1}, {11, 2, 11});
  EXPECT_FALSE(best_by_hand(ring));
  const auto made = propose(ring, {});
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_THAT(layers_of(made->plan), ElementsAre(2, 2, 2));
}

TEST(Fit, RoundsAskedForAreKept) {
  // d0 holds layers 0 and 4, which are the first of two rounds; no other two.
  const RingProfile ring = ring_of({1, 10, 1, 10, 1, 10, 1, 10}, {2, 42});
  const auto made = propose(ring, {.traffic = {}, .rounds = 2});
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(made->rounds, 2U);
}

TEST(Fit, RoundsThatDoNotFitAreSaidToBeTheReason) {
  // d1 holds both long ones and no other; between them d0 would be visited, or after one of them.
  const auto none = propose(ring_of({1, 1, 10, 10}, {2, 20}), {.traffic = {}, .rounds = 2});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(none.error().message, HasSubstr("no plan of 2 rounds fits"));
  EXPECT_THAT(none.error().message, HasSubstr("one round would do (--rounds 1)"));
}

TEST(Fit, WhatIsMissingIsOfRealLayers) {
  // d1 holds two layers at either end, d0 neither of the long ones.
  const RingProfile ring = ring_of({10, 1, 1, 1, 1, 10}, {9, 11});
  const auto none = propose(ring, {});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(none.error().message, HasSubstr("the KV cache of 5 of 6 layers, 1.0 MB to 10.0 MB each"));
  EXPECT_THAT(none.error().message, HasSubstr("4.0 MB more, lent by d0, would do"));
}

// A ring that is tight, of a model of which every `period`th layer sees all tokens.
RingProfile tight_ring(std::mt19937& draw) {
  const auto between = [&](std::uint64_t least, std::uint64_t most) {
    return std::uniform_int_distribution<std::uint64_t>(least, most)(draw);
  };
  const std::uint64_t period = between(2, 6), n_layer = between(1, 12), first = between(0, period - 1);
  const std::uint64_t n_devices = between(2, 4), all = between(3, 30);
  std::vector<std::uint64_t> kv;
  for (std::uint64_t il = 0; il < n_layer; ++il) kv.push_back(il % period == first ? all : 1);
  // What some windows take, a little more or less.
  std::vector<std::uint64_t> room(n_devices, 0);
  std::uint64_t m = 0;
  for (const std::uint64_t one : kv) {
    if (between(1, n_layer) < n_devices) m = std::min(m + 1, n_devices - 1);
    room[m] += one;
  }
  for (std::uint64_t& one : room) one += between(0, 2);
  const std::uint64_t less = between(0, n_devices - 1);
  room[less] -= std::min(room[less], between(0, 3));
  RingProfile ring = ring_of(kv, room);
  for (DeviceProfile& device : ring.devices) {
    device.cpu.passes[0].bytes_per_s = static_cast<double>(between(2, 40)) * 1e9;
    device.disk_bytes_per_s = static_cast<double>(between(1, 30)) * 1e8;
  }
  return ring;
}

RC_GTEST_PROP(Fit, APlanIsFoundWhereWindowsByHandFit, ()) {
  std::mt19937 draw(*rc::gen::arbitrary<std::uint32_t>());
  const RingProfile ring = tight_ring(draw);
  const auto by_hand = best_by_hand(ring);
  RC_CLASSIFY(by_hand.has_value(), "fits");
  const auto made = propose(ring, {});
  if (!made) RC_LOG() << made.error().message;
  if (by_hand) RC_ASSERT(made.has_value());
}

// With the memory that is said to be missing there is a plan, with a byte less there is none of one round.
RC_GTEST_PROP(Fit, WhatIsMissingWouldDo, ()) {
  std::mt19937 draw(*rc::gen::arbitrary<std::uint32_t>());
  RingProfile ring = tight_ring(draw);
  ring.devices[0].memory_bytes -= draw() % (2 * kBesides) / 2;
  RC_PRE(!propose(ring, {}));
  const Shortage lack = shortage_of(ring, 0, {});
  const std::uint64_t head = lack.best_device == 0 ? 0 : lack.devices[0].lacks_bytes;
  ring.devices[0].memory_bytes += head;
  ring.devices[lack.best_device].memory_bytes += lack.bytes - head;
  RC_ASSERT(propose(ring, {}).has_value());
  --ring.devices[lack.best_device].memory_bytes;
  RC_ASSERT(!propose(ring, {.traffic = {}, .rounds = 1}));
}

}  // namespace
}  // namespace hearth::plan
