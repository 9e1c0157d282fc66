#include "plan/slots.h"

#include <algorithm>
#include <vector>

#include "base/result.h"

namespace hearth::plan {
double most_per_visit(std::span<const std::uint64_t> visit_bytes, std::uint64_t streamed_bytes) {
  HEARTH_CHECK(!visit_bytes.empty());
  std::vector<std::uint64_t> ascending(visit_bytes.begin(), visit_bytes.end());
  std::ranges::sort(ascending);
  auto left = static_cast<double>(streamed_bytes);
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    const double even = left / static_cast<double>(ascending.size() - i);
    if (even <= static_cast<double>(ascending[i])) return even;
    left -= static_cast<double>(ascending[i]);
  }
  return static_cast<double>(ascending.back());
}

std::uint64_t slots_wanted(std::span<const std::uint64_t> visit_bytes, std::uint64_t excess_bytes,
                           std::uint64_t memory_bytes, const PartSizes& parts) {
  HEARTH_CHECK(parts.largest_bytes > 0 && parts.mean_bytes > 0 && !visit_bytes.empty());
  const std::uint64_t least = parts.least_slots();
  const auto within = [&](std::uint64_t slots) { return std::max(least, std::min(slots, memory_bytes)); };
  if (visit_bytes.size() == 1) return within((kPartsOfOneVisit - 1) * parts.mean_bytes + parts.largest_bytes);
  // The least c with the sum of min(w, c) = excess + slots, slots = c + in_use.
  const std::uint64_t in_use = parts.mean_bytes + parts.largest_bytes;
  std::vector<std::uint64_t> ascending(visit_bytes.begin(), visit_bytes.end());
  std::ranges::sort(ascending);
  std::uint64_t left = excess_bytes + in_use;  // without the visits that stream all they have
  std::uint64_t most = ascending[ascending.size() - 2];
  for (std::size_t i = 0; i + 1 < ascending.size(); ++i) {
    const std::uint64_t even = left / (ascending.size() - i - 1);
    if (even <= ascending[i]) {
      most = even;
      break;
    }
    left -= ascending[i];
  }
  return within(most + in_use);
}

}  // namespace hearth::plan
