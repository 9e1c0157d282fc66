#include "plan/ring_order.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "base/result.h"

namespace hearth::plan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void check(const HopSeconds& hop_s) {
  HEARTH_CHECK(!hop_s.empty() && hop_s.size() <= std::numeric_limits<std::uint16_t>::max());
  for (std::size_t from = 0; from < hop_s.size(); ++from) {
    HEARTH_CHECK(hop_s[from].size() == hop_s.size(), "hop seconds are no square matrix");
    for (std::size_t to = 0; to < hop_s.size(); ++to) HEARTH_CHECK(from == to || hop_s[from][to] >= 0);
  }
}

RingOrder by_index(std::size_t n_devices) {
  RingOrder order(n_devices);
  std::iota(order.begin(), order.end(), std::uint16_t{0});
  return order;
}

RingOrder nearest_neighbour_ring(const HopSeconds& hop_s) {
  RingOrder order = by_index(hop_s.size());
  for (std::size_t i = 1; i < order.size(); ++i) {
    const auto& from = hop_s[order[i - 1]];
    const auto nearest =
        std::min_element(order.begin() + static_cast<std::ptrdiff_t>(i), order.end(),
                         [&](std::uint16_t a, std::uint16_t b) { return from[a] < from[b]; });
    std::swap(order[i], *nearest);
  }
  return order;
}

}  // namespace

double ring_s(const HopSeconds& hop_s, std::span<const std::uint16_t> order) {
  double sum_s = 0;
  if (order.size() < 2) return sum_s;
  for (std::size_t i = 0; i < order.size(); ++i) sum_s += hop_s[order[i]][order[(i + 1) % order.size()]];
  return sum_s;
}

RingOrder cheapest_ring(const HopSeconds& hop_s) {
  if (hop_s.size() <= kMostEnumerated) return enumerate_rings(hop_s);
  if (hop_s.size() <= kMostHeldKarp) return held_karp_ring(hop_s);
  return two_opt_ring(hop_s);
}

RingOrder enumerate_rings(const HopSeconds& hop_s) {
  check(hop_s);
  RingOrder order = by_index(hop_s.size()), best = order;
  double best_s = ring_s(hop_s, best);
  while (std::next_permutation(order.begin() + 1, order.end())) {
    if (const double sum_s = ring_s(hop_s, order); sum_s < best_s) {
      best_s = sum_s;
      best = order;
    }
  }
  return best;
}

// A path leaves the head, passes a set of the other devices and ends at one of them. The cheapest path to
// `to` through `set` extends the cheapest one to some `before` through the set without `to`. Device m > 0 is
// bit m - 1.
RingOrder held_karp_ring(const HopSeconds& hop_s) {
  check(hop_s);
  HEARTH_CHECK(hop_s.size() <= kMostHeldKarp);
  const std::size_t n = hop_s.size() - 1, n_sets = std::size_t{1} << n;
  if (n == 0) return {0};
  struct Path {
    double sum_s = kInfinity;
    std::uint16_t before = 0;
  };
  std::vector<Path> cheapest(n_sets * n);  // [set][to - 1]
  for (std::size_t set = 1; set < n_sets; ++set) {
    for (std::size_t to = 1; to <= n; ++to) {
      const std::size_t bit = std::size_t{1} << (to - 1);
      if ((set & bit) == 0) continue;
      Path& path = cheapest[set * n + to - 1];
      const std::size_t rest = set ^ bit;
      if (rest == 0) {
        path.sum_s = hop_s[0][to];
        continue;
      }
      path.before = static_cast<std::uint16_t>(std::countr_zero(rest) + 1);  // where all are infinite
      for (std::size_t before = 1; before <= n; ++before) {
        if ((rest >> (before - 1) & 1) == 0) continue;
        const double sum_s = cheapest[rest * n + before - 1].sum_s + hop_s[before][to];
        if (sum_s < path.sum_s) path = {sum_s, static_cast<std::uint16_t>(before)};
      }
    }
  }

  std::size_t set = n_sets - 1, last = 1;
  const auto closed_s = [&](std::size_t to) { return cheapest[set * n + to - 1].sum_s + hop_s[to][0]; };
  for (std::size_t to = 2; to <= n; ++to)
    if (closed_s(to) < closed_s(last)) last = to;
  RingOrder order(n + 1, 0);
  for (std::size_t i = n; i > 0; --i) {
    order[i] = static_cast<std::uint16_t>(last);
    const std::size_t before = cheapest[set * n + last - 1].before;
    set ^= std::size_t{1} << (last - 1);
    last = before;
  }
  return order;
}

RingOrder two_opt_ring(const HopSeconds& hop_s) {
  check(hop_s);
  RingOrder best = nearest_neighbour_ring(hop_s);
  double best_s = ring_s(hop_s, best);
  // Hops differ by direction, so a reversed stretch costs something else: the whole ring is summed. Less than
  // this is rounding, and could go on for ever.
  constexpr double kImprovement = 1e-12;
  for (bool improved = true; improved;) {
    improved = false;
    for (std::size_t begin = 1; begin + 1 < best.size(); ++begin) {
      for (std::size_t end = begin + 2; end <= best.size(); ++end) {
        RingOrder order = best;
        std::reverse(order.begin() + static_cast<std::ptrdiff_t>(begin),
                     order.begin() + static_cast<std::ptrdiff_t>(end));
        if (const double sum_s = ring_s(hop_s, order); sum_s < best_s * (1 - kImprovement)) {
          best_s = sum_s;
          best = std::move(order);
          improved = true;
        }
      }
    }
  }
  return best;
}

}  // namespace hearth::plan
