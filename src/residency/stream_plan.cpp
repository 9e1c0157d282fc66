#include "residency/stream_plan.h"

#include <algorithm>
#include <numeric>

#include "base/units.h"
#include "plan/rounds.h"

namespace hearth::residency {
namespace {

// Pins about `keep` bytes, never more, so that streamed parts are spread evenly: after each part the bytes
// streamed so far are as close as possible to their share of the bytes so far.
void spread(std::span<const std::uint64_t> part_bytes, std::uint64_t total, std::uint64_t keep,
            StreamPlan& made) {
  const double share = 1.0 - static_cast<double>(keep) / static_cast<double>(total);
  made.pinned.assign(part_bytes.size(), false);
  made.pinned_bytes = 0;
  double owed = 0;  // bytes that should have been streamed and were not
  for (std::size_t i = 0; i < part_bytes.size(); ++i) {
    const auto bytes = static_cast<double>(part_bytes[i]);
    owed += share * bytes;
    if (owed >= bytes / 2 || made.pinned_bytes + part_bytes[i] > keep) {
      owed -= bytes;
    } else {
      made.pinned[i] = true;
      made.pinned_bytes += part_bytes[i];
    }
  }
  // What is left over still takes whole parts, the largest first.
  std::vector<std::size_t> order(part_bytes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](std::size_t i) { return part_bytes[i]; });
  for (const std::size_t i : order)
    if (!made.pinned[i] && made.pinned_bytes + part_bytes[i] <= keep) {
      made.pinned[i] = true;
      made.pinned_bytes += part_bytes[i];
    }
  made.streamed_bytes = total - made.pinned_bytes;
}

}  // namespace

Result<StreamPlan> plan_stream(std::span<const std::uint64_t> part_bytes, std::uint64_t budget_bytes,
                               std::uint32_t visits) {
  HEARTH_CHECK(!part_bytes.empty() && visits >= 1);
  const std::uint64_t total = std::reduce(part_bytes.begin(), part_bytes.end());
  StreamPlan made;
  if (total <= budget_bytes) {
    made.pinned.assign(part_bytes.size(), true);
    made.pinned_bytes = total;
    return made;
  }
  made.slot_bytes = *std::ranges::max_element(part_bytes);
  const std::uint64_t least = plan::kLeastSlots * made.slot_bytes;
  if (budget_bytes < least)
    return fail(ErrorCode::kOutOfMemory,
                "weights of {} have to pass through at least {} buffers of {}, there are {} for them; lend "
                "more memory "
                "(--memory), or give this device fewer layers",
                format_bytes(total), plan::kLeastSlots, format_bytes(made.slot_bytes),
                format_bytes(budget_bytes));
  const std::uint64_t slots = plan::slots_wanted(total - budget_bytes, made.slot_bytes, visits);
  const std::uint64_t most = budget_bytes / made.slot_bytes;
  made.n_slots = static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(slots, plan::kLeastSlots, std::min<std::uint64_t>(most, part_bytes.size())));
  spread(part_bytes, total, budget_bytes - made.slots_bytes(), made);
  return made;
}

}  // namespace hearth::residency
