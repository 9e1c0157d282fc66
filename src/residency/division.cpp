#include "residency/division.h"

#include <algorithm>

namespace hearth::residency {

std::vector<Part> divide_layer(const model::ModelFile& model, model::SegmentId id,
                               std::uint64_t max_part_bytes) {
  const auto& tensors = model.segment(id);
  std::vector<Part> parts;
  std::uint64_t open_bytes = 0;  // of the last part
  Part unit;                     // vectors and the matrix that follows
  std::uint64_t unit_bytes = 0;
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    ++unit.n_tensors;
    unit_bytes += tensors[i].tensor->bytes;
    if (model::is_vector(tensors[i].role) && i + 1 < tensors.size()) continue;
    if (!parts.empty() && open_bytes + unit_bytes <= max_part_bytes) {
      parts.back().n_tensors += unit.n_tensors;
      open_bytes += unit_bytes;
    } else {
      parts.push_back(unit);
      open_bytes = unit_bytes;
    }
    unit = {.first_tensor = i + 1};
    unit_bytes = 0;
  }
  return parts;
}

std::vector<Part> divide_output(const model::ModelFile& model, std::uint64_t max_part_bytes) {
  const auto id = model::SegmentId::output();
  const auto& tensors = model.segment(id);
  const auto n_tensors = static_cast<std::uint32_t>(tensors.size());
  if (model.segment_bytes(id) <= max_part_bytes) return {{.first_tensor = 0, .n_tensors = n_tensors}};
  const std::uint32_t n_vocab = model.params().n_vocab;
  const std::uint64_t row_bytes = tensors.back().tensor->bytes / n_vocab;
  const std::uint64_t norm_bytes = model.segment_bytes(id) - tensors.back().tensor->bytes;
  const std::uint64_t room = max_part_bytes > norm_bytes ? max_part_bytes - norm_bytes : 0;
  const std::uint64_t most_rows = std::max<std::uint64_t>(room / row_bytes / kRowBlock, 1) * kRowBlock;
  const std::uint64_t n_blocks = (n_vocab + most_rows - 1) / most_rows;
  const std::uint64_t even = (n_vocab + n_blocks - 1) / n_blocks;
  const auto rows = static_cast<std::uint32_t>((even + kRowBlock - 1) / kRowBlock * kRowBlock);
  std::vector<Part> parts;
  for (std::uint32_t row = 0; row < n_vocab; row += rows) {
    const std::uint32_t first = row == 0 ? 0 : n_tensors - 1;
    parts.push_back({.first_tensor = first,
                     .n_tensors = n_tensors - first,
                     .row_begin = row,
                     .row_end = std::min(row + rows, n_vocab)});
  }
  return parts;
}

std::uint64_t layer_part_bytes(const model::ModelFile& model, std::span<const model::SegmentId> segments,
                               std::uint64_t wanted_bytes) {
  std::uint64_t largest = 0;
  for (const model::SegmentId id : segments)
    if (id.kind == model::SegmentId::Kind::kLayer) largest = std::max(largest, model.segment_bytes(id));
  return std::max(wanted_bytes, largest / 4);
}

std::vector<Part> divide(const model::ModelFile& model, model::SegmentId id, std::uint64_t max_part_bytes) {
  return id.kind == model::SegmentId::Kind::kOutput ? divide_output(model, max_part_bytes)
                                                    : divide_layer(model, id, max_part_bytes);
}

std::uint64_t part_bytes(const model::ModelFile& model, model::SegmentId id, const Part& part) {
  const auto& tensors = model.segment(id);
  std::uint64_t bytes = 0;
  for (std::uint32_t i = part.first_tensor; i < part.first_tensor + part.n_tensors; ++i) {
    const gguf::Tensor& tensor = *tensors[i].tensor;
    const bool cut = part.row_end != 0 && tensors[i].role == model::Role::kOutput;
    bytes += cut ? tensor.bytes / model.params().n_vocab * (part.row_end - part.row_begin) : tensor.bytes;
  }
  return bytes;
}

}  // namespace hearth::residency
