// Slices: a layer's graph cut so that each piece reads the weights of one part only (residency::Part).
// Computed one after another they do what the whole graph does, while only one part at a time is in memory.
//
// Inside compute only.
#pragma once

#include <span>
#include <vector>

#include <ggml.h>

#include "residency/ggml_tensors.h"
#include "residency/weight_source.h"

namespace hearth::compute {

struct Slices {
  residency::ContextPtr ctx;
  std::vector<ggml_cgraph*> graphs;  // one per part, nullptr where no node reads it
};

// `graph` is built and allocated; its nodes read `weights` (in the order of ModelFile::segment) as
// build_layer says. The slices share its nodes, so graph and slices live and die together.
[[nodiscard]] Slices cut(ggml_cgraph* graph, std::span<ggml_tensor* const> weights,
                         std::span<const residency::Part> parts);

}  // namespace hearth::compute
