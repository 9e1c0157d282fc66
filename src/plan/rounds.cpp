#include "plan/rounds.h"

#include <algorithm>
#include <vector>

#include "base/result.h"

namespace hearth::plan {
namespace {

// More rounds must be worth their hops, whose time is a guess before links are measured.
constexpr double kWorthIt = 0.99;

// Tokens until the ring has found its rhythm, and tokens whose mean counts.
constexpr std::uint32_t kWarmUp = 6, kMeasured = 6;

double seconds(double bytes, std::uint64_t bytes_per_s) {
  return bytes_per_s == 0 ? 0 : bytes / static_cast<double>(bytes_per_s);
}

// A device in the course of tokens.
struct Stream {
  std::uint32_t visits = 1, n_layers = 0;
  double compute_s = 0;  // of all its layers
  double disk_s = 0;     // for what it streams of all its layers
  double slots_s = 0;    // for what its slots hold
  double filled_s = 0;   // for what of the next visits they hold at `since`
  double since = 0;

  // Comes at `now`; when it is done. The disk goes on while there is room, during the visit too.
  double visit(std::uint32_t round, double now) {
    const std::uint32_t layers = n_layers / visits + (round < n_layers % visits ? 1 : 0);
    const double share = static_cast<double>(layers) / n_layers;
    filled_s = std::min(slots_s, filled_s + now - since);
    const double takes = std::max(compute_s * share, disk_s * share - filled_s);
    filled_s = std::min(slots_s, filled_s + takes - disk_s * share);
    since = now + takes;
    return since;
  }
};

Stream stream_of(const DeviceLoad& device, std::uint32_t rounds) {
  const double weights = static_cast<double>(device.weight_bytes);
  Stream stream = {.visits = std::min(rounds, device.n_layers),
                   .n_layers = device.n_layers,
                   .compute_s = seconds(weights, device.rates.compute_bytes_per_s)};
  if (device.streams()) {
    const std::uint64_t excess = device.weight_bytes - device.memory_bytes;
    const auto slots =
        static_cast<double>(slots_wanted(excess, device.memory_bytes, device.parts, stream.visits));
    stream.slots_s = seconds(slots, device.rates.disk_bytes_per_s);
    stream.disk_s =
        seconds(std::min(static_cast<double>(excess) + slots, weights), device.rates.disk_bytes_per_s);
  }
  return stream;
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
  std::vector<Stream> streams;
  for (const DeviceLoad& device : devices)
    if (device.n_layers > 0) streams.push_back(stream_of(device, rounds));
  const double hop = devices.size() > 1 ? hop_s : 0;
  double now = 0, begin = 0;
  for (std::uint32_t token = 0; token < kWarmUp + kMeasured; ++token) {
    if (token == kWarmUp) begin = now;
    for (std::uint32_t round = 0; round < rounds; ++round)
      for (Stream& device : streams)
        if (round < device.visits) now = device.visit(round, now) + hop;
  }
  return (now - begin) / kMeasured;
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
