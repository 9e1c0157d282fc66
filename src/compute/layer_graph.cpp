#include "compute/layer_graph.h"

#include <cmath>

#include "compute/kv_rotation.h"

namespace hearth::compute {
namespace {

using model::Role;

ggml_tensor* biased(ggml_context* ctx, ggml_tensor* y, ggml_tensor* bias) {
  return bias == nullptr ? y : ggml_add(ctx, y, bias);
}

// W x, of a matrix in blocks of rows block by block, in the order in which they come.
ggml_tensor* project(ggml_context* ctx, ggml_cgraph* graph, std::span<ggml_tensor* const> blocks,
                     ggml_tensor* x) {
  if (blocks.size() == 1) return ggml_mul_mat(ctx, blocks.front(), x);
  std::int64_t n_rows = 0;
  for (const ggml_tensor* block : blocks) n_rows += block->ne[1];
  ggml_tensor* y = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_rows, x->ne[1]);
  std::size_t offset = 0;
  for (ggml_tensor* block : blocks) {
    y = ggml_set_2d_inplace(ctx, y, ggml_mul_mat(ctx, block, x), y->nb[1], offset);
    ggml_build_forward_expand(graph, y);
    offset += static_cast<std::size_t>(block->ne[1]) * sizeof(float);
  }
  return y;
}

int rope_mode(model::RopeKind kind) {
  return kind == model::RopeKind::kHalves ? GGML_ROPE_TYPE_NEOX : GGML_ROPE_TYPE_NORMAL;
}

// YaRN's parameters at their neutral values: no extrapolation mix, no magnitude change.
constexpr float kExtFactor = 0, kAttnFactor = 1, kBetaFast = 32, kBetaSlow = 1;

ggml_tensor* rope(ggml_context* ctx, const model::ModelFile& model, ggml_tensor* x, ggml_tensor* positions,
                  ggml_tensor* factors) {
  const model::HyperParams& p = model.params();
  return ggml_rope_ext(ctx, x, positions, factors, static_cast<int>(p.n_rot), rope_mode(model.arch().rope),
                       static_cast<int>(p.n_ctx_train), p.rope_freq_base, p.rope_freq_scale, kExtFactor,
                       kAttnFactor, kBetaFast, kBetaSlow);
}

// The first n_kv cells of a KV tensor as [head_dim, n_head_kv, n_kv].
ggml_tensor* cached(ggml_context* ctx, ggml_tensor* kv, std::int64_t head_dim, std::int64_t n_head_kv,
                    std::int64_t n_kv) {
  return ggml_view_3d(ctx, kv, head_dim, n_head_kv, n_kv, ggml_row_size(kv->type, head_dim), kv->nb[1], 0);
}

// softmax(q k^T * scale + mask) v, for q [head_dim, n_head, n_tokens] -> [n_head * head_dim_v, n_tokens].
ggml_tensor* attention(ggml_context* ctx, const model::HyperParams& p, ggml_tensor* q, const LayerKv& kv,
                       ggml_tensor* mask, bool flash_attention) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(p.head_dim_k));
  const std::int64_t n_tokens = q->ne[2];
  q = ggml_permute(ctx, q, 0, 2, 1, 3);
  ggml_tensor* k = ggml_permute(ctx, cached(ctx, kv.k, p.head_dim_k, p.n_head_kv, kv.n_kv), 0, 2, 1, 3);
  ggml_tensor* v = ggml_permute(ctx, cached(ctx, kv.v, p.head_dim_v, p.n_head_kv, kv.n_kv), 0, 2, 1, 3);
  const std::int64_t n_embd_out = std::int64_t{p.n_head} * p.head_dim_v;
  if (flash_attention) {
    ggml_tensor* out = ggml_flash_attn_ext(ctx, q, k, v, mask, scale, 0.0F, 0.0F);
    ggml_prec_set_acc(out, GGML_PREC_F32);
    return ggml_reshape_2d(ctx, out, n_embd_out, n_tokens);
  }
  ggml_tensor* weights = ggml_mul_mat(ctx, k, q);
  ggml_prec_set_acc(weights, GGML_PREC_F32);
  weights = ggml_soft_max_ext(ctx, weights, mask, scale, 0.0F);
  ggml_tensor* out = ggml_mul_mat(ctx, ggml_cont(ctx, ggml_transpose(ctx, v)), weights);
  return ggml_cont_2d(ctx, ggml_permute(ctx, out, 0, 2, 1, 3), n_embd_out, n_tokens);
}

}  // namespace

ggml_tensor* rms_norm(ggml_context* ctx, ggml_tensor* x, ggml_tensor* weight, float eps) {
  return ggml_mul(ctx, ggml_rms_norm(ctx, x, eps), weight);
}

