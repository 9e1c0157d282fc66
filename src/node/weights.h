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

// What the system says of memory, without what other hearths pinned, which it counts as free. Freed memory
// goes back to the system first.
[[nodiscard]] inline MemoryStatus memory_there() {
  give_back_freed_memory();
  return residency::PinRegistry().without_others(memory_status());
}

// Memory for epochs, to be promised at the start. `asked`: what the user lends, this program included, as far
// as the machine and the control group have it; 0: what is available, but for a sixteenth.
[[nodiscard]] inline std::uint64_t memory_for_epochs(std::uint64_t asked) {
  const MemoryStatus there = memory_there();
  const std::uint64_t own = process_memory().anonymous;
  std::uint64_t all = asked;
  if (asked == 0)
    all = there.usable() == kNoLimit ? 0 : there.usable();
  else if (there.available != kNoLimit)
    // Of a control group the limit counts: what it has used, page cache and all, its statistics say late.
    all = std::min({asked, there.available + own, there.group_limit});
  const std::uint64_t taken =
      kMemoryReserve + all / kMappedPerTableByte + (asked == 0 ? all / kLeftFree : own);
  return all - std::min(all, taken);
}

// Of what was promised, what the machine has when an epoch is loaded: other programs may have taken memory
// since.
[[nodiscard]] inline std::uint64_t memory_left(std::uint64_t promised) {
  const std::uint64_t there = memory_there().available;
  return there == kNoLimit ? promised : std::min(promised, there - there / kMappedPerTableByte);
}

[[nodiscard]] inline OpenWeights open_weights_with(const residency::WeightOptions& options) {
  return [options](const model::ModelFile& model, std::span<const model::SegmentId> segments,
                   ggml_backend_device* device, const residency::LoadOptions& load,
                   const residency::WeightUse& use) {
    return residency::open_weights(model, segments, device, load, use, options);
  };
}

}  // namespace hearth::node
