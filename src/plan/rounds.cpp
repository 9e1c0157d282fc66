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
  std::uint16_t device = 0;
  std::uint32_t number = 0;  // among the device's
  std::uint64_t bytes = 0;   // of the weights that it uses then
};

// One token's, in the order of their first steps.
std::vector<Visit> visits_of(std::span<const DeviceLoad> devices, std::span<const Step> steps) {
  std::vector<std::uint16_t> device_of_step;
  for (const Step& step : steps) device_of_step.push_back(step.device);
  const Visits numbers = plan::visits_of(device_of_step);
  std::vector<Visit> visits;
  const auto add = [&](std::uint16_t device, std::uint32_t number, std::uint64_t bytes) {
    const auto same = std::ranges::find_if(
        visits, [&](const Visit& visit) { return visit.device == device && visit.number == number; });
    if (same == visits.end())
      visits.push_back({device, number, bytes});
    else
      same->bytes += bytes;
  };
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const DeviceLoad& device = devices[steps[i].device];
    add(steps[i].device, numbers.of_step[i], steps[i].layers.size() * device.layers_bytes / device.n_layers);
  }
  if (devices[0].output_bytes > 0) add(0, numbers.of_output, devices[0].output_bytes);
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

double token_period(std::span<const DeviceLoad> devices, std::span<const Step> steps, double hop_s) {
  HEARTH_CHECK(!devices.empty());
  const std::vector<Visit> visits = visits_of(devices, steps);
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
  std::vector<std::uint32_t> counts;
  for (const DeviceLoad& device : devices) counts.push_back(device.n_layers);
  const auto period = [&](std::uint32_t rounds) {
    return token_period(devices, lay_out(counts, rounds), hop_s);
  };
  const std::uint32_t most = devices.size() == 1 ? 1 : std::max(1U, std::ranges::max(counts));
  Rounds best = {.rounds = 1, .period_s = period(1)};
  for (std::uint32_t rounds = 2; rounds <= most; ++rounds)
    if (const double period_s = period(rounds); period_s < kWorthIt * best.period_s)
      best = {.rounds = rounds, .period_s = period_s};
  return best;
}

}  // namespace hearth::plan