ggml_tensor* build_layer(ggml_context* ctx, ggml_cgraph* graph, const model::ModelFile& model,
                         const LayerWeights& w, const LayerKv& kv, const BatchInputs& in,
                         bool flash_attention) {
  const model::HyperParams& p = model.params();
  const std::int64_t n_tokens = in.hidden->ne[1];

  // Attention: norm, projections, biases, per-head norms, RoPE. Each step of all three before the next one:
  // so the nodes read the weights in the order of model::Role, and a layer can be computed as its weights
  // arrive.
  const auto in_order = [&](ggml_tensor* q, ggml_tensor* k, ggml_tensor* v) {
    for (ggml_tensor* node : {q, k, v})
      if (node != nullptr) ggml_build_forward_expand(graph, node);
  };
  const bool queries = !in.keys_and_values_only;
  ggml_tensor* x = rms_norm(ctx, in.hidden, w[Role::kAttnNorm], p.rms_eps);
  ggml_tensor* q = queries ? project(ctx, graph, w.matrix(Role::kAttnQ), x) : nullptr;
  in_order(q, nullptr, nullptr);
  ggml_tensor* k = project(ctx, graph, w.matrix(Role::kAttnK), x);
  in_order(nullptr, k, nullptr);
  ggml_tensor* v = project(ctx, graph, w.matrix(Role::kAttnV), x);
  in_order(nullptr, nullptr, v);
  if (queries) q = biased(ctx, q, w[Role::kAttnQBias]);
  k = biased(ctx, k, w[Role::kAttnKBias]);
  v = biased(ctx, v, w[Role::kAttnVBias]);
  in_order(q, k, v);
  if (queries) q = ggml_reshape_3d(ctx, q, p.head_dim_k, p.n_head, n_tokens);
  k = ggml_reshape_3d(ctx, k, p.head_dim_k, p.n_head_kv, n_tokens);
  if (queries && w[Role::kAttnQNorm] != nullptr) q = rms_norm(ctx, q, w[Role::kAttnQNorm], p.rms_eps);
  if (w[Role::kAttnKNorm] != nullptr) k = rms_norm(ctx, k, w[Role::kAttnKNorm], p.rms_eps);
  in_order(q, k, nullptr);
  if (queries) q = rope(ctx, model, q, in.positions, w[Role::kRopeFactors]);
  k = rope(ctx, model, k, in.positions, w[Role::kRopeFactors]);
  if (queries) q = rotated(ctx, q, in.k_rotation);
  k = rotated(ctx, k, in.k_rotation);
  v = rotated(ctx, v, in.v_rotation);

  // This batch's keys and values enter their cells before anything attends to them.
  in_order(q, ggml_set_rows(ctx, kv.k, ggml_reshape_2d(ctx, k, p.n_embd_k(), n_tokens), in.cells),
           ggml_set_rows(ctx, kv.v, ggml_reshape_2d(ctx, v, p.n_embd_v(), n_tokens), in.cells));

  if (in.keys_and_values_only) return nullptr;

  x = rotated(ctx, attention(ctx, p, q, kv, in.mask, flash_attention), in.v_rotation);
  x = project(ctx, graph, w.matrix(Role::kAttnOutput), x);
  x = biased(ctx, x, w[Role::kAttnOutputBias]);

  // From here on only the rows that somebody asked for.
  ggml_tensor* residual = in.hidden;
  if (in.out_rows != nullptr) {
    x = ggml_get_rows(ctx, x, in.out_rows);
    residual = ggml_get_rows(ctx, residual, in.out_rows);
  }
  residual = ggml_add(ctx, x, residual);

  // Feed-forward: down(silu(gate(x)) * up(x)).
  x = rms_norm(ctx, residual, w[Role::kFfnNorm], p.rms_eps);
  ggml_tensor* gate = project(ctx, graph, w.matrix(Role::kFfnGate), x);
  ggml_build_forward_expand(graph, gate);
  ggml_tensor* up = project(ctx, graph, w.matrix(Role::kFfnUp), x);
  x = project(ctx, graph, w.matrix(Role::kFfnDown), ggml_swiglu_split(ctx, gate, up));
  x = ggml_add(ctx, x, residual);
  ggml_build_forward_expand(graph, x);
  return x;
}

ggml_tensor* build_key_shift(ggml_context* ctx, const model::ModelFile& model, ggml_tensor* k,
                             std::int64_t first, ggml_tensor* deltas, ggml_tensor* rope_factors,
                             ggml_tensor* rotation) {
  const model::HyperParams& p = model.params();
  ggml_tensor* keys =
      ggml_view_3d(ctx, k, p.head_dim_k, p.n_head_kv, deltas->ne[0], ggml_row_size(k->type, p.head_dim_k),
                   k->nb[1], static_cast<std::size_t>(first) * k->nb[1]);
  if (ggml_is_quantized(k->type)) {
    ggml_tensor* x = rotated(ctx, ggml_cast(ctx, keys, GGML_TYPE_F32), rotation);
    x = rope(ctx, model, x, deltas, rope_factors);
    return ggml_cpy(ctx, rotated(ctx, x, rotation), keys);
  }
  return ggml_rope_ext_inplace(ctx, keys, deltas, rope_factors, static_cast<int>(p.n_rot),
                               rope_mode(model.arch().rope), static_cast<int>(p.n_ctx_train),
                               p.rope_freq_base, p.rope_freq_scale, kExtFactor, kAttnFactor, kBetaFast,
                               kBetaSlow);
}

}  // namespace hearth::compute
