#include "plan/plan.h"

#include <algorithm>
#include <format>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>

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

namespace {

// windows: [rounds][devices]
Result<Plan> split_by_visits(std::uint32_t n_layer, std::span<const std::string> devices,
                             std::span<const std::uint32_t> windows, std::uint32_t rounds) {
  Plan plan{.n_layer = n_layer, .devices = {devices.begin(), devices.end()}, .steps = {}};
  std::uint64_t total = 0;
  std::string sums;
  for (std::uint32_t round = 0; round < rounds; ++round) {
    const auto of_round = windows.subspan(std::size_t{round} * devices.size(), devices.size());
    const auto sum = std::accumulate(of_round.begin(), of_round.end(), std::uint64_t{0});
    if (sum == 0)
      return fail(ErrorCode::kInvalidArgument, "round {} of {} has no layers; leave it out", round + 1,
                  rounds);
    total += sum;
    sums += std::format("{}{}", round == 0 ? "" : " + ", sum);
  }
  if (total != n_layer)
    return fail(ErrorCode::kInvalidArgument,
                "the windows of {} rounds have {} = {} layers, expected the model's {}", rounds, sums, total,
                n_layer);
  std::uint32_t next = 0;
  for (std::size_t i = 0; i < windows.size(); ++i) {
    if (windows[i] == 0) continue;
    plan.steps.push_back({static_cast<std::uint16_t>(i % devices.size()), {next, next + windows[i]}});
    next += windows[i];
  }
  HEARTH_TRY_VOID(validate(plan));
  return plan;
}

}  // namespace

Result<Plan> split_by_windows(std::uint32_t n_layer, std::span<const std::string> devices,
                              std::span<const std::uint32_t> windows, std::uint32_t rounds) {
  HEARTH_TRY_VOID(check_request(n_layer, devices.size(), rounds));
  if (rounds > 1 && windows.size() == std::size_t{rounds} * devices.size())
    return split_by_visits(n_layer, devices, windows, rounds);
  if (windows.size() != devices.size())
    return fail(
        ErrorCode::kInvalidArgument,
        "{} layer windows are given for {} devices, expected one for each, or one for each in each of "
        "{} round{}",
        windows.size(), devices.size(), rounds, rounds == 1 ? "" : "s");
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

}  // namespace hearth::plan
