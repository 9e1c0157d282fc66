#include "residency/stream_plan.h"

#include <algorithm>
#include <numeric>

#include "base/units.h"
#include "plan/rounds.h"

namespace hearth::residency {
namespace {

// Slots consist of huge pages where the largest part has several of them: what the last one of a part leaves
// over must be little.
constexpr std::uint64_t kHugePage = std::uint64_t{2} << 20, kSmallPage = 4096, kHugePagesOfLargest = 4;

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
  const std::uint64_t largest = *std::ranges::max_element(part_bytes);
  made.page_bytes = largest >= kHugePagesOfLargest * kHugePage ? kHugePage : kSmallPage;
  plan::PartSizes parts;
  std::uint64_t all = 0;
  for (const std::uint64_t bytes : part_bytes) all += in_slot(bytes, made.page_bytes);
  parts.largest_bytes = in_slot(largest, made.page_bytes);
  parts.mean_bytes = all / part_bytes.size();
  if (budget_bytes < plan::kLeastParts * parts.largest_bytes)
    return fail(ErrorCode::kOutOfMemory,
                "weights of {} have to pass through at least {} buffers of {}, there are {} for them; lend "
                "more memory (--memory), or give this device fewer layers",
                format_bytes(total), plan::kLeastParts, format_bytes(parts.largest_bytes),
                format_bytes(budget_bytes));
  made.slots_bytes = plan::slots_wanted(total - budget_bytes, budget_bytes, parts, visits) / made.page_bytes *
                     made.page_bytes;
  spread(part_bytes, total, budget_bytes - made.slots_bytes, made);
  return made;
}

}  // namespace hearth::residency
