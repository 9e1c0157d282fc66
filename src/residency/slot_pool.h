// SlotPool: buffers for parts of different sizes that together never hold more memory than a limit.
//
// Each slot has addresses for the largest part, but only the pages of what is in it: pages that a smaller
// part leaves over are given back when another slot needs them. So memory is limited, not the number of
// parts.
//
// Thread contract: the owner's lock for everything; bytes of a slot that was taken are the taker's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/os_pages.h"
#include "base/result.h"
#include "residency/ggml_tensors.h"
#include "residency/stream_plan.h"

struct ggml_backend_device;

namespace hearth::residency {

class SlotPool {
 public:
  // Slots for the parts that `plan` streams, of `part_bytes` each, or might stream later: any of them.
  // kOutOfMemory: no addresses, or the device cannot use them.
  [[nodiscard]] static Result<SlotPool> make(const StreamPlan& plan,
                                             std::span<const std::uint64_t> part_bytes,
                                             ggml_backend_device* device);

  // A slot for a part of so many bytes; nothing while others that are taken leave too little.
  [[nodiscard]] std::optional<std::size_t> take(std::uint64_t part_bytes);
  void give_back(std::size_t slot);

  // The part's bytes, in a slot that is taken.
  [[nodiscard]] std::span<std::uint8_t> bytes(std::size_t slot) const;
  // ggml's handle of all slots' memory.
  [[nodiscard]] ggml_backend_buffer* buffer() const { return buffer_.get(); }
  [[nodiscard]] std::size_t size() const { return slots_.size(); }
  // Of all slots, at most the limit: the plan's slots_bytes.
  [[nodiscard]] std::uint64_t held_bytes() const { return held_; }
  [[nodiscard]] std::uint64_t limit_bytes() const { return limit_; }
  // What a part takes of the limit.
  [[nodiscard]] std::uint64_t needed_bytes(std::uint64_t part_bytes) const {
    return in_slot(part_bytes, page_);
  }

 private:
  struct Slot {
    std::uint64_t part = 0;    // bytes of what is in it, 0: free
    std::uint64_t needed = 0;  // of memory for that
    std::uint64_t held = 0;    // of memory, from the slot's beginning; >= needed
  };
  void shrink(std::uint64_t bytes);

  std::uint64_t limit_ = 0, page_ = 1, stride_ = 0;
  std::uint64_t needed_ = 0, held_ = 0;  // sums over the slots
  std::vector<Slot> slots_;
  AlignedBuffer memory_;
  BufferPtr buffer_;
};

}  // namespace hearth::residency
