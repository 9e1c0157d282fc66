#include "vs_libllama/hearth_side.h"

#include <chrono>

namespace hearth::bench {

Result<std::unique_ptr<HearthSide>> HearthSide::create(const std::string& model_path,
                                                       const SideOptions& options) {
  std::unique_ptr<HearthSide> side(new HearthSide);
  HEARTH_TRY(auto model, model::ModelFile::open(model_path));
  side->model_ = std::make_unique<model::ModelFile>(std::move(model));
  const std::uint32_t n_layer = side->model_->params().n_layer;
  HEARTH_TRY(side->backend_, compute::Backend::cpu(options.n_threads));
  std::vector<model::SegmentId> segments = {model::SegmentId::embedding(), model::SegmentId::output()};
  for (std::uint32_t il = 0; il < n_layer; ++il) segments.push_back(model::SegmentId::of_layer(il));
  HEARTH_TRY(side->weights_,
             residency::ResidentSource::load(*side->model_, segments, side->backend_->device(),
                                             {.repack = options.repack, .progress = {}, .cancelled = {}}));
  HEARTH_TRY(side->scratch_, compute::Scratch::create(*side->backend_, *side->model_,
                                                      {.n_cells = compute::pad_cells(options.n_ctx),
                                                       .n_ubatch = options.n_ubatch,
                                                       .flash_attention = true}));
  HEARTH_TRY(side->window_, compute::Window::create(*side->scratch_, *side->model_, {0, n_layer},
                                                    *side->weights_, wire::KvType::kF16));
  HEARTH_TRY(side->head_,
             compute::Head::create(*side->backend_, *side->model_, *side->weights_, options.n_ubatch, 1));
  return side;
}

Result<double> HearthSide::decode(std::span<const std::int32_t> tokens, std::int32_t first) {
  const auto start = std::chrono::steady_clock::now();
  ++batch_.id;
  batch_.operations.clear();
  batch_.tokens.clear();
  if (window_->cells().last_position(0) >= first) {
    batch_.operations.push_back({.kind = wire::KvOpKind::kRemove, .p0 = first});
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::int32_t position = first + static_cast<std::int32_t>(i);
    batch_.tokens.push_back({.position = position,
                             .cell = static_cast<std::uint32_t>(position),
                             .sequences = wire::SequenceSet::of(0),
                             .output = i + 1 == tokens.size()});
  }
  HEARTH_TRY_VOID(head_->embed(tokens, window_->input(static_cast<std::uint32_t>(tokens.size()))));
  HEARTH_TRY(const std::span<const float> hidden, window_->run(batch_));
  HEARTH_TRY(logits_, head_->logits(hidden));
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::uint64_t HearthSide::bytes_per_token(std::uint32_t position) const {
  const model::HyperParams& p = model_->params();
  std::uint64_t bytes = model_->segment_bytes(model::SegmentId::output());
  for (std::uint32_t il = 0; il < p.n_layer; ++il)
    bytes += model_->segment_bytes(model::SegmentId::of_layer(il));
  constexpr std::uint64_t kBytesOfF16 = 2;
  return bytes + kBytesOfF16 * p.n_layer * (p.n_embd_k() + p.n_embd_v()) * position;
}

}  // namespace hearth::bench
