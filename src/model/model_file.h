// ModelFile: a GGUF file understood as a transformer — hyper-parameters, and for each segment its tensors.
//
// open() proves that a graph can be built: architecture known, hyper-parameters present, positive, mutually
// consistent and within limits, each expected tensor there with the expected shape and a type that can be
// computed with. After that neither ggml nor libllama can be handed an inconsistent model. Immutable; any
// thread may read.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "model/architecture.h"

namespace hearth::model {

// kLongRope: by factors of each frequency alone (rope_factors_long and _short).
enum class RopeScaling : std::uint8_t { kNone, kLinear, kYarn, kLongRope };

// "none", "linear", "yarn", "longrope".
[[nodiscard]] std::string_view rope_scaling_name(RopeScaling scaling);

// How a layer turns queries and keys: the parameters of ggml_rope_ext.
struct Rope {
  bool is_on = true;  // false: the layer knows no positions
  float freq_base = 0;
  float freq_scale = 1;
  float ext_factor = 0;  // YaRN's mix of interpolation and extrapolation
  float attn_factor =
      1;  // of the result's length; ggml multiplies it by 1 + 0.1 ln(1 / freq_scale) with YaRN
  friend bool operator==(const Rope&, const Rope&) = default;
};

struct HyperParams {
  std::string name;  // general.name, or ""
  std::uint32_t n_layer = 0;
  std::uint32_t n_embd = 0;
  std::uint32_t n_vocab = 0;
  std::uint32_t n_ctx_train = 0;
  std::uint32_t n_head = 0;
  std::uint32_t n_head_kv = 0;   // divides n_head
  std::uint32_t n_ff = 0;        // of a dense layer; of models of experts only: what the file says, or 0
  std::uint32_t head_dim_k = 0;  // attention.key_length, or n_embd / n_head
  std::uint32_t head_dim_v = 0;
  std::uint32_t n_rot = 0;  // even, <= head_dim_k
  float rms_eps = 0;
  float rope_freq_base = 0;
  float rope_freq_scale = 1;  // 1 / rope.scaling.factor
  RopeScaling rope_scaling = RopeScaling::kNone;
  std::uint32_t n_ctx_orig = 0;  // that the model was trained for before its RoPE was scaled
  float yarn_ext_factor = 0, yarn_beta_fast = 32, yarn_beta_slow = 1;
  float rope_attn_factor = 1;        // as Rope::attn_factor
  std::uint32_t no_rope_period = 0;  // of so many layers the last has no RoPE; 0: all have it

  // Layers that see the last n_swa tokens only; empty: all see the whole context.
  std::vector<bool> sliding;
  std::uint32_t n_swa = 0;
  float sliding_freq_base = 0;
  bool sliding_rope_scaled = true;

  std::uint32_t n_expert = 0;  // 0: feed-forward is dense
  std::uint32_t n_expert_used = 0;
  std::uint32_t n_ff_exp = 0;     // of an expert
  std::uint32_t n_ff_shared = 0;  // of the expert that all tokens go to; 0: there is none

  float embedding_scale = 1;
  float attention_scale = 0;  // of queries times keys
  float residual_scale = 1;   // of what attention and feed-forward add
  float logit_scale = 1;      // that logits are multiplied by
  float attention_cap = 0;    // scores x become cap * tanh(x / cap); 0: they stay
  float logit_cap = 0;        // as attention_cap, of logits

