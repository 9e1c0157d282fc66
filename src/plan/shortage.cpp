#include "plan/shortage.h"

#include <algorithm>
#include <format>
#include <iterator>
#include <string>

#include "base/units.h"

namespace hearth::plan {
namespace {

bool is_excluded(const std::vector<bool>& excluded, std::size_t m) {
  return !excluded.empty() && excluded[m];
}

}  // namespace

Shortage shortage_of(const RingProfile& ring, std::uint32_t rounds, const std::vector<bool>& excluded) {
  const ModelProfile& model = ring.model;
  const std::uint64_t windows = std::clamp(rounds, 1U, model.n_layer());
  Shortage found;
  std::uint32_t all = 0;  // layers
  for (std::size_t m = 0; m < ring.devices.size(); ++m) {
    DeviceShortage& own = found.devices.emplace_back();
    own.needs_bytes = model.buffer_bytes(model.batches.back(), m, windows) + model.parts.least_slots();
    const std::uint64_t lends = ring.devices[m].memory_bytes;
    if (own.needs_bytes > lends) own.lacks_bytes = own.needs_bytes - lends;
    if (is_excluded(excluded, m) || own.lacks_bytes > 0) continue;
    const std::uint64_t layers =
        model.kv_bytes == 0 ? model.n_layer() : (lends - own.needs_bytes) / model.kv_bytes;
    own.n_layers = static_cast<std::uint32_t>(std::min<std::uint64_t>(layers, model.n_layer()));
    all += own.n_layers;
  }
  found.n_layers = std::min(all, model.n_layer());
  // The head needs its own anyway; the rest is cheapest where the least is lacking.
  const std::uint64_t head = found.devices[0].lacks_bytes;
  found.bytes = ~std::uint64_t{0};
  for (std::size_t m = 0; m < ring.devices.size(); ++m) {
    if (is_excluded(excluded, m)) continue;
    const DeviceShortage& own = found.devices[m];
    const std::uint64_t kv =
        model.kv_bytes * (model.n_layer() - std::min(model.n_layer(), all - own.n_layers));
    const std::uint64_t room = own.lacks_bytes > 0 ? 0 : ring.devices[m].memory_bytes - own.needs_bytes;
    const std::uint64_t bytes = own.lacks_bytes + kv - std::min(kv, room) + (m == 0 ? 0 : head);
    if (bytes >= found.bytes) continue;
    found.bytes = bytes;
    found.best_device = m;
  }
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
  if (lack.n_layers < model.n_layer())
    what = std::format("; what is left holds the KV cache of {} of {} layers, {} each", lack.n_layers,
                       model.n_layer(), format_bytes(model.kv_bytes));
  return fail(ErrorCode::kOutOfMemory,
              "no plan fits: {}{}. {} more, lent by {}, would do (--memory); or add a device, or ask for a "
              "smaller context (-c) or smaller batches (-ub)",
              each, what, format_bytes(std::max<std::uint64_t>(lack.bytes, 1)),
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
