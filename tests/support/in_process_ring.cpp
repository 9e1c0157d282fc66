#include "support/in_process_ring.h"

#include <algorithm>
#include <format>

namespace hearth::testing {

struct InProcessRing::Impl {
  RingOptions options;
  std::unique_ptr<model::ModelFile> model;
  plan::Plan plan;
  std::unique_ptr<compute::Backend> backend, gpu;
  std::unique_ptr<residency::ResidentSource> resident;
  std::unique_ptr<residency::GpuSource> on_gpu;
  std::unique_ptr<MovingSource> moving;
  std::vector<std::unique_ptr<compute::Scratch>> scratch, gpu_scratch;  // one per device
  std::unique_ptr<compute::Head> head;
  std::vector<std::unique_ptr<compute::Window>> windows;  // one per step
};

InProcessRing::InProcessRing(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
InProcessRing::~InProcessRing() = default;

Result<std::unique_ptr<InProcessRing>> InProcessRing::create(const std::string& model_path,
                                                             const RingOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  HEARTH_TRY(auto model, model::ModelFile::open(model_path));
  impl->model = std::make_unique<model::ModelFile>(std::move(model));
  const std::uint32_t n_layer = impl->model->params().n_layer;
  const std::vector<std::uint32_t> windows =
      options.windows.empty() ? std::vector<std::uint32_t>{n_layer} : options.windows;
  std::vector<std::string> names;
  const std::size_t n_devices = options.n_devices != 0 ? options.n_devices : windows.size();
  for (std::size_t i = 0; i < n_devices; ++i) names.push_back(std::format("device{}", i));
  HEARTH_TRY(impl->plan, plan::split_by_windows(n_layer, names, windows, options.rounds));
  HEARTH_TRY(impl->backend, compute::Backend::cpu(options.n_threads));

  std::vector<model::SegmentId> segments = {model::SegmentId::embedding(), model::SegmentId::output()};
  for (std::uint32_t il = 0; il < n_layer; ++il) segments.push_back(model::SegmentId::of_layer(il));
  HEARTH_TRY(impl->resident,
             residency::ResidentSource::load(*impl->model, segments, impl->backend->device(),
                                             {.repack = options.repack, .progress = {}, .cancelled = {}}));
  residency::WeightSource* source = impl->resident.get();
  if (options.moving_weights) {
    impl->moving = std::make_unique<MovingSource>(*impl->resident, *impl->model, *options.moving_weights);
    source = impl->moving.get();
  }
  if (!options.gpu.empty()) {
    HEARTH_TRY(impl->gpu, compute::Backend::gpu(options.gpu));
    HEARTH_CHECK(options.gpu_layers >= 1 && options.gpu_layers <= n_layer + 1);
    std::vector<model::SegmentId> taken = {model::SegmentId::output()};
    for (std::uint32_t il = n_layer + 1 - options.gpu_layers; il < n_layer; ++il)
      taken.push_back(model::SegmentId::of_layer(il));
    HEARTH_TRY(auto others,
               residency::ResidentSource::load(*impl->model, segments, impl->backend->device(),
                                               {.repack = options.repack, .progress = {}, .cancelled = {}}));
    HEARTH_TRY(impl->on_gpu,
               residency::GpuSource::load(*impl->model, taken, impl->gpu->device(), {}, std::move(others)));
    source = impl->on_gpu.get();
  }
  const compute::ScratchOptions scratch_options = {.n_cells = compute::pad_cells(options.n_ctx),
                                                   .n_ubatch = options.n_ubatch,
                                                   .flash_attention = options.flash_attention,
                                                   .kv_type = options.kv_type};
  for (std::size_t device = 0; device < n_devices; ++device) {
    HEARTH_TRY(auto scratch, compute::Scratch::create(*impl->backend, *impl->model, scratch_options));
    impl->scratch.push_back(std::move(scratch));
    if (!impl->gpu) continue;
    HEARTH_TRY(auto beside, compute::Scratch::create_beside(*impl->scratch.back(), *impl->gpu, *impl->model));
    impl->gpu_scratch.push_back(std::move(beside));
  }
  for (const plan::Step& step : impl->plan.steps) {
    compute::Scratch* const gpu = impl->gpu ? impl->gpu_scratch[step.device].get() : nullptr;
    HEARTH_TRY(auto window, compute::Window::create({*impl->scratch[step.device], gpu}, *impl->model,
                                                    step.layers, *source, options.kv_type));
    impl->windows.push_back(std::move(window));
  }
  HEARTH_TRY(impl->head, compute::Head::create(*impl->backend, *impl->model, *source, options.n_ubatch,
                                               options.n_ubatch, impl->gpu.get()));
  return std::unique_ptr<InProcessRing>(new InProcessRing(std::move(impl)));
}

Result<std::vector<float>> InProcessRing::run(const wire::Batch& batch,
                                              std::span<const std::int32_t> token_ids) {
  Impl& r = *impl_;
  const std::uint32_t n_embd = r.model->params().n_embd;
  std::vector<float> rows(token_ids.size() * n_embd);
  if (!batch.operations_only && !token_ids.empty()) HEARTH_TRY_VOID(r.head->embed(token_ids, rows));
  const wire::FrameLimits limits = {.n_ctx = compute::pad_cells(r.options.n_ctx),
                                    .n_ubatch = r.options.n_ubatch,
                                    .n_embd = n_embd,
                                    .n_steps = static_cast<std::uint16_t>(r.windows.size())};
  std::vector<std::uint8_t> bytes;
  for (std::size_t step = 0; step < r.windows.size(); ++step) {
    wire::BatchFrame frame = {.epoch = 1,
                              .step = static_cast<std::uint16_t>(step),
                              .batch = batch,
                              .encoding = r.options.encoding,
                              .n_embd = n_embd,
                              .hidden = {}};
    if (!batch.operations_only)
      HEARTH_TRY_VOID(wire::encode_hidden(r.options.encoding, rows, n_embd, frame.hidden));
    wire::encode(frame, bytes);
    HEARTH_TRY(const wire::BatchFrame received, wire::decode_batch_frame(bytes, limits));
    compute::Window& window = *r.windows[step];
    if (!batch.operations_only && !batch.tokens.empty())
      HEARTH_TRY_VOID(wire::decode_hidden(received.encoding, received.hidden, n_embd,
                                          window.input(static_cast<std::uint32_t>(batch.tokens.size()))));
    HEARTH_TRY(const auto out, window.run(received.batch));
    rows.assign(out.begin(), out.end());
  }
  if (rows.empty()) return std::vector<float>{};
  HEARTH_TRY(const auto logits, r.head->logits(rows));
  return std::vector<float>(logits.begin(), logits.end());
}

Result<InProcessRing::Greedy> InProcessRing::greedy(std::span<const std::int32_t> prompt, std::uint32_t n) {
  Greedy result;
  std::uint64_t id = 0;
  std::uint32_t position = 0;
  const auto batch_of = [&](std::size_t count, bool output_last) {
    wire::Batch batch;
    batch.id = ++id;
    for (std::size_t i = 0; i < count; ++i, ++position)
      batch.tokens.push_back({.position = static_cast<std::int32_t>(position),
                              .cell = position,
                              .sequences = wire::SequenceSet::of(0),
                              .output = output_last && i + 1 == count});
    return batch;
  };
  std::vector<float> row;
  for (std::size_t at = 0; at < prompt.size();) {
    const std::size_t count = std::min<std::size_t>(impl_->options.n_ubatch, prompt.size() - at);
    HEARTH_TRY(row, run(batch_of(count, at + count == prompt.size()), prompt.subspan(at, count)));
    at += count;
  }
  for (std::uint32_t i = 0; i < n; ++i) {
    const std::int32_t token = argmax(row);
    result.tokens.push_back(token);
    result.logits.push_back(std::move(row));
    if (i + 1 < n) {
      HEARTH_TRY(row, run(batch_of(1, true), std::span(&token, 1)));
    }
  }
  return result;
}

const model::ModelFile& InProcessRing::model() const {
  return *impl_->model;
}
std::span<const std::unique_ptr<compute::Window>> InProcessRing::windows() const {
  return impl_->windows;
}
std::uint64_t InProcessRing::repacked_bytes() const {
  return impl_->resident->cost().repacked_bytes;
}
const plan::Plan& InProcessRing::plan() const {
  return impl_->plan;
}

std::int32_t argmax(std::span<const float> row) {
  return static_cast<std::int32_t>(std::ranges::max_element(row) - row.begin());
}

}  // namespace hearth::testing
