#include "support/executor_ring.h"

#include <format>
#include <utility>

namespace hearth::testing {
namespace {

constexpr std::uint32_t kEpoch = 1;

DeviceKey key_of(std::uint16_t device) {
  DeviceKey key;
  key.bytes.fill(static_cast<std::uint8_t>(1 + device));
  return key;
}

Result<> as_result(const node::Executor::Outcome& outcome) {
  if (outcome) return {};
  return std::unexpected(outcome.error().error);
}

}  // namespace

ExecutorRing::ExecutorRing(model::ModelFile model, std::unique_ptr<compute::Backend> backend)
    : model_(std::move(model)), backend_(std::move(backend)) {}
ExecutorRing::~ExecutorRing() = default;

Result<std::unique_ptr<ExecutorRing>> ExecutorRing::create(const std::string& model_path,
                                                           std::uint32_t n_devices,
                                                           const engine::EpochOptions& options,
                                                           const node::GpuUse& gpu) {
  HEARTH_TRY(model::ModelFile model, model::ModelFile::open(model_path));
  HEARTH_TRY(auto backend, compute::Backend::cpu(1));
  std::unique_ptr<ExecutorRing> ring(new ExecutorRing(std::move(model), std::move(backend)));
  HEARTH_TRY_VOID(ring->load(n_devices, options, gpu));
  return ring;
}

Result<> ExecutorRing::load(std::uint32_t n_devices, const engine::EpochOptions& options,
                            const node::GpuUse& gpu) {
  const std::uint32_t n_layer = model_.params().n_layer;
  std::vector<std::string> names;
  std::vector<std::uint32_t> windows;
  std::vector<wire::Member> members;
  for (std::uint32_t m = 0; m < n_devices; ++m) {
    names.push_back(std::format("device{}", m));
    windows.push_back((m + 1) * n_layer / n_devices - m * n_layer / n_devices);
    members.push_back({.name = names.back(),
                       .key = key_of(static_cast<std::uint16_t>(m)),
                       .address = {.host = "127.0.0.1", .control_port = 1, .data_port = 2}});
  }
  HEARTH_TRY(const plan::Plan plan, plan::split_by_windows(n_layer, names, windows, 1));
  HEARTH_TRY(const wire::Prepare prepare,
             engine::make_prepare(kEpoch, model_.file().fingerprint(), plan, options, members));
  for (std::uint16_t m = 0; m < n_devices; ++m) {
    executors_.push_back(std::make_unique<node::Executor>(
        model_, *backend_, options.n_ubatch,
        node::ExecutorSink{.send =
                               [this, m, n_devices](const DeviceKey& to, std::vector<std::uint8_t> frame) {
                                 bytes_sent_ += frame.size();
                                 for (std::uint16_t other = 0; other < n_devices; ++other)
                                   if (key_of(other) == to) sent_.push_back({m, other, std::move(frame)});
                               },
                           .finished =
                               [this](const node::FinishedBatch& batch) {
                                 const std::size_t n_vocab = model_.params().n_vocab;
                                 for (auto left = batch.logits; !left.empty(); left = left.subspan(n_vocab))
                                   rows_.emplace_back(left.begin(),
                                                      left.begin() + static_cast<std::ptrdiff_t>(n_vocab));
                               }},
        node::OpenWeights{}, gpu));
    HEARTH_TRY(reports_.emplace_back(), executors_.back()->load(prepare, m, {}));
  }
  batcher_ = std::make_unique<engine::Batcher>(engine::BatcherOptions{
      .n_ctx = options.n_ctx, .n_ubatch = options.n_ubatch, .n_seq_max = 1, .max_in_flight = 1});
  HEARTH_TRY(sequence_, batcher_->open());
  return {};
}

Result<> ExecutorRing::pass_frames() {
  while (!sent_.empty()) {
    Sent next = std::move(sent_.front());
    sent_.pop_front();
    HEARTH_TRY_VOID(as_result(executors_[next.to]->on_frame(key_of(next.from), std::move(next.frame))));
  }
  return {};
}

Result<std::vector<std::vector<float>>> ExecutorRing::read(std::span<const std::int32_t> tokens,
                                                           engine::Outputs outputs) {
  rows_.clear();
  HEARTH_TRY_VOID(batcher_->push(sequence_, tokens, outputs));
  while (const auto batch = batcher_->next()) {
    HEARTH_TRY_VOID(as_result(executors_[0]->start(kEpoch, *batch)));
    HEARTH_TRY_VOID(pass_frames());
    HEARTH_TRY_VOID(batcher_->done(batch->batch.id, false));
  }
  return std::exchange(rows_, {});
}

std::uint64_t ExecutorRing::take_bytes_sent() {
  return std::exchange(bytes_sent_, 0);
}

}  // namespace hearth::testing
