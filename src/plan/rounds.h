// How many rounds a ring should make when devices read a part of their weights from their disks for every
// token, and how many slots they should stream through.
//
// With one round a device's disk works only while the device computes, but for what fits its slots: disks
// do not overlap. With k rounds a device is visited k times per token and reads for the next visit while the
// others compute; what one visit streams must fit its slots, and slots cost pins. So more rounds mean fewer
// bytes in slots, more pins and more hops, and one round count is the best.
//
// Pure; any thread. Bytes and seconds.
#pragma once

#include <cstdint>
#include <span>

#include "plan/plan.h"

namespace hearth::plan {

// What a device does with weights for one token; 0: not measured, then that part of it takes no time.
struct DeviceRates {
  std::uint64_t compute_bytes_per_s = 0;
  std::uint64_t disk_bytes_per_s = 0;
  friend bool operator==(const DeviceRates&, const DeviceRates&) = default;
};

// The pieces in which weights are read.
struct PartSizes {
  std::uint64_t largest_bytes = 0, mean_bytes = 0;  // > 0
};

// Parts in the slots of a device that is visited once per token: a deeper buffer does not help, see above.
inline constexpr std::uint64_t kPartsOfOneVisit = 4;
// Fewer, and the disk waits for the computing or the computing for the disk.
inline constexpr std::uint64_t kLeastParts = 2;

// `visit_bytes` below: of the weights that a device uses in each of its visits of one token, at least one.

// The most that a visit streams when all stream `streamed_bytes` together, at most their sum, as evenly as
// they can: what a visit has beyond that stays in memory.
[[nodiscard]] double most_per_visit(std::span<const std::uint64_t> visit_bytes, std::uint64_t streamed_bytes);

// Bytes of slots for a device with `excess_bytes` more weights than the `memory_bytes` for them. What is
// streamed, S = excess + slots, is as even over the visits as they allow, and the most that one streams fits
// the slots; one part more is being computed with, one more is being filled. With v equal visits that is
// slots = (excess + two parts) / (v - 1) + two parts. A visit that is larger than all others together cannot
// be evened out: then what the next smaller one streams. At least kLeastParts of the largest part, otherwise
// at most the memory.
[[nodiscard]] std::uint64_t slots_wanted(std::span<const std::uint64_t> visit_bytes,
                                         std::uint64_t excess_bytes, std::uint64_t memory_bytes,
                                         const PartSizes& parts);

// One device's share of a token.
struct DeviceLoad {
  std::uint64_t layers_bytes = 0;  // of the weights of its layers
  std::uint64_t output_bytes = 0;  // of the output head, on the head: used after the last layer
  std::uint64_t memory_bytes = 0;  // for pins and slots
  PartSizes parts;
  std::uint32_t n_layers = 0;
  DeviceRates rates;
  [[nodiscard]] std::uint64_t weight_bytes() const { return layers_bytes + output_bytes; }
  [[nodiscard]] bool streams() const { return weight_bytes() > memory_bytes; }
};

// Seconds per token when devices make `steps` in turn. A visit takes the computing with its weights, or the
// disk's time for what of their streamed bytes the slots do not hold when it begins, whichever is longer; a
// disk reads as long as its slots have room, also while other devices compute. Some tokens are played
// through.
[[nodiscard]] double token_period(std::span<const DeviceLoad> devices, std::span<const Step> steps,
                                  double hop_s);

struct Rounds {
  std::uint32_t rounds = 1;
  double period_s = 0;
};
// The best number of rounds, the least of about equal ones (within 1 %), at most as many as the device with
// the most layers has layers; layers are laid out over them by lay_out().
[[nodiscard]] Rounds best_rounds(std::span<const DeviceLoad> devices, double hop_s);

}  // namespace hearth::plan
