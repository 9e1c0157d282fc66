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

std::uint64_t row_bytes_of(const gguf::Tensor& tensor) {
  const gguf::TypeInfo& info = gguf::type_info(tensor.type);
  return static_cast<std::uint64_t>(tensor.ne[0]) / info.block_values * info.block_bytes;
}

std::uint64_t rows_per_block(const model::SegmentTensor& t) {
  const auto rows = static_cast<std::uint64_t>(t.tensor->ne[1]);
  if (t.role != model::Role::kOutput) return rows;
  const std::uint64_t fitting = kOutputBlockBytes / row_bytes_of(*t.tensor);
  return std::max(fitting / kOutputRowMultiple, std::uint64_t{1}) * kOutputRowMultiple;
}

void add_tensor(PackSegment& segment, const model::SegmentTensor& t, ggml_backend_dev_t device, bool repack) {
  const auto rows = static_cast<std::uint64_t>(t.tensor->ne[1]);
  const std::uint64_t step = rows_per_block(t);
  for (std::uint64_t begin = 0; begin < rows; begin += step) {
    const std::uint64_t end = std::min(begin + step, rows);
    PackTensor out{.role = t.role,
                   .ggml_type = static_cast<std::uint32_t>(t.tensor->type),
                   .layout = {},
                   .bytes = (end - begin) * row_bytes_of(*t.tensor),
                   .row_values = static_cast<std::uint64_t>(t.tensor->ne[0]),
                   .row_begin = begin,
                   .row_end = end};
    if (repack && is_matrix(t.role)) {
      const ContextPtr ctx = make_context(1);
      ggml_tensor* block = ggml_new_tensor_2d(ctx.get(), static_cast<ggml_type>(t.tensor->type),
                                              t.tensor->ne[0], static_cast<std::int64_t>(end - begin));
      if (ggml_backend_buffer_type_t layout = repack_type(device, block); layout != nullptr) {
        out.layout = ggml_backend_buft_name(layout);
        out.bytes = ggml_backend_buft_get_alloc_size(layout, block);
      }
    }
    segment.tensors.push_back(std::move(out));
  }
}

}  // namespace

PackKey pack_key(const model::ModelFile& model, ggml_backend_device* device, bool repack) {
  return {.model = model.file().fingerprint(),
          .ggml = ggml_build().substr(0, kMaxPackText),
          .cpu = cpu_features(device).substr(0, kMaxPackText),
          .repack = repack};
}

Result<PackHeader> pack_layout(const model::ModelFile& model, ggml_backend_device* device, bool repack) {
  PackHeader header;
  header.key = pack_key(model, device, repack);
  header.model_name = model_label(model);
  std::vector<model::SegmentId> ids;
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il) ids.push_back(model::SegmentId::of_layer(il));
  ids.push_back(model::SegmentId::output());
  for (const model::SegmentId id : ids) {
    PackSegment segment;
    segment.id = id;
    for (const model::SegmentTensor& t : model.segment(id)) add_tensor(segment, t, device, repack);
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
