// What is missing where nothing fits, in numbers and words: of each device, and what would make it fit.
//
// Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "plan/plan.h"
#include "plan/profiles.h"

namespace hearth::plan {

// What a device lacks for itself, with the smallest batches: buffers, and the least slots.
struct DeviceShortage {
  std::uint64_t needs_bytes = 0;
  std::uint64_t lacks_bytes = 0;  // 0: it lends more, and what is left holds KV cache
};

// Why nothing fits, not even streaming.
struct Shortage {
  std::vector<DeviceShortage> devices;  // as in the ring
  std::uint32_t n_layers = 0;           // of the model, whose KV cache there is memory for in one round
  // The least memory that makes it fit, if one device lends it, and which one; of the head what it lacks for
  // itself in any case. 0: in one round it does fit.
  std::uint64_t bytes = 0;
  std::size_t best_device = 0;
};

// `rounds`: whose tables each device keeps room for, 0: of one; `excluded` by device, or empty: not all.
[[nodiscard]] Shortage shortage_of(const RingProfile& ring, std::uint32_t rounds,
                                   const std::vector<bool>& excluded);

// No plan fits: kOutOfMemory; kInvalidArgument where every device is excluded.
[[nodiscard]] std::unexpected<Error> does_not_fit(const RingProfile& ring, std::uint32_t rounds,
                                                  const std::vector<bool>& excluded);

// kOutOfMemory: the first device of a plan by hand whose memory does not hold its share, even with the
// smallest batches.
[[nodiscard]] std::unexpected<Error> share_does_not_fit(const RingProfile& ring, const Plan& plan);

}  // namespace hearth::plan
