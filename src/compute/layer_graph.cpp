#include "compute/layer_graph.h"

#include <cmath>
#include <limits>
#include <utility>

#include "compute/kv_rotation.h"

namespace hearth::compute {
namespace {

using model::Activation;
using model::HyperParams;
using model::Role;

// What the layer is built from, and in.
struct Builder {
  ggml_context* ctx;
  ggml_cgraph* graph;
  const model::ModelFile& model;
  const LayerOptions& options;
  const LayerWeights& w;
  const LayerKv& kv;
  const BatchInputs& in;
  const HyperParams& p = model.params();
  std::int64_t n_tokens = in.hidden->ne[1];

  // In the graph now: its nodes come before those of all that follows.
  ggml_tensor* now(ggml_tensor* node) const {
    if (node != nullptr) ggml_build_forward_expand(graph, node);
    return node;
  }

  [[nodiscard]] ggml_tensor* biased(ggml_tensor* y, Role bias) const {
    return w[bias] == nullptr ? y : ggml_add(ctx, y, w[bias]);
  }
  // x itself where the model has no such norm.
  [[nodiscard]] ggml_tensor* normed(ggml_tensor* x, Role norm) const {
    return w[norm] == nullptr ? x : rms_norm(ctx, x, w[norm], p.rms_eps);
  }
  [[nodiscard]] ggml_tensor* scaled(ggml_tensor* x, float scale) const {
    return scale == 1.0F ? x : ggml_scale(ctx, x, scale);
  }

  // W x, of a matrix in blocks of rows block by block, in the order in which they come.
  [[nodiscard]] ggml_tensor* project(Role role, ggml_tensor* x) const {
    const auto blocks = w.matrix(role);
    if (blocks.size() == 1) return ggml_mul_mat(ctx, blocks.front(), x);
    std::int64_t n_rows = 0;
    for (const ggml_tensor* block : blocks) n_rows += block->ne[1];
    ggml_tensor* y = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_rows, x->ne[1]);
    std::size_t offset = 0;
    for (ggml_tensor* block : blocks) {
      y = now(ggml_set_2d_inplace(ctx, y, ggml_mul_mat(ctx, block, x), y->nb[1], offset));
      offset += static_cast<std::size_t>(block->ne[1]) * sizeof(float);
    }
    return y;
  }

