// Slices: a layer's graph cut so that each piece reads the weights of one part only (residency::Part in
// weight_source.h). Computed one after another they do what the whole graph does, while only one part at a
// time is in memory.
//
// Inside compute only.
#pragma once

#include <span>
#include <vector>

#include <ggml.h>

#include "residency/ggml_tensors.h"

namespace hearth::compute {

struct Slices {
  residency::ContextPtr ctx;
  std::vector<ggml_cgraph*> graphs;  // one per part, nullptr where no node reads it
};

// `graph` is built and allocated; its nodes read `weights` as build_layer says. The weights are those of all
// parts, one after another: part p's begin at first[p], the last ones end with the weights. The slices share
// the graph's nodes, so graph and slices live and die together.
[[nodiscard]] Slices cut(ggml_cgraph* graph, std::span<ggml_tensor* const> weights,
                         std::span<const std::size_t> first);

}  // namespace hearth::compute
