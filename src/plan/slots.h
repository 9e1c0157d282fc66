// Through how much memory a device should stream the part of its weights that it reads from its disk for
// every token: the rule that residency follows and predictions use.
//
// With one visit per token a device's disk works only while the device computes, but for what fits its slots.
// With k visits it reads for the next one while the others compute; what one visit streams must fit its
// slots, and slots cost pins. docs/explanation/planner.md derives it.
//
// Pure; any thread. Bytes.
#pragma once

#include <cstdint>
#include <span>

namespace hearth::plan {

// Parts in the slots of a device that is visited once per token: a deeper buffer does not help, see above.
inline constexpr std::uint64_t kPartsOfOneVisit = 4;
// Fewer, and the disk waits for the computing or the computing for the disk.
inline constexpr std::uint64_t kLeastParts = 2;

// The pieces in which weights are read.
struct PartSizes {
  std::uint64_t largest_bytes = 0, mean_bytes = 0;  // > 0
  [[nodiscard]] std::uint64_t least_slots() const { return kLeastParts * largest_bytes; }
};

// `visit_bytes` below: of the weights that a device uses in each of its visits of one token, at least one.

// The most that a visit streams when all stream `streamed_bytes` together, at most their sum, as evenly as
// they can: what a visit has beyond that stays in memory.
[[nodiscard]] double most_per_visit(std::span<const std::uint64_t> visit_bytes, std::uint64_t streamed_bytes);

// Bytes of slots for a device with `excess_bytes` more weights than the `memory_bytes` for them. What is
// streamed, S = excess + slots, is as even over the visits as they allow, and the most that one streams fits
// the slots; one part more is being computed with, one more is being filled. With v equal visits that is
// slots = (excess + two parts) / (v - 1) + two parts. A visit that is larger than all others together cannot
// be evened out: then what the next smaller one streams. At least PartSizes::least_slots(), otherwise
// at most the memory.
[[nodiscard]] std::uint64_t slots_wanted(std::span<const std::uint64_t> visit_bytes,
                                         std::uint64_t excess_bytes, std::uint64_t memory_bytes,
                                         const PartSizes& parts);

}  // namespace hearth::plan
