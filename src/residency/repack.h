// Repacked layouts: which one a weight matrix gets on a device, how bytes come into it, and how bytes that
// are in it already are computed with.
//
// A layout is ggml's private matter and has no version: its bytes are only good for the same build of ggml
// and the same CPU features, which ggml_build() and cpu_features() name. Functions may be called from any
// thread; a LayoutHandles belongs to one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "residency/ggml_tensors.h"
#include "residency/weight_source.h"

namespace hearth::residency {

// A tensor header of that type and shape, without data.
[[nodiscard]] ggml_tensor* declare(ggml_context* ctx, std::uint32_t type, const MatrixShape& shape);

// The first layout of the device, in its order of preference, that can multiply by this matrix; nullptr for
// plain. The same question that libllama asks: an op with a weight in an empty buffer of that type.
[[nodiscard]] ggml_backend_buffer_type_t repack_type(ggml_backend_dev_t device, ggml_tensor* weight);

// The device's layout of that name; nullptr when it has none.
[[nodiscard]] ggml_backend_buffer_type_t find_layout(ggml_backend_dev_t device, std::string_view name);

// Version and commit of the ggml in use, e.g. "0.27.0 (a1b2c3d)".
[[nodiscard]] std::string ggml_build();
// The device's CPU features as ggml lists them for the variant that was chosen, e.g. "SSE3=1 AVX=1 AVX2=1".
[[nodiscard]] std::string cpu_features(ggml_backend_dev_t device);

// Memory in which matrices are repacked one after another.
class Repacker {
 public:
  // `plain` holds the rows of `shape`, of `type`. The span returned has the layout's allocated
  // size, bytes that the layout leaves unused are zero, and it is valid until the next call. kOutOfMemory.
  [[nodiscard]] Result<std::span<const std::uint8_t>> repack(ggml_backend_buffer_type_t layout,
                                                             std::uint32_t type, const MatrixShape& shape,
                                                             std::span<const std::uint8_t> plain);

 private:
  BufferPtr buffer_;  // grows to the largest matrix of the last layout
};

// What a graph needs, besides an address, to use bytes that are in a layout already.
class LayoutHandles {
 public:
  explicit LayoutHandles(ggml_backend_dev_t device) : device_(device) {}

  // A place without data: `buffer` and `extra` for a matrix of that type and shape in the layout `name` (not
  // plain). They are good for any address that is aligned to 64 bytes and live as long as this object. The
  // buffer takes address space, no memory. kUnsupported when the device has no such layout or does not use it
  // for this matrix.
  [[nodiscard]] Result<TensorPlace> place(std::string_view name, std::uint32_t type,
                                          const MatrixShape& shape);

 private:
  ggml_backend_dev_t device_;
  std::vector<BufferPtr> buffers_;
};

}  // namespace hearth::residency
