// Division: how a segment is cut into parts of about a given size.
//
// A matrix that is larger is cut into blocks of rows, each stored, streamed and computed by itself; smaller
// tensors are taken together. So parts are about equally large whatever the model, and slots for a few of
// them are enough.
//
// Pure; any thread. Sizes are those of the model file: repacked weights take as many bytes, paddings of a
// store are its own matter.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/model_file.h"
#include "residency/weight_source.h"

namespace hearth::residency {

// Large enough for a disk at full speed, small enough that a few of them in memory cost little.
inline constexpr std::uint64_t kPartBytes = std::uint64_t{8} << 20;
// Of a block of rows: with the vectors before it, it is no larger than a part.
inline constexpr std::uint64_t kBlockBytes = kPartBytes - (std::uint64_t{64} << 10);

// Rows of a matrix are cut at multiples of this, so that a block of rows has each layout that the whole
// matrix has: repacked layouts interleave 4 to 32 rows.
inline constexpr std::uint32_t kRowBlock = 64;

// A tensor or a block of rows of one: what is stored by itself.
struct Piece {
  std::uint32_t tensor = 0;  // of ModelFile::segment()
  std::uint32_t row_begin = 0, row_end = 0;
  std::uint64_t bytes = 0;
  bool is_vector = false;
  bool is_block = false;  // not all rows
};

// Rows of each block but the last: a multiple of kRowBlock, as even as possible, about max_block_bytes at
// most; all rows of what is no larger, and of vectors and the embedding.
[[nodiscard]] std::uint32_t rows_per_block(const model::SegmentTensor& tensor, std::uint64_t max_block_bytes);

[[nodiscard]] std::vector<Piece> pieces_of(const model::ModelFile& model, model::SegmentId id,
                                           std::uint64_t max_block_bytes);

// Consecutive whole tensors as long as they fit into max_part_bytes together. Vectors (norms, biases,
// factors) go with the matrix or the block that follows; a block, or a matrix that is too large, is a part of
// its own with these.
[[nodiscard]] std::vector<Part> parts_of(std::span<const Piece> pieces, std::uint64_t max_part_bytes);

// A segment of the model in parts.
[[nodiscard]] std::vector<Part> divide(const model::ModelFile& model, model::SegmentId id,
                                       std::uint64_t max_part_bytes, std::uint64_t max_block_bytes);

// Data bytes of a part.
[[nodiscard]] std::uint64_t part_bytes(const model::ModelFile& model, model::SegmentId id, const Part& part);

}  // namespace hearth::residency
