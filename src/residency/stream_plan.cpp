#include "residency/stream_plan.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

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

std::uint32_t visit_with(const StreamRequest& request, std::size_t part) {
  return request.visit_of.empty() ? 0 : request.visit_of[part];
}

// Bytes by visit, `of` each part.
template <typename Of>
std::vector<std::uint64_t> by_visit(const StreamRequest& request, Of of) {
  std::vector<std::uint64_t> bytes(
      request.visit_of.empty() ? 1 : std::size_t{std::ranges::max(request.visit_of)} + 1);
  for (std::size_t i = 0; i < request.part_bytes.size(); ++i) bytes[visit_with(request, i)] += of(i);
  return bytes;
}

// Pins about `keep` bytes, never more, so that visits stream equally much where they can, and streamed parts
// are spread evenly: after each part the bytes streamed so far are as close as possible to what the visits so
// far should stream.
void spread(const StreamRequest& request, std::uint64_t total, std::uint64_t keep, StreamPlan& made) {
  const std::span part_bytes = request.part_bytes;
  const std::vector<std::uint64_t> visit_bytes =
      by_visit(request, [&](std::size_t i) { return part_bytes[i]; });
  const double most = plan::most_per_visit(visit_bytes, total - keep);
  made.pinned.assign(part_bytes.size(), false);
  made.pinned_bytes = 0;
  double owed = 0;  // bytes that should have been streamed and were not
  for (std::size_t i = 0; i < part_bytes.size(); ++i) {
    const auto bytes = static_cast<double>(part_bytes[i]);
    const auto of_visit = static_cast<double>(visit_bytes[visit_with(request, i)]);
    owed += std::min(1.0, most / of_visit) * bytes;
    if (owed >= bytes / 2 || made.pinned_bytes + part_bytes[i] > keep) {
      owed -= bytes;
    } else {
      made.pinned[i] = true;
      made.pinned_bytes += part_bytes[i];
    }
  }
  // What is left over still takes whole parts: of the visit that streams most, the largest first.
  std::vector<std::uint64_t> streams =
      by_visit(request, [&](std::size_t i) { return made.pinned[i] ? 0 : part_bytes[i]; });
  for (;;) {
    std::optional<std::size_t> best;
    for (std::size_t i = 0; i < part_bytes.size(); ++i) {
      if (made.pinned[i] || made.pinned_bytes + part_bytes[i] > keep) continue;
      const auto rank = [&](std::size_t part) {
        return std::pair(streams[visit_with(request, part)], part_bytes[part]);
      };
      if (!best || rank(i) > rank(*best)) best = i;
    }
    if (!best) break;
    made.pinned[*best] = true;
    made.pinned_bytes += part_bytes[*best];
    streams[visit_with(request, *best)] -= part_bytes[*best];
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
  HEARTH_CHECK(!part_bytes.empty() &&
               (request.visit_of.empty() || request.visit_of.size() == part_bytes.size()));
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
  const std::vector<std::uint64_t> visit_bytes =
      by_visit(request, [&](std::size_t i) { return in_slot(part_bytes[i], made.page_bytes); });
  std::uint64_t slots = plan::slots_wanted(visit_bytes, excess, budget, parts);
  // Larger slots mean fewer pins, and a little more of each layer is streamed.
  for (int attempt = 0; attempt < 4; ++attempt) {
    made.slots_bytes = slots / made.page_bytes * made.page_bytes;
    spread(request, total, budget - made.slots_bytes, made);
    const std::uint64_t layer = largest_layer(request, made);
    if (layer <= made.slots_bytes || layer > budget / kHoldDivisor) break;
    slots = layer;
  }
  return made;
}

}  // namespace hearth::residency
