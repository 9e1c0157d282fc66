#include "plan/prediction.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/result.h"
#include "plan/simulator.h"

namespace hearth::plan {
namespace {

// A disk that works this share of the period limits it.
constexpr double kBusy = 0.97;
// A pass of more tokens than so many times the most measured is unknown.
constexpr std::uint32_t kFarBeyond = 8;
// More parts of one stop are taken together: a simulation has to end.
constexpr std::uint64_t kMostParts = 4096;

// Of one visit, or one step of it: bytes of weights.
struct Weights {
  double cpu = 0, gpu = 0, output = 0;
  double uploaded = 0;  // of those on a GPU of its own: brought there anew for every token
  Weights& operator+=(const Weights& other) {
    cpu += other.cpu;
    gpu += other.gpu;
    output += other.output;
    uploaded += other.uploaded;
    return *this;
  }
  // What is in the device's memory, or streamed through it.
  [[nodiscard]] double in_memory(bool own_gpu) const { return cpu + output + (own_gpu ? uploaded : gpu); }
};

// One stop of a token.
struct Stop {
  std::uint16_t device = 0;
  std::uint32_t visit = 0;  // of the device's
  Weights weights;
  std::uint64_t gpu_kv_bytes = 0;  // of its layers on a GPU
};

bool has_own_gpu(const DeviceProfile& device) {
  return device.gpu && !device.gpu->unified;
}

// All stops of a token in order; the last is the output head's.
std::vector<Stop> stops_of(const ModelProfile& model, const Plan& plan,
                           const std::vector<std::uint32_t>& gpu_layers) {
  std::vector<std::uint16_t> device_of_step;
  for (const Step& step : plan.steps) device_of_step.push_back(step.device);
  const Visits visits = visits_of(device_of_step);
  std::vector<std::uint64_t> seen(plan.devices.size(), 0);  // layers of a device so far
  std::vector<Stop> stops;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    const std::uint64_t all = plan.layers_of(step.device);
    const std::uint64_t on_gpu = gpu_layers.empty() ? 0 : gpu_layers[step.device];
    Stop stop = {.device = step.device, .visit = visits.of_step[i], .weights = {}};
    for (std::uint32_t il = step.layers.begin; il < step.layers.end; ++il) {
      // Layers of the GPU are spread evenly over the device's.
      std::uint64_t& n = seen[step.device];
      const bool gpu = (n + 1) * on_gpu / all > n * on_gpu / all;
      ++n;
      (gpu ? stop.weights.gpu : stop.weights.cpu) += static_cast<double>(model.layer_bytes[il]);
      if (gpu) stop.gpu_kv_bytes += model.kv_bytes_of({il, il + 1});
    }
    stops.push_back(stop);
  }
  stops.push_back({.device = 0,
                   .visit = visits.of_output,
                   .weights = {.output = static_cast<double>(model.output_bytes)}});
  return stops;
}

double computing_s(const DeviceProfile& device, const Weights& weights, std::uint32_t n_tokens,
                   std::uint32_t n_outputs) {
  double seconds = weights.cpu > 0 ? device.cpu.pass_s(weights.cpu, n_tokens) : 0;
  if (weights.output > 0) seconds += device.cpu.pass_s(weights.output, n_outputs);
  if (weights.gpu > 0) seconds += device.gpu->compute.pass_s(weights.gpu, n_tokens);
  return seconds;
}

// What a device keeps and streams.
struct Share {
  DeviceUse use;
  std::uint64_t lacks_bytes = 0;           // of the memory it needs at least; the rest is not set then
  std::vector<std::uint64_t> visit_bytes;  // in memory or streamed
  double most_streamed = 0;                // of a visit
  double uploaded = 0;                     // of the weights on its GPU
  double upload_s = 0;                     // for a token, of layers that its GPU's memory does not hold
  std::uint64_t group_tokens = 0;          // of a prompt that are computed with one reading of the weights
};

std::uint64_t beyond(std::uint64_t needed, std::uint64_t there) {
  return needed - std::min(needed, there);
}

Share share_of(const RingProfile& ring, const BatchNeeds& batch, const Plan& plan,
               const std::vector<Stop>& stops, std::uint16_t m, std::uint32_t n_gpu_layers,
               ReadAhead read_ahead) {
  const DeviceProfile& device = ring.devices[m];
  const ModelProfile& model = ring.model;
  Share share;
  DeviceUse& use = share.use;
  use.n_layers = plan.layers_of(m);
  use.n_gpu_layers = n_gpu_layers;
  const bool own_gpu = has_own_gpu(device);
  const std::uint64_t slots = model.parts.least_slots();
  Weights all;
  std::uint64_t gpu_kv = 0;
  for (const Stop& stop : stops) {
    if (stop.device != m) continue;
    all += stop.weights;
    gpu_kv += stop.gpu_kv_bytes;
    use.n_visits = std::max(use.n_visits, stop.visit + 1);
  }
  if (use.n_visits == 0) return share;
  use.weight_bytes = static_cast<std::uint64_t>(all.cpu + all.gpu + all.output);
  use.kv_bytes = model.kv_bytes_of(plan, m);
  use.buffer_bytes = model.buffer_bytes(batch, m, plan.steps_of(m).size());

  std::uint64_t kv_in_memory = use.kv_bytes;
  if (own_gpu && n_gpu_layers > 0) {
    const std::uint64_t taken = gpu_kv + batch.worker_bytes;
    const std::uint64_t room = beyond(device.gpu->memory_bytes, taken);
    const auto wanted = static_cast<std::uint64_t>(all.gpu);
    kv_in_memory -= gpu_kv;
    const std::uint64_t held = device.gpu->upload_bytes_per_s > 0 ? std::min(wanted, slots) : wanted;
    share.lacks_bytes = beyond(taken + held, device.gpu->memory_bytes);
    use.gpu_weight_bytes = std::min(wanted, room);
    if (wanted > room) {
      const auto uploaded = static_cast<double>(std::min(wanted, wanted - room + slots));
      share.upload_s = uploaded / device.gpu->upload_bytes_per_s;
      share.uploaded = uploaded / all.gpu;
    }
  }
  std::vector<double> visits(use.n_visits, 0);
  for (const Stop& stop : stops) {
    if (stop.device != m) continue;
    Weights weights = stop.weights;
    weights.uploaded = share.uploaded * weights.gpu;
    visits[stop.visit] += weights.in_memory(own_gpu);
  }
  std::uint64_t in_memory = 0;
  for (const double bytes : visits) {
    share.visit_bytes.push_back(static_cast<std::uint64_t>(bytes));
    in_memory += share.visit_bytes.back();
  }
  const std::uint64_t besides = use.buffer_bytes + kv_in_memory;
  const std::uint64_t held = read_ahead == ReadAhead::kSlots ? std::min(in_memory, slots) : 0;
  share.lacks_bytes += beyond(besides + held, device.memory_bytes);
  if (share.lacks_bytes > 0) return share;
  use.weight_memory_bytes = device.memory_bytes - besides;
  if (in_memory <= use.weight_memory_bytes) return share;
  if (read_ahead != ReadAhead::kSlots) {
    use.streamed_bytes = in_memory;
    share.most_streamed = static_cast<double>(std::ranges::max(share.visit_bytes));
    return share;
  }

  share.group_tokens = use.n_layers == 0 ? 0 : batch.group.tokens_in(use.weight_memory_bytes);
  // None waits where that would leave less than the least slots.
  if (use.weight_memory_bytes < slots + share.group_tokens * batch.group.token_bytes) share.group_tokens = 0;
  const std::uint64_t waiting = share.group_tokens * batch.group.token_bytes;
  use.buffer_bytes += waiting;
  use.weight_memory_bytes -= waiting;
  const std::uint64_t excess = in_memory - use.weight_memory_bytes;
  use.slot_bytes = slots_wanted(share.visit_bytes, excess, use.weight_memory_bytes, model.parts);
  use.streamed_bytes = std::min(excess + use.slot_bytes, in_memory);
  share.most_streamed = most_per_visit(share.visit_bytes, use.streamed_bytes);
  return share;
}

// The parts of a device's stops, as the simulator takes them.
class Parts {
 public:
  Parts(const RingProfile& ring, const Share& share, std::uint16_t device, std::uint32_t users)
      : model_(ring.model), device_(ring.devices[device]), share_(share), users_(users) {}

