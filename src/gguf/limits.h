// The bounds a GGUF header must keep. Each is far above every published model and low enough that a hostile
// file cannot take the memory or the time of a small device.
#pragma once

#include <cstdint>

namespace hearth::gguf {

// One header (everything before the tensor data). A 256k-piece vocabulary with merges and scores is about 20
// MB; what a header expands to in memory is at most 2-3 times its size.
inline constexpr std::uint64_t kMaxHeaderBytes = std::uint64_t{128} << 20;

// Metadata entries of one file; models have 20 to 80.
inline constexpr std::uint64_t kMaxKeys = 16'384;

// Tensors of a model, all parts together. The largest with separate experts have about 50,000.
inline constexpr std::uint64_t kMaxTensors = 262'144;

// The file format's own limit on keys.
inline constexpr std::uint64_t kMaxKeyBytes = 65'535;

// ggml keeps names in 64 bytes with a final zero.
inline constexpr std::uint64_t kMaxTensorNameBytes = 63;

// One metadata string. The largest known are tokenizer definitions of about 20 MB.
inline constexpr std::uint64_t kMaxStringBytes = std::uint64_t{64} << 20;

// ggml's number of dimensions.
inline constexpr std::uint32_t kMaxDims = 4;

// Where tensor data begin; the format's default is 32 and it asks for a multiple of 8. The upper bound is the
// largest page size of the systems hearth runs on: nobody gains from more.
inline constexpr std::uint32_t kDefaultAlignment = 32;
inline constexpr std::uint32_t kMinAlignment = 8;
inline constexpr std::uint32_t kMaxAlignment = 65'536;

// Files of a split model; 600 GB in parts of 1 GB is 600.
inline constexpr std::uint32_t kMaxParts = 1'024;

}  // namespace hearth::gguf
