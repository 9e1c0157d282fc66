#include "plan/shortage.h"

#include <algorithm>
#include <format>
#include <iterator>
#include <ranges>
#include <string>

#include "base/units.h"
#include "plan/fullest_ring.h"

namespace hearth::plan {
namespace {

bool is_excluded(const std::vector<bool>& excluded, std::size_t m) {
  return !excluded.empty() && excluded[m];
}

}  // namespace

Shortage shortage_of(const RingProfile& ring, std::uint32_t rounds, const std::vector<bool>& excluded) {
  const ModelProfile& model = ring.model;
  const BatchNeeds& batch = model.batches.back();
  const std::uint32_t windows = std::clamp(rounds, 1U, model.n_layer());
  Shortage found;
  std::uint64_t enough = 0;  // more than any device needs to hold all layers
  for (std::size_t m = 0; m < ring.devices.size(); ++m) {
    DeviceShortage& own = found.devices.emplace_back();
    own.needs_bytes = model.buffer_bytes(batch, m, windows) + model.parts.least_slots();
    own.lacks_bytes = own.needs_bytes - std::min(own.needs_bytes, ring.devices[m].memory_bytes);
    enough = std::max(enough, own.needs_bytes + model.kv_bytes_of({0, model.n_layer()}) + 1);
  }
  // The head needs its own anyway.
  const std::uint64_t head = found.devices[0].lacks_bytes;
  RingProfile more = ring;
  more.devices[0].memory_bytes += head;
  const auto n_layers_with = [&](std::size_t m, std::uint64_t bytes) {
    more.devices[m].memory_bytes += bytes;
    const std::uint32_t n_layers = fullest_ring(more, batch, windows, excluded).n_layers;
    more.devices[m].memory_bytes -= bytes;
    return n_layers;
  };
  found.n_layers = n_layers_with(0, 0);
  for (std::size_t m = 0; m < ring.devices.size() && enough > 0; ++m) {
    if (is_excluded(excluded, m) || n_layers_with(m, enough - 1) < model.n_layer()) continue;
    const auto lacks = [&](std::uint64_t bytes) { return n_layers_with(m, bytes) < model.n_layer(); };
    enough = *std::ranges::partition_point(std::views::iota(std::uint64_t{0}, enough), lacks);
    found.best_device = m;
  }
  found.bytes = head + enough;
  return found;
}

std::unexpected<Error> does_not_fit(const RingProfile& ring, std::uint32_t rounds,
                                    const std::vector<bool>& excluded) {
  if (std::ranges::count(excluded, true) == static_cast<std::ptrdiff_t>(ring.devices.size()))
    return fail(ErrorCode::kInvalidArgument,
                "every device is excluded: nobody is left for the layers (--exclude)");
  const ModelProfile& model = ring.model;
  const Shortage lack = shortage_of(ring, rounds, excluded);
  std::string each;
  for (std::size_t m = 0; m < ring.devices.size(); ++m) {
    if (is_excluded(excluded, m) && m > 0) continue;
    const DeviceShortage& own = lack.devices[m];
    std::format_to(std::back_inserter(each), "{}{}{} lends {} and needs {} for buffers and slots",
                   each.empty() ? "" : ", ", ring.devices[m].name,
                   m == 0 && ring.devices[m].name != "head" ? ", the head," : "",
                   format_bytes(ring.devices[m].memory_bytes), format_bytes(own.needs_bytes));
    if (own.lacks_bytes > 0)
      std::format_to(std::back_inserter(each), " (lacks {})", format_bytes(own.lacks_bytes));
  }
  std::string what;
  if (lack.n_layers < model.n_layer()) {
    std::string kv = format_bytes(model.kv_bytes);
    if (!model.layer_kv_bytes.empty()) {
      const auto [least, most] = std::ranges::minmax(model.layer_kv_bytes);
      kv = std::format("{} to {}", format_bytes(least), format_bytes(most));
    }
    what = std::format("; what is left holds the KV cache of {} of {} layers, {} each", lack.n_layers,
                       model.n_layer(), kv);
  }
  if (lack.bytes == 0)
    return fail(ErrorCode::kOutOfMemory, "no plan of {} rounds fits: {}; one round would do (--rounds 1)",
                rounds, each);
  return fail(ErrorCode::kOutOfMemory,
              "no plan fits: {}{}. {} more, lent by {}, would do (--memory); or add a device, or ask for a "
              "smaller context (-c) or smaller batches (-ub)",
              each, what, format_bytes(lack.bytes),
              lack.devices[0].lacks_bytes > 0 && lack.best_device != 0
                  ? std::format("{} and {}", ring.devices[0].name, ring.devices[lack.best_device].name)
                  : ring.devices[lack.best_device].name);
}

std::unexpected<Error> share_does_not_fit(const RingProfile& ring, const Plan& plan) {
  const BatchNeeds& batch = ring.model.batches.back();
  const std::uint64_t slots = ring.model.parts.least_slots();
  for (std::uint16_t m = 0; m < ring.devices.size(); ++m) {
    const std::uint64_t kv = ring.model.kv_bytes_of(plan, m);
    const std::uint64_t buffers = ring.model.buffer_bytes(batch, m, plan.steps_of(m).size());
    if (ring.devices[m].memory_bytes >= buffers + kv + slots) continue;
    return fail(
        ErrorCode::kOutOfMemory,
        "{} lends {}; its {} layers need at least {}: {} of KV cache, {} of buffers, {} to stream "
        "weights through; give it fewer layers (--layer-window) or more memory (--memory), or ask for "
        "a smaller context (-c)",
        ring.devices[m].name, format_bytes(ring.devices[m].memory_bytes), plan.layers_of(m),
        format_bytes(buffers + kv + slots), format_bytes(kv), format_bytes(buffers), format_bytes(slots));
  }
  return fail(ErrorCode::kOutOfMemory, "the windows asked for do not fit the devices' memory");
}

}  // namespace hearth::plan
