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

enum class Activation : std::uint8_t { kSwiGlu };

// Whether a tensor must be there, may be there (used when present), or must not.
enum class Presence : std::uint8_t { kNo, kOptional, kYes };

struct ArchTraits {
  std::string_view name;  // general.architecture
  RopeKind rope;
  Activation activation;
  Presence qkv_bias;        // attn_q.bias, attn_k.bias, attn_v.bias
  Presence output_bias;     // attn_output.bias
  Presence qk_norm;         // attn_q_norm.weight, attn_k_norm.weight: RMS norm of each head before RoPE
  Presence rope_factors;    // rope_freqs.weight (Llama 3.x)
  bool may_tie_embeddings;  // output.weight may be absent: token_embd.weight is the output head then
};

// Every architecture that hearth runs, in alphabetical order.
[[nodiscard]] std::span<const ArchTraits> architectures();
[[nodiscard]] const ArchTraits* find_architecture(std::string_view name);

}  // namespace hearth::model
