// StreamPlan: which parts of the weights stay in memory and which are fetched anew for each token, and in
// which buffers.
//
// One token reads every part once, in the same order: a cyclic scan. No cache that evicts by age hits
// anything then; the best is to keep a fixed set (the *pinned* parts) and to stream the rest through a few
// *slots*, while everything else is computed (docs/explanation/residency.md). The parts that are streamed are
// spread evenly over the order of use, so that the disk never rests.
//
// Parts have different sizes; what is limited is the memory of all slots together (SlotPool), not their
// number.
//
// Pure; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace hearth::residency {

struct StreamPlan {
  std::vector<bool> pinned;  // by part, in the order of use
  std::uint64_t pinned_bytes = 0;
  std::uint64_t streamed_bytes = 0;  // that each token reads
  std::uint64_t slots_bytes = 0;     // of all slots together; 0: nothing is streamed
  std::uint64_t page_bytes = 0;      // a part in a slot takes whole ones, see in_slot()
};

// What a part takes of the slots' memory.
[[nodiscard]] constexpr std::uint64_t in_slot(std::uint64_t part_bytes, std::uint64_t page_bytes) {
  return (part_bytes + page_bytes - 1) / page_bytes * page_bytes;
}

// `part_bytes`: sizes as stored, in the order of use. `budget_bytes`: for pins and slots together. `visits`:
// how many times the device is visited per token; plan::slots_wanted() says what that asks for.
// kOutOfMemory, with the numbers, when not even the least slots fit.
[[nodiscard]] Result<StreamPlan> plan_stream(std::span<const std::uint64_t> part_bytes,
                                             std::uint64_t budget_bytes, std::uint32_t visits);

}  // namespace hearth::residency
