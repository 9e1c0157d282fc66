#include "compute/kv_rotation.h"

#include <bit>
#include <cmath>

namespace hearth::compute {
namespace {

constexpr std::uint32_t kLeast = 64;

bool rotates(wire::KvType type, std::uint32_t head_dim) {
  return wire::traits(type).quantized && head_dim % kLeast == 0;
}

}  // namespace

KvRotation kv_rotation(const model::HyperParams& params, wire::KvTypes types) {
  KvRotation rotation;
  if (rotates(types.k, params.head_dim_k)) rotation.k = 1U << std::countr_zero(params.head_dim_k);
  if (rotates(types.v, params.head_dim_v)) rotation.v = kLeast;
  return rotation;
}

// Sylvester's construction: the sign of an element is that of the number of ones its row and column share.
void fill_rotation(float* matrix, std::uint32_t n) {
  const auto value = static_cast<float>(1.0 / std::sqrt(static_cast<float>(n)));
  for (std::uint32_t i = 0; i < n; ++i)
    for (std::uint32_t j = 0; j < n; ++j) matrix[i * n + j] = std::popcount(i & j) % 2 == 0 ? value : -value;
}

ggml_tensor* rotated(ggml_context* ctx, ggml_tensor* x, ggml_tensor* matrix) {
  if (matrix == nullptr) return x;
  const std::int64_t n = matrix->ne[0], n_rows = ggml_nelements(x) / n;
  ggml_tensor* rows =
      ggml_is_contiguous(x) ? ggml_reshape_2d(ctx, x, n, n_rows) : ggml_cont_2d(ctx, x, n, n_rows);
  ggml_tensor* y = ggml_mul_mat(ctx, matrix, rows);
  ggml_mul_mat_set_hint(y, GGML_HINT_SRC0_IS_HADAMARD);
  return ggml_reshape_4d(ctx, y, x->ne[0], x->ne[1], x->ne[2], x->ne[3]);
}

}  // namespace hearth::compute
