// WeightSource: where the weights of a segment are while it is computed.
//
// A segment is used in parts, in the order of use: the window runner calls acquire(segment, part) -> computes
// what reads it -> release(segment, part), part after part, segment after segment. Between acquire and
// release the returned places are valid and their bytes do not change; after release they may be reused.
// Addresses may differ each time. A whole pass acquires every part of every segment of a window once, also
// those that this batch does not read; a pass that fails stops anywhere, and a shift of positions acquires
// only the parts with RoPE factors. Thread contract: all calls come from the engine thread.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "model/model_file.h"

struct ggml_backend_buffer;
struct ggml_backend_buffer_type;

namespace hearth::residency {

// A matrix, or a stack of one for each expert.
struct MatrixShape {
  std::uint64_t row_values = 0;
  std::uint64_t rows = 0;        // of all matrices together
  std::uint64_t n_matrices = 1;  // each has rows / n_matrices
};

// Where one tensor's bytes are. `buffer` tells ggml which layout they have (plain or repacked).
struct TensorPlace {
  void* data = nullptr;
  ggml_backend_buffer* buffer = nullptr;
  void* extra = nullptr;  // what the buffer type keeps per tensor (repacking traits); shared, never owned
};

// What of a segment is in memory at once: tensors first_tensor .. first_tensor + n_tensors - 1 of
// ModelFile::segment(). A matrix may be cut into blocks of rows: such a part holds of its last tensor the
// rows row_begin .. row_end - 1, as a matrix of that many rows; 0, 0: all of them.
struct Part {
  std::uint32_t first_tensor = 0, n_tensors = 0;
  std::uint32_t row_begin = 0, row_end = 0;
  friend bool operator==(const Part&, const Part&) = default;
};

// What a source keeps in memory and what it reads.
struct StreamStatistics {
  std::uint64_t pinned_bytes = 0;
  std::uint64_t slots_bytes = 0;
  std::uint64_t streamed_bytes_per_pass = 0;
  std::uint64_t read_bytes = 0;  // through the slots, since the start
  std::uint64_t waited_ns = 0;   // of computing for the disk, since the start
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // In the order of use; they cover the segment and stay the same for as long as the source lives. The blocks
  // of a matrix follow each other.
  [[nodiscard]] virtual std::span<const Part> parts(model::SegmentId id) const = 0;

  // The places of the part's tensors, in their order; the span too is valid until the release. Blocks until
  // the bytes are there; errors kIo, kInvalidFile (checksum).
  [[nodiscard]] virtual Result<std::span<const TensorPlace>> acquire(model::SegmentId id,
                                                                     std::uint32_t part) = 0;
  virtual void release(model::SegmentId id, std::uint32_t part) = 0;

  // After computing, before its result goes anywhere: whether the bytes that were used are still what they
  // were. kIo, kInvalidFile.
  [[nodiscard]] virtual Result<> still_good() { return {}; }

  // Whether weights are fetched anew for every pass: then it pays to compute several batches with what is
  // there.
  [[nodiscard]] virtual bool streams() const { return false; }
  // Whether all parts of this segment may be held (acquired and not released) at once. Where not, one part is
  // at a time: with more, acquire() could wait for a release that never comes.
  [[nodiscard]] virtual bool can_hold(model::SegmentId id) const { return parts(id).size() <= 1; }

  // Whether the segment's weights are in a GPU's memory, as one part; places there are no addresses of the
  // process.
  [[nodiscard]] virtual bool on_gpu(model::SegmentId) const { return false; }

  // Bytes this source keeps in memory for weights, not counting a GPU's own.
  [[nodiscard]] virtual std::uint64_t resident_bytes() const = 0;
  // Those of them that are not pages of a file.
  [[nodiscard]] virtual std::uint64_t anonymous_bytes() const { return 0; }
  // Any thread.
  [[nodiscard]] virtual StreamStatistics statistics() const { return {.pinned_bytes = resident_bytes()}; }
};

}  // namespace hearth::residency
