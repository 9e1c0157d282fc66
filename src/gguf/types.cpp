#include "gguf/types.h"

#include <array>
#include <cstddef>

#include "base/result.h"

namespace hearth::gguf {
namespace {

// Index = number in the file. A row without a name is a number that was never given out or whose type was
// removed from the format (4, 5, 31-33, 36-38).
constexpr std::array<TypeInfo, 43> kTypes = [] {
  std::array<TypeInfo, 43> types{};
  const auto set = [&](TensorType type, TypeInfo info) { types[static_cast<std::size_t>(type)] = info; };
  set(TensorType::kF32, {"F32", 1, 4});
  set(TensorType::kF16, {"F16", 1, 2});
  set(TensorType::kQ4_0, {"Q4_0", 32, 18});
  set(TensorType::kQ4_1, {"Q4_1", 32, 20});
  set(TensorType::kQ5_0, {"Q5_0", 32, 22});
  set(TensorType::kQ5_1, {"Q5_1", 32, 24});
  set(TensorType::kQ8_0, {"Q8_0", 32, 34});
  set(TensorType::kQ8_1, {"Q8_1", 32, 36});
  set(TensorType::kQ2_K, {"Q2_K", 256, 84});
  set(TensorType::kQ3_K, {"Q3_K", 256, 110});
  set(TensorType::kQ4_K, {"Q4_K", 256, 144});
  set(TensorType::kQ5_K, {"Q5_K", 256, 176});
  set(TensorType::kQ6_K, {"Q6_K", 256, 210});
  set(TensorType::kQ8_K, {"Q8_K", 256, 292});
  set(TensorType::kIQ2_XXS, {"IQ2_XXS", 256, 66});
  set(TensorType::kIQ2_XS, {"IQ2_XS", 256, 74});
  set(TensorType::kIQ3_XXS, {"IQ3_XXS", 256, 98});
  set(TensorType::kIQ1_S, {"IQ1_S", 256, 50});
  set(TensorType::kIQ4_NL, {"IQ4_NL", 32, 18});
  set(TensorType::kIQ3_S, {"IQ3_S", 256, 110});
  set(TensorType::kIQ2_S, {"IQ2_S", 256, 82});
  set(TensorType::kIQ4_XS, {"IQ4_XS", 256, 136});
  set(TensorType::kI8, {"I8", 1, 1});
  set(TensorType::kI16, {"I16", 1, 2});
  set(TensorType::kI32, {"I32", 1, 4});
  set(TensorType::kI64, {"I64", 1, 8});
  set(TensorType::kF64, {"F64", 1, 8});
  set(TensorType::kIQ1_M, {"IQ1_M", 256, 56});
  set(TensorType::kBF16, {"BF16", 1, 2});
  set(TensorType::kTQ1_0, {"TQ1_0", 256, 54});
  set(TensorType::kTQ2_0, {"TQ2_0", 256, 66});
  set(TensorType::kMXFP4, {"MXFP4", 32, 17});
  set(TensorType::kNVFP4, {"NVFP4", 64, 36});
  set(TensorType::kQ1_0, {"Q1_0", 128, 18});
  set(TensorType::kQ2_0, {"Q2_0", 64, 18});
  return types;
}();

}  // namespace

const TypeInfo* type_info(std::uint32_t type) {
  if (type >= kTypes.size() || kTypes[type].name.empty()) return nullptr;
  return &kTypes[type];
}

const TypeInfo& type_info(TensorType type) {
  const TypeInfo* info = type_info(static_cast<std::uint32_t>(type));
  HEARTH_CHECK(info != nullptr);
  return *info;
}

}  // namespace hearth::gguf
