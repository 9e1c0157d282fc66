#include "plan/simulator.h"

#include <algorithm>

#include "base/result.h"

namespace hearth::plan {
namespace {

// Tokens until a ring has found its rhythm, and tokens whose mean counts.
constexpr std::uint32_t kWarmUp = 8, kMeasured = 8;

// A device in the course of tokens.
class Device {
 public:
  explicit Device(const SimDevice& device)
      : device_(device), computed_(std::max<std::uint64_t>(1, device.slots)) {}

  // Comes at `now`; when it is done.
  double visit(const SimVisit& visit, double now) {
    for (const SimUnit& unit : visit.units) {
      const double ready = unit.disk_s > 0 ? loaded(unit.disk_s, now) : now;
      waiting_s += std::max(0.0, ready - now);
      computing_s += unit.compute_s;
      now = std::max(now, ready) + unit.compute_s;
      if (unit.disk_s > 0) computed_[n_streamed_++ % computed_.size()] = now;
    }
    visited_ = now;
    return now;
  }

  double computing_s = 0, waiting_s = 0;

 private:
  double loaded(double disk_s, double now) {
    switch (device_.read_ahead) {
      case ReadAhead::kSlots:
        // The slot is that of the unit that was `slots` before: the oldest time kept.
        loaded_ = std::max(loaded_, computed_[n_streamed_ % computed_.size()]) + disk_s;
        break;
      case ReadAhead::kNone:
        loaded_ = now + disk_s;
        break;
      case ReadAhead::kWindow:
        loaded_ = std::max(loaded_, visited_) + disk_s;
        break;
    }
    return loaded_;
  }

  SimDevice device_;
  std::vector<double> computed_;  // of the last streamed units, by slot; 0: never used
  std::uint64_t n_streamed_ = 0;
  double loaded_ = 0;   // the last streamed unit
  double visited_ = 0;  // the end of the last visit
};

}  // namespace

SimResult simulate(std::span<const SimVisit> visits, std::span<const SimDevice> devices) {
  HEARTH_CHECK(!visits.empty());
  std::vector<Device> ring;
  for (const SimDevice& device : devices) ring.emplace_back(device);
  double now = 0, begin = 0, hops = 0;
  for (std::uint32_t token = 0; token < kWarmUp + kMeasured; ++token) {
    if (token == kWarmUp) {
      begin = now;
      hops = 0;
      for (Device& device : ring) device.computing_s = device.waiting_s = 0;
    }
    for (std::size_t i = 0; i < visits.size(); ++i) {
      const SimVisit& visit = visits[i];
      now = ring[visit.device].visit(visit, now);
      if (visits[(i + 1) % visits.size()].device == visit.device) continue;
      now += visit.hop_s;
      hops += visit.hop_s;
    }
  }
  SimResult result = {
      .period_s = (now - begin) / kMeasured, .computing_s = {}, .waiting_s = {}, .hops_s = hops / kMeasured};
  for (const Device& device : ring) {
    result.computing_s.push_back(device.computing_s / kMeasured);
    result.waiting_s.push_back(device.waiting_s / kMeasured);
  }
  return result;
}

std::vector<SimUnit> spread_evenly(std::uint64_t n, std::uint64_t streamed, const SimUnit& unit) {
  HEARTH_CHECK(streamed <= n);
  std::vector<SimUnit> units;
  for (std::uint64_t i = 0; i < n; ++i) {
    const bool from_disk = (i + 1) * streamed / n > i * streamed / n;
    units.push_back({.compute_s = unit.compute_s, .disk_s = from_disk ? unit.disk_s : 0});
  }
  return units;
}

}  // namespace hearth::plan