  [[nodiscard]] bool is_sliding(std::uint32_t il) const { return !sliding.empty() && sliding[il]; }
  [[nodiscard]] Rope rope(std::uint32_t il) const;
  // KV cells of a layer: a sliding window keeps what its batch and its sequences may look back to, padded to
  // `padding` cells. `n_cells` are those of layers that see all.
  [[nodiscard]] std::uint32_t kv_cells(std::uint32_t il, std::uint32_t n_cells, std::uint32_t n_ubatch,
                                       std::uint32_t n_seq, std::uint32_t padding) const;
  [[nodiscard]] std::uint32_t n_embd_q() const { return n_head * head_dim_k; }
  [[nodiscard]] std::uint32_t n_embd_k() const { return n_head_kv * head_dim_k; }
  [[nodiscard]] std::uint32_t n_embd_v() const { return n_head_kv * head_dim_v; }
};

// The part a tensor plays, in the order of use: a layer's graph reads its tensors in this order. GGUF names
// in comments, N = layer.
enum class Role : std::uint8_t {
  kTokenEmbedding,  // token_embd.weight   [n_embd, n_vocab]
  kOutputNorm,      // output_norm.weight  [n_embd]
  kOutput,          // output.weight       [n_embd, n_vocab]
  kAttnNorm,        // blk.N.attn_norm.weight    [n_embd]
  kAttnQkv,         // blk.N.attn_qkv.weight     [n_embd, n_embd_q + n_embd_k + n_embd_v]
  kAttnQ,           // blk.N.attn_q.weight       [n_embd, n_embd_q]
  kAttnK,           // blk.N.attn_k.weight       [n_embd, n_embd_k]
  kAttnV,           // blk.N.attn_v.weight       [n_embd, n_embd_v]
  kAttnQBias,
  kAttnKBias,
  kAttnVBias,  // blk.N.attn_{q,k,v}.bias
  kAttnQNorm,
  kAttnKNorm,        // blk.N.attn_{q,k}_norm.weight [head_dim_k], or of all heads
  kRopeFactors,      // rope_freqs.weight          [n_rot / 2]
  kRopeLong,         // rope_factors_long.weight   [n_rot / 2]
  kRopeShort,        // rope_factors_short.weight  [n_rot / 2]
  kAttnSinks,        // blk.N.attn_sinks.weight    [n_head]
  kAttnOutput,       // blk.N.attn_output.weight   [n_head * head_dim_v, n_embd]
  kAttnOutputBias,   // blk.N.attn_output.bias     [n_embd]
  kAttnPostNorm,     // blk.N.post_attention_norm.weight [n_embd]
  kFfnNorm,          // blk.N.ffn_norm.weight      [n_embd]
  kFfnGate,          // blk.N.ffn_gate.weight      [n_embd, n_ff]
  kFfnUp,            // blk.N.ffn_up.weight        [n_embd, n_ff]; fused: [n_embd, 2 n_ff], the gate first
  kFfnDown,          // blk.N.ffn_down.weight      [n_ff, n_embd]
  kRouter,           // blk.N.ffn_gate_inp.weight  [n_embd, n_expert]
  kRouterBias,       // blk.N.ffn_gate_inp.bias    [n_expert]
  kExpertsGate,      // blk.N.ffn_gate_exps.weight [n_embd, n_ff_exp, n_expert]
  kExpertsGateBias,  // blk.N.ffn_gate_exps.bias   [n_ff_exp, n_expert]
  kExpertsUp,        // blk.N.ffn_up_exps.weight   [n_embd, n_ff_exp, n_expert]
  kExpertsUpBias,    // blk.N.ffn_up_exps.bias     [n_ff_exp, n_expert]
  kExpertsDown,      // blk.N.ffn_down_exps.weight [n_ff_exp, n_embd, n_expert]
  kExpertsDownBias,  // blk.N.ffn_down_exps.bias   [n_embd, n_expert]
  kSharedRouter,     // blk.N.ffn_gate_inp_shexp.weight [n_embd]
  kSharedGate,       // blk.N.ffn_gate_shexp.weight     [n_embd, n_ff_shared]
  kSharedUp,         // blk.N.ffn_up_shexp.weight       [n_embd, n_ff_shared]
  kSharedDown,       // blk.N.ffn_down_shexp.weight     [n_ff_shared, n_embd]
  kFfnPostNorm,      // blk.N.post_ffw_norm.weight [n_embd]
};
inline constexpr std::size_t kRoles = static_cast<std::size_t>(Role::kFfnPostNorm) + 1;

// The unit that is loaded, streamed and computed as one: the embedding table, one layer, or the output head.
struct SegmentId {
  enum class Kind : std::uint8_t { kEmbedding, kLayer, kOutput };
  Kind kind = Kind::kLayer;
  std::uint32_t layer = 0;  // kLayer only
  [[nodiscard]] static SegmentId embedding() { return {Kind::kEmbedding, 0}; }
  [[nodiscard]] static SegmentId of_layer(std::uint32_t il) { return {Kind::kLayer, il}; }
  [[nodiscard]] static SegmentId output() { return {Kind::kOutput, 0}; }
  friend auto operator<=>(const SegmentId&, const SegmentId&) = default;
};

// The GGUF name of the tensor that plays `role`; `layer` counts for the roles of layers only.
[[nodiscard]] std::string tensor_name(Role role, const ArchTraits& arch, std::uint32_t layer = 0);
// The shape that the hyper-parameters demand of it; dimensions that it does not have are 1.
[[nodiscard]] std::array<std::int64_t, 3> tensor_shape(Role role, const ArchTraits& arch,
                                                       const HyperParams& params);
// Whether it is added or multiplied value by value (norm, bias, rope factors): these must be F32, matrices
// may be quantized.
[[nodiscard]] bool is_vector(Role role);
// Whether it belongs to the model and is listed with each layer: RoPE factors.
[[nodiscard]] bool is_shared(Role role);
// Whether it is a matrix for each expert.
[[nodiscard]] bool is_experts(Role role);
// Whether a model of this architecture must have it, may have it, or must not.
[[nodiscard]] Presence presence(Role role, const ArchTraits& arch, const HyperParams& params);
// The roles of one kind of segment in the order of Role.
[[nodiscard]] std::span<const Role> roles_of(SegmentId::Kind kind);
// Whether ggml's CPU backend can look up rows of a matrix of this type and multiply with it.
[[nodiscard]] bool is_matrix_type(gguf::TensorType type);

struct SegmentTensor {
  Role role;
  const gguf::Tensor* tensor;  // owned by the ModelFile
};

class ModelFile {
 public:
  // Reads headers only, a few milliseconds. Errors: those of gguf::File::open; kUnsupported (architecture:
  // the message lists those that are; scaling, shapes or types that hearth cannot run); kInvalidFile (a
  // missing or misshapen tensor or key, by name).
  [[nodiscard]] static Result<ModelFile> open(const std::filesystem::path& path);
  [[nodiscard]] static Result<ModelFile> from(gguf::File file);

  [[nodiscard]] const gguf::File& file() const { return *file_; }
  [[nodiscard]] const HyperParams& params() const { return params_; }
  [[nodiscard]] const ArchTraits& arch() const { return *arch_; }
  [[nodiscard]] bool tied_embeddings() const { return tied_; }

  // Fixed order per segment kind: the order of Role. A layer lists RoPE factors too where the model has them.
  // The output segment of a model with tied embeddings lists token_embd.weight as kOutput.
  [[nodiscard]] const std::vector<SegmentTensor>& segment(SegmentId id) const;
  // Sum of the data bytes of a segment's tensors (rope factors, shared by all layers, not counted for
  // layers).
  [[nodiscard]] std::uint64_t segment_bytes(SegmentId id) const;

 private:
  ModelFile() = default;
  [[nodiscard]] static Result<ModelFile> checked(gguf::File file);

  std::unique_ptr<gguf::File> file_;
  const ArchTraits* arch_ = nullptr;
  HyperParams params_;
  bool tied_ = false;
  std::vector<SegmentTensor> embedding_, output_;
  std::vector<std::vector<SegmentTensor>> layers_;
};

}  // namespace hearth::model