  // Of its stops in their order.
  std::vector<SimUnit> of(const Stop& stop) {
    std::vector<SimUnit> units;
    const bool own_gpu = has_own_gpu(device_);
    Weights weights = stop.weights;
    if (own_gpu && weights.gpu > 0) {
      const double computing = computing_s(device_, {.gpu = weights.gpu}, users_, users_);
      const double uploading = share_.uploaded * weights.gpu / std::max(device_.gpu->upload_bytes_per_s, 1.0);
      units.push_back({.compute_s = std::max(computing, uploading), .disk_s = 0});
      weights.uploaded = share_.uploaded * weights.gpu;
      weights.gpu = 0;
    }
    const double bytes = weights.in_memory(own_gpu);
    if (bytes <= 0) return units;
    const auto n = std::clamp<std::uint64_t>(
        static_cast<std::uint64_t>(std::llround(bytes / static_cast<double>(model_.parts.mean_bytes))), 1,
        kMostParts);
    const SimUnit unit = {.compute_s = computing_s(device_, weights, users_, users_) / static_cast<double>(n),
                          .disk_s = 0};
    if (share_.use.streamed_bytes == 0) return with(std::move(units), spread_evenly(n, 0, unit));
    // What is left of a part goes to the next stop, so that all together stream what the device streams.
    const auto of_visit = static_cast<double>(share_.visit_bytes[stop.visit]);
    const double streamed = bytes * std::min(share_.most_streamed, of_visit) / of_visit;
    const double unit_bytes = bytes / static_cast<double>(n);
    largest_unit_ = std::max(largest_unit_, unit_bytes);
    const double owed = owed_ + streamed;
    const auto n_streamed =
        static_cast<std::uint64_t>(std::clamp(std::round(owed / unit_bytes), 0.0, static_cast<double>(n)));
    owed_ = owed - static_cast<double>(n_streamed) * unit_bytes;
    n_streamed_ += n_streamed;
    const double disk_s = unit_bytes / device_.disk_bytes_per_s;
    return with(std::move(units),
                spread_evenly(n, n_streamed, {.compute_s = unit.compute_s, .disk_s = disk_s}));
  }

