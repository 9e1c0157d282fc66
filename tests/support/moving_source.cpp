#include "support/moving_source.h"

#include <algorithm>
#include <cstring>

#include "residency/division.h"
#include "support/value_of.h"

namespace hearth::testing {
namespace {

using model::SegmentId;
using residency::Part;
using residency::TensorPlace;

constexpr std::size_t kAlignment = 64;
// An F32 of it is -1e8, an F16 -19: whatever reads it gives other bits.
constexpr std::uint8_t kPoison = 0xCC;

std::vector<Part> tensor_by_tensor(const model::ModelFile& model, SegmentId id) {
  std::vector<Part> parts;
  for (std::uint32_t i = 0; i < model.segment(id).size(); ++i) {
    if (model.segment(id)[i].role != model::Role::kOutput) {
      parts.push_back({.first_tensor = i, .n_tensors = 1});
      continue;
    }
    for (std::uint32_t row = 0; row < model.params().n_vocab; row += residency::kRowBlock)
      parts.push_back({.first_tensor = i,
                       .n_tensors = 1,
                       .row_begin = row,
                       .row_end = std::min(row + residency::kRowBlock, model.params().n_vocab)});
  }
  return parts;
}

std::vector<Part> divided(const model::ModelFile& model, SegmentId id, Division division) {
  const bool is_whole = division == Division::kWhole || id.kind == SegmentId::Kind::kEmbedding;
  if (is_whole)
    return {{.first_tensor = 0, .n_tensors = static_cast<std::uint32_t>(model.segment(id).size())}};
  if (division == Division::kTensors) return tensor_by_tensor(model, id);
  if (division == Division::kBlocks) return residency::divide(model, id, 1, 1);
  return residency::divide(model, id, model.segment_bytes(id) / 3, model.segment_bytes(id) / 5);
}

}  // namespace

MovingSource::MovingSource(residency::WeightSource& origin, const model::ModelFile& model,
                           const MovingOptions& options)
    : origin_(origin), model_(model), options_(options) {}

std::span<const Part> MovingSource::parts(SegmentId id) const {
  auto [found, is_new] = parts_.try_emplace(id);
  if (is_new) found->second = divided(model_, id, options_.division);
  return found->second;
}

// Where the origin has the tensor, or the rows of it. Rows of a repacked matrix are repacked by themselves,
// as a store does that keeps them apart.
TensorPlace MovingSource::original(SegmentId id, const Part& part, std::uint32_t index,
                                   const TensorPlace& whole) {
  const model::SegmentTensor& source = model_.segment(id)[index];
  if (part.row_end == 0 || index + 1 != part.first_tensor + part.n_tensors) return whole;
  if (whole.extra == nullptr)
    return {.data = static_cast<std::uint8_t*>(whole.data) + part.row_begin * source.tensor->row_bytes(),
            .buffer = whole.buffer,
            .extra = nullptr};
  auto [found, is_new] = blocks_.try_emplace({id, index, part.row_begin});
  Block& block = found->second;
  if (is_new) {
    const InputFile file = value_of(InputFile::open(model_.file().paths()[source.tensor->file_index]));
    const MappedFile map = value_of(MappedFile::map(file));
    block.ctx = residency::make_context(1);
    ggml_tensor* rows = ggml_new_tensor_2d(block.ctx.get(), static_cast<ggml_type>(source.tensor->type),
                                           source.tensor->ne[0], part.row_end - part.row_begin);
    ggml_backend_buffer_type_t type = ggml_backend_buffer_get_type(whole.buffer);
    block.buffer.reset(ggml_backend_buft_alloc_buffer(type, ggml_backend_buft_get_alloc_size(type, rows)));
    HEARTH_CHECK(block.buffer != nullptr);
    HEARTH_CHECK(ggml_backend_tensor_alloc(block.buffer.get(), rows,
                                           ggml_backend_buffer_get_base(block.buffer.get())) ==
                 GGML_STATUS_SUCCESS);
    ggml_backend_tensor_set(
        rows, map.bytes().data() + source.tensor->offset + part.row_begin * source.tensor->row_bytes(), 0,
        ggml_nbytes(rows));
    block.place = {.data = rows->data, .buffer = block.buffer.get(), .extra = rows->extra};
  }
  return block.place;
}

Result<std::span<const TensorPlace>> MovingSource::acquire(SegmentId id, std::uint32_t index) {
  HEARTH_TRY(const auto whole, origin_.acquire(id, 0));
  const Part part = parts(id)[index];
  Copy& copy = copies_[{id, index}];
  HEARTH_CHECK(!copy.held && n_held_ < options_.max_parts_held, "more parts are held than may be");
  copy.held = true;
  ++n_held_;
  ++n_acquired_;
  copy.places.clear();
  auto& slot = copy.bytes[copy.turn++ % copy.bytes.size()];
  slot.resize(part.n_tensors);
  for (std::uint32_t i = 0; i < part.n_tensors; ++i) {
    TensorPlace place = original(id, part, part.first_tensor + i, whole[part.first_tensor + i]);
    // A repacked tensor has the size of the plain one.
    std::size_t size = model_.segment(id)[part.first_tensor + i].tensor->bytes;
    if (part.row_end != 0 && i + 1 == part.n_tensors)
      size = size / static_cast<std::size_t>(model_.segment(id)[part.first_tensor + i].tensor->ne[1]) *
             (part.row_end - part.row_begin);
    slot[i].resize(size + kAlignment);
    auto address = reinterpret_cast<std::uintptr_t>(slot[i].data());
    address = (address + kAlignment - 1) / kAlignment * kAlignment;
    std::memcpy(reinterpret_cast<void*>(address), place.data, size);
    place.data = reinterpret_cast<void*>(address);
    copy.places.push_back(place);
  }
  return std::span<const TensorPlace>(copy.places);
}

void MovingSource::release(SegmentId id, std::uint32_t index) {
  Copy& copy = copies_[{id, index}];
  HEARTH_CHECK(copy.held);
  copy.held = false;
  --n_held_;
  for (auto& bytes : copy.bytes[(copy.turn - 1) % copy.bytes.size()]) std::ranges::fill(bytes, kPoison);
  for (TensorPlace& place : copy.places) place.data = nullptr;
  origin_.release(id, 0);
}

}  // namespace hearth::testing
