#include "plan/plan.h"

#include <algorithm>
#include <format>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <optional>

#include "base/units.h"

namespace hearth::plan {
namespace {

// Devices and steps are addressed by 16 bits, and a step has at least one layer.
constexpr std::size_t kMaxDevices = std::numeric_limits<std::uint16_t>::max();
constexpr std::size_t kMaxLayers = std::numeric_limits<std::uint16_t>::max();

std::string range_text(LayerRange range) {
  return std::format("[{}, {})", range.begin, range.end);
}

Result<> check_request(std::size_t n_layer, std::size_t n_devices, std::uint32_t rounds) {
  if (n_layer == 0) return fail(ErrorCode::kInvalidArgument, "the model has no layers to split");
  if (n_layer > kMaxLayers)
    return fail(ErrorCode::kInvalidArgument, "{} layers are too many, expected at most {}", n_layer,
                kMaxLayers);
  if (n_devices == 0)
    return fail(ErrorCode::kInvalidArgument, "there is no device to split {} layers over", n_layer);
  if (n_devices > kMaxDevices)
    return fail(ErrorCode::kInvalidArgument, "{} devices are too many, expected at most {}", n_devices,
                kMaxDevices);
  if (rounds == 0) return fail(ErrorCode::kInvalidArgument, "rounds is 0, expected 1 or more");
  return {};
}

std::uint64_t saturating_add(std::uint64_t a, std::uint64_t b) {
  return a > std::numeric_limits<std::uint64_t>::max() - b ? std::numeric_limits<std::uint64_t>::max()
                                                           : a + b;
}

std::uint64_t free_bytes(const DeviceMemory& device) {
  return device.bytes > device.reserved ? device.bytes - device.reserved : 0;
}

// How many layers each device gets: in proportion to `free`, none above its cap, sum = n_layer. nullopt when
// the caps do not admit that.
std::optional<std::vector<std::uint32_t>> share_out(std::uint32_t n_layer,
                                                    std::span<const std::uint64_t> free,
                                                    std::span<const std::uint32_t> caps) {
  if (std::accumulate(caps.begin(), caps.end(), std::uint64_t{0}) < n_layer) return std::nullopt;
  double total = 0;
  for (std::size_t i = 0; i < free.size(); ++i)
    if (caps[i] > 0) total += static_cast<double>(free[i]);

  std::vector<double> ideal(free.size(), 0);
  std::vector<std::uint32_t> count(free.size(), 0);
  std::uint32_t left = n_layer;
  for (std::size_t i = 0; i < free.size(); ++i) {
    if (caps[i] == 0) continue;
    ideal[i] = n_layer * (static_cast<double>(free[i]) / total);
    count[i] = std::min({static_cast<std::uint32_t>(ideal[i]), caps[i], left});
    left -= count[i];
  }
  // What rounding down has left over goes where the most is missing, the first of equals.
  for (; left > 0; --left) {
    std::optional<std::size_t> neediest;
    for (std::size_t i = 0; i < free.size(); ++i)
      if (count[i] < caps[i] && (!neediest || ideal[i] - count[i] > ideal[*neediest] - count[*neediest]))
        neediest = i;
    ++count[*neediest];
  }
  return count;
}

// The first device whose layers need more than it has free.
std::optional<std::size_t> overfull(std::span<const Step> steps, std::span<const std::uint64_t> layer_bytes,
                                    std::span<const std::uint64_t> free) {
  std::vector<std::uint64_t> used(free.size(), 0);
  for (const Step& step : steps) {
    for (std::uint32_t il = step.layers.begin; il < step.layers.end; ++il)
      used[step.device] = saturating_add(used[step.device], layer_bytes[il]);
    if (used[step.device] > free[step.device]) return step.device;
  }
  return std::nullopt;
}

// One round, every device taking as many layers as it can hold: fits whenever any single round fits.
std::optional<std::vector<std::uint32_t>> fill_in_order(std::span<const std::uint64_t> layer_bytes,
                                                        std::span<const std::uint64_t> free) {
  std::vector<std::uint32_t> counts(free.size(), 0);
  std::size_t il = 0;
  for (std::size_t m = 0; m < free.size(); ++m)
    for (std::uint64_t left = free[m]; il < layer_bytes.size() && layer_bytes[il] <= left; ++il, ++counts[m])
      left -= layer_bytes[il];
  if (il < layer_bytes.size()) return std::nullopt;
  return counts;
}

// Steps that fit, nullopt when none were found. Layers differ in size (quantization mixes), so a share that
// fits by number may not by bytes: then that device's cap drops by one until all fit.
std::optional<std::vector<Step>> fit(std::span<const std::uint64_t> layer_bytes,
                                     std::span<const std::uint64_t> free, std::uint32_t rounds) {
  const auto n_layer = static_cast<std::uint32_t>(layer_bytes.size());
  const std::uint64_t smallest = std::max<std::uint64_t>(1, *std::ranges::min_element(layer_bytes));
  std::vector<std::uint32_t> caps(free.size());
  for (std::size_t m = 0; m < free.size(); ++m)
    caps[m] = static_cast<std::uint32_t>(std::min<std::uint64_t>(n_layer, free[m] / smallest));
  while (const auto counts = share_out(n_layer, free, caps)) {
    std::vector<Step> steps = lay_out(*counts, rounds);
    const auto full = overfull(steps, layer_bytes, free);
    if (!full) return steps;
    caps[*full] = (*counts)[*full] - 1;
  }
  if (rounds > 1) return std::nullopt;
  const auto counts = fill_in_order(layer_bytes, free);
  if (!counts) return std::nullopt;
  return lay_out(*counts, 1);
}

}  // namespace

std::vector<std::uint16_t> Plan::steps_of(std::uint16_t device) const {
  std::vector<std::uint16_t> indices;
  for (std::size_t i = 0; i < steps.size(); ++i)
    if (steps[i].device == device) indices.push_back(static_cast<std::uint16_t>(i));
  return indices;
}

std::uint32_t Plan::layers_of(std::uint16_t device) const {
  std::uint32_t layers = 0;
  for (const Step& step : steps)
    if (step.device == device) layers += step.layers.size();
  return layers;
}

std::string Plan::describe() const {
  std::size_t width = 0;
  for (const std::string& name : devices) width = std::max(width, name.size());
  std::string text;
  for (std::size_t m = 0; m < devices.size(); ++m) {
    const auto device = static_cast<std::uint16_t>(m);
    std::format_to(std::back_inserter(text), "{:<{}}  {}/{} layers", devices[m], width, layers_of(device),
                   n_layer);
    std::string_view separator = ": ";
    for (const std::uint16_t index : steps_of(device)) {
      const LayerRange range = steps[index].layers;
      if (range.size() == 1)
        std::format_to(std::back_inserter(text), "{}{}", separator, range.begin);
      else
        std::format_to(std::back_inserter(text), "{}{}-{}", separator, range.begin, range.end - 1);
      separator = ", ";
    }
    text += '\n';
  }
  return text;
}

Visits visits_of(std::span<const std::uint16_t> device_of_step) {
  Visits visits;
  std::map<std::uint16_t, std::uint32_t> made;  // by each device
  for (std::size_t i = 0; i < device_of_step.size(); ++i) {
    const std::uint16_t device = device_of_step[i];
    if (i == 0 || device_of_step[i - 1] != device) ++made[device];
    visits.of_step.push_back(made[device] - 1);
  }
  const bool first = !device_of_step.empty() && device_of_step.front() == 0,
             last = !device_of_step.empty() && device_of_step.back() == 0;
  if (!first) {
    visits.of_output = last ? visits.of_step.back() : made[0];
  } else if (last) {
    for (std::size_t i = device_of_step.size(); i-- > 0 && device_of_step[i] == 0;) visits.of_step[i] = 0;
  }
  return visits;
}

std::vector<Step> lay_out(std::span<const std::uint32_t> counts, std::uint32_t rounds) {
  std::vector<Step> steps;
  std::uint32_t next = 0;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    for (std::size_t m = 0; m < counts.size(); ++m) {
      const auto size =
          static_cast<std::uint32_t>(counts[m] * (round + 1) / rounds - counts[m] * round / rounds);
      if (size == 0) continue;
      // No hop from a device to itself when all others sit out.
      if (!steps.empty() && steps.back().device == m)
        steps.back().layers.end += size;
      else
        steps.push_back({static_cast<std::uint16_t>(m), {next, next + size}});
      next += size;
    }
  }
  return steps;
}

