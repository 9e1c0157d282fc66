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
          {.layers_bytes = 20 * kLayer,
           .memory_bytes = layers_in_memory * kLayer,
           .parts = {.largest_bytes = kLayer / 4, .mean_bytes = kLayer / 4},
           .n_layers = 20,
           .rates = {.compute_bytes_per_s = kLayer * 1000 / 15, .disk_bytes_per_s = kLayer * 100 / 17}}};
}

using VisitBytes = std::vector<std::uint64_t>;

double period(std::span<const DeviceLoad> devices, double hop_s, std::uint32_t rounds) {
  std::vector<std::uint32_t> counts;
  for (const DeviceLoad& device : devices) counts.push_back(device.n_layers);
  return token_period(devices, lay_out(counts, rounds), hop_s);
}

TEST(Rounds, SlotsHoldWhatOneVisitStreamsAndWhatIsInUse) {
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

TEST(Rounds, SlotsDoNotGrowForAVisitThatCannotBeEvenedOut) {
  const PartSizes parts = {.largest_bytes = 50, .mean_bytes = 30};
  // 90 of each visit: 270 = 100 + 90 + 80.
  EXPECT_EQ(slots_wanted(VisitBytes{500, 100, 100}, 100, 600, parts), 90 + 80U);
  // All of the small visits is not enough: 200 + 100 + 80, of that 180 in the large one.
  EXPECT_EQ(slots_wanted(VisitBytes{100, 500, 100}, 200, 500, parts), 100 + 80U);
}

TEST(Rounds, VisitsStreamAsMuchAsEachOtherWhereTheyCan) {
  EXPECT_DOUBLE_EQ(most_per_visit(VisitBytes{500, 100, 100}, 270), 90);
  EXPECT_DOUBLE_EQ(most_per_visit(VisitBytes{500, 100, 100}, 380), 180);
  EXPECT_DOUBLE_EQ(most_per_visit(VisitBytes{500, 100, 300}, 500), 200);
  EXPECT_DOUBLE_EQ(most_per_visit(VisitBytes{500, 100, 100}, 700), 500);
  EXPECT_DOUBLE_EQ(most_per_visit(VisitBytes{7}, 0), 0);
}

TEST(Rounds, WithOneRoundDisksDoNotOverlap) {
  // Each device in turn: 8 layers that are not there, 0.17 s each, longer than computing 20.
  EXPECT_NEAR(period(four(12), kHop, 1), 4 * (8 * 0.17 + kHop), 1e-4);
  EXPECT_NEAR(period(four(12), kHop, 1), 5.57, 0.03 * 5.57);  // simulated
  EXPECT_NEAR(period(four(5), kHop, 1), 10.3, 0.03 * 10.3);   // simulated
}

TEST(Rounds, WithMoreRoundsTheSlowestDiskDecides) {
  // 8 layers of excess and two quarters in 10 visits: 8.5 / 9 layers each, and a quarter each that is
  // computed with and filled.
  EXPECT_NEAR(period(four(12), kHop, 10), (8 + 8.5 / 9 + 0.5) * 0.17, 1e-4);
  EXPECT_NEAR(period(four(12), kHop, 10), 1.57, 0.03 * 1.57);  // simulated
  EXPECT_NEAR(period(four(5), kHop, 10), 2.89, 0.03 * 2.89);   // simulated
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
  EXPECT_DOUBLE_EQ(period(four(12), kHop, 20), period(four(12), kHop, 40));
  EXPECT_LE(best_rounds(four(12), 0).rounds, 20U);
}

TEST(Rounds, OneDeviceIsVisitedOnce) {
  std::vector<DeviceLoad> one = four(12);
  one.resize(1);
  const Rounds best = best_rounds(one, kHop);
  EXPECT_EQ(best.rounds, 1U);
  // Its disk works all the time: what is missing and four slots of a quarter.
  EXPECT_NEAR(best.period_s, (8 + 1.0) * 0.17, 1e-4);
}

TEST(Rounds, SlotsThatDoNotHoldAVisitMakeItWait) {
  // Memory for 8 slots; 18 layers stream, half of them in each of two visits, 2 layers are there before.
  std::vector<DeviceLoad> tight = four(2);
  EXPECT_NEAR(period(tight, kHop, 2), 4 * 2 * ((20.0 / 2 - 2) * 0.17 + kHop), 1e-4);
}

TEST(Rounds, AVisitOfMoreLayersThanOthersWaitsForMore) {
  // Two devices of 3 layers in 2 visits, one layer in memory: 2 of excess, room for 4 quarters; all 3 stream,
  // 2 in the larger visit, of which one is there before. The larger visit waits 1 s, the smaller not at all.
  const std::vector<DeviceLoad> uneven(2, {.layers_bytes = 3 * kLayer,
                                           .memory_bytes = kLayer,
                                           .parts = {.largest_bytes = kLayer / 4, .mean_bytes = kLayer / 4},
                                           .n_layers = 3,
                                           .rates = {.compute_bytes_per_s = 0, .disk_bytes_per_s = kLayer}});
  EXPECT_NEAR(period(uneven, 0, 2), 3.0, 1e-9);  // the disk's own time is longer
  EXPECT_NEAR(period(uneven, 0.8, 2), 2 * (1 + 2 * 0.8), 1e-9);
}

TEST(Rounds, TheOutputHeadIsAVisitWithTheFirstLayers) {
  // The head: a layer in each of two rounds, and an output head like 4, which comes with the first: visits of
  // 5 and 1. 2 of excess: slots for 1.5, 3.5 stream, 2.5 of them in the large visit.
  const std::vector<DeviceLoad> ring = {
      {.layers_bytes = 2 * kLayer,
       .output_bytes = 4 * kLayer,
       .memory_bytes = 4 * kLayer,
       .parts = {.largest_bytes = kLayer / 4, .mean_bytes = kLayer / 4},
       .n_layers = 2,
       .rates = {.compute_bytes_per_s = 0, .disk_bytes_per_s = kLayer}},
      {.layers_bytes = 6 * kLayer, .memory_bytes = 6 * kLayer, .parts = {}, .n_layers = 6, .rates = {}}};
  EXPECT_NEAR(period(ring, 0, 2), 3.5, 1e-9);
  EXPECT_NEAR(period(ring, 2, 2), 4 * 2 + (2.5 - 1.5), 1e-9);
}

TEST(Rounds, WhatWasNotMeasuredTakesNoTime) {
  std::vector<DeviceLoad> unknown = four(12);
  for (DeviceLoad& device : unknown) device.rates = {};
  EXPECT_NEAR(period(unknown, kHop, 3), 4 * 3 * kHop, 1e-9);
  EXPECT_EQ(best_rounds(unknown, kHop).rounds, 1U);
}

}  // namespace
}  // namespace hearth::plan
