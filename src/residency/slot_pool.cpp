#include "residency/slot_pool.h"

#include <algorithm>
#include <numeric>

#include "base/units.h"

namespace hearth::residency {
namespace {

// Addresses only.
constexpr std::uint64_t kSlotsPerMean = 3, kMoreSlots = 16;

}  // namespace

Result<SlotPool> SlotPool::make(const StreamPlan& plan, std::span<const std::uint64_t> part_bytes,
                                ggml_backend_device* device) {
  SlotPool pool;
  if (plan.slots_bytes == 0) return pool;
  pool.limit_ = plan.slots_bytes;
  pool.page_ = plan.page_bytes;
  pool.stride_ = pool.needed_bytes(std::ranges::max(part_bytes));
  // As many as there are parts in the memory, with many more small ones than usual.
  const std::uint64_t total = std::reduce(part_bytes.begin(), part_bytes.end());
  const std::uint64_t mean = std::max<std::uint64_t>(total / part_bytes.size(), 1);
  pool.slots_.resize(
      std::min<std::uint64_t>(kSlotsPerMean * (pool.limit_ / mean) + kMoreSlots, part_bytes.size()));
  // Huge pages: the disk gets few long segments of memory instead of one per page, twice as fast.
  const bool huge = pool.page_ >= AlignedBuffer::kHugePage;
  HEARTH_TRY(pool.memory_, AlignedBuffer::make(pool.stride_ * pool.slots_.size(),
                                               {.huge_pages = huge, .small_pages = !huge}));
  const auto bytes = pool.memory_.bytes();
  pool.buffer_.reset(ggml_backend_dev_buffer_from_host_ptr(device, bytes.data(), bytes.size(), bytes.size()));
  if (!pool.buffer_)
    return fail(ErrorCode::kOutOfMemory, "the device cannot use a buffer of {}", format_bytes(bytes.size()));
  return pool;
}

std::optional<std::size_t> SlotPool::take(std::uint64_t part_bytes) {
  const std::uint64_t needed = needed_bytes(part_bytes);
  HEARTH_CHECK(part_bytes > 0 && needed <= stride_);
  if (needed_ + needed > limit_) return std::nullopt;
  // The free slot whose memory fits best: the least that is enough, or else the most.
  Slot* best = nullptr;
  for (Slot& slot : slots_) {
    if (slot.part != 0) continue;
    const bool enough = slot.held >= needed;
    if (best == nullptr || (best->held >= needed ? enough && slot.held < best->held : slot.held > best->held))
      best = &slot;
  }
  if (best == nullptr) return std::nullopt;
  best->part = part_bytes;
  best->needed = needed;
  needed_ += needed;
  if (best->held < needed) {
    const std::uint64_t more = needed - best->held;
    if (held_ + more > limit_) shrink(held_ + more - limit_);
    best->held = needed;
    held_ += more;
  }
  return static_cast<std::size_t>(best - slots_.data());
}

void SlotPool::give_back(std::size_t slot) {
  needed_ -= slots_[slot].needed;
  slots_[slot].part = slots_[slot].needed = 0;
}

// Gives at least so much memory back that no part needs. There is as much: what is needed fits the limit.
void SlotPool::shrink(std::uint64_t bytes) {
  for (std::size_t i = 0; i < slots_.size() && bytes > 0; ++i) {
    Slot& slot = slots_[i];
    if (slot.held <= slot.needed) continue;
    const std::uint64_t less = std::min(slot.held - slot.needed, in_slot(bytes, page_));
    slot.held -= less;
    held_ -= less;
    memory_.discard(i * stride_ + slot.held, less);
    bytes -= std::min(bytes, less);
  }
}

std::span<std::uint8_t> SlotPool::bytes(std::size_t slot) const {
  return memory_.bytes().subspan(slot * stride_, slots_[slot].part);
}

}  // namespace hearth::residency
