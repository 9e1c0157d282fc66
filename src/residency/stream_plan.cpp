#include "residency/stream_plan.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "base/units.h"
#include "plan/slots.h"

namespace hearth::residency {
namespace {

// Slots consist of huge pages where these take at most 1 / kHugeDivisor more than the parts.
constexpr std::uint64_t kHugeDivisor = 10;
// More than 1 / kHoldDivisor of the memory is not spent on holding a whole layer, unless that takes only a
// few parts.
constexpr std::uint64_t kHoldDivisor = 4, kFewParts = 6;

std::uint64_t all_in_slots(std::span<const std::uint64_t> part_bytes, std::uint64_t page_bytes) {
  std::uint64_t all = 0;
  for (const std::uint64_t bytes : part_bytes) all += in_slot(bytes, page_bytes);
  return all;
}

// The visit of a part; without a list there is one.
std::uint32_t visit_with(std::span<const std::uint32_t> visit_of, std::size_t part) {
  return visit_of.empty() ? 0 : visit_of[part];
}

// Bytes by visit, `of` each of n parts.
template <typename Of>
std::vector<std::uint64_t> by_visit(std::span<const std::uint32_t> visit_of, std::size_t n, Of of) {
  std::vector<std::uint64_t> bytes(visit_of.empty() ? 1 : std::size_t{std::ranges::max(visit_of)} + 1);
  for (std::size_t i = 0; i < n; ++i) bytes[visit_with(visit_of, i)] += of(i);
  return bytes;
}

// Chooses parts in their order: after each, the bytes chosen are as close as possible to the shares so far.
class EvenChoice {
 public:
  // Whether the next part is chosen, of which `share` should be; never one of which nothing should.
  bool next(double share, std::uint64_t bytes, bool must) {
    owed_ += share * static_cast<double>(bytes);
    if (!must && (share == 0 || owed_ < static_cast<double>(bytes) / 2)) return false;
    owed_ -= static_cast<double>(bytes);
    return true;
  }