Result<> validate(const Plan& plan) {
  HEARTH_TRY_VOID(check_request(plan.n_layer, plan.devices.size(), 1));
  std::uint32_t next = 0;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const auto [device, layers] = plan.steps[i];
    if (device >= plan.devices.size())
      return fail(ErrorCode::kInvalidArgument, "step {} names device {}, but the plan has {} devices", i,
                  device, plan.devices.size());
    if (layers.end <= layers.begin)
      return fail(ErrorCode::kInvalidArgument, "step {} has the empty window {}", i, range_text(layers));
    if (layers.begin != next)
      return fail(ErrorCode::kInvalidArgument,
                  "step {} has the window {}, which {}; expected it to begin at layer {}", i,
                  range_text(layers), layers.begin > next ? "leaves a gap" : "overlaps the one before", next);
    if (layers.end > plan.n_layer)
      return fail(ErrorCode::kInvalidArgument, "step {} has the window {}, but the model has {} layers", i,
                  range_text(layers), plan.n_layer);
    next = layers.end;
  }
  if (next != plan.n_layer)
    return fail(ErrorCode::kInvalidArgument, "the last of {} steps ends at layer {}, expected {}",
                plan.steps.size(), next, plan.n_layer);
  return {};
}

Result<Plan> split_by_windows(std::uint32_t n_layer, std::span<const std::string> devices,
                              std::span<const std::uint32_t> windows, std::uint32_t rounds) {
  HEARTH_TRY_VOID(check_request(n_layer, devices.size(), rounds));
  if (windows.size() != devices.size())
    return fail(ErrorCode::kInvalidArgument,
                "{} layer windows are given for {} devices, expected one for each", windows.size(),
                devices.size());
  const auto per_round = std::accumulate(windows.begin(), windows.end(), std::uint64_t{0});
  if (per_round == 0)
    return fail(ErrorCode::kInvalidArgument, "all layer windows are 0, expected {} layers in all", n_layer);
  // Divides instead of multiplying: the product may not fit 64 bits.
  const std::uint64_t needed = (n_layer + per_round - 1) / per_round;
  if (needed > rounds)
    return fail(
        ErrorCode::kInvalidArgument,
        "windows of {} layers in {} round{} cover {} of the model's {} layers; widen the windows or use "
        "at least {} rounds",
        per_round, rounds, rounds == 1 ? "" : "s", rounds * per_round, n_layer, needed);
  if (needed < rounds)
    return fail(
        ErrorCode::kInvalidArgument,
        "windows of {} layers take the model's {} layers in {} round{}, asked for were {}; narrow the "
        "windows or ask for fewer rounds",
        per_round, n_layer, needed, needed == 1 ? "" : "s", rounds);
  Plan plan{.n_layer = n_layer, .devices = {devices.begin(), devices.end()}, .steps = {}};
  for (std::uint32_t next = 0; next < n_layer;) {
    for (std::size_t m = 0; m < windows.size() && next < n_layer; ++m) {
      const std::uint32_t size = std::min(windows[m], n_layer - next);
      if (size == 0) continue;
      plan.steps.push_back({static_cast<std::uint16_t>(m), {next, next + size}});
      next += size;
    }
  }
  for (std::size_t m = 0; m < windows.size(); ++m)
    if (windows[m] > 0 && plan.steps_of(static_cast<std::uint16_t>(m)).empty())
      return fail(ErrorCode::kInvalidArgument,
                  "the {} layers of the model are used up before {} gets any of its window of {}; narrow the "
                  "windows before it, or give it 0",
                  n_layer, devices[m], windows[m]);
  HEARTH_TRY_VOID(validate(plan));
  return plan;
}

