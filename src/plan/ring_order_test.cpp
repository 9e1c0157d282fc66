// The methods against each other and against trying every order; topologies whose best ring is known.
#include "plan/ring_order.h"

#include <algorithm>
#include <cmath>
#include <format>
#include <iostream>
#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hearth::plan {
namespace {

using testing::AnyOf;
using testing::ElementsAre;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

HopSeconds random_hops(std::mt19937& draw, std::size_t n_devices) {
  std::uniform_real_distribution<double> hop(0.0001, 0.02);
  HopSeconds hop_s(n_devices, std::vector<double>(n_devices, kInfinity));
  for (std::size_t from = 0; from < n_devices; ++from)
    for (std::size_t to = 0; to < n_devices; ++to)
      if (from != to) hop_s[from][to] = hop(draw);
  return hop_s;
}

// Hops between places on a line.
HopSeconds line(const std::vector<double>& places) {
  HopSeconds hop_s;
  for (const double from : places) {
    hop_s.emplace_back();
    for (const double to : places) hop_s.back().push_back(std::abs(from - to));
  }
  return hop_s;
}

void expect_each_device_once(const RingOrder& order, std::size_t n_devices) {
  ASSERT_EQ(order.size(), n_devices);
  EXPECT_EQ(order[0], 0);
  RingOrder sorted = order;
  std::ranges::sort(sorted);
  for (std::size_t m = 0; m < n_devices; ++m) EXPECT_EQ(sorted[m], m);
}

// The least sum from `at` through all devices not in `visited` back to the head: nothing of the methods is
// used.
double least_s(const HopSeconds& hop_s, std::size_t at, std::vector<bool>& visited, std::size_t n_left) {
  if (n_left == 0) return hop_s.size() > 1 ? hop_s[at][0] : 0;
  double least = kInfinity;
  for (std::size_t to = 1; to < hop_s.size(); ++to) {
    if (visited[to]) continue;
    visited[to] = true;
    least = std::min(least, hop_s[at][to] + least_s(hop_s, to, visited, n_left - 1));
    visited[to] = false;
  }
  return least;
}

TEST(RingOrder, ExactMethodsAgreeWithTryingEveryOrder) {
  std::mt19937 draw(5);
  for (int i = 0; i < 400; ++i) {
    const std::size_t n = 1 + static_cast<std::size_t>(i) % 8;
    const HopSeconds hop_s = random_hops(draw, n);
    std::vector<bool> visited(n);
    const double expected = least_s(hop_s, 0, visited, n - 1);
    for (const RingOrder& order : {enumerate_rings(hop_s), held_karp_ring(hop_s), cheapest_ring(hop_s)}) {
      expect_each_device_once(order, n);
      EXPECT_NEAR(ring_s(hop_s, order), expected, 1e-12) << "case " << i << ", " << n << " devices";
    }
  }
}

TEST(RingOrder, HeldKarpAgreesWithEnumerationBeyondEight) {
  std::mt19937 draw(6);
  for (int i = 0; i < 4; ++i) {
    const HopSeconds hop_s = random_hops(draw, 9);
    EXPECT_NEAR(ring_s(hop_s, held_karp_ring(hop_s)), ring_s(hop_s, enumerate_rings(hop_s)), 1e-12);
  }
}

TEST(RingOrder, OneAndTwoDevices) {
  EXPECT_THAT(cheapest_ring({{kInfinity}}), ElementsAre(0));
  EXPECT_THAT(held_karp_ring({{kInfinity}}), ElementsAre(0));
  EXPECT_THAT(two_opt_ring({{kInfinity}}), ElementsAre(0));
  EXPECT_EQ(ring_s({{5}}, RingOrder{0}), 0);
  const HopSeconds two = {{0, 1}, {2, 0}};
  for (const RingOrder& order : {cheapest_ring(two), held_karp_ring(two), two_opt_ring(two)})
    EXPECT_THAT(order, ElementsAre(0, 1));
  EXPECT_EQ(ring_s(two, RingOrder{0, 1}), 3);
}

TEST(RingOrder, DirectionCounts) {
  // Fast clockwise only.
  const HopSeconds hop_s = {{0, 9, 1, 9}, {1, 0, 9, 9}, {9, 9, 0, 1}, {9, 1, 9, 0}};
  EXPECT_THAT(cheapest_ring(hop_s), ElementsAre(0, 2, 3, 1));
  EXPECT_THAT(held_karp_ring(hop_s), ElementsAre(0, 2, 3, 1));
}

// Out along a line and back: twice its length, whatever the order of the devices on it.
TEST(RingOrder, ALineIsPassedTwice) {
  const std::vector<double> places = {2, 5, 0, 7, 1, 9, 4, 3, 8, 6, 12, 10, 11};
  for (std::size_t n = 2; n <= places.size(); ++n) {
    const std::vector<double> some(places.begin(), places.begin() + static_cast<std::ptrdiff_t>(n));
    const auto [low, high] = std::ranges::minmax(some);
    const HopSeconds hop_s = line(some);
    EXPECT_NEAR(ring_s(hop_s, cheapest_ring(hop_s)), 2 * (high - low), 1e-12) << n;
  }
  EXPECT_THAT(cheapest_ring(line({0, 3, 1, 2})), AnyOf(ElementsAre(0, 1, 3, 2), ElementsAre(0, 2, 3, 1),
                                                       ElementsAre(0, 2, 1, 3), ElementsAre(0, 3, 1, 2)));
}

// All through one router: every device's way to it is passed twice, so every order is as good as another.
TEST(RingOrder, InAStarEveryOrderCostsTheSame) {
  for (const std::size_t n : {4UZ, 12UZ, 20UZ}) {
    HopSeconds hop_s(n, std::vector<double>(n));
    double expected = 0;
    for (std::size_t from = 0; from < n; ++from) {
      expected += 2.0 * static_cast<double>(from + 1);
      for (std::size_t to = 0; to < n; ++to) hop_s[from][to] = static_cast<double>(from + 1 + to + 1);
    }
    const RingOrder order = cheapest_ring(hop_s);
    expect_each_device_once(order, n);
    EXPECT_NEAR(ring_s(hop_s, order), expected, 1e-9);
  }
}

// Two houses with a slow link between them: it is passed twice, no more.
TEST(RingOrder, ASlowLinkIsPassedTwice) {
  for (const std::size_t n : {6UZ, 14UZ, 24UZ}) {
    HopSeconds hop_s(n, std::vector<double>(n));
    for (std::size_t from = 0; from < n; ++from)
      for (std::size_t to = 0; to < n; ++to) hop_s[from][to] = from % 2 == to % 2 ? 0.001 : 0.1;
    EXPECT_NEAR(ring_s(hop_s, cheapest_ring(hop_s)), 2 * 0.1 + static_cast<double>(n - 2) * 0.001, 1e-9) << n;
  }
}

TEST(RingOrder, NoWayIsAvoidedOrKept) {
  // Only 0 -> 2 -> 1 -> 0 has a way for each hop.
  EXPECT_THAT(cheapest_ring({{0, kInfinity, 1}, {1, 0, kInfinity}, {kInfinity, 1, 0}}), ElementsAre(0, 2, 1));
  const HopSeconds none(12, std::vector<double>(12, kInfinity));
  expect_each_device_once(cheapest_ring(none), 12);
  EXPECT_EQ(ring_s(none, cheapest_ring(none)), kInfinity);
  const HopSeconds none_of_many(20, std::vector<double>(20, kInfinity));
  expect_each_device_once(cheapest_ring(none_of_many), 20);
}

// Not exact: how far off is printed. In the end reversing no stretch helps any more, and where links are
// alike in both directions it comes close to the best.
TEST(RingOrder, TwoOptIsAGoodOrder) {
  std::mt19937 draw(8);
  std::uniform_real_distribution<double> place(0, 1);
  double worst = 1;
  for (int i = 0; i < 100; ++i) {
    const std::size_t n = 12;
    std::vector<std::pair<double, double>> places(n);
    for (auto& [x, y] : places) {
      x = place(draw);
      y = place(draw);
    }
    HopSeconds hop_s(n, std::vector<double>(n));
    for (std::size_t from = 0; from < n; ++from)
      for (std::size_t to = 0; to < n; ++to)
        hop_s[from][to] =
            std::hypot(places[from].first - places[to].first, places[from].second - places[to].second);
    const RingOrder order = two_opt_ring(hop_s);
    expect_each_device_once(order, n);
    worst = std::max(worst, ring_s(hop_s, order) / ring_s(hop_s, held_karp_ring(hop_s)));
  }
  std::cout << std::format("2-opt on 12 places in a plane: at worst {:.3f} of the best ring\n", worst);
  EXPECT_LT(worst, 1.3);

  const HopSeconds hop_s = random_hops(draw, 30);
  const RingOrder order = cheapest_ring(hop_s);
  expect_each_device_once(order, 30);
  for (std::ptrdiff_t begin = 1; begin < 30; ++begin) {
    for (std::ptrdiff_t end = begin + 2; end <= 30; ++end) {
      RingOrder other = order;
      std::reverse(other.begin() + begin, other.begin() + end);
      EXPECT_GE(ring_s(hop_s, other), ring_s(hop_s, order) * (1 - 1e-9));
    }
  }
}

// Reversing would cost everything: that is the nearest neighbours' work.
TEST(RingOrder, ManyDevicesFollowAOneWayRing) {
  constexpr std::size_t kDevices = 20;
  HopSeconds hop_s(kDevices, std::vector<double>(kDevices, 1));
  RingOrder expected = {0};
  for (std::size_t i = 1; i < kDevices; ++i) expected.push_back(static_cast<std::uint16_t>(i * 7 % kDevices));
  for (std::size_t i = 0; i < kDevices; ++i) hop_s[expected[i]][expected[(i + 1) % kDevices]] = 0.001;
  EXPECT_EQ(cheapest_ring(hop_s), expected);
}

TEST(RingOrder, SixteenDevices) {
  std::mt19937 draw(9);
  const HopSeconds hop_s = random_hops(draw, kMostHeldKarp);
  const RingOrder best = cheapest_ring(hop_s);
  expect_each_device_once(best, kMostHeldKarp);
  EXPECT_LE(ring_s(hop_s, best), ring_s(hop_s, two_opt_ring(hop_s)) + 1e-12);
}

}  // namespace
}  // namespace hearth::plan
