#include "plan/rounds.h"

#include <algorithm>

#include "base/result.h"

namespace hearth::plan {
namespace {

// More rounds must be worth their hops, whose time is a guess before links are measured.
constexpr double kWorthIt = 0.99;

double seconds(double bytes, std::uint64_t bytes_per_s) {
  return bytes_per_s == 0 ? 0 : bytes / static_cast<double>(bytes_per_s);
}

}  // namespace

std::uint64_t slots_wanted(std::uint64_t excess_bytes, std::uint64_t memory_bytes, const PartSizes& parts,
                           std::uint32_t visits) {
  HEARTH_CHECK(parts.largest_bytes > 0 && parts.mean_bytes > 0 && visits >= 1);
  const std::uint64_t ahead = visits == 1 ? (kPartsOfOneVisit - 1) * parts.mean_bytes
                                          : excess_bytes / (visits - 1) + parts.mean_bytes;
  return std::max(kLeastParts * parts.largest_bytes, std::min(ahead + parts.largest_bytes, memory_bytes));
}

double token_period(std::span<const DeviceLoad> devices, double hop_s, std::uint32_t rounds) {
  HEARTH_CHECK(!devices.empty() && rounds >= 1);
  double in_turn = 0, slowest_disk = 0;
  for (const DeviceLoad& device : devices) {
    if (device.n_layers == 0) continue;
    const std::uint32_t visits = std::min(rounds, device.n_layers);
    double streamed = 0, slots = 0;
    if (device.streams()) {
      const std::uint64_t excess = device.weight_bytes - device.memory_bytes;
      slots = static_cast<double>(slots_wanted(excess, device.memory_bytes, device.parts, visits));
      streamed = std::min(static_cast<double>(excess) + slots, static_cast<double>(device.weight_bytes));
    }
    const double compute =
        seconds(static_cast<double>(device.weight_bytes), device.rates.compute_bytes_per_s);
    const auto visit = [&](std::uint32_t n_layers) {
      const double share = static_cast<double>(n_layers) / device.n_layers;
      return std::max(compute * share,
                      seconds(std::max(0.0, streamed * share - slots), device.rates.disk_bytes_per_s));
    };
    const std::uint32_t few = device.n_layers / visits, with_one_more = device.n_layers % visits;
    in_turn += (visits - with_one_more) * visit(few) + with_one_more * visit(few + 1) +
               visits * (devices.size() > 1 ? hop_s : 0);
    slowest_disk = std::max(slowest_disk, seconds(streamed, device.rates.disk_bytes_per_s));
  }
  return std::max(in_turn, slowest_disk);
}

Rounds best_rounds(std::span<const DeviceLoad> devices, double hop_s) {
  std::uint32_t most = 1;
  if (devices.size() > 1)
    for (const DeviceLoad& device : devices) most = std::max(most, device.n_layers);
  Rounds best = {.rounds = 1, .period_s = token_period(devices, hop_s, 1)};
  for (std::uint32_t rounds = 2; rounds <= most; ++rounds) {
    const double period = token_period(devices, hop_s, rounds);
    if (period < kWorthIt * best.period_s) best = {.rounds = rounds, .period_s = period};
  }
  return best;
}

}  // namespace hearth::plan