Result<Plan> split_by_memory(std::span<const std::uint64_t> layer_bytes,
                             std::span<const DeviceMemory> devices, std::uint32_t rounds) {
  HEARTH_TRY_VOID(check_request(layer_bytes.size(), devices.size(), rounds));
  const auto n_layer = static_cast<std::uint32_t>(layer_bytes.size());
  rounds = std::min(rounds, n_layer);  // a round without layers is none
  if (devices[0].reserved > devices[0].bytes)
    return fail(ErrorCode::kOutOfMemory,
                "{}, the head, needs {} for embedding, output head and buffers but may use {}; give it more "
                "memory or start "
                "on another device",
                devices[0].name, format_bytes(devices[0].reserved), format_bytes(devices[0].bytes));

  Plan plan{.n_layer = n_layer, .devices = {}, .steps = {}};
  std::vector<std::uint64_t> free;
  for (const DeviceMemory& device : devices) {
    plan.devices.push_back(device.name);
    free.push_back(free_bytes(device));
  }
  auto steps = fit(layer_bytes, free, rounds);
  if (!steps) {
    std::uint64_t needed = 0;
    for (const std::uint64_t bytes : layer_bytes) needed = saturating_add(needed, bytes);
    std::string each;
    for (std::size_t m = 0; m < devices.size(); ++m)
      std::format_to(std::back_inserter(each), "{}{} has {}", m == 0 ? "" : ", ", devices[m].name,
                     format_bytes(free[m]));
    const bool fits_in_one = rounds > 1 && fit(layer_bytes, free, 1);
    return fail(ErrorCode::kOutOfMemory, "{} layers of {} in all do not fit{}: {} free for layers; {}",
                n_layer, format_bytes(needed), rounds > 1 ? std::format(" in {} rounds", rounds) : "", each,
                fits_in_one ? "one round would fit"
                            : "add a device, free memory, or take a smaller model, quantization or context");
  }
  plan.steps = std::move(*steps);
  HEARTH_TRY_VOID(validate(plan));
  return plan;
}

