// The exact solver and brute force on the same questions, and what must hold of every best plan.
#include "plan/exact_solver.h"

#include <algorithm>
#include <chrono>
#include <format>
#include <iostream>
#include <random>

#include <gtest/gtest.h>

#include "plan/test_brute_force.h"
#include "plan/test_ring_cases.h"

namespace hearth::plan {
namespace {

TEST(ExactSolver, AgreesWithBruteForce) {
  std::mt19937 draw(7);
  int feasible = 0, rings = 0, streaming = 0, in_rounds = 0;
  for (int i = 0; i < 500; ++i) {
    const RingTerms terms = random_terms(draw, 3, i % 10 == 0 ? 12 : 7);
    const std::uint32_t rounds = 1 + up_to(draw, 4);
    SCOPED_TRACE(std::format("case {}, {} rounds: {}", i, rounds, text_of(terms)));
    const auto expected = brute_force(terms, rounds);
    const auto exact = solve_exactly(terms, rounds);
    ASSERT_EQ(exact.has_value(), expected.has_value());
    if (!expected) continue;
    expect_consistent(terms, *exact);
    EXPECT_NEAR(exact->period_s, *expected, 1e-9);
    ++feasible;
    rings += std::ranges::count_if(exact->shares, [](const auto& s) { return s.layers() > 0; }) > 1 ? 1 : 0;
    streaming += std::ranges::any_of(exact->shares, [](const auto& s) { return s.streamed > 0; }) ? 1 : 0;
    in_rounds += std::ranges::any_of(exact->shares, [](const auto& s) { return s.every_round; }) ? 1 : 0;
  }
  std::cout << std::format("{} of 500 feasible, {} rings, {} stream, {} in rounds\n", feasible, rings,
                           streaming, in_rounds);
  EXPECT_GT(feasible, 300);
  EXPECT_GT(rings, 100);
  EXPECT_GT(streaming, 100);
  EXPECT_GT(in_rounds, 0);
}

// Two devices with little memory and enough layers to be visited in every round.
TEST(ExactSolver, AgreesWithBruteForceInRounds) {
  std::mt19937 draw(8);
  int in_rounds = 0;
  for (int i = 0; i < 100; ++i) {
    RingTerms terms = random_terms(draw, 1, 8);
    terms.n_layer = 8;
    terms.units = 4;
    terms.kv_bytes = 0;
    terms.output_units = 0;
    terms.devices.resize(2, terms.devices[0]);
    for (DeviceTerms& device : terms.devices)
      device = {.cpu_s = between(draw, 0.005, 0.03),
                .disk_s = between(draw, 0.05, 0.2),
                .hop_s = between(draw, 0, 0.01),
                .ram_bytes = static_cast<std::uint64_t>(between(draw, 1.6, 3.2) * kLayer)};
    const std::uint32_t rounds = 3 + up_to(draw, 1);
    SCOPED_TRACE(std::format("case {}, {} rounds: {}", i, rounds, text_of(terms)));
    const auto expected = brute_force(terms, rounds);
    const auto exact = solve_exactly(terms, rounds);
    ASSERT_EQ(exact.has_value(), expected.has_value());
    if (!expected) continue;
    expect_consistent(terms, *exact);
    EXPECT_NEAR(exact->period_s, *expected, 1e-9);
    in_rounds += std::ranges::any_of(exact->shares, [](const auto& s) { return s.every_round; }) ? 1 : 0;
  }
  std::cout << in_rounds << " of 100 in rounds\n";
  EXPECT_GT(in_rounds, 30);
}

// More memory, a faster disk or processor, or a further device never makes the best plan worse.
TEST(ExactSolver, MoreNeverHurts) {
  std::mt19937 draw(11);
  int improved = 0;
  for (int i = 0; i < 300; ++i) {
    RingTerms terms = random_terms(draw, 4, 16);
    const std::uint32_t rounds = 1 + up_to(draw, 5);
    SCOPED_TRACE(std::format("case {}, {} rounds: {}", i, rounds, text_of(terms)));
    const auto before = solve_exactly(terms, rounds);
    DeviceTerms& device = terms.devices[up_to(draw, static_cast<std::uint32_t>(terms.devices.size()) - 1)];
    switch (i % 4) {
      case 0:
        device.ram_bytes += kLayer * (1 + up_to(draw, 3));
        break;
      case 1:
        device.disk_s *= between(draw, 0.2, 1);
        break;
      case 2:
        device.cpu_s *= between(draw, 0.2, 1);
        break;
      default:
        terms.devices.push_back(random_terms(draw, 1, 16).devices[0]);
    }
    const auto after = solve_exactly(terms, rounds);
    if (!before) continue;
    ASSERT_TRUE(after);
    EXPECT_LE(after->period_s, before->period_s * (1 + 1e-12));
    if (after->period_s < before->period_s) ++improved;
  }
  EXPECT_GT(improved, 30);
}

// One device at half of its memory: computing, or what is missing and the slots from the disk.
TEST(ExactSolver, OneDeviceReadsWhatIsMissing) {
  const RingTerms terms = {.n_layer = 20,
                           .units = 4,
                           .layer_bytes = kLayer,
                           .kv_bytes = 0,
                           .output_units = 0,
                           .output_s = 0,
                           .devices = {{.cpu_s = 0.015, .disk_s = 0.17, .ram_bytes = 10 * kLayer}}};
  const auto found = solve_exactly(terms, 1);
  ASSERT_TRUE(found);
  EXPECT_NEAR(found->period_s, (10 + 2 / 4.0) * 0.17, 1e-9);
  EXPECT_EQ(found->shares[0].slots, 2U);
}

// With one round disks do not overlap: each device takes the longer of computing and what it misses.
TEST(ExactSolver, OneRoundSumsTheDisks) {
  const RingTerms terms = {
      .n_layer = 80,
      .units = 4,
      .layer_bytes = kLayer,
      .kv_bytes = 0,
      .output_units = 0,
      .output_s = 0,
      .devices = std::vector<DeviceTerms>(
          4, {.cpu_s = 0.015, .disk_s = 0.17, .hop_s = 0.003, .ram_bytes = 12 * kLayer})};
  const auto one = solve_exactly(terms, 1), ten = solve_exactly(terms, 10);
  ASSERT_TRUE(one && ten);
  EXPECT_NEAR(one->period_s, 32 * 0.17 + 4 * 0.003, 0.02);
  // S = k E / (k - 1) + what a part of a layer costs.
  EXPECT_NEAR(ten->period_s, (8 * 10 / 9.0 + 10 / 9.0 / 4) * 0.17, 0.17 / 4);
}

TEST(ExactSolver, AWeakDeviceIsLeftOutUnlessMemoryNeedsIt) {
  RingTerms terms = {.n_layer = 24,
                     .units = 4,
                     .layer_bytes = kLayer,
                     .kv_bytes = 0,
                     .output_units = 0,
                     .output_s = 0,
                     .devices = {{.cpu_s = 0.01, .disk_s = 0.5, .hop_s = 0.003, .ram_bytes = 30 * kLayer},
                                 {.cpu_s = 0.1, .disk_s = 0.5, .hop_s = 0.05, .ram_bytes = 30 * kLayer}}};
  EXPECT_EQ(solve_exactly(terms, 1)->shares[1].layers(), 0U);
  terms.devices[0].ram_bytes = 12 * kLayer;
  EXPECT_EQ(solve_exactly(terms, 1)->shares[1].layers(), 12U);
}

TEST(ExactSolver, WhatFitsNowhereHasNoPlan) {
  RingTerms terms = {.n_layer = 4,
                     .units = 2,
                     .layer_bytes = kLayer,
                     .kv_bytes = kLayer,
                     .output_units = 0,
                     .output_s = 0,
                     .devices = {{.cpu_s = 0.01, .disk_s = 0.5, .ram_bytes = 3 * kLayer}}};
  EXPECT_FALSE(solve_exactly(terms, 1));
}

// 16 devices, 128 layers, every number of rounds. How long it takes is printed, not judged.
TEST(ExactSolver, ManyDevices) {
  std::mt19937 draw(3);
  RingTerms terms = {.n_layer = 128,
                     .units = 4,
                     .layer_bytes = kLayer,
                     .kv_bytes = kLayer / 20,
                     .output_units = 8,
                     .output_s = 0.01,
                     .devices = {}};
  for (int m = 0; m < 16; ++m)
    terms.devices.push_back({.cpu_s = between(draw, 0.005, 0.03),
                             .disk_s = between(draw, 0.05, 0.3),
                             .hop_s = between(draw, 0.0005, 0.005),
                             .ram_bytes = static_cast<std::uint64_t>(between(draw, 1, 8) * kLayer)});
  auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const auto best = solve_exactly_for_any(terms, 128);
  ASSERT_TRUE(best);
  std::cout << std::format("all k: {:.3f} s of solving, best k {}, {:.4f} s a token\n", seconds(),
                           best->rounds, best->period_s);
}

}  // namespace
}  // namespace hearth::plan
