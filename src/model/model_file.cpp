#include "model/model_file.h"

#include <algorithm>
#include <format>
#include <span>
#include <string_view>
#include <utility>

#include "base/text.h"
#include "model/hyper_params.h"

namespace hearth::model {
namespace {

using gguf::TensorType;

std::string shape_text(const gguf::Tensor& tensor) {
  std::string text = std::format("[{}", tensor.ne[0]);
  for (std::uint32_t i = 1; i < tensor.n_dims; ++i) text += std::format(", {}", tensor.ne[i]);
  return text + "]";
}

// Without the last dimensions of 1.
std::string shape_text(std::span<const std::int64_t> shape) {
  while (shape.size() > 1 && shape.back() == 1) shape = shape.first(shape.size() - 1);
  std::string text = std::format("[{}", shape[0]);
  for (const std::int64_t n : shape.subspan(1)) text += std::format(", {}", n);
  return text + "]";
}

// A tensor's hint when it is missing: what the file has in its place.
std::string missing_hint(const gguf::File& file, Role role, std::uint32_t layer) {
  switch (role) {
    case Role::kAttnQ:
    case Role::kAttnK:
    case Role::kAttnV:
      if (file.find_tensor(std::format("blk.{}.attn_qkv.weight", layer)) != nullptr)
        return "; the file has them fused as attn_qkv.weight, which cannot be run: convert the model anew";
      break;
    case Role::kFfnGate:
    case Role::kFfnUp:
      if (file.find_tensor(std::format("blk.{}.ffn_gate_up.weight", layer)) != nullptr)
        return "; the file has them fused as ffn_gate_up.weight, which cannot be run: convert the model anew";
      break;
    default:
      break;
  }
  return "";
}

// The tensor of `role` with everything checked; nullptr when it may be absent and is.
Result<const gguf::Tensor*> checked_tensor(const gguf::File& file, const ArchTraits& arch,
                                           const HyperParams& params, Role role, std::uint32_t layer) {
  const Presence expected = presence(role, arch, params);
  if (expected == Presence::kNo) return nullptr;
  const std::string name = tensor_name(role, arch, layer);
  const gguf::Tensor* tensor = file.find_tensor(name);
  if (tensor == nullptr) {
    if (expected == Presence::kOptional) return nullptr;
    return fail(ErrorCode::kInvalidFile, "tensor {} is missing{}", quote(name),
                missing_hint(file, role, layer));
  }
  const auto shape = tensor_shape(role, arch, params);
  if (!std::ranges::equal(shape, std::span(tensor->ne).first(shape.size())) || tensor->ne[3] != 1)
    return fail(ErrorCode::kInvalidFile, "tensor {} has shape {}, expected {}", quote(name),
                shape_text(*tensor), shape_text(shape));
  if (is_vector(role) && tensor->type != TensorType::kF32)
    return fail(ErrorCode::kUnsupported, "tensor {} is {}; norms, biases and RoPE factors must be F32",
                quote(name), gguf::type_info(tensor->type).name);
  if (!is_vector(role) && !is_matrix_type(tensor->type))
    return fail(ErrorCode::kUnsupported, "tensor {} is {}, a type that no weight matrix can have",
                quote(name), gguf::type_info(tensor->type).name);
  return tensor;
}

}  // namespace

Result<ModelFile> ModelFile::open(const std::filesystem::path& path) {
  HEARTH_TRY(gguf::File file, gguf::File::open(path));
  return from(std::move(file));
}

Result<ModelFile> ModelFile::from(gguf::File file) {
  const std::string label = file.paths().empty() ? "GGUF header" : file.paths()[0].string();
  auto model = checked(std::move(file));
  // Errors of gguf::File name the file already.
  if (!model && !model.error().message.starts_with(label))
    return fail(model.error().code, "{}: {}", label, model.error().message);
  return model;
}

Result<ModelFile> ModelFile::checked(gguf::File file) {
  ModelFile model;
  model.file_ = std::make_unique<gguf::File>(std::move(file));
  const gguf::File& f = *model.file_;
  HEARTH_TRY(model.arch_, read_architecture(f));
  HEARTH_TRY(model.params_, read_params(f, *model.arch_));

  std::vector<bool> used(f.tensors().size(), false);
  const auto collect = [&](SegmentId id, std::vector<SegmentTensor>& segment) -> Result<> {
    for (const Role role : roles_of(id.kind)) {
      HEARTH_TRY(const gguf::Tensor* tensor, checked_tensor(f, *model.arch_, model.params_, role, id.layer));
      if (tensor == nullptr) continue;
      used[static_cast<std::size_t>(tensor - f.tensors().data())] = true;
      segment.push_back({role, tensor});
    }
    return {};
  };
  HEARTH_TRY_VOID(collect(SegmentId::embedding(), model.embedding_));
  model.layers_.resize(model.params_.n_layer);
  for (std::uint32_t il = 0; il < model.params_.n_layer; ++il)
    HEARTH_TRY_VOID(collect(SegmentId::of_layer(il), model.layers_[il]));
  HEARTH_TRY_VOID(collect(SegmentId::output(), model.output_));
  model.tied_ = model.output_.back().role != Role::kOutput;
  if (model.tied_) model.output_.push_back({Role::kOutput, model.embedding_.front().tensor});

  // A tensor that is left over means a model that computes something else than this architecture; running it
  // without that tensor would give wrong text.
  if (const auto unused = std::ranges::find(used, false); unused != used.end())
    return fail(
        ErrorCode::kUnsupported,
        "tensor {} plays no part in hearth's {} models, so this file holds a variant that cannot be run",
        quote(f.tensors()[static_cast<std::size_t>(unused - used.begin())].name), model.arch_->name);
  return model;
}

const std::vector<SegmentTensor>& ModelFile::segment(SegmentId id) const {
  switch (id.kind) {
    case SegmentId::Kind::kEmbedding:
      return embedding_;
    case SegmentId::Kind::kOutput:
      return output_;
    case SegmentId::Kind::kLayer:
      break;
  }
  HEARTH_CHECK(id.layer < layers_.size(), "no such layer");
  return layers_[id.layer];
}

std::uint64_t ModelFile::segment_bytes(SegmentId id) const {
  std::uint64_t bytes = 0;
  for (const SegmentTensor& t : segment(id))
    if (!is_shared(t.role)) bytes += t.tensor->bytes;
  return bytes;
}

}  // namespace hearth::model