 private:
  double owed_ = 0;  // bytes that should have been chosen and were not
};

// Pins about `keep` bytes, never more, so that visits stream equally much where they can, and streamed parts
// are spread evenly: after each part the bytes streamed so far are as close as possible to what the visits so
// far should stream.
void spread(const StreamRequest& request, std::uint64_t total, std::uint64_t keep, StreamPlan& made) {
  const std::span part_bytes = request.part_bytes;
  const std::span visit_of = request.visit_of;
  const std::vector<std::uint64_t> visit_bytes =
      by_visit(visit_of, part_bytes.size(), [&](std::size_t i) { return part_bytes[i]; });
  const double most = plan::most_per_visit(visit_bytes, total - keep);
  made.pinned.assign(part_bytes.size(), false);
  made.pinned_bytes = 0;
  EvenChoice streams_next;
  for (std::size_t i = 0; i < part_bytes.size(); ++i) {
    const double share = std::min(1.0, most / static_cast<double>(visit_bytes[visit_with(visit_of, i)]));
    made.pinned[i] = !streams_next.next(share, part_bytes[i], made.pinned_bytes + part_bytes[i] > keep);
    if (made.pinned[i]) made.pinned_bytes += part_bytes[i];
  }
  // What is left over still takes whole parts: of the visit that streams most, the largest first.
  std::vector<std::uint64_t> streams = by_visit(
      visit_of, part_bytes.size(), [&](std::size_t i) { return made.pinned[i] ? 0 : part_bytes[i]; });
  for (;;) {
    std::optional<std::size_t> best;
    for (std::size_t i = 0; i < part_bytes.size(); ++i) {
      if (made.pinned[i] || made.pinned_bytes + part_bytes[i] > keep) continue;
      const auto rank = [&](std::size_t part) {
        return std::pair(streams[visit_with(visit_of, part)], part_bytes[part]);
      };
      if (!best || rank(i) > rank(*best)) best = i;
    }
    if (!best) break;
    made.pinned[*best] = true;
    made.pinned_bytes += part_bytes[*best];
    streams[visit_with(visit_of, *best)] -= part_bytes[*best];
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
  const std::uint64_t largest = std::ranges::max(part_bytes);
  if (request.huge_page_bytes > 0 &&
      all_in_slots(part_bytes, request.huge_page_bytes) <= total + total / kHugeDivisor &&
      budget >= plan::kLeastParts * in_slot(largest, request.huge_page_bytes))
    made.page_bytes = request.huge_page_bytes;
  const std::uint64_t all = all_in_slots(part_bytes, made.page_bytes);
  const plan::PartSizes parts = {.largest_bytes = in_slot(largest, made.page_bytes),
                                 .mean_bytes = all / part_bytes.size()};
  if (budget < parts.least_slots())
    return fail(ErrorCode::kOutOfMemory,
                "weights of {} have to pass through at least {} buffers of {}, there are {} for them; lend "
                "more memory (--memory), or give this device fewer layers",
                format_bytes(total), plan::kLeastParts, format_bytes(parts.largest_bytes),
                format_bytes(budget));
  // As much more as pages are larger than what is in them.
  const auto excess = static_cast<std::uint64_t>(static_cast<double>(total - budget) *
                                                 static_cast<double>(all) / static_cast<double>(total));
  const std::vector<std::uint64_t> visit_bytes =
      by_visit(request.visit_of, part_bytes.size(),
               [&](std::size_t i) { return in_slot(part_bytes[i], made.page_bytes); });
  std::uint64_t slots = plan::slots_wanted(visit_bytes, excess, budget, parts);
  // Larger slots mean fewer pins, and a little more of each layer is streamed.
  for (int attempt = 0; attempt < 4; ++attempt) {
    made.slots_bytes = slots / made.page_bytes * made.page_bytes;
    spread(request, total, budget - made.slots_bytes, made);
    const std::uint64_t layer = largest_layer(request, made);
    const std::uint64_t most = std::max(budget / kHoldDivisor, kFewParts * parts.mean_bytes);
    if (layer <= made.slots_bytes || layer > std::min(most, budget)) break;
    slots = layer;
  }
  return made;
}

std::vector<std::size_t> pins_to_give_back(std::span<const std::uint64_t> part_bytes,
                                           std::span<const std::uint32_t> visit_of,
                                           const std::vector<bool>& pinned, const std::vector<bool>& held,
                                           std::uint64_t bytes) {
  const std::size_t n = part_bytes.size();
  HEARTH_CHECK(pinned.size() == n && held.size() == n);
  const auto may_go = [&](std::size_t i) { return pinned[i] && !held[i]; };
  const std::vector<std::uint64_t> streams =
      by_visit(visit_of, n, [&](std::size_t i) { return pinned[i] ? 0 : part_bytes[i]; });
  const std::vector<std::uint64_t> room =
      by_visit(visit_of, n, [&](std::size_t i) { return may_go(i) ? part_bytes[i] : 0; });
  // The level that all visits come to, but those that stream more already: these are left out one after
  // another.
  std::vector<std::size_t> below(streams.size());
  std::iota(below.begin(), below.end(), std::size_t{0});
  double level = 0;
  for (bool again = true; again && !below.empty();) {
    std::vector<std::uint64_t> most;
    std::uint64_t now = 0, more = 0;
    for (const std::size_t v : below) {
      most.push_back(streams[v] + room[v]);
      now += streams[v];
      more += room[v];
    }
    level = plan::most_per_visit(most, now + std::min(bytes, more));
    again = std::erase_if(below, [&](std::size_t v) { return static_cast<double>(streams[v]) > level; }) > 0;
  }
  std::vector<double> share(streams.size(), 0);  // of each visit's pins that should go
  for (const std::size_t v : below)
    if (room[v] > 0)
      share[v] = std::min(1.0, (level - static_cast<double>(streams[v])) / static_cast<double>(room[v]));
  std::vector<std::size_t> chosen;
  EvenChoice goes_next;
  std::optional<std::size_t> least;  // of the visit that streams least
  const auto streamed_with = [&](std::size_t part) { return streams[visit_with(visit_of, part)]; };
  for (std::size_t i = 0; i < n; ++i) {
    if (!may_go(i)) continue;
    if (!least || streamed_with(i) < streamed_with(*least)) least = i;
    if (goes_next.next(share[visit_with(visit_of, i)], part_bytes[i], false)) chosen.push_back(i);
  }
  if (chosen.empty() && least) chosen.push_back(*least);
  return chosen;
}

}  // namespace hearth::residency
