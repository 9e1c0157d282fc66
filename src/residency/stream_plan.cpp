#include "residency/stream_plan.h"

#include <algorithm>
#include <numeric>

#include "base/units.h"
#include "plan/rounds.h"

namespace hearth::residency {
namespace {

// Slots consist of huge pages where these take at most 1 / kHugeDivisor more than the parts.
constexpr std::uint64_t kHugeDivisor = 10;
// More than 1 / kHoldDivisor of the memory is not spent on holding a whole layer.
constexpr std::uint64_t kHoldDivisor = 4;

std::uint64_t all_in_slots(std::span<const std::uint64_t> part_bytes, std::uint64_t page_bytes) {
  std::uint64_t all = 0;
  for (const std::uint64_t bytes : part_bytes) all += in_slot(bytes, page_bytes);
  return all;
}

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

// What the layer of which most is streamed takes of the slots.
std::uint64_t largest_layer(const StreamRequest& request, const StreamPlan& made) {
  std::uint64_t largest = 0;
  for (const StreamRequest::Parts& layer : request.layers) {
    std::uint64_t streamed = 0;
    for (std::size_t part = layer.begin; part < layer.end; ++part)
      if (!made.pinned[part]) streamed += in_slot(request.part_bytes[part], made.page_bytes);
    largest = std::max(largest, streamed);
  }
  return largest;
}

}  // namespace

Result<StreamPlan> plan_stream(const StreamRequest& request) {
  const std::span part_bytes = request.part_bytes;
  const std::uint64_t budget = request.budget_bytes;
  HEARTH_CHECK(!part_bytes.empty() && request.visits >= 1);
  const std::uint64_t total = std::reduce(part_bytes.begin(), part_bytes.end());
  StreamPlan made;
  if (total <= budget) {
    made.pinned.assign(part_bytes.size(), true);
    made.pinned_bytes = total;
    return made;
  }
  made.page_bytes = request.page_bytes;
  if (request.huge_page_bytes > 0 &&
      all_in_slots(part_bytes, request.huge_page_bytes) <= total + total / kHugeDivisor)
    made.page_bytes = request.huge_page_bytes;
  const std::uint64_t all = all_in_slots(part_bytes, made.page_bytes);
  const plan::PartSizes parts = {.largest_bytes = in_slot(std::ranges::max(part_bytes), made.page_bytes),
                                 .mean_bytes = all / part_bytes.size()};
  if (budget < plan::kLeastParts * parts.largest_bytes)
    return fail(ErrorCode::kOutOfMemory,
                "weights of {} have to pass through at least {} buffers of {}, there are {} for them; lend "
                "more memory (--memory), or give this device fewer layers",
                format_bytes(total), plan::kLeastParts, format_bytes(parts.largest_bytes),
                format_bytes(budget));
  // As much more as pages are larger than what is in them.
  const auto excess = static_cast<std::uint64_t>(static_cast<double>(total - budget) *
                                                 static_cast<double>(all) / static_cast<double>(total));
  std::uint64_t slots = plan::slots_wanted(excess, budget, parts, request.visits);
  // Larger slots mean fewer pins, and a little more of each layer is streamed.
  for (int attempt = 0; attempt < 4; ++attempt) {
    made.slots_bytes = slots / made.page_bytes * made.page_bytes;
    spread(part_bytes, total, budget - made.slots_bytes, made);
    const std::uint64_t layer = largest_layer(request, made);
    if (layer <= made.slots_bytes || layer > budget / kHoldDivisor) break;
    slots = layer;
  }
  return made;
}

}  // namespace hearth::residency
