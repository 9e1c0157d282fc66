// Division: how a segment is cut into parts of at most a given size.
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

// Rows of the output matrix are cut at multiples of this, so that a block of rows has each layout that the
// whole matrix has: repacked layouts interleave 4 to 32 rows.
inline constexpr std::uint32_t kRowBlock = 64;

// A layer or the embedding: consecutive tensors as long as they fit into max_part_bytes together. Norms,
// biases and factors go with the matrix that follows; a matrix that is too large is a part of its own, with
// these.
[[nodiscard]] std::vector<Part> divide_layer(const model::ModelFile& model, model::SegmentId id,
                                             std::uint64_t max_part_bytes);

// The output segment: blocks of kRowBlock rows times some number, as even as possible, the norm with the
// first. At least kRowBlock rows, however small max_part_bytes is.
[[nodiscard]] std::vector<Part> divide_output(const model::ModelFile& model, std::uint64_t max_part_bytes);

// The size to which layers among `segments` are cut: `wanted_bytes`, but a quarter of the largest layer where
// that is more.
[[nodiscard]] std::uint64_t layer_part_bytes(const model::ModelFile& model,
                                             std::span<const model::SegmentId> segments,
                                             std::uint64_t wanted_bytes);

// Either of the two.
[[nodiscard]] std::vector<Part> divide(const model::ModelFile& model, model::SegmentId id,
                                       std::uint64_t max_part_bytes);

// Data bytes of a part.
[[nodiscard]] std::uint64_t part_bytes(const model::ModelFile& model, model::SegmentId id, const Part& part);

}  // namespace hearth::residency
