// How a node's epochs get their weights, and how much memory there is for them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/os_memory.h"
#include "node/executor.h"
#include "residency/open_weights.h"
#include "residency/pin_registry.h"

namespace hearth::node {

// Of what a device lends, this much is left for everything that is not accounted to an epoch: pages of the
// program and its libraries (about 10 MB), messages, graphs, the kernel's own use of a control group.
inline constexpr std::uint64_t kMemoryReserve = std::uint64_t{24} << 20;
// And of each this many bytes one, for the page tables: 8 bytes for 4 KiB.
inline constexpr std::uint64_t kMappedPerTableByte = 512;

// Less is refused at the start, before the vocabulary is loaded, which alone may take more.
inline constexpr std::uint64_t kLeastMemory = std::uint64_t{48} << 20;

// Of what is available, one of so many bytes is left to other programs where the user does not say what to
// lend.
inline constexpr std::uint64_t kLeftFree = 16;

// What the system says is available, without what other hearths pinned, which it counts as free; 0: it does
// not say. Freed memory goes back to the system first.
[[nodiscard]] inline std::uint64_t memory_there() {
  give_back_freed_memory();
  const std::uint64_t usable = residency::PinRegistry().without_others(memory_status()).usable();
  return usable == kNoLimit ? 0 : std::max<std::uint64_t>(usable, 1);
}

// Memory for epochs, to be promised at the start. `asked`: what the user lends, this program included, as far
// as it is there; 0: what is available, but for a sixteenth.
[[nodiscard]] inline std::uint64_t memory_for_epochs(std::uint64_t asked) {
  const std::uint64_t there = memory_there(), own = process_memory().anonymous;
  // The kernel's own use of a control group, which is in the reserve, may make less of a lent group
  // available.
  const bool is_there = there == 0 || asked <= there + own + kMemoryReserve;
  const std::uint64_t all = asked == 0 ? there : is_there ? asked : there + own;
  const std::uint64_t taken =
      kMemoryReserve + all / kMappedPerTableByte + (asked == 0 ? there / kLeftFree : own);
  return all - std::min(all, taken);
}

// Of what was promised, what can be had when an epoch is loaded: other programs may have taken memory since.
[[nodiscard]] inline std::uint64_t memory_left(std::uint64_t promised) {
  const std::uint64_t there = memory_there();
  if (there == 0 || there >= promised) return promised;
  return there - std::min(there, kMemoryReserve);
}

[[nodiscard]] inline OpenWeights open_weights_with(const residency::WeightOptions& options) {
  return [options](const model::ModelFile& model, std::span<const model::SegmentId> segments,
                   ggml_backend_device* device, const residency::LoadOptions& load,
                   const residency::WeightUse& use) {
    return residency::open_weights(model, segments, device, load, use, options);
  };
}

}  // namespace hearth::node
