// The forward pass of one transformer layer as a ggml graph, built from architecture traits.
//
// Inside compute only (ggml types). Shapes are written in ggml order: [contiguous dimension, …].
#pragma once

#include <array>
#include <span>
#include <vector>

#include <ggml.h>

#include "model/model_file.h"
#include "wire/messages.h"

namespace hearth::compute {

// The tensors of one layer by role. A matrix may come in several blocks of rows.
class LayerWeights {
 public:
  void add(model::Role role, ggml_tensor* tensor) { of(role).push_back(tensor); }
  // nullptr where the model has none.
  [[nodiscard]] ggml_tensor* operator[](model::Role role) const {
    return of(role).empty() ? nullptr : of(role).front();
  }
  [[nodiscard]] std::span<ggml_tensor* const> matrix(model::Role role) const { return of(role); }

 private:
  using Blocks = std::vector<ggml_tensor*>;
  [[nodiscard]] Blocks& of(model::Role role) { return by_role_[static_cast<std::size_t>(role)]; }
  [[nodiscard]] const Blocks& of(model::Role role) const { return by_role_[static_cast<std::size_t>(role)]; }
  std::array<Blocks, model::kRoles> by_role_;
};

struct LayerOptions {
  std::uint32_t layer = 0;  // counted from the model's first
  std::uint32_t n_ctx = 0;  // cells of layers that see the whole context
  bool flash_attention = true;
};

// One layer's KV storage and what of it this batch sees.
struct LayerKv {
  ggml_tensor* k = nullptr;  // [n_embd_k, n_cells]
  ggml_tensor* v = nullptr;  // [n_embd_v, n_cells]
  std::int64_t n_kv = 0;     // cells 0..n_kv-1 are attended to, as far as the mask lets
};

struct BatchInputs {
  ggml_tensor* hidden = nullptr;      // f32 [n_embd, n_tokens]
  ggml_tensor* positions = nullptr;   // i32 [n_tokens]
  ggml_tensor* cells = nullptr;       // i64 [n_tokens]: where each token's K and V go
  ggml_tensor* mask = nullptr;        // [n_kv, n_tokens]: 0 or -inf; f16 with flash attention, else f32
  ggml_tensor* k_rotation = nullptr;  // f32, of kv_rotation.h; nullptr: none
  ggml_tensor* v_rotation = nullptr;
  ggml_tensor* out_rows = nullptr;    // i32 [n_out]: rows that are needed after this layer, nullptr for all
  bool keys_and_values_only = false;  // no row is needed after this layer: only the KV cache is written
};

// How ggml names a type of the KV cache; kv_storage.cpp.
[[nodiscard]] ggml_type storage_type(wire::KvType type);

// Nodes and tensors of a layer's graph whose weights are `n_weights` tensors, at most.
[[nodiscard]] constexpr std::size_t max_layer_nodes(std::size_t n_weights, std::uint32_t n_expert_used) {
  return 128 + 2 * n_weights + std::size_t{2} * n_expert_used;
}
[[nodiscard]] constexpr std::size_t max_layer_tensors(std::size_t n_weights, std::uint32_t n_expert_used) {
  // With the weights, inputs and pieced results.
  return max_layer_nodes(n_weights, n_expert_used) + n_weights + 64;
}

// Adds the layer to `graph`, its nodes in an order that reads the weights in the order of model::Role, each
// in one stretch; no node is a view of a weight. Returns its output, f32 [n_embd, n_tokens or n_out]; nullptr
// for keys_and_values_only.
[[nodiscard]] ggml_tensor* build_layer(ggml_context* ctx, ggml_cgraph* graph, const model::ModelFile& model,
                                       const LayerOptions& options, const LayerWeights& w, const LayerKv& kv,
                                       const BatchInputs& in);

// Turns the keys of the cells from `first` on by deltas (i32 [n], in positions), so that their positions can
// be shifted: in place, by way of f32 where they are quantized. `rope_factors` are the layer's, nullptr where
// it has none; the layer has RoPE. `rotation`: as in BatchInputs.
[[nodiscard]] ggml_tensor* build_key_shift(ggml_context* ctx, const model::ModelFile& model,
                                           std::uint32_t layer, ggml_tensor* k, std::int64_t first,
                                           ggml_tensor* deltas, ggml_tensor* rope_factors,
                                           ggml_tensor* rotation);

// Which of a layer's tensors has the RoPE factors for contexts of n_ctx tokens; it may have none.
[[nodiscard]] model::Role rope_factors(const model::ModelFile& model, std::uint32_t n_ctx);

// cap * tanh(x / cap), in place; x as it is where the cap is 0.
[[nodiscard]] ggml_tensor* soft_cap(ggml_context* ctx, ggml_tensor* x, float cap);

// RMS norm with weights: x / rms(x) * weight.
[[nodiscard]] ggml_tensor* rms_norm(ggml_context* ctx, ggml_tensor* x, ggml_tensor* weight, float eps);

}  // namespace hearth::compute