  [[nodiscard]] ggml_tensor* rope(ggml_tensor* x) const;
  struct Projected {
    ggml_tensor* q;  // [head_dim_k, n_head, n_tokens], nullptr when only keys and values are needed
    ggml_tensor* k;  // [head_dim_k, n_head_kv, n_tokens]
    ggml_tensor* v;  // [n_embd_v, n_tokens]
  };
  [[nodiscard]] Projected project_qkv(ggml_tensor* x) const;
  [[nodiscard]] Projected project_fused(ggml_tensor* x) const;
  [[nodiscard]] ggml_tensor* attention(ggml_tensor* q) const;
  [[nodiscard]] ggml_tensor* activated(ggml_tensor* gate, ggml_tensor* up) const;
  [[nodiscard]] ggml_tensor* dense(ggml_tensor* x, Role gate, Role up, Role down) const;
  [[nodiscard]] ggml_tensor* fused_dense(ggml_tensor* x) const;
  struct Choice {
    ggml_tensor* experts;  // i32 [n_expert_used, n_tokens]
    ggml_tensor* weights;  // [1, n_expert_used, n_tokens]
  };
  [[nodiscard]] Choice choose_experts(ggml_tensor* x) const;
  [[nodiscard]] ggml_tensor* experts(ggml_tensor* x) const;
  [[nodiscard]] ggml_tensor* shared_expert(ggml_tensor* x) const;
};

int rope_mode(model::RopeKind kind) {
  return kind == model::RopeKind::kHalves ? GGML_ROPE_TYPE_NEOX : GGML_ROPE_TYPE_NORMAL;
}

// RoPE of x [head_dim_k, n_heads, n] at positions i32 [n]; `rope_ext` is ggml's of that name, or the one in
// place. `factors`: nullptr where there are none.
ggml_tensor* turned(ggml_context* ctx, const model::ModelFile& model, const model::Rope& r,
                    decltype(ggml_rope_ext)* rope_ext, ggml_tensor* x, ggml_tensor* positions,
                    ggml_tensor* factors) {
  const HyperParams& p = model.params();
  return rope_ext(ctx, x, positions, factors, static_cast<int>(p.n_rot), rope_mode(model.arch().rope),
                  static_cast<int>(p.n_ctx_orig), r.freq_base, r.freq_scale, r.ext_factor, r.attn_factor,
                  p.yarn_beta_fast, p.yarn_beta_slow);
}

ggml_tensor* Builder::rope(ggml_tensor* x) const {
  const model::Rope r = p.rope(options.layer);
  if (!r.is_on) return x;
  return turned(ctx, model, r, ggml_rope_ext, x, in.positions, w[rope_factors(model, options.n_ctx)]);
}

// Each step of all three before the next one: so the nodes read the weights in the order of model::Role, and
// a layer can be computed as its weights arrive.
Builder::Projected Builder::project_qkv(ggml_tensor* x) const {
  const bool queries = !in.keys_and_values_only;
  const bool whole = model.arch().qk_norm == model::QkNorm::kWhole;
  ggml_tensor* q = queries ? now(project(Role::kAttnQ, x)) : nullptr;
  ggml_tensor* k = now(project(Role::kAttnK, x));
  ggml_tensor* v = now(project(Role::kAttnV, x));
  if (queries) q = now(biased(q, Role::kAttnQBias));
  k = now(biased(k, Role::kAttnKBias));
  v = now(biased(v, Role::kAttnVBias));
  if (whole) {
    if (queries) q = normed(q, Role::kAttnQNorm);
    k = normed(k, Role::kAttnKNorm);
  }
  if (queries) q = ggml_reshape_3d(ctx, q, p.head_dim_k, p.n_head, n_tokens);
  k = ggml_reshape_3d(ctx, k, p.head_dim_k, p.n_head_kv, n_tokens);
  if (!whole) {
    if (queries) q = normed(q, Role::kAttnQNorm);
    k = normed(k, Role::kAttnKNorm);
  }
  return {.q = now(q), .k = now(k), .v = v};
}

// One matrix for all three.
Builder::Projected Builder::project_fused(ggml_tensor* x) const {
  ggml_tensor* qkv = now(project(Role::kAttnQkv, x));
  const std::size_t head = p.head_dim_k * sizeof(float), row = qkv->nb[1];
  const std::size_t at_k = p.n_embd_q() * sizeof(float), at_v = at_k + p.n_embd_k() * sizeof(float);
  return {.q = ggml_view_3d(ctx, qkv, p.head_dim_k, p.n_head, n_tokens, head, row, 0),
          .k = ggml_view_3d(ctx, qkv, p.head_dim_k, p.n_head_kv, n_tokens, head, row, at_k),
          .v = ggml_view_2d(ctx, qkv, p.n_embd_v(), n_tokens, row, at_v)};
}

// n cells of a KV tensor from `first` on, as [head_dim, n_head_kv, n].
ggml_tensor* cached(ggml_context* ctx, ggml_tensor* kv, std::int64_t head_dim, std::int64_t n_head_kv,
                    std::int64_t n, std::int64_t first = 0) {
  return ggml_view_3d(ctx, kv, head_dim, n_head_kv, n, ggml_row_size(kv->type, head_dim), kv->nb[1],
                      static_cast<std::size_t>(first) * kv->nb[1]);
}

// softmax(q k^T * scale + mask) v, for q [head_dim, n_head, n_tokens] -> [n_head * head_dim_v, n_tokens].
ggml_tensor* Builder::attention(ggml_tensor* q) const {
  float scale = p.attention_scale;
  if (model.arch().scale_queries) {
    q = ggml_scale(ctx, q, scale);
    scale = 1;
  }
  q = ggml_permute(ctx, q, 0, 2, 1, 3);
  ggml_tensor* k = ggml_permute(ctx, cached(ctx, kv.k, p.head_dim_k, p.n_head_kv, kv.n_kv), 0, 2, 1, 3);
  ggml_tensor* v = ggml_permute(ctx, cached(ctx, kv.v, p.head_dim_v, p.n_head_kv, kv.n_kv), 0, 2, 1, 3);
  ggml_tensor* sinks = w[Role::kAttnSinks];
  const std::int64_t n_embd_out = std::int64_t{p.n_head} * p.head_dim_v;
  if (options.flash_attention) {
    ggml_tensor* out = ggml_flash_attn_ext(ctx, q, k, v, in.mask, scale, 0.0F, p.attention_cap);
    ggml_flash_attn_ext_add_sinks(out, sinks);
    ggml_prec_set_acc(out, GGML_PREC_F32);
    return ggml_reshape_2d(ctx, out, n_embd_out, n_tokens);
  }
  ggml_tensor* scores = ggml_mul_mat(ctx, k, q);
  ggml_prec_set_acc(scores, GGML_PREC_F32);
  scores = soft_cap(ctx, scores, p.attention_cap);
  scores = ggml_soft_max_ext(ctx, scores, in.mask, scale, 0.0F);
  ggml_soft_max_add_sinks(scores, sinks);
  ggml_tensor* out = ggml_mul_mat(ctx, ggml_cont(ctx, ggml_transpose(ctx, v)), scores);
  return ggml_cont_2d(ctx, ggml_permute(ctx, out, 0, 2, 1, 3), n_embd_out, n_tokens);
}

ggml_tensor* Builder::activated(ggml_tensor* gate, ggml_tensor* up) const {
  constexpr float kOaiAlpha = 1.702F, kOaiLimit = 7.0F;
  switch (model.arch().activation) {
    case Activation::kSwiGlu:
      return ggml_swiglu_split(ctx, gate, up);
    case Activation::kGeGlu:
      return ggml_geglu_split(ctx, gate, up);
    case Activation::kSwiGluOai:
      return ggml_swiglu_oai(ctx, gate, up, kOaiAlpha, kOaiLimit);
  }
  std::unreachable();
}

// down(act(gate(x), up(x))).
ggml_tensor* Builder::dense(ggml_tensor* x, Role gate, Role up, Role down) const {
  ggml_tensor* gated = now(project(gate, x));
  return project(down, activated(gated, project(up, x)));
}

// One matrix for gate and up.
ggml_tensor* Builder::fused_dense(ggml_tensor* x) const {
  return project(Role::kFfnDown, ggml_swiglu(ctx, project(Role::kFfnUp, x)));
}

Builder::Choice Builder::choose_experts(ggml_tensor* x) const {
  const std::int64_t n_used = p.n_expert_used, n_rows = x->ne[1];
  constexpr float kSmallestHalf = 6.103515625e-5F;  // F16's least normal number: no division by 0
  const model::ExpertWeights kind = model.arch().expert_weights;
  ggml_tensor* scores = biased(project(Role::kRouter, x), Role::kRouterBias);
  if (kind != model::ExpertWeights::kSoftmaxAfter) scores = ggml_soft_max(ctx, scores);
  ggml_tensor* chosen = ggml_argsort_top_k(ctx, scores, static_cast<int>(n_used));
  ggml_tensor* weights = ggml_get_rows(ctx, ggml_reshape_3d(ctx, scores, 1, p.n_expert, n_rows), chosen);
  if (kind != model::ExpertWeights::kSoftmax) {
    weights = ggml_reshape_2d(ctx, weights, n_used, n_rows);
    if (kind == model::ExpertWeights::kSoftmaxAfter)
      weights = ggml_soft_max(ctx, weights);
    else
      weights = ggml_div(ctx, weights,
                         ggml_clamp(ctx, ggml_sum_rows(ctx, weights), kSmallestHalf,
                                    std::numeric_limits<float>::infinity()));
    weights = ggml_reshape_3d(ctx, weights, 1, n_used, n_rows);
  }
  return {.experts = chosen, .weights = now(weights)};
}

// The sum of what the chosen experts make of each token, weighted.
ggml_tensor* Builder::experts(ggml_tensor* x) const {
  const std::int64_t n_embd = p.n_embd, n_rows = x->ne[1];
  const auto [chosen, weights] = choose_experts(x);
  const auto of_each = [&](Role matrix, Role bias, ggml_tensor* of) {
    ggml_tensor* y = now(ggml_mul_mat_id(ctx, w[matrix], of, chosen));
    return w[bias] == nullptr ? y : now(ggml_add_id(ctx, y, w[bias], chosen));
  };
  ggml_tensor* rows = ggml_reshape_3d(ctx, x, n_embd, 1, n_rows);
  ggml_tensor* gate = of_each(Role::kExpertsGate, Role::kExpertsGateBias, rows);
  ggml_tensor* up = of_each(Role::kExpertsUp, Role::kExpertsUpBias, rows);
  ggml_tensor* each = of_each(Role::kExpertsDown, Role::kExpertsDownBias, activated(gate, up));
  each = now(ggml_mul(ctx, each, weights));  // [n_embd, n_expert_used, n_rows]
  const auto of_choice = [&](std::uint32_t i) {
    return now(ggml_view_2d(ctx, each, n_embd, n_rows, each->nb[2], i * each->nb[1]));
  };
  if (p.n_expert_used == 1) return ggml_cont(ctx, of_choice(0));
  ggml_tensor* sum = of_choice(0);
  for (std::uint32_t i = 1; i < p.n_expert_used; ++i) sum = ggml_add(ctx, sum, of_choice(i));
  return sum;
}

// What all tokens go to, times sigmoid(router(x)), which libllama computes as silu(r) / r.
ggml_tensor* Builder::shared_expert(ggml_tensor* x) const {
  ggml_tensor* r = ggml_mul_mat(ctx, w[Role::kSharedRouter], x);
  ggml_tensor* share = now(ggml_div(ctx, ggml_silu(ctx, r), r));
  return ggml_mul(ctx, dense(x, Role::kSharedGate, Role::kSharedUp, Role::kSharedDown), share);
}

}  // namespace

