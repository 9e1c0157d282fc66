// WeightSource: where the weights of a segment are while it is computed.
//
// The window runner calls acquire(segment) -> computes -> release(segment), segment after segment. Between
// acquire and release the returned places are valid and their bytes do not change; after release they may be
// reused. Addresses may differ each time. Thread contract: acquire and release come from the engine thread.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "model/model_file.h"

struct ggml_backend_buffer;
struct ggml_backend_buffer_type;

namespace hearth::residency {

// Where one tensor's bytes are. `buffer` tells ggml which layout they have (plain or repacked).
struct TensorPlace {
  void* data = nullptr;
  ggml_backend_buffer* buffer = nullptr;
  void* extra = nullptr;  // what the buffer type keeps per tensor (repacking traits); shared, never owned
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // Places in the order of ModelFile::segment(id). Blocks until they are in memory; errors kIo, kInvalidFile
  // (checksum).
  [[nodiscard]] virtual Result<std::span<const TensorPlace>> acquire(model::SegmentId id) = 0;
  virtual void release(model::SegmentId id) = 0;

  // Bytes this source keeps in memory for weights.
  [[nodiscard]] virtual std::uint64_t resident_bytes() const = 0;
};

}  // namespace hearth::residency
