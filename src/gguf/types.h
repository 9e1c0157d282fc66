// The tensor element types of a GGUF file: name, block size, bytes per block. hearth's own table, so that
// files can be judged before ggml sees them; a test compares it with ggml's.
#pragma once

#include <cstdint>
#include <string_view>

namespace hearth::gguf {

// Values are those of the file format (ggml_type).
enum class TensorType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
  kNVFP4 = 40,
  kQ1_0 = 41,
  kQ2_0 = 42,
};

struct TypeInfo {
  std::string_view name;       // as GGUF tools print it: "Q4_K", "F16"
  std::uint32_t block_values;  // values per block (1 for plain types)
  std::uint32_t block_bytes;   // bytes per block
};

// nullptr for a number that is no known type (removed types included).
[[nodiscard]] const TypeInfo* type_info(std::uint32_t type);
[[nodiscard]] const TypeInfo& type_info(TensorType type);

}  // namespace hearth::gguf
