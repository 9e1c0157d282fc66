#include "plan/fullest_ring.h"

#include <algorithm>
#include <numeric>

#include "plan/ring_order.h"

namespace hearth::plan {
namespace {

// The end of the longest window from `begin` that device `m` holds.
std::uint32_t end_of(const RingProfile& ring, const BatchNeeds& batch, std::uint32_t n_windows, std::size_t m,
                     std::uint32_t begin) {
  const ModelProfile& model = ring.model;
  std::uint64_t besides = model.buffer_bytes(batch, m, n_windows);  // weights
  std::uint64_t weights = m == 0 ? model.output_bytes : 0;
  std::uint32_t end = begin;
  for (; end < model.n_layer(); ++end) {
    besides += model.kv_bytes_of({end, end + 1});
    weights += model.layer_bytes[end];
    if (besides + std::min(weights, model.parts.least_slots()) > ring.devices[m].memory_bytes) break;
  }
  return end;
}

}  // namespace

FullestRing fullest_ring(const RingProfile& ring, const BatchNeeds& batch, std::uint32_t n_windows,
                         const std::vector<bool>& excluded) {
  const std::size_t n = ring.devices.size();
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const bool order_matters = !ring.model.layer_kv_bytes.empty() && n <= kMostEnumerated;
  FullestRing best;
  do {
    FullestRing filled = {.order = order, .layers = std::vector<std::uint32_t>(n, 0)};
    for (const std::size_t m : order) {
      if (!excluded.empty() && excluded[m]) continue;
      const std::uint32_t end = end_of(ring, batch, n_windows, m, filled.n_layers);
      filled.layers[m] = end - filled.n_layers;
      filled.n_layers = end;
    }
    if (best.order.empty() || filled.n_layers > best.n_layers) best = std::move(filled);
  } while (order_matters && best.n_layers < ring.model.n_layer() &&
           std::next_permutation(order.begin(), order.end()));
  return best;
}

}  // namespace hearth::plan
