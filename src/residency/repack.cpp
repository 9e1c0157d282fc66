#include "residency/repack.h"

#include <cstring>
#include <format>

#include "base/units.h"

namespace hearth::residency {
namespace {

ggml_backend_buffer_type_t* layouts_of(ggml_backend_dev_t device) {
  auto get_extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
      ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
  return get_extra == nullptr ? nullptr : get_extra(device);
}

}  // namespace

ggml_tensor* declare(ggml_context* ctx, std::uint32_t type, const MatrixShape& shape) {
  const auto ggml = static_cast<ggml_type>(type);
  const auto row_values = static_cast<std::int64_t>(shape.row_values);
  const auto n_matrices = static_cast<std::int64_t>(shape.n_matrices);
  const std::int64_t rows = static_cast<std::int64_t>(shape.rows) / n_matrices;
  return n_matrices == 1 ? ggml_new_tensor_2d(ctx, ggml, row_values, rows)
                         : ggml_new_tensor_3d(ctx, ggml, row_values, rows, n_matrices);
}

ggml_backend_buffer_type_t repack_type(ggml_backend_dev_t device, ggml_tensor* weight) {
  constexpr std::int64_t kTokens = 512;
  for (auto* type = layouts_of(device); type != nullptr && *type != nullptr; ++type) {
    const ContextPtr ctx = make_context(3);
    ggml_tensor* product = nullptr;
    if (weight->ne[2] == 1) {
      product = ggml_mul_mat(ctx.get(), weight,
                             ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, weight->ne[0], kTokens));
    } else {
      ggml_tensor* rows = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, weight->ne[0], 1, kTokens);
      ggml_tensor* ids = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 1, kTokens);
      product = ggml_mul_mat_id(ctx.get(), weight, rows, ids);
    }
    const BufferPtr empty(ggml_backend_buft_alloc_buffer(*type, 0));
    weight->buffer = empty.get();
    const bool supported = ggml_backend_dev_supports_op(device, product);
    weight->buffer = nullptr;
    if (supported) return *type;
  }
  return nullptr;
}

ggml_backend_buffer_type_t find_layout(ggml_backend_dev_t device, std::string_view name) {
  for (auto* type = layouts_of(device); type != nullptr && *type != nullptr; ++type)
    if (name == ggml_backend_buft_name(*type)) return *type;
  return nullptr;
}

std::string ggml_build() {
  return std::format("{} ({})", ggml_version(), ggml_commit());
}

std::string cpu_features(ggml_backend_dev_t device) {
  ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
  auto get_features = reinterpret_cast<ggml_backend_get_features_t>(
      ggml_backend_reg_get_proc_address(reg, "ggml_backend_get_features"));
  // Without a list, the device's name is all that tells two kinds apart.
  if (get_features == nullptr) return ggml_backend_dev_description(device);
  std::string text = ggml_backend_dev_name(device);
  for (const ggml_backend_feature* feature = get_features(reg);
       feature != nullptr && feature->name != nullptr; ++feature)
    text += std::format(" {}={}", feature->name, feature->value);
  return text;
}

Result<std::span<const std::uint8_t>> Repacker::repack(ggml_backend_buffer_type_t layout, std::uint32_t type,
                                                       const MatrixShape& shape,
                                                       std::span<const std::uint8_t> plain) {
  const ContextPtr ctx = make_context(1);
  ggml_tensor* tensor = declare(ctx.get(), type, shape);
  HEARTH_CHECK(plain.size() == ggml_nbytes(tensor), "the matrix has another size");
  const std::size_t bytes = ggml_backend_buft_get_alloc_size(layout, tensor);
  if (!buffer_ || ggml_backend_buffer_get_type(buffer_.get()) != layout ||
      ggml_backend_buffer_get_size(buffer_.get()) < bytes) {
    buffer_.reset();
    buffer_.reset(ggml_backend_buft_alloc_buffer(layout, bytes));
    if (!buffer_)
      return fail(ErrorCode::kOutOfMemory, "cannot allocate {} to repack a matrix", format_bytes(bytes));
    ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
  }
  auto* address = static_cast<std::uint8_t*>(ggml_backend_buffer_get_base(buffer_.get()));
  // A pack must not depend on what was in this memory before.
  std::memset(address, 0, bytes);
  if (ggml_backend_tensor_alloc(buffer_.get(), tensor, address) != GGML_STATUS_SUCCESS)
    return fail(ErrorCode::kOutOfMemory, "cannot place a matrix of {} to repack it", format_bytes(bytes));
  ggml_backend_tensor_set(tensor, plain.data(), 0, plain.size());
  return std::span<const std::uint8_t>(address, bytes);
}

Result<TensorPlace> LayoutHandles::place(std::string_view name, std::uint32_t type,
                                         const MatrixShape& shape) {
  ggml_backend_buffer_type_t layout = find_layout(device_, name);
  const ContextPtr ctx = make_context(1);
  ggml_tensor* tensor = declare(ctx.get(), type, shape);
  if (layout == nullptr || repack_type(device_, tensor) != layout)
    return fail(ErrorCode::kUnsupported, "this device has no layout {} for a {} matrix of {} x {}", name,
                ggml_type_name(tensor->type), shape.row_values, shape.rows);
  // ggml initialises a tensor only inside a buffer it fits, so the handle has the size of the largest one.
  const std::size_t bytes = ggml_backend_buft_get_alloc_size(layout, tensor);
  ggml_backend_buffer* buffer = nullptr;
  for (const BufferPtr& known : buffers_)
    if (ggml_backend_buffer_get_type(known.get()) == layout &&
        ggml_backend_buffer_get_size(known.get()) >= bytes)
      buffer = known.get();
  if (buffer == nullptr) {
    BufferPtr fresh(ggml_backend_buft_alloc_buffer(layout, bytes));
    if (!fresh)
      return fail(ErrorCode::kOutOfMemory, "cannot reserve {} of address space", format_bytes(bytes));
    ggml_backend_buffer_set_usage(fresh.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    buffer = fresh.get();
    buffers_.push_back(std::move(fresh));
  }
  if (ggml_backend_tensor_alloc(buffer, tensor, ggml_backend_buffer_get_base(buffer)) != GGML_STATUS_SUCCESS)
    return fail(ErrorCode::kOutOfMemory, "ggml does not take a matrix of {}", format_bytes(bytes));
  return TensorPlace{.data = nullptr, .buffer = buffer, .extra = tensor->extra};
}

}  // namespace hearth::residency
