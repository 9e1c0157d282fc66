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
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "model/architecture.h"

namespace hearth::model {

enum class RopeScaling : std::uint8_t { kNone, kLinear };

struct HyperParams {
  std::string name;  // general.name, or ""
  std::uint32_t n_layer = 0;
  std::uint32_t n_embd = 0;
  std::uint32_t n_vocab = 0;
  std::uint32_t n_ctx_train = 0;
  std::uint32_t n_head = 0;
  std::uint32_t n_head_kv = 0;  // divides n_head
  std::uint32_t n_ff = 0;
  std::uint32_t head_dim_k = 0;  // attention.key_length, or n_embd / n_head
  std::uint32_t head_dim_v = 0;
  std::uint32_t n_rot = 0;  // even, <= head_dim_k
  float rms_eps = 0;
  float rope_freq_base = 0;
  float rope_freq_scale = 1;  // 1 / rope.scaling.factor for linear scaling
  RopeScaling rope_scaling = RopeScaling::kNone;

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
  kAttnQ,           // blk.N.attn_q.weight       [n_embd, n_embd_q]
  kAttnK,           // blk.N.attn_k.weight       [n_embd, n_embd_k]
  kAttnV,           // blk.N.attn_v.weight       [n_embd, n_embd_v]
  kAttnQBias,
  kAttnKBias,
  kAttnVBias,  // blk.N.attn_{q,k,v}.bias
  kAttnQNorm,
  kAttnKNorm,       // blk.N.attn_{q,k}_norm.weight [head_dim_k]
  kRopeFactors,     // rope_freqs.weight         [n_rot / 2]
  kAttnOutput,      // blk.N.attn_output.weight  [n_head * head_dim_v, n_embd]
  kAttnOutputBias,  // blk.N.attn_output.bias    [n_embd]
  kFfnNorm,         // blk.N.ffn_norm.weight     [n_embd]
  kFfnGate,         // blk.N.ffn_gate.weight     [n_embd, n_ff]
  kFfnUp,           // blk.N.ffn_up.weight       [n_embd, n_ff]
  kFfnDown,         // blk.N.ffn_down.weight     [n_ff, n_embd]
};

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
[[nodiscard]] std::string tensor_name(Role role, std::uint32_t layer = 0);
// The shape (ne[0], ne[1]) that the hyper-parameters demand of it; ne[1] = 1 for vectors.
[[nodiscard]] std::array<std::int64_t, 2> tensor_shape(Role role, const HyperParams& params);
// Whether it is a vector (norm, bias, rope factors): these must be F32, matrices may be quantized.
[[nodiscard]] bool is_vector(Role role);
// Whether a model of this architecture must have it, may have it, or must not.
[[nodiscard]] Presence presence(Role role, const ArchTraits& arch);
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

  // Fixed order per segment kind: the order of Role. A layer lists rope factors too where the model has them.
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