  // As many units as the device's slots hold, once all stops were asked for; more than are streamed do
  // nothing.
  [[nodiscard]] std::uint64_t slots() const {
    const double mean = static_cast<double>(model_.parts.mean_bytes);
    const double held = static_cast<double>(share_.use.slot_bytes) / std::max(largest_unit_, mean);
    const auto most = static_cast<double>(std::max<std::uint64_t>(kLeastParts, n_streamed_));
    return static_cast<std::uint64_t>(std::clamp(held, static_cast<double>(kLeastParts), most));
  }

 private:
  static std::vector<SimUnit> with(std::vector<SimUnit> units, const std::vector<SimUnit>& more) {
    units.insert(units.end(), more.begin(), more.end());
    return units;
  }
  const ModelProfile& model_;
  const DeviceProfile& device_;
  const Share& share_;
  std::uint32_t users_;
  double largest_unit_ = 0;  // bytes
  std::uint64_t n_streamed_ = 0;
  double owed_ = 0;  // bytes that should have been streamed and were not
};

// Batches of a prompt follow one another through the ring where all stays in memory. Where a device streams,
// those that wait are computed together, so that weights are read once for all of them; the others wait.
double ttft_s(const RingProfile& ring, const Traffic& traffic, const BatchNeeds& batch,
              const std::vector<Stop>& stops, const std::vector<Share>& shares) {
  const std::uint32_t tokens = std::min(batch.n_tokens, traffic.prompt_tokens);
  const double batches = std::ceil(static_cast<double>(traffic.prompt_tokens) / tokens);
  const auto known = [&](const ComputeProfile& of) {
    return of.passes.back().n_tokens >= (tokens + kFarBeyond - 1) / kFarBeyond;
  };
  std::vector<double> stage(ring.devices.size(), 0);
  double hops = 0, longest_hop = 0, output = 0;
  for (std::size_t i = 0; i < stops.size(); ++i) {
    const Stop& stop = stops[i];
    const DeviceProfile& device = ring.devices[stop.device];
    if ((stop.weights.cpu > 0 && !known(device.cpu)) || (stop.weights.gpu > 0 && !known(device.gpu->compute)))
      return std::numeric_limits<double>::infinity();
    output += computing_s(device, {.output = stop.weights.output}, 1, 1);  // of the last token only
    stage[stop.device] += computing_s(device, {.cpu = stop.weights.cpu, .gpu = stop.weights.gpu}, tokens, 1);
    const std::uint16_t next = stops[(i + 1) % stops.size()].device;
    if (next == stop.device) continue;
    const double hop = ring.hop_s(stop.device, next, tokens);
    hops += hop;
    longest_hop = std::max(longest_hop, hop);
  }
  double sum = 0, longest = 0, together = 0;
  bool any_streams = false;
  for (std::size_t m = 0; m < shares.size(); ++m) {
    if (shares[m].use.n_visits == 0) continue;
    const double computing = std::max(stage[m], shares[m].upload_s);
    sum += computing;
    longest = std::max(longest, computing);
    double reading = 0;
    if (shares[m].use.streamed_bytes > 0) {
      any_streams = true;
      const auto group = static_cast<double>(std::max<std::uint64_t>(shares[m].group_tokens, tokens));
      reading = std::ceil(traffic.prompt_tokens / group) * static_cast<double>(shares[m].use.streamed_bytes) /
                ring.devices[m].disk_bytes_per_s;
    }
    together += std::max(batches * computing + (m == 0 ? output : 0), reading);
  }
  if (any_streams) return together + hops * batches;
  return sum + hops + output + (batches - 1) * std::max(longest, longest_hop);
}

Limit limit_of(double computing_s, double waiting_s, double hops_s) {
  if (waiting_s > computing_s && waiting_s > hops_s) return Limit::kDisk;
  return hops_s > computing_s ? Limit::kLink : Limit::kComputing;
}

void judge(Prediction& made) {
  double computing = 0, waiting = 0, hops = 0;
  for (DeviceUse& use : made.devices) {
    use.limit = use.disk_s >= kBusy * made.period_s ? Limit::kDisk
                                                    : limit_of(use.computing_s, use.waiting_s, use.hops_s);
    computing += use.computing_s;
    waiting += use.waiting_s;
    hops += use.hops_s;
  }
  const auto most = [&](double DeviceUse::* of) {
    return static_cast<std::size_t>(std::ranges::max_element(made.devices, {}, of) - made.devices.begin());
  };
  made.limit = limit_of(computing, waiting, hops);
  made.limited_by = most(made.limit == Limit::kDisk ? &DeviceUse::waiting_s : &DeviceUse::computing_s);
  if (const std::size_t busiest = most(&DeviceUse::disk_s);
      made.devices[busiest].disk_s >= kBusy * made.period_s) {
    made.limit = Limit::kDisk;
    made.limited_by = busiest;
  }
}

std::vector<Share> shares_of(const RingProfile& ring, const BatchNeeds& batch, const Plan& plan,
                             const std::vector<Stop>& stops, const std::vector<std::uint32_t>& gpu_layers,
                             ReadAhead read_ahead) {
  std::vector<Share> shares;
  for (std::uint16_t m = 0; m < ring.devices.size(); ++m)
    shares.push_back(
        share_of(ring, batch, plan, stops, m, gpu_layers.empty() ? 0 : gpu_layers[m], read_ahead));
  return shares;
}

}  // namespace

