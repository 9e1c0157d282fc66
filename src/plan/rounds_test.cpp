// Against numbers worked out by hand, and the published simulation of four equal devices with 80 layers, 15
// ms of computing and 170 ms of disk per layer, and 3 ms a hop (docs/explanation/residency.md).
#include "plan/rounds.h"

#include <vector>

#include <gtest/gtest.h>

namespace hearth::plan {
namespace {

constexpr std::uint64_t kLayer = 1'000'000;
constexpr double kHop = 0.003;

// A quarter of the 80 layers on each of four devices, `layers_in_memory` of them in memory.
std::vector<DeviceLoad> four(std::uint64_t layers_in_memory) {
  return {4,
          {.weight_bytes = 20 * kLayer,
           .memory_bytes = layers_in_memory * kLayer,
           .parts = {.largest_bytes = kLayer / 4, .mean_bytes = kLayer / 4},
           .n_layers = 20,
           .rates = {.compute_bytes_per_s = kLayer * 1000 / 15, .disk_bytes_per_s = kLayer * 100 / 17}}};
}

TEST(Rounds, SlotsHoldWhatOneVisitStreamsAndWhatIsInUse) {
  const PartSizes parts = {.largest_bytes = 50, .mean_bytes = 30};
  EXPECT_EQ(slots_wanted(400, 1000, parts, 1), 5 * 30U + 50);  // as much as six parts, the largest among them
  EXPECT_EQ(slots_wanted(400, 1000, parts, 5), 400 / 4 + 30U + 50);
  EXPECT_EQ(slots_wanted(400, 1000, parts, 2), 400 + 30U + 50);
  EXPECT_EQ(slots_wanted(400, 150, parts, 2), 150U) << "all memory";
  EXPECT_EQ(slots_wanted(10, 1000, parts, 9), 100U) << "two of the largest";
  EXPECT_EQ(slots_wanted(400, 60, parts, 2), 100U) << "also where there is no memory for them";
}

TEST(Rounds, WithOneRoundDisksDoNotOverlap) {
  // Each device in turn: 8 layers that are not there, 0.17 s each, longer than computing 20.
  EXPECT_NEAR(token_period(four(12), kHop, 1), 4 * (8 * 0.17 + kHop), 1e-4);
  EXPECT_NEAR(token_period(four(12), kHop, 1), 5.57, 0.03 * 5.57);  // simulated
  EXPECT_NEAR(token_period(four(5), kHop, 1), 10.3, 0.03 * 10.3);   // simulated
}

TEST(Rounds, WithMoreRoundsTheSlowestDiskDecides) {
  // 8 layers of excess in 10 visits: 8 / 9 layers, and a quarter each that is computed with and filled.
  EXPECT_NEAR(token_period(four(12), kHop, 10), (8 + 8.0 / 9 + 0.5) * 0.17, 1e-4);
  EXPECT_NEAR(token_period(four(12), kHop, 10), 1.57, 0.03 * 1.57);  // simulated
  EXPECT_NEAR(token_period(four(5), kHop, 10), 2.89, 0.03 * 2.89);   // simulated
}

TEST(Rounds, WhereLittleIsMissingTwoRoundsAreBest) {
  const Rounds best = best_rounds(four(18), kHop);
  EXPECT_EQ(best.rounds, 2U);
  EXPECT_NEAR(best.period_s, 4 * 0.3 + 8 * kHop, 1e-4);
}

TEST(Rounds, WhereEverythingFitsOneRoundIsBest) {
  const Rounds best = best_rounds(four(20), kHop);
  EXPECT_EQ(best.rounds, 1U);
  EXPECT_NEAR(best.period_s, 4 * (0.3 + kHop), 1e-4);
}

TEST(Rounds, SlowHopsCostRounds) {
  const Rounds near = best_rounds(four(12), 0.0001), far = best_rounds(four(12), 0.05);
  EXPECT_GT(near.rounds, far.rounds);
  EXPECT_GT(far.rounds, 1U);
  EXPECT_LT(near.period_s, far.period_s);
}

TEST(Rounds, NoDeviceIsVisitedMoreOftenThanItHasLayers) {
  EXPECT_DOUBLE_EQ(token_period(four(12), kHop, 20), token_period(four(12), kHop, 40));
  EXPECT_LE(best_rounds(four(12), 0).rounds, 20U);
}

TEST(Rounds, OneDeviceIsVisitedOnce) {
  std::vector<DeviceLoad> one = four(12);
  one.resize(1);
  const Rounds best = best_rounds(one, kHop);
  EXPECT_EQ(best.rounds, 1U);
  // Its disk works all the time: what is missing and six slots of a quarter.
  EXPECT_NEAR(best.period_s, (8 + 1.5) * 0.17, 1e-4);
}

TEST(Rounds, SlotsThatDoNotHoldAVisitMakeItWait) {
  // Memory for 8 slots; 18 layers stream, half of them in each of two visits, 2 layers are there before.
  std::vector<DeviceLoad> tight = four(2);
  EXPECT_NEAR(token_period(tight, kHop, 2), 4 * 2 * ((20.0 / 2 - 2) * 0.17 + kHop), 1e-4);
}

TEST(Rounds, AVisitOfMoreLayersThanOthersWaitsForMore) {
  // Two devices of 3 layers in 2 visits, one layer in memory: 2 of excess, room for 4 quarters; all 3 stream,
  // 2 in the larger visit, of which one is there before. The larger visit waits 1 s, the smaller not at all.
  const std::vector<DeviceLoad> uneven(2, {.weight_bytes = 3 * kLayer,
                                           .memory_bytes = kLayer,
                                           .parts = {.largest_bytes = kLayer / 4, .mean_bytes = kLayer / 4},
                                           .n_layers = 3,
                                           .rates = {.compute_bytes_per_s = 0, .disk_bytes_per_s = kLayer}});
  EXPECT_NEAR(token_period(uneven, 0, 2), 3.0, 1e-9);  // the disk's own time is longer
  EXPECT_NEAR(token_period(uneven, 0.8, 2), 2 * (1 + 2 * 0.8), 1e-9);
}

TEST(Rounds, WhatWasNotMeasuredTakesNoTime) {
  std::vector<DeviceLoad> unknown = four(12);
  for (DeviceLoad& device : unknown) device.rates = {};
  EXPECT_NEAR(token_period(unknown, kHop, 3), 4 * 3 * kHop, 1e-9);
  EXPECT_EQ(best_rounds(unknown, kHop).rounds, 1U);
}

}  // namespace
}  // namespace hearth::plan
