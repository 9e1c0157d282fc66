// What each Role is: its name, its shape, who has it.
#include <algorithm>
#include <array>
#include <format>
#include <string_view>

#include "model/model_file.h"

namespace hearth::model {
namespace {

using gguf::TensorType;

enum class Kind : std::uint8_t { kMatrix, kVector, kExperts };

struct RoleRow {
  Role role;
  std::string_view name;  // in a layer: after "blk.N."
  Kind kind;
};

constexpr RoleRow kRows[] = {
    {Role::kTokenEmbedding, "token_embd.weight", Kind::kMatrix},
    {Role::kOutputNorm, "output_norm.weight", Kind::kVector},
    {Role::kOutput, "output.weight", Kind::kMatrix},
    {Role::kAttnNorm, "attn_norm.weight", Kind::kVector},
    {Role::kAttnQkv, "attn_qkv.weight", Kind::kMatrix},
    {Role::kAttnQ, "attn_q.weight", Kind::kMatrix},
    {Role::kAttnK, "attn_k.weight", Kind::kMatrix},
    {Role::kAttnV, "attn_v.weight", Kind::kMatrix},
    {Role::kAttnQBias, "attn_q.bias", Kind::kVector},
    {Role::kAttnKBias, "attn_k.bias", Kind::kVector},
    {Role::kAttnVBias, "attn_v.bias", Kind::kVector},
    {Role::kAttnQNorm, "attn_q_norm.weight", Kind::kVector},
    {Role::kAttnKNorm, "attn_k_norm.weight", Kind::kVector},
    {Role::kRopeFactors, "rope_freqs.weight", Kind::kVector},
    {Role::kRopeLong, "rope_factors_long.weight", Kind::kVector},
    {Role::kRopeShort, "rope_factors_short.weight", Kind::kVector},
    {Role::kAttnSinks, "attn_sinks.weight", Kind::kVector},
    {Role::kAttnOutput, "attn_output.weight", Kind::kMatrix},
    {Role::kAttnOutputBias, "attn_output.bias", Kind::kVector},
    {Role::kAttnPostNorm, "post_attention_norm.weight", Kind::kVector},
    {Role::kFfnNorm, "ffn_norm.weight", Kind::kVector},
    {Role::kFfnGate, "ffn_gate.weight", Kind::kMatrix},
    {Role::kFfnUp, "ffn_up.weight", Kind::kMatrix},
    {Role::kFfnDown, "ffn_down.weight", Kind::kMatrix},
    {Role::kRouter, "ffn_gate_inp.weight", Kind::kMatrix},
    {Role::kRouterBias, "ffn_gate_inp.bias", Kind::kVector},
    {Role::kExpertsGate, "ffn_gate_exps.weight", Kind::kExperts},
    {Role::kExpertsGateBias, "ffn_gate_exps.bias", Kind::kVector},
    {Role::kExpertsUp, "ffn_up_exps.weight", Kind::kExperts},
    {Role::kExpertsUpBias, "ffn_up_exps.bias", Kind::kVector},
    {Role::kExpertsDown, "ffn_down_exps.weight", Kind::kExperts},
    {Role::kExpertsDownBias, "ffn_down_exps.bias", Kind::kVector},
    {Role::kSharedRouter, "ffn_gate_inp_shexp.weight", Kind::kVector},
    {Role::kSharedGate, "ffn_gate_shexp.weight", Kind::kMatrix},
    {Role::kSharedUp, "ffn_up_shexp.weight", Kind::kMatrix},
    {Role::kSharedDown, "ffn_down_shexp.weight", Kind::kMatrix},
    {Role::kFfnPostNorm, "post_ffw_norm.weight", Kind::kVector},
};

constexpr Role kEmbeddingRoles[] = {Role::kTokenEmbedding};
constexpr Role kOutputRoles[] = {Role::kOutputNorm, Role::kOutput};
// The rest of the rows, in their order.
constexpr auto kLayerRoles = [] {
  constexpr std::size_t kFirst = std::size(kEmbeddingRoles) + std::size(kOutputRoles);
  std::array<Role, std::size(kRows) - kFirst> roles{};
  for (std::size_t i = 0; i < roles.size(); ++i) roles[i] = kRows[kFirst + i].role;
  return roles;
}();

static_assert(std::size(kRows) == kRoles);

const RoleRow& row_of(Role role) {
  const RoleRow& row = kRows[static_cast<std::size_t>(role)];
  HEARTH_CHECK(row.role == role, "the rows are in the order of Role");
  return row;
}

// Types with CPU kernels for both row look-up and multiplication. Not here: Q8_1 and Q8_K, which hold
// activations inside ggml, and integers and doubles.
constexpr TensorType kMatrixTypes[] = {
    TensorType::kF32,     TensorType::kF16,   TensorType::kBF16,   TensorType::kQ1_0,   TensorType::kQ2_0,
    TensorType::kQ4_0,    TensorType::kQ4_1,  TensorType::kQ5_0,   TensorType::kQ5_1,   TensorType::kQ8_0,
    TensorType::kQ2_K,    TensorType::kQ3_K,  TensorType::kQ4_K,   TensorType::kQ5_K,   TensorType::kQ6_K,
    TensorType::kIQ1_S,   TensorType::kIQ1_M, TensorType::kIQ2_XS, TensorType::kIQ2_S,  TensorType::kIQ2_XXS,
    TensorType::kIQ3_XXS, TensorType::kIQ3_S, TensorType::kIQ4_NL, TensorType::kIQ4_XS, TensorType::kTQ1_0,
    TensorType::kTQ2_0,   TensorType::kMXFP4, TensorType::kNVFP4};

}  // namespace

std::string tensor_name(Role role, const ArchTraits& arch, std::uint32_t layer) {
  const std::string_view name = role == Role::kFfnNorm ? arch.ffn_norm : row_of(role).name;
  const bool is_per_layer = !is_shared(role) && std::ranges::contains(kLayerRoles, role);
  return is_per_layer ? std::format("blk.{}.{}", layer, name) : std::string(name);
}

std::array<std::int64_t, 3> tensor_shape(Role role, const ArchTraits& arch, const HyperParams& p) {
  const std::int64_t n_embd = p.n_embd, n_expert = p.n_expert, n_ff_exp = p.n_ff_exp;
  const std::int64_t n_ff = p.n_ff, n_ff_shared = p.n_ff_shared;
  const std::int64_t n_embd_q = p.n_embd_q(), n_embd_k = p.n_embd_k(), n_embd_v = p.n_embd_v();
  const bool whole = arch.qk_norm == QkNorm::kWhole;
  switch (role) {
    case Role::kTokenEmbedding:
    case Role::kOutput:
      return {n_embd, p.n_vocab, 1};
    case Role::kOutputNorm:
    case Role::kAttnNorm:
    case Role::kAttnOutputBias:
    case Role::kAttnPostNorm:
    case Role::kFfnNorm:
    case Role::kFfnPostNorm:
    case Role::kSharedRouter:
      return {n_embd, 1, 1};
    case Role::kRopeFactors:
    case Role::kRopeLong:
    case Role::kRopeShort:
      return {p.n_rot / 2, 1, 1};
    case Role::kAttnQkv:
      return {n_embd, n_embd_q + n_embd_k + n_embd_v, 1};
    case Role::kAttnQ:
      return {n_embd, n_embd_q, 1};
    case Role::kAttnK:
      return {n_embd, n_embd_k, 1};
    case Role::kAttnV:
      return {n_embd, n_embd_v, 1};
    case Role::kAttnQBias:
      return {n_embd_q, 1, 1};
    case Role::kAttnKBias:
      return {n_embd_k, 1, 1};
    case Role::kAttnVBias:
      return {n_embd_v, 1, 1};
    case Role::kAttnQNorm:
      return {whole ? n_embd_q : p.head_dim_k, 1, 1};
    case Role::kAttnKNorm:
      return {whole ? n_embd_k : p.head_dim_k, 1, 1};
    case Role::kAttnSinks:
      return {p.n_head, 1, 1};
    case Role::kAttnOutput:
      return {std::int64_t{p.n_head} * p.head_dim_v, n_embd, 1};
    case Role::kFfnGate:
      return {n_embd, n_ff, 1};
    case Role::kFfnUp:
      return {n_embd, arch.fused ? 2 * n_ff : n_ff, 1};
    case Role::kFfnDown:
      return {n_ff, n_embd, 1};
    case Role::kRouter:
      return {n_embd, n_expert, 1};
    case Role::kRouterBias:
      return {n_expert, 1, 1};
    case Role::kExpertsGate:
    case Role::kExpertsUp:
      return {n_embd, n_ff_exp, n_expert};
    case Role::kExpertsGateBias:
    case Role::kExpertsUpBias:
      return {n_ff_exp, n_expert, 1};
    case Role::kExpertsDown:
      return {n_ff_exp, n_embd, n_expert};
    case Role::kExpertsDownBias:
      return {n_embd, n_expert, 1};
    case Role::kSharedGate:
    case Role::kSharedUp:
      return {n_embd, n_ff_shared, 1};
    case Role::kSharedDown:
      return {n_ff_shared, n_embd, 1};
  }
  HEARTH_CHECK(false, "unknown role");
}

bool is_vector(Role role) {
  return row_of(role).kind == Kind::kVector;
}

bool is_shared(Role role) {
  return role == Role::kRopeFactors || role == Role::kRopeLong || role == Role::kRopeShort;
}

bool is_experts(Role role) {
  return row_of(role).kind == Kind::kExperts;
}

Presence presence(Role role, const ArchTraits& arch, const HyperParams& params) {
  const auto only_if = [](bool condition) { return condition ? Presence::kYes : Presence::kNo; };
  const bool experts = params.n_expert > 0;
  switch (role) {
    case Role::kOutput:
      return arch.output_head;
    case Role::kRopeFactors:
      return arch.rope_factors;
    case Role::kRopeLong:
    case Role::kRopeShort:
      return arch.fused ? Presence::kOptional : Presence::kNo;
    case Role::kAttnNorm:
    case Role::kFfnNorm:
      return only_if(arch.norms != Norms::kAfter);
    case Role::kAttnPostNorm:
    case Role::kFfnPostNorm:
      return only_if(arch.norms != Norms::kBefore);
    case Role::kAttnQkv:
      return only_if(arch.fused);
    case Role::kAttnQ:
    case Role::kAttnK:
    case Role::kAttnV:
      return only_if(!arch.fused);
    case Role::kAttnQBias:
    case Role::kAttnKBias:
    case Role::kAttnVBias:
      return arch.qkv_bias;
    case Role::kAttnQNorm:
    case Role::kAttnKNorm:
      return only_if(arch.qk_norm != QkNorm::kNone);
    case Role::kAttnSinks:
      return only_if(arch.sinks);
    case Role::kAttnOutputBias:
      return arch.output_bias;
    case Role::kFfnGate:
      return only_if(!experts && !arch.fused);
    case Role::kFfnUp:
    case Role::kFfnDown:
      return only_if(!experts);
    case Role::kRouter:
    case Role::kExpertsGate:
    case Role::kExpertsUp:
    case Role::kExpertsDown:
      return only_if(experts);
    case Role::kRouterBias:
    case Role::kExpertsGateBias:
    case Role::kExpertsUpBias:
    case Role::kExpertsDownBias:
      return only_if(experts && arch.expert_bias);
    case Role::kSharedRouter:
    case Role::kSharedGate:
    case Role::kSharedUp:
    case Role::kSharedDown:
      return only_if(experts && arch.shared_expert);
    case Role::kTokenEmbedding:
    case Role::kOutputNorm:
    case Role::kAttnOutput:
      return Presence::kYes;
  }
  HEARTH_CHECK(false, "unknown role");
}

std::span<const Role> roles_of(SegmentId::Kind kind) {
  switch (kind) {
    case SegmentId::Kind::kEmbedding:
      return kEmbeddingRoles;
    case SegmentId::Kind::kLayer:
      return kLayerRoles;
    case SegmentId::Kind::kOutput:
      return kOutputRoles;
  }
  HEARTH_CHECK(false, "unknown kind of segment");
}

bool is_matrix_type(TensorType type) {
  return std::ranges::contains(kMatrixTypes, type);
}

}  // namespace hearth::model
