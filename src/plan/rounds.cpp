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

// A device comes to its turn.
struct Visit {
  std::size_t device = 0;
  std::uint64_t bytes = 0;  // of the weights that it uses then
};

// One token's. The head's output and the layers it begins the next token with are one visit.
std::vector<Visit> visits_of(std::span<const DeviceLoad> devices, std::uint64_t rounds) {
  std::vector<Visit> visits;
  const auto add = [&](std::size_t device, std::uint64_t bytes) {
    if (bytes == 0) return;
    if (!visits.empty() && visits.back().device == device)
      visits.back().bytes += bytes;
    else
      visits.push_back({device, bytes});
  };
  for (std::uint64_t round = 0; round < rounds; ++round)
    for (std::size_t m = 0; m < devices.size(); ++m) {
      const DeviceLoad& device = devices[m];
      const std::uint64_t layers = device.n_layers * (round + 1) / rounds - device.n_layers * round / rounds;
      if (layers > 0) add(m, layers * device.layers_bytes / device.n_layers);
    }
  add(0, devices[0].output_bytes);
  if (visits.size() > 1 && visits.front().device == visits.back().device) {
    visits.front().bytes += visits.back().bytes;
    visits.pop_back();
  }
  return visits;
}

// A device in the course of tokens. Seconds are its disk's.
struct Stream {
  double slots_s = 0;   // for what its slots hold
  double most_s = 0;    // for the most that a visit streams
  double filled_s = 0;  // for what of the next visits they hold at `since`
  double since = 0;
  DeviceRates rates;

  // Comes at `now`; when it is done. The disk goes on while there is room, during the visit too.
  double visit(std::uint64_t bytes, double now) {
    const double disk_s = std::min(most_s, seconds(static_cast<double>(bytes), rates.disk_bytes_per_s));
    const double compute_s = seconds(static_cast<double>(bytes), rates.compute_bytes_per_s);
    filled_s = std::min(slots_s, filled_s + now - since);
    const double takes = std::max(compute_s, disk_s - filled_s);
    filled_s = std::min(slots_s, filled_s + takes - disk_s);
    since = now + takes;
    return since;
  }
};

Stream stream_of(const DeviceLoad& device, std::span<const std::uint64_t> visit_bytes) {
  Stream stream = {.rates = device.rates};
  if (!device.streams() || visit_bytes.empty()) return stream;
  const std::uint64_t excess = device.weight_bytes() - device.memory_bytes;
  const std::uint64_t slots = slots_wanted(visit_bytes, excess, device.memory_bytes, device.parts);
  stream.slots_s = seconds(static_cast<double>(slots), device.rates.disk_bytes_per_s);
  stream.most_s = seconds(most_per_visit(visit_bytes, std::min(excess + slots, device.weight_bytes())),
                          device.rates.disk_bytes_per_s);
  return stream;
}

}  // namespace

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
  const std::uint64_t least = kLeastParts * parts.largest_bytes;
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

double token_period(std::span<const DeviceLoad> devices, double hop_s, std::uint32_t rounds) {
  HEARTH_CHECK(!devices.empty() && rounds >= 1);
  const std::vector<Visit> visits = visits_of(devices, rounds);
  std::vector<Stream> streams;
  for (std::size_t m = 0; m < devices.size(); ++m) {
    std::vector<std::uint64_t> bytes;
    for (const Visit& visit : visits)
      if (visit.device == m) bytes.push_back(visit.bytes);
    streams.push_back(stream_of(devices[m], bytes));
  }
  const double hop = visits.size() > 1 ? hop_s : 0;
  double now = 0, begin = 0;
  for (std::uint32_t token = 0; token < kWarmUp + kMeasured; ++token) {
    if (token == kWarmUp) begin = now;
    for (const Visit& visit : visits) now = streams[visit.device].visit(visit.bytes, now) + hop;
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
