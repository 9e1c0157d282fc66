// How a node's epochs get their weights, and how much memory there is for them.
#pragma once

#include <cstdint>

#include "base/os_memory.h"
#include "node/executor.h"
#include "residency/open_weights.h"

namespace hearth::node {

// Of what a device lends, this much is left for everything that is not accounted to an epoch: the program
// itself, messages, the kernel's own use of a control group.
inline constexpr std::uint64_t kMemoryReserve = std::uint64_t{48} << 20;

// Memory for epochs. `asked`: what the user lends, this program included; 0: what is available.
[[nodiscard]] inline std::uint64_t memory_for_epochs(std::uint64_t asked) {
  const std::uint64_t taken = kMemoryReserve + (asked == 0 ? 0 : process_memory().anonymous);
  const std::uint64_t all = asked == 0 ? available_memory() : asked;
  return all - std::min(all, taken);
}

[[nodiscard]] inline OpenWeights open_weights_with(const residency::WeightOptions& options) {
  return [options](const model::ModelFile& model, std::span<const model::SegmentId> segments,
                   ggml_backend_device* device, const residency::LoadOptions& load,
                   const residency::WeightUse& use) {
    return residency::open_weights(model, segments, device, load, use, options);
  };
}

}  // namespace hearth::node
