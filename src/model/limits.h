// The bounds that hyper-parameters must keep: far above every published model, and small enough that no
// product of them overflows 64 bits.
#pragma once

#include <cstdint>

namespace hearth::model {

// libllama's own bound (LLAMA_MAX_LAYERS); its vocabulary loader refuses more.
inline constexpr std::uint32_t kMaxLayers = 512;

// Width of the residual stream; the largest dense models have 16,384.
inline constexpr std::uint32_t kMaxEmbd = 131'072;

inline constexpr std::uint32_t kMaxHeads = 1'024;

// Values per head; published models have 64 to 256.
inline constexpr std::uint32_t kMaxHeadDim = 1'024;

// Width of the feed-forward network; the largest dense models have 53,248.
inline constexpr std::uint32_t kMaxFf = 1U << 20;

// Vocabularies have up to 262,144 pieces.
inline constexpr std::uint32_t kMaxVocab = 1U << 22;

// Positions are 32-bit signed in ggml and libllama.
inline constexpr std::uint32_t kMaxContext = (1U << 31) - 1;

}  // namespace hearth::model
