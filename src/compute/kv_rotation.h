// Quantized keys and values are stored rotated by a Hadamard matrix, as libllama stores them: it spreads what
// stands out in a head over its neighbours, so that blocks of few bits lose less.
//
// The matrix is orthogonal and its own inverse. Queries are rotated as keys are, so their products stay;
// what attention makes of rotated values is rotated back. Inside compute only.
#pragma once

#include <cstdint>

#include <ggml.h>

#include "model/model_file.h"
#include "wire/kv_type.h"

namespace hearth::compute {

// Rows and columns of the matrices; 0: stored as they are, because the type is not quantized or the heads are
// no multiple of 64.
struct KvRotation {
  std::uint32_t k = 0;  // the largest power of two that divides a head
  std::uint32_t v = 0;  // 64
  friend bool operator==(const KvRotation&, const KvRotation&) = default;
};
[[nodiscard]] KvRotation kv_rotation(const model::HyperParams& params, wire::KvTypes types);

// matrix: [n][n], n a power of two.
void fill_rotation(float* matrix, std::uint32_t n);

// Each n values of `x` times `matrix` [n, n]; `x` itself where that is nullptr.
[[nodiscard]] ggml_tensor* rotated(ggml_context* ctx, ggml_tensor* x, ggml_tensor* matrix);

}  // namespace hearth::compute
