// The windows of one round that hold the most layers: whether a model fits a ring at all, and how.
//
// In a given order of devices each one takes as many layers as its memory allows, beside its buffers: their
// KV cache, and what their weights are streamed through. A device that holds some layers holds fewer of them,
// too, so no other windows in that order hold more. Layers that differ in their KV cache can make one order
// better than another: all are tried, up to kMostEnumerated devices (ring_order.h).
//
// Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plan/profiles.h"

namespace hearth::plan {

struct FullestRing {
  std::vector<std::size_t> order;     // all devices; the head may be anywhere
  std::vector<std::uint32_t> layers;  // by device: its window, one after the other in that order
  std::uint32_t n_layers = 0;         // all of them: the model's, or its first
};

// `n_windows`: whose tables each device keeps room for; `excluded` by device, or empty: those get none.
// Whether the head holds its output head where it gets no layer is not asked.
[[nodiscard]] FullestRing fullest_ring(const RingProfile& ring, const BatchNeeds& batch,
                                       std::uint32_t n_windows, const std::vector<bool>& excluded);

}  // namespace hearth::plan
