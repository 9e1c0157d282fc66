#include "model/architecture.h"

#include <algorithm>
#include <array>

namespace hearth::model {
namespace {

constexpr std::array kArchitectures = {
    ArchTraits{.name = "gemma2",
               .rope = RopeKind::kHalves,
               .activation = Activation::kGeGlu,
               .norms = Norms::kSandwich,
               .output_head = Presence::kNo,
               .sliding_period = 2,
               .default_window = 4096,
               .embedding_scaled = true,
               .scale_queries = true,
               .attention_cap = 50,
               .logit_cap = 30,
               .may_cap_logits = true,
               .n_layer_wide_scale = 46},
    ArchTraits{.name = "gemma3",
               .rope = RopeKind::kHalves,
               .activation = Activation::kGeGlu,
               .norms = Norms::kSandwich,
               .qk_norm = QkNorm::kHead,
               .output_head = Presence::kOptional,
               .sliding_period = 6,
               .sliding_rope_base = 10000,
               .sliding_rope_scaled = false,
               .embedding_scaled = true,
               .scale_queries = true,
               .may_cap_logits = true,
               .n_layer_wide_scale = 62},
    ArchTraits{.name = "gpt-oss",
               .rope = RopeKind::kHalves,
               .activation = Activation::kSwiGluOai,
               .qkv_bias = Presence::kYes,
               .output_bias = Presence::kYes,
               .sinks = true,
               .ffn_norm = "post_attention_norm.weight",
               .sliding_period = 2,
               .default_window = 128,
               .experts = Presence::kYes,
               .expert_weights = ExpertWeights::kSoftmaxAfter,
               .expert_bias = true},
    ArchTraits{.name = "granite",
               .rope = RopeKind::kInterleaved,
               .output_bias = Presence::kOptional,
               .output_head = Presence::kOptional,
               .rope_factors = Presence::kOptional,
               .file_scales = true},
    // Llama 1, 2, 3.x, Mistral, Mixtral, DeepSeek-R1-Distill-Llama and many more that were converted as such.
    ArchTraits{.name = "llama",
               .rope = RopeKind::kInterleaved,
               .qkv_bias = Presence::kOptional,
               .output_bias = Presence::kOptional,
               .output_head = Presence::kOptional,
               .rope_factors = Presence::kOptional,
               .experts = Presence::kOptional},
    // OLMo 2, and OLMo 3, whose files have a sliding window.
    ArchTraits{.name = "olmo2",
               .rope = RopeKind::kHalves,
               .norms = Norms::kAfter,
               .qk_norm = QkNorm::kWhole,
               .sliding_period = 4,
               .sliding_rope_scaled = false},
    // Phi 3, 3.5, 4 and 4-mini.
    ArchTraits{.name = "phi3",
               .rope = RopeKind::kHalves,
               .output_head = Presence::kOptional,
               .fused = true,
               .scale_queries = true},
    // Qwen 2 and 2.5, QwQ, DeepSeek-R1-Distill-Qwen.
    ArchTraits{.name = "qwen2",
               .rope = RopeKind::kHalves,
               .qkv_bias = Presence::kYes,
               .output_head = Presence::kOptional},
    ArchTraits{.name = "qwen2moe",
               .rope = RopeKind::kHalves,
               .qkv_bias = Presence::kYes,
               .experts = Presence::kYes,
               .expert_weights = ExpertWeights::kSoftmax,
               .shared_expert = true},
    ArchTraits{.name = "qwen3",
               .rope = RopeKind::kHalves,
               .qk_norm = QkNorm::kHead,
               .qkv_bias = Presence::kOptional,
               .output_head = Presence::kOptional},
    ArchTraits{.name = "qwen3moe",
               .rope = RopeKind::kHalves,
               .qk_norm = QkNorm::kHead,
               .output_head = Presence::kOptional,
               .experts = Presence::kYes},
    ArchTraits{.name = "smollm3",
               .rope = RopeKind::kInterleaved,
               .qkv_bias = Presence::kOptional,
               .output_bias = Presence::kOptional,
               .output_head = Presence::kOptional,
               .no_rope_period = 4},
};

}  // namespace

std::span<const ArchTraits> architectures() {
  return kArchitectures;
}

const ArchTraits* find_architecture(std::string_view name) {
  const auto* const row = std::ranges::find(kArchitectures, name, &ArchTraits::name);
  return row == kArchitectures.end() ? nullptr : row;
}

}  // namespace hearth::model
