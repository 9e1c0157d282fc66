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

// Memory for an epoch, now. `asked`: what the user lends, this program included, but never more than is
// available; 0: what is available, but for a sixteenth. Freed memory goes back to the system first.
[[nodiscard]] inline std::uint64_t memory_for_epochs(std::uint64_t asked) {
  give_back_freed_memory();
  // 0: the system does not say. It counts what other hearths pinned as free.
  const std::uint64_t usable = residency::PinRegistry().without_others(memory_status()).usable();
  const std::uint64_t there = usable == kNoLimit ? 0 : std::max<std::uint64_t>(usable, 1);
  const std::uint64_t all = asked == 0 ? there : asked;
  const std::uint64_t taken = kMemoryReserve + all / kMappedPerTableByte +
                              (asked == 0 ? there / kLeftFree : process_memory().anonymous);
  const std::uint64_t left = all - std::min(all, taken);
  return there == 0 ? left : std::min(left, there);
}

[[nodiscard]] inline OpenWeights open_weights_with(const residency::WeightOptions& options) {
  return [options](const model::ModelFile& model, std::span<const model::SegmentId> segments,
                   ggml_backend_device* device, const residency::LoadOptions& load,
                   const residency::WeightUse& use) {
    return residency::open_weights(model, segments, device, load, use, options);
  };
}

}  // namespace hearth::node
