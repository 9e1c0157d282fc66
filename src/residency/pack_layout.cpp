#include "residency/pack_layout.h"

#include <algorithm>

#include "residency/repack.h"

namespace hearth::residency {
namespace {

// Text from a model file, made fit for a header: printable and short.
std::string model_label(const model::ModelFile& model) {
  std::string name = model.params().name;
  if (name.empty() && !model.file().paths().empty()) name = model.file().paths()[0].stem().string();
  std::string label;
  for (const char c : name.substr(0, 120)) label += c >= 32 && c < 127 ? c : '?';
  return label;
}

PackTensor stored(const model::SegmentTensor& t, const Piece& piece, ggml_backend_dev_t device, bool repack) {
  PackTensor out{.role = t.role,
                 .ggml_type = static_cast<std::uint32_t>(t.tensor->type),
                 .layout = {},
                 .bytes = piece.bytes,
                 .row_values = static_cast<std::uint64_t>(t.tensor->ne[0]),
                 .row_begin = piece.row_begin,
                 .row_end = piece.row_end,
                 .n_matrices = model::is_experts(t.role) ? static_cast<std::uint32_t>(t.tensor->ne[2]) : 1};
  if (repack && is_matrix(t.role)) {
    const ContextPtr ctx = make_context(1);
    ggml_tensor* block = declare(ctx.get(), out.ggml_type, out.shape());
    if (ggml_backend_buffer_type_t layout = repack_type(device, block); layout != nullptr) {
      out.layout = ggml_backend_buft_name(layout);
      out.bytes = ggml_backend_buft_get_alloc_size(layout, block);
    }
  }
  return out;
}

}  // namespace

PackKey pack_key(const model::ModelFile& model, ggml_backend_device* device, bool repack) {
  return {.model = model.file().fingerprint(),
          .ggml = ggml_build().substr(0, kMaxPackText),
          .cpu = cpu_features(device).substr(0, kMaxPackText),
          .repack = repack};
}

Result<PackHeader> pack_layout(const model::ModelFile& model, ggml_backend_device* device, bool repack,
                               std::uint64_t max_block_bytes) {
  PackHeader header;
  header.key = pack_key(model, device, repack);
  header.model_name = model_label(model);
  std::vector<model::SegmentId> ids;
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il) ids.push_back(model::SegmentId::of_layer(il));
  ids.push_back(model::SegmentId::output());
  for (const model::SegmentId id : ids) {
    PackSegment segment;
    segment.id = id;
    for (const Piece& piece : pieces_of(model, id, max_block_bytes))
      segment.tensors.push_back(stored(model.segment(id)[piece.tensor], piece, device, repack));
    header.segments.push_back(std::move(segment));
  }
  HEARTH_TRY_VOID(place_segments(header));
  return header;
}

const gguf::Tensor& source_of(const model::ModelFile& model, model::SegmentId id, const PackTensor& tensor) {
  const auto& tensors = model.segment(id);
  const auto found = std::ranges::find(tensors, tensor.role, &model::SegmentTensor::role);
  HEARTH_CHECK(found != tensors.end(), "a pack of another model");
  return *found->tensor;
}

}  // namespace hearth::residency
