// What each Role is: its name, its shape, who has it.
#include <algorithm>
#include <format>
#include <string_view>

#include "model/model_file.h"

namespace hearth::model {
namespace {

using gguf::TensorType;

enum class Kind : std::uint8_t { kMatrix, kVector };

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
    {Role::kAttnQ, "attn_q.weight", Kind::kMatrix},
    {Role::kAttnK, "attn_k.weight", Kind::kMatrix},
    {Role::kAttnV, "attn_v.weight", Kind::kMatrix},
    {Role::kAttnQBias, "attn_q.bias", Kind::kVector},
    {Role::kAttnKBias, "attn_k.bias", Kind::kVector},
    {Role::kAttnVBias, "attn_v.bias", Kind::kVector},
    {Role::kAttnQNorm, "attn_q_norm.weight", Kind::kVector},
    {Role::kAttnKNorm, "attn_k_norm.weight", Kind::kVector},
    {Role::kRopeFactors, "rope_freqs.weight", Kind::kVector},
    {Role::kAttnOutput, "attn_output.weight", Kind::kMatrix},
    {Role::kAttnOutputBias, "attn_output.bias", Kind::kVector},
    {Role::kFfnNorm, "ffn_norm.weight", Kind::kVector},
    {Role::kFfnGate, "ffn_gate.weight", Kind::kMatrix},
    {Role::kFfnUp, "ffn_up.weight", Kind::kMatrix},
    {Role::kFfnDown, "ffn_down.weight", Kind::kMatrix},
};

constexpr Role kEmbeddingRoles[] = {Role::kTokenEmbedding};
constexpr Role kOutputRoles[] = {Role::kOutputNorm, Role::kOutput};
constexpr Role kLayerRoles[] = {
    Role::kAttnNorm,  Role::kAttnQ,       Role::kAttnK,      Role::kAttnV,
    Role::kAttnQBias, Role::kAttnKBias,   Role::kAttnVBias,  Role::kAttnQNorm,
    Role::kAttnKNorm, Role::kRopeFactors, Role::kAttnOutput, Role::kAttnOutputBias,
    Role::kFfnNorm,   Role::kFfnGate,     Role::kFfnUp,      Role::kFfnDown};

const RoleRow& row_of(Role role) {
  const auto* const row = std::ranges::find(kRows, role, &RoleRow::role);
  HEARTH_CHECK(row != std::end(kRows), "unknown role");
  return *row;
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

std::string tensor_name(Role role, std::uint32_t layer) {
  const RoleRow& row = row_of(role);
  const bool is_per_layer = role != Role::kRopeFactors && std::ranges::contains(kLayerRoles, role);
  return is_per_layer ? std::format("blk.{}.{}", layer, row.name) : std::string(row.name);
}

std::array<std::int64_t, 2> tensor_shape(Role role, const HyperParams& params) {
  const std::int64_t n_embd = params.n_embd;
  switch (role) {
    case Role::kTokenEmbedding:
    case Role::kOutput:
      return {n_embd, params.n_vocab};
    case Role::kOutputNorm:
    case Role::kAttnNorm:
    case Role::kAttnOutputBias:
    case Role::kFfnNorm:
      return {n_embd, 1};
    case Role::kRopeFactors:
      return {params.n_rot / 2, 1};
    case Role::kAttnQ:
      return {n_embd, params.n_embd_q()};
    case Role::kAttnK:
      return {n_embd, params.n_embd_k()};
    case Role::kAttnV:
      return {n_embd, params.n_embd_v()};
    case Role::kAttnQBias:
      return {params.n_embd_q(), 1};
    case Role::kAttnKBias:
      return {params.n_embd_k(), 1};
    case Role::kAttnVBias:
      return {params.n_embd_v(), 1};
    case Role::kAttnQNorm:
    case Role::kAttnKNorm:
      return {params.head_dim_k, 1};
    case Role::kAttnOutput:
      return {std::int64_t{params.n_head} * params.head_dim_v, n_embd};
    case Role::kFfnGate:
    case Role::kFfnUp:
      return {n_embd, params.n_ff};
    case Role::kFfnDown:
      return {params.n_ff, n_embd};
  }
  HEARTH_CHECK(false, "unknown role");
}

bool is_vector(Role role) {
  return row_of(role).kind == Kind::kVector;
}

Presence presence(Role role, const ArchTraits& arch) {
  switch (role) {
    case Role::kOutput:
      return arch.may_tie_embeddings ? Presence::kOptional : Presence::kYes;
    case Role::kRopeFactors:
      return arch.rope_factors;
    case Role::kAttnQBias:
    case Role::kAttnKBias:
    case Role::kAttnVBias:
      return arch.qkv_bias;
    case Role::kAttnQNorm:
    case Role::kAttnKNorm:
      return arch.qk_norm;
    case Role::kAttnOutputBias:
      return arch.output_bias;
    default:
      return Presence::kYes;
  }
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
