// Architectures as rows of traits: what distinguishes one transformer family from another.
//
// One graph builder (compute/layer_graph) reads these traits; adding an architecture is adding a row, and the
// builder's code for what is new in it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace hearth::model {

enum class RopeKind : std::uint8_t {
  kInterleaved,  // pairs (0,1), (2,3) …: ggml's NORMAL, llama
  kHalves,       // pairs (0,d/2), (1,d/2+1) …: ggml's NEOX, qwen
};

enum class Activation : std::uint8_t {
  kSwiGlu,     // silu(gate) * up
  kGeGlu,      // gelu(gate) * up, gelu by its tanh approximation
  kSwiGluOai,  // gpt-oss: gate cut at 7, up at +-7, gate * sigmoid(1.702 gate) * (up + 1)
};

// Whether a tensor must be there, may be there (used when present), or must not.
enum class Presence : std::uint8_t { kNo, kOptional, kYes };

// Where a layer's RMS norms are.
enum class Norms : std::uint8_t {
  kBefore,    // of the input of attention and of feed-forward
  kAfter,     // of what attention and feed-forward add: olmo2
  kSandwich,  // both: gemma
};

enum class QkNorm : std::uint8_t {
  kNone,
  kHead,   // RMS norm of each head before RoPE
  kWhole,  // of all heads together: olmo2
};

// How a mixture of experts weighs those that its router chose.
enum class ExpertWeights : std::uint8_t {
  kSoftmax,          // their share of a softmax over all
  kSoftmaxOfChosen,  // that share, made to sum to 1: equal to a softmax over the chosen in theory
  kSoftmaxAfter,     // a softmax over the chosen logits: gpt-oss
};

struct ArchTraits {
  std::string_view name;  // general.architecture
  RopeKind rope;
  Activation activation = Activation::kSwiGlu;
  Norms norms = Norms::kBefore;
  QkNorm qk_norm = QkNorm::kNone;
  Presence qkv_bias = Presence::kNo;      // attn_q.bias, attn_k.bias, attn_v.bias
  Presence output_bias = Presence::kNo;   // attn_output.bias
  Presence output_head = Presence::kYes;  // output.weight; without, token_embd.weight is the output head
  Presence rope_factors = Presence::kNo;  // rope_freqs.weight (Llama 3.x)
  // phi3: one matrix for Q, K and V, one for gate and up; RoPE factors for contexts that are longer than the
  // trained one and for those that are not; RoPE may leave the end of a head alone.
  bool fused = false;
  bool sinks = false;  // gpt-oss: a learned logit for each head that attention may go to instead of a token
  std::string_view ffn_norm = "ffn_norm.weight";  // as files call the norm before feed-forward

  // Sliding windows. Of each `sliding_period` layers all but the last attend to the last n_swa tokens only.
  // 0: there are none, whatever the file says (phi3: as libllama).
  std::uint32_t sliding_period = 0;
  std::uint32_t default_window = 0;  // where the file names none; 0: then all layers see all tokens
  float sliding_rope_base = 0;       // RoPE in them, where the file says nothing; 0: as in the others
  bool sliding_rope_scaled = true;   // false: scaling of RoPE counts for the other layers only

  // Of each so many layers the last has no RoPE; 0: all have it.
  std::uint32_t no_rope_period = 0;

  Presence experts = Presence::kNo;  // feed-forward is a mixture of experts: kOptional as the file says
  ExpertWeights expert_weights = ExpertWeights::kSoftmaxOfChosen;
  bool shared_expert = false;  // one more that all tokens go to, times a sigmoid
  bool expert_bias = false;    // of router and experts

  bool embedding_scaled = false;  // by sqrt(n_embd): gemma
  bool file_scales = false;       // granite: embedding_scale, attention.scale, residual_scale, logit_scale
  bool scale_queries = false;     // attention's scale is applied to the queries (the same but for rounding)
  float attention_cap = 0;        // soft caps where the file says nothing: cap * tanh(x / cap); 0: none
  float logit_cap = 0;
  bool may_cap_logits = false;  // the file may say another one, as it may where attention_cap is not 0
  // A model of so many layers scales attention by n_embd / n_head instead of a head's length: gemma's 27B.
  std::uint32_t n_layer_wide_scale = 0;
};

// Every architecture that hearth runs, in alphabetical order.
[[nodiscard]] std::span<const ArchTraits> architectures();
[[nodiscard]] const ArchTraits* find_architecture(std::string_view name);

}  // namespace hearth::model
