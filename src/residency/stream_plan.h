// StreamPlan: which parts of the weights stay in memory and which are fetched anew for each token, and in
// which buffers.
//
// One token reads every part once, in the same order: a cyclic scan. No cache that evicts by age hits
// anything then; the best is to keep a fixed set (the *pinned* parts) and to stream the rest through a few
// *slots*, while everything else is computed (docs/explanation/residency.md). The parts that are streamed are
// spread evenly over the device's visits, so that none waits for more than the others, and in each over the
// order of use, so that the disk never rests.
//
// Parts have different sizes; what is limited is the memory of all slots together (SlotPool), not their
// number.
//
// Pure; any thread.
#pragma once

#include <cstddef>
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

struct StreamRequest {
  struct Parts {
    std::size_t begin = 0, end = 0;
  };
  std::span<const std::uint64_t> part_bytes;  // sizes as stored, in the order of use
  // Of each layer: its parts should fit the slots at once, so that a prompt's batches can be computed with it
  // one after another.
  std::span<const Parts> layers = {};
  std::uint64_t budget_bytes = 0;  // for pins and slots together
  // Of each part, in which visit of the device it is used, counted from 0 without gaps; empty: all in one.
  // plan::slots_wanted() says what that asks for.
  std::span<const std::uint32_t> visit_of = {};
  std::uint64_t page_bytes = 4096, huge_page_bytes = 0;  // the system's; 0: it has no huge ones
};

// kOutOfMemory, with the numbers, when not even the least slots fit.
[[nodiscard]] Result<StreamPlan> plan_stream(const StreamRequest& request);

// Which of the `pinned` parts to stream from now on, so that about `bytes` less stay in memory, at least one
// part: from the visits that stream least, spread over the order of use. Parts that are `held` stay.
[[nodiscard]] std::vector<std::size_t> pins_to_give_back(std::span<const std::uint64_t> part_bytes,
                                                         std::span<const std::uint32_t> visit_of,
                                                         const std::vector<bool>& pinned,
                                                         const std::vector<bool>& held, std::uint64_t bytes);

}  // namespace hearth::residency