bool Prediction::streams() const {
  return std::ranges::any_of(devices, [](const DeviceUse& use) { return use.streamed_bytes > 0; });
}

std::optional<Prediction> predict(const RingProfile& ring, const Traffic& traffic, const BatchNeeds& batch,
                                  const Plan& plan, const std::vector<std::uint32_t>& gpu_layers,
                                  ReadAhead read_ahead) {
  HEARTH_CHECK(!plan.steps.empty() && plan.devices.size() == ring.devices.size() && traffic.users > 0 &&
               traffic.prompt_tokens > 0 && batch.n_tokens > 0);
  const std::vector<Stop> stops = stops_of(ring.model, plan, gpu_layers);
  const std::vector<Share> shares = shares_of(ring, batch, plan, stops, gpu_layers, read_ahead);
  if (std::ranges::any_of(shares, [](const Share& share) { return share.lacks_bytes > 0; }))
    return std::nullopt;
  std::vector<Parts> parts;
  for (std::uint16_t m = 0; m < shares.size(); ++m) parts.emplace_back(ring, shares[m], m, traffic.users);
  std::vector<SimVisit> visits;
  for (std::size_t i = 0; i < stops.size(); ++i) {
    const std::uint16_t from = stops[i].device, to = stops[(i + 1) % stops.size()].device;
    visits.push_back({.device = from,
                      .hop_s = from == to ? 0 : ring.hop_s(from, to, traffic.users),
                      .units = parts[from].of(stops[i])});
  }
  std::vector<SimDevice> devices;
  for (const Parts& own : parts) devices.push_back({.slots = own.slots(), .read_ahead = read_ahead});
  const SimResult played = simulate(visits, devices);

  Prediction made = {
      .period_s = played.period_s, .ttft_s = ttft_s(ring, traffic, batch, stops, shares), .devices = {}};
  for (std::size_t m = 0; m < shares.size(); ++m) {
    DeviceUse use = shares[m].use;
    use.computing_s = played.computing_s[m];
    use.waiting_s = played.waiting_s[m];
    if (use.streamed_bytes > 0)
      use.disk_s = static_cast<double>(use.streamed_bytes) / ring.devices[m].disk_bytes_per_s;
    made.devices.push_back(use);
  }
  for (const SimVisit& visit : visits) made.devices[visit.device].hops_s += visit.hop_s;
  // Whole parts may be a little less than what is streamed.
  for (const DeviceUse& use : made.devices) made.period_s = std::max(made.period_s, use.disk_s);
  judge(made);
  return made;
}

std::uint64_t lacking_bytes(const RingProfile& ring, const BatchNeeds& batch, const Plan& plan,
                            const std::vector<std::uint32_t>& gpu_layers) {
  const std::vector<Stop> stops = stops_of(ring.model, plan, gpu_layers);
  std::uint64_t lacking = 0;
  for (const Share& share : shares_of(ring, batch, plan, stops, gpu_layers, ReadAhead::kSlots))
    lacking += share.lacks_bytes;
  return lacking;
}

}  // namespace hearth::plan
