#include "model/architecture.h"

#include <algorithm>
#include <array>

namespace hearth::model {
namespace {

constexpr std::array kArchitectures = {
    // Llama 1, 2, 3.x, Mistral, DeepSeek-R1-Distill-Llama and many more that were converted as such.
    ArchTraits{.name = "llama",
               .rope = RopeKind::kInterleaved,
               .activation = Activation::kSwiGlu,
               .qkv_bias = Presence::kOptional,
               .output_bias = Presence::kOptional,
               .qk_norm = Presence::kNo,
               .rope_factors = Presence::kOptional,
               .may_tie_embeddings = true},
    // Qwen 2 and 2.5, QwQ, DeepSeek-R1-Distill-Qwen.
    ArchTraits{.name = "qwen2",
               .rope = RopeKind::kHalves,
               .activation = Activation::kSwiGlu,
               .qkv_bias = Presence::kYes,
               .output_bias = Presence::kNo,
               .qk_norm = Presence::kNo,
               .rope_factors = Presence::kNo,
               .may_tie_embeddings = true},
    ArchTraits{.name = "qwen3",
               .rope = RopeKind::kHalves,
               .activation = Activation::kSwiGlu,
               .qkv_bias = Presence::kOptional,
               .output_bias = Presence::kNo,
               .qk_norm = Presence::kYes,
               .rope_factors = Presence::kNo,
               .may_tie_embeddings = true},
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
