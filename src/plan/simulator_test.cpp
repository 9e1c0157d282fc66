// Against numbers worked out by hand, and the published simulation of four equal devices with 80 layers, 15
// ms of computing and 170 ms of disk per layer, and 3 ms a hop (docs/explanation/planner.md).
#include "plan/simulator.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace hearth::plan {
namespace {

constexpr double kCompute = 0.015, kDisk = 0.17, kHop = 0.003;
constexpr std::uint64_t kDevices = 4, kLayers = 20;  // of each device

// `memory` layers of 1/`units` each; `rounds` rounds; B slots. Streamed layers are spread evenly over visits.
double pinned(std::uint64_t memory, std::uint64_t rounds, std::uint64_t slots, std::uint64_t units) {
  const std::uint64_t all = kLayers * units, streamed = std::min(all, all - memory * units + slots);
  if (slots >= memory * units) return std::numeric_limits<double>::infinity();
  const auto parts = static_cast<double>(units);
  const std::vector<SimUnit> own = spread_evenly(all, streamed, {kCompute / parts, kDisk / parts});
  std::vector<SimVisit> visits;
  for (std::uint64_t round = 0; round < rounds; ++round)
    for (std::uint64_t m = 0; m < kDevices; ++m)
      visits.push_back({.device = static_cast<std::uint16_t>(m),
                        .hop_s = kHop,
                        .units = {own.begin() + static_cast<std::ptrdiff_t>(all * round / rounds),
                                  own.begin() + static_cast<std::ptrdiff_t>(all * (round + 1) / rounds)}});
  return simulate(visits, std::vector<SimDevice>(kDevices, {.slots = slots})).period_s;
}

double best_pinned(std::uint64_t memory, std::uint64_t rounds, std::uint64_t units) {
  double best = std::numeric_limits<double>::infinity();
  for (std::uint64_t slots = 1; slots < memory * units; ++slots)
    best = std::min(best, pinned(memory, rounds, slots, units));
  return best;
}

double lru(std::uint64_t rounds, ReadAhead read_ahead) {
  const std::vector<SimUnit> window(kLayers / rounds, {kCompute, kDisk});
  std::vector<SimVisit> visits;
  for (std::uint64_t round = 0; round < rounds; ++round)
    for (std::uint64_t m = 0; m < kDevices; ++m)
      visits.push_back({.device = static_cast<std::uint16_t>(m), .hop_s = kHop, .units = window});
  return simulate(visits, std::vector<SimDevice>(kDevices, {.slots = 0, .read_ahead = read_ahead})).period_s;
}

// The table: seconds per token at 90, 60 and 25 % of the memory.
TEST(Simulator, MatchesThePublishedTable) {
  const double within = 0.03;
  struct Row {
    std::uint64_t memory;  // layers
    double one, best;
    std::uint64_t rounds;
    double lru_prefetch;
  };
  for (const Row& row :
       {Row{18, 1.61, 1.22, 2, 3.43}, Row{12, 5.57, 1.70, 5, 3.43}, Row{5, 10.3, 2.89, 10, 3.46}}) {
    SCOPED_TRACE(row.memory);
    EXPECT_NEAR(best_pinned(row.memory, 1, 1), row.one, within * row.one);
    EXPECT_NEAR(best_pinned(row.memory, row.rounds, 1), row.best, within * row.best);
    EXPECT_NEAR(lru(1, ReadAhead::kNone), 14.8, within * 14.8);
    double best = std::numeric_limits<double>::infinity();
    for (const std::uint64_t rounds : {1, 2, 4, 5, 10, 20})
      if (kLayers / rounds <= row.memory) best = std::min(best, lru(rounds, ReadAhead::kWindow));
    EXPECT_NEAR(best, row.lru_prefetch, within * row.lru_prefetch);
  }
  EXPECT_NEAR(best_pinned(12, 10, 4), 1.57, within * 1.57) << "slots of a quarter layer";
}

TEST(Simulator, CountsWhatEverybodyDoes) {
  // A computes 1 s; B has 2 units of 1 s, the second from its disk in 3 s, one slot: it is read again as soon
  // as it was used, and comes 3 s later, while A works 1 s and B's first unit 1 s: B waits 1 - 2 * 0.25 s of
  // hops.
  const std::vector<SimVisit> visits = {{.device = 0, .hop_s = 0.25, .units = {{1, 0}}},
                                        {.device = 1, .hop_s = 0.25, .units = {{1, 0}, {1, 3}}}};
  const std::vector<SimDevice> devices = {{.slots = 0}, {.slots = 1}};
  const SimResult result = simulate(visits, devices);
  EXPECT_DOUBLE_EQ(result.period_s, 1 + 1 + 1 + 0.5 + 0.5);
  EXPECT_DOUBLE_EQ(result.computing_s[0], 1);
  EXPECT_DOUBLE_EQ(result.computing_s[1], 2);
  EXPECT_DOUBLE_EQ(result.waiting_s[1], 0.5);
  EXPECT_DOUBLE_EQ(result.hops_s, 0.5);
}

TEST(Simulator, SpreadsEvenly) {
  const auto from_disk = [](std::uint64_t n, std::uint64_t streamed) {
    std::string text;
    for (const SimUnit& unit : spread_evenly(n, streamed, {1, 1})) text += unit.disk_s > 0 ? 'd' : '.';
    return text;
  };
  EXPECT_EQ(from_disk(6, 0), "......");
  EXPECT_EQ(from_disk(6, 2), "..d..d");
  EXPECT_EQ(from_disk(6, 6), "dddddd");
  EXPECT_EQ(from_disk(5, 3), ".d.dd");
}

}  // namespace
}  // namespace hearth::plan
