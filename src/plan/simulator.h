// Simulator: plays a ring through, unit by unit: what the formulas of the solvers leave out.
//
// A token passes the visits in their order, one device at a time. A device computes a visit's units one after
// the other; a unit that is not kept in memory must have come from its disk. The disk serves one unit at a
// time, first in, first out, in the order of use, into a slot as soon as one is free: the slot of a unit is
// free when the unit was computed with. So every time follows from earlier ones, and no queue of events is
// needed:
//
//     loaded(j)   = max(loaded(j - 1), computed(j - slots)) + disk(j)       j-th streamed unit of a device
//     computed(i) = max(computed(i - 1), loaded(i)) + compute(i)
//
// Pure; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hearth::plan {

struct SimUnit {
  double compute_s = 0;
  double disk_s = 0;  // 0: it is kept in memory
};

struct SimVisit {
  std::uint16_t device = 0;
  double hop_s = 0;  // to the next one, if that is another device
  std::vector<SimUnit> units;
};

// How a device reads what its memory does not hold.
enum class ReadAhead : std::uint8_t {
  kSlots,   // through slots, all the time: hearth
  kNone,    // when a unit is wanted: a page cache without read-ahead
  kWindow,  // all of the next visit, from the end of the one before: a page cache that is told
};

struct SimDevice {
  std::uint64_t slots = 0;  // units; kSlots only, > 0 where anything is read
  ReadAhead read_ahead = ReadAhead::kSlots;
};

struct SimResult {
  double period_s = 0;              // of a token, when the ring has found its rhythm
  std::vector<double> computing_s;  // [devices] in one period
  std::vector<double> waiting_s;    // [devices] in one period, for their disks
  double hops_s = 0;                // in one period
};

// One token's visits, at least one; tokens follow one another.
[[nodiscard]] SimResult simulate(std::span<const SimVisit> visits, std::span<const SimDevice> devices);

// `n` units, `streamed` of them from the disk, spread evenly.
[[nodiscard]] std::vector<SimUnit> spread_evenly(std::uint64_t n, std::uint64_t streamed,
                                                 const SimUnit& unit);

}  // namespace hearth::plan
