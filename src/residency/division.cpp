#include "residency/division.h"

#include <algorithm>

namespace hearth::residency {
namespace {

std::uint32_t rows(const gguf::Tensor& tensor) {
  return static_cast<std::uint32_t>(tensor.n_rows());
}

}  // namespace

std::uint32_t rows_per_block(const model::SegmentTensor& t, std::uint64_t max_block_bytes) {
  const gguf::Tensor& tensor = *t.tensor;
  // Rows of the embedding are looked up one by one, and experts by their number.
  if (model::is_vector(t.role) || t.role == model::Role::kTokenEmbedding || model::is_experts(t.role) ||
      tensor.bytes <= max_block_bytes)
    return rows(tensor);
  const std::uint64_t most =
      std::max<std::uint64_t>(max_block_bytes / tensor.row_bytes() / kRowBlock, 1) * kRowBlock;
  const std::uint64_t n_blocks = (rows(tensor) + most - 1) / most;
  const std::uint64_t even = (rows(tensor) + n_blocks - 1) / n_blocks;
  return static_cast<std::uint32_t>((even + kRowBlock - 1) / kRowBlock * kRowBlock);
}

std::vector<Piece> pieces_of(const model::ModelFile& model, model::SegmentId id,
                             std::uint64_t max_block_bytes) {
  std::vector<Piece> pieces;
  const auto& tensors = model.segment(id);
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    const gguf::Tensor& tensor = *tensors[i].tensor;
    const std::uint32_t step = rows_per_block(tensors[i], max_block_bytes);
    for (std::uint32_t begin = 0; begin < rows(tensor); begin += step) {
      const std::uint32_t end = std::min(begin + step, rows(tensor));
      pieces.push_back({.tensor = i,
                        .row_begin = begin,
                        .row_end = end,
                        .bytes = (end - begin) * tensor.row_bytes(),
                        .is_vector = model::is_vector(tensors[i].role),
                        .is_block = step < rows(tensor)});
    }
  }
  return pieces;
}

std::vector<Part> parts_of(std::span<const Piece> pieces, std::uint64_t max_part_bytes) {
  std::vector<Part> parts;
  std::uint64_t open_bytes = 0;  // of the last part
  Part unit;                     // vectors and the matrix that follows
  std::uint64_t unit_bytes = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    if (unit.n_tensors == 0) unit.first_tensor = piece.tensor;
    ++unit.n_tensors;
    unit_bytes += piece.bytes;
    if (piece.is_vector && i + 1 < pieces.size()) continue;
    if (piece.is_block) {
      unit.row_begin = piece.row_begin;
      unit.row_end = piece.row_end;
    }
    const bool joins = !parts.empty() && !piece.is_block && parts.back().row_end == 0 &&
                       open_bytes + unit_bytes <= max_part_bytes;
    if (joins) {
      parts.back().n_tensors += unit.n_tensors;
      open_bytes += unit_bytes;
    } else {
      parts.push_back(unit);
      open_bytes = unit_bytes;
    }
    unit = {};
    unit_bytes = 0;
  }
  return parts;
}

std::vector<Part> divide(const model::ModelFile& model, model::SegmentId id, std::uint64_t max_part_bytes,
                         std::uint64_t max_block_bytes) {
  return parts_of(pieces_of(model, id, max_block_bytes), max_part_bytes);
}

std::uint64_t part_bytes(const model::ModelFile& model, model::SegmentId id, const Part& part) {
  std::uint64_t bytes = 0;
  for (std::uint32_t i = part.first_tensor; i < part.first_tensor + part.n_tensors; ++i) {
    const gguf::Tensor& tensor = *model.segment(id)[i].tensor;
    const bool is_cut = part.row_end != 0 && i + 1 == part.first_tensor + part.n_tensors;
    bytes += is_cut ? (part.row_end - part.row_begin) * tensor.row_bytes() : tensor.bytes;
  }
  return bytes;
}

}  // namespace hearth::residency
