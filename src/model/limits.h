// The bounds that hyper-parameters must keep: far above every published model, and small enough that no
// product of them overflows 64 bits.
#pragma once

#include <cstddef>
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

// Experts of a layer and those that one token goes to; published models have up to 512 and 22.
inline constexpr std::uint32_t kMaxExperts = 4'096;
inline constexpr std::uint32_t kMaxExpertsUsed = 64;

// Vocabularies have up to 262,144 pieces.
inline constexpr std::uint32_t kMaxVocab = 1U << 22;

// Text of one token; the longest published ones have a few hundred bytes (runs of spaces).
inline constexpr std::size_t kMaxPieceBytes = 65'536;

// Text tokenized at once: about 250,000 tokens. libllama needs time in the square of a text's special tokens
// and, for SentencePiece, of its bytes that no piece spells: about a second for 10,000 of the first, minutes
// for a megabyte of the second.
inline constexpr std::size_t kMaxTextBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxSpecialsInText = 10'000;

// A chat template, one of its tags, and how deep its blocks and brackets nest. The largest published ones
// have about 25 KB, tags of up to 4 KB (a default system message) and ten levels; the template engine needs
// time in the square of the first and stack in proportion to the others.
inline constexpr std::size_t kMaxTemplateBytes = 65'536;
inline constexpr std::size_t kMaxTemplateTagBytes = 8'192;
inline constexpr std::size_t kMaxTemplateDepth = 48;

// Positions are 32-bit signed in ggml and libllama.
inline constexpr std::uint32_t kMaxContext = (1U << 31) - 1;

}  // namespace hearth::model
