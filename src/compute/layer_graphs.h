// LayerGraphs: the graphs of a window's layers. Layers that differ in nothing but where weights, keys and
// values are share one, and a shape's graphs are kept for the next batches of it: so tokens flow without
// building any.
//
// Inside compute only. Engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compute/kv_storage.h"
#include "compute/scratch.h"
#include "compute/slices.h"
#include "plan/plan.h"
#include "residency/weight_source.h"

namespace hearth::compute {

// What a graph is built for.
struct Shape {
  std::uint32_t n_tokens = 0, n_kv = 0, n_out = 0;
  std::uint32_t n_kv_sliding = 0;  // of layers with a sliding window
  friend bool operator==(const Shape&, const Shape&) = default;
};

// A tensor of another place for each layer, with the views of it that the graph's nodes are.
struct MovingTensor {
  ggml_tensor* tensor = nullptr;
  std::vector<ggml_tensor*> views;
};

// One graph for all layers of a kind: where weights are is said before each compute.
struct LayerGraph {
  std::uint64_t generation = 0;  // of the scratch memory it points to
  residency::ContextPtr ctx;
  ggml_cgraph* graph = nullptr;
  Slices slices;                      // of a layer whose weights come in parts
  std::vector<ggml_tensor*> weights;  // of all parts, one after another
  std::vector<std::size_t> first;     // of each part's weights
  MovingTensor k, v;
};

class LayerGraphs {
 public:
  // All of them must outlive it.
  LayerGraphs(Scratches scratches, const model::ModelFile& model, plan::LayerRange layers,
              const residency::WeightSource& weights, const KvStorage& kv);

  // The graph of layer il for `shape`, over the layer's keys and values; valid until the next call with
  // another shape. kOutOfMemory when it has to be built and its activations do not fit.
  [[nodiscard]] Result<LayerGraph*> of(std::uint32_t il, const Shape& shape);

  // What all take, about.
  static constexpr std::uint64_t kBytes = 512 << 10;

 private:
  struct Set {
    Shape shape;
    std::uint64_t last_used = 0;
    std::vector<LayerGraph> kinds;  // empty ones are built when they are needed
  };

  [[nodiscard]] bool same_kind(std::uint32_t il, std::uint32_t other) const;
  [[nodiscard]] Set& set_of(const Shape& shape);
  [[nodiscard]] Result<LayerGraph> build(std::uint32_t il, const Shape& shape);

  [[nodiscard]] Scratch& scratch_of(std::uint32_t il) const { return scratches_.of(weights_, il); }

  Scratches scratches_;
  const model::ModelFile& model_;
  plan::LayerRange layers_;
  const residency::WeightSource& weights_;
  const KvStorage& kv_;
  std::vector<std::uint32_t> kind_of_;  // by layer of the window
  std::uint32_t n_kinds_ = 0;
  std::vector<Set> sets_;
  std::uint64_t clock_ = 0;
};

// Says where weights are.
void point_weights(std::span<ggml_tensor* const> tensors, std::span<const residency::TensorPlace> places);

}  // namespace hearth::compute
