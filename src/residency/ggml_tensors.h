// Small helpers around ggml tensors that residency and compute share: owning handles, and a GGUF tensor as a
// ggml tensor.
#pragma once

#include <exception>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <vector>

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>

#include "gguf/file.h"
#include "model/model_file.h"
#include "residency/weight_source.h"

namespace hearth::residency {

struct FreeContext {
  void operator()(ggml_context* ctx) const { ggml_free(ctx); }
};
struct FreeBuffer {
  void operator()(ggml_backend_buffer* buffer) const { ggml_backend_buffer_free(buffer); }
};
using ContextPtr = std::unique_ptr<ggml_context, FreeContext>;
using BufferPtr = std::unique_ptr<ggml_backend_buffer, FreeBuffer>;

// A context for `n_tensors` tensor headers (and `extra_bytes` more), never for data.
[[nodiscard]] inline ContextPtr make_context(std::size_t n_tensors, std::size_t extra_bytes = 0) {
  return ContextPtr(ggml_init({.mem_size = n_tensors * ggml_tensor_overhead() + extra_bytes,
                               .mem_buffer = nullptr,
                               .no_alloc = true}));
}

// A tensor header of the same type and shape, without data. `tensor` has been validated by ModelFile.
[[nodiscard]] inline ggml_tensor* declare(ggml_context* ctx, const gguf::Tensor& tensor) {
  ggml_tensor* t = ggml_new_tensor(ctx, static_cast<ggml_type>(tensor.type), static_cast<int>(tensor.n_dims),
                                   tensor.ne.data());
  ggml_set_name(t, tensor.name.c_str());
  return t;
}

// The tensors of a part of a segment, without data; of a block of rows the last one has just these.
[[nodiscard]] inline std::vector<ggml_tensor*> declare(ggml_context* ctx,
                                                       std::span<const model::SegmentTensor> segment,
                                                       const Part& part) {
  std::vector<ggml_tensor*> tensors;
  for (std::uint32_t i = 0; i < part.n_tensors; ++i) {
    const gguf::Tensor& tensor = *segment[part.first_tensor + i].tensor;
    if (part.row_end != 0 && i + 1 == part.n_tensors)
      tensors.push_back(ggml_new_tensor_2d(ctx, static_cast<ggml_type>(tensor.type), tensor.ne[0],
                                           part.row_end - part.row_begin));
    else
      tensors.push_back(declare(ctx, tensor));
  }
  return tensors;
}

// Calls what may reach a GPU's driver: ggml's Vulkan backend throws where there is no memory or the device is
// lost.
template <class Call>
[[nodiscard]] Result<> guarded(Call call) {
  try {
    call();
  } catch (const std::bad_alloc&) {
    throw;  // of the process
  } catch (const std::exception& error) {
    const std::string_view what = error.what();
    const bool no_memory = what.contains("OutOfDeviceMemory") || what.contains("OutOfHostMemory");
    return fail(no_memory ? ErrorCode::kOutOfMemory : ErrorCode::kIo, "the GPU failed: {}", what);
  }
  return {};
}

// Whether the tensor is the left side of a matrix multiplication (only those have repacked layouts).
[[nodiscard]] inline bool is_matrix(model::Role role) {
  return !model::is_vector(role) && role != model::Role::kTokenEmbedding;
}

}  // namespace hearth::residency
