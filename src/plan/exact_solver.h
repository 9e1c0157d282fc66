// The best shares for a fixed number of rounds, exactly, by dynamic programming.
//
// The period is the longer of a sum over devices (their chains) and a maximum (their transfers). For a bound
// on the transfers each device has one best share per number of layers, and the best sum is a knapsack:
// O(devices * layers^2). That sum falls with the bound, so the bound where they meet is found by bisection
// over the finitely many transfers that shares can have.
//
// What a device streams at a given number of layers: visited once, the least that leaves two slots, since it
// waits no less for more. In every round a slot more is a unit more to read, and the less to wait: as many as
// the bound allows, until nothing is waited for.
//
// Pure; any thread.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "plan/ring_terms.h"

namespace hearth::plan {

struct Solution {
  double period_s = 0;
  std::uint32_t rounds = 1;
  std::vector<DeviceShare> shares;  // [terms.devices]
};

// Limits besides the period; infinite where nothing is asked.
struct Limits {
  // Of one device's work on one token, with its transfers: the period of a ring that is full of batches.
  double stage_s = std::numeric_limits<double>::infinity();
  std::vector<std::uint32_t> least_layers = {};  // by device; empty: none has to have any
  std::vector<std::uint32_t> most_layers = {};   // by device; empty: as many as there are
};

// The least period with `rounds` rounds; nullopt: memory does not hold the layers, or a limit is not kept.
[[nodiscard]] std::optional<Solution> solve_exactly(const RingTerms& terms, std::uint32_t rounds,
                                                    const Limits& limits = {});

// The best of 1 to `most_rounds` rounds, the fewest of equal ones.
[[nodiscard]] std::optional<Solution> solve_exactly_for_any(const RingTerms& terms, std::uint32_t most_rounds,
                                                            const Limits& limits = {});

}  // namespace hearth::plan