Result<Plan> split_to_stream(const StreamSplit& split, std::span<const DeviceMemory> devices,
                             std::span<const std::uint64_t> disk_bytes_per_s) {
  HEARTH_TRY_VOID(check_request(split.layer_bytes.size(), devices.size(), split.rounds));
  HEARTH_CHECK(disk_bytes_per_s.size() == devices.size());
  const auto n_layer = static_cast<std::uint32_t>(split.layer_bytes.size());
  double weights = 0;
  for (const std::uint64_t bytes : split.layer_bytes) weights += static_cast<double>(bytes);
  const double layer = weights / n_layer + static_cast<double>(split.kv_bytes);
  // Each next layer goes where the disk then has the least to do, or memory has most room left.
  std::vector<std::uint32_t> counts(devices.size(), 0);
  const auto load = [&](std::size_t m) {
    const double bytes = (m == 0 ? static_cast<double>(split.output_bytes) : 0) + layer * (counts[m] + 1);
    return (bytes - static_cast<double>(free_bytes(devices[m]))) / static_cast<double>(disk_bytes_per_s[m]);
  };
  const auto has_room = [&](std::size_t m) {
    return static_cast<double>(free_bytes(devices[m])) >
           static_cast<double>(split.kv_bytes) * (counts[m] + 1);
  };
  for (std::uint32_t il = 0; il < n_layer; ++il) {
    std::optional<std::size_t> least;
    for (std::size_t m = 0; m < devices.size(); ++m)
      if (has_room(m) && (!least || load(m) < load(*least))) least = m;
    if (!least) {
      std::string each;
      for (const DeviceMemory& device : devices)
        std::format_to(std::back_inserter(each), "{}{} lends {} and needs {} for buffers",
                       each.empty() ? "" : ", ", device.name, format_bytes(device.bytes),
                       format_bytes(device.reserved));
      return fail(
          ErrorCode::kOutOfMemory,
          "{}{}: {}; lend more memory (--memory), ask for a smaller context (-c) or smaller batches "
          "(-ub)",
          il == 0 ? "no device has memory left for weights"
                  : std::format("there is memory for the KV cache of {} of {} layers", il, n_layer),
          split.kv_bytes == 0 ? "" : std::format(", which takes {} a layer", format_bytes(split.kv_bytes)),
          each);
    }
    ++counts[*least];
  }
  Plan plan{.n_layer = n_layer, .devices = {}, .steps = lay_out(counts, std::min(split.rounds, n_layer))};
  for (const DeviceMemory& device : devices) plan.devices.push_back(device.name);
  HEARTH_TRY_VOID(validate(plan));
  return plan;
}

}  // namespace hearth::plan