ggml_tensor* rms_norm(ggml_context* ctx, ggml_tensor* x, ggml_tensor* weight, float eps) {
  return ggml_mul(ctx, ggml_rms_norm(ctx, x, eps), weight);
}

ggml_tensor* soft_cap(ggml_context* ctx, ggml_tensor* x, float cap) {
  if (cap == 0) return x;
  x = ggml_tanh_inplace(ctx, ggml_scale_inplace(ctx, x, 1.0F / cap));
  return ggml_scale_inplace(ctx, x, cap);
}

Role rope_factors(const model::ModelFile& model, std::uint32_t n_ctx) {
  if (!model.arch().fused) return Role::kRopeFactors;
  return n_ctx > model.params().n_ctx_orig ? Role::kRopeLong : Role::kRopeShort;
}

ggml_tensor* build_layer(ggml_context* ctx, ggml_cgraph* graph, const model::ModelFile& model,
                         const LayerOptions& options, const LayerWeights& w, const LayerKv& kv,
                         const BatchInputs& in) {
  const Builder b = {
      .ctx = ctx, .graph = graph, .model = model, .options = options, .w = w, .kv = kv, .in = in};
  const HyperParams& p = b.p;

  // Attention.
  ggml_tensor* x = b.normed(in.hidden, Role::kAttnNorm);
  auto [q, k, v] = model.arch().fused ? b.project_fused(x) : b.project_qkv(x);
  if (q != nullptr) q = rotated(ctx, b.rope(q), in.k_rotation);
  k = rotated(ctx, b.rope(k), in.k_rotation);
  v = rotated(ctx, v, in.v_rotation);
  // This batch's keys and values enter their cells before anything attends to them.
  b.now(q);
  b.now(ggml_set_rows(ctx, kv.k, ggml_reshape_2d(ctx, k, p.n_embd_k(), b.n_tokens), in.cells));
  b.now(ggml_set_rows(ctx, kv.v, v, in.cells));
  if (in.keys_and_values_only) return nullptr;
  x = rotated(ctx, b.attention(q), in.v_rotation);
  x = b.biased(b.project(Role::kAttnOutput, x), Role::kAttnOutputBias);

  // From here on only the rows that somebody asked for.
  ggml_tensor* residual = in.hidden;
  if (in.out_rows != nullptr) {
    x = ggml_get_rows(ctx, x, in.out_rows);
    residual = ggml_get_rows(ctx, residual, in.out_rows);
  }
  x = b.normed(x, Role::kAttnPostNorm);
  residual = ggml_add(ctx, b.scaled(x, p.residual_scale), residual);

  // Feed-forward.
  x = b.now(b.normed(residual, Role::kFfnNorm));
  if (p.n_expert > 0) {
    ggml_tensor* sum = b.experts(x);
    x = model.arch().shared_expert ? ggml_add(ctx, b.now(sum), b.shared_expert(x)) : sum;
  } else {
    x = model.arch().fused ? b.fused_dense(x) : b.dense(x, Role::kFfnGate, Role::kFfnUp, Role::kFfnDown);
  }
  x = b.normed(x, Role::kFfnPostNorm);
  return b.now(ggml_add(ctx, b.scaled(x, p.residual_scale), residual));
}

ggml_tensor* build_key_shift(ggml_context* ctx, const model::ModelFile& model, std::uint32_t layer,
                             ggml_tensor* k, std::int64_t first, ggml_tensor* deltas,
                             ggml_tensor* rope_factors, ggml_tensor* rotation) {
  const HyperParams& p = model.params();
  model::Rope r = p.rope(layer);
  HEARTH_CHECK(r.is_on, "keys without RoPE do not turn");
  // The keys have their length already; ggml would change it once more.
  r.attn_factor = r.ext_factor == 0 ? 1.0F : 1.0F / (1.0F + 0.1F * std::log(1.0F / r.freq_scale));
  ggml_tensor* keys = cached(ctx, k, p.head_dim_k, p.n_head_kv, deltas->ne[0], first);
  if (!ggml_is_quantized(k->type))
    return turned(ctx, model, r, ggml_rope_ext_inplace, keys, deltas, rope_factors);
  ggml_tensor* x = rotated(ctx, ggml_cast(ctx, keys, GGML_TYPE_F32), rotation);
  x = turned(ctx, model, r, ggml_rope_ext, x, deltas, rope_factors);
  return ggml_cpy(ctx, rotated(ctx, x, rotation), keys);
}

}  // namespace hearth::compute
