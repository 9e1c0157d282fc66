// Executor: the compute side of a node: loads a plan's windows, runs the batches that arrive, passes them on.
//
// Holds up to two epochs. Everything happens on the caller's thread, which must be the node's engine thread.
// What leaves is handed to the sink: frames for other devices, and on the head the batches that have passed
// the ring.
//
// Where the weights of an epoch are streamed, its batches wait until the caller has nothing else to hand in
// (run_waiting): those that have come to the same window by then are computed as a group, layer by layer, so
// that each layer is fetched once for all. A prompt's chunks are such a group.
#pragma once

#include <atomic>
#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "compute/backend.h"
#include "compute/head.h"
#include "compute/window.h"
#include "engine/actions.h"
#include "engine/batcher.h"
#include "engine/member.h"
#include "model/model_file.h"
#include "node/gpu_share.h"
#include "plan/profiles.h"
#include "residency/open_weights.h"
#include "residency/resident_source.h"
#include "wire/codec.h"

namespace hearth::node {

// Sums since the start, readable from any thread.
struct ExecutorCounters {
  std::atomic<std::uint64_t> steps_accepted{0};
  std::atomic<std::uint64_t> steps_done{0};
  std::atomic<std::uint64_t> work_done{0};   // operations of graphs, also of a step that is not done yet
  std::atomic<std::uint64_t> compute_ns{0};  // inside windows, embedding and output head
  // Of the epoch loaded last.
  std::atomic<std::uint64_t> weight_budget_bytes{0};  // what was left for weights
  std::atomic<std::uint64_t> pinned_bytes{0}, slots_bytes{0}, streamed_bytes_per_pass{0};
  std::atomic<std::uint64_t> read_bytes{0}, disk_wait_ns{0};
};

// A batch that has passed all steps, on the head.
struct FinishedBatch {
  std::uint32_t epoch = 0;
  std::uint64_t batch = 0;
  bool operations_only = false;
  std::span<const float> logits;  // [n_outputs][n_vocab]; valid during the call
};

struct ExecutorSink {
  std::function<void(const DeviceKey& to, std::vector<std::uint8_t> frame)> send;
  std::function<void(const FinishedBatch& batch)> finished;
  std::function<void(const std::string& text)> notice = {};  // of a load, for the user; may be empty
};

// Makes the source of an epoch's weights. options.anonymous_limit is what is left for it and for what `use`
// names.
using OpenWeights = std::function<Result<std::unique_ptr<residency::WeightSource>>(
    const model::ModelFile& model, std::span<const model::SegmentId> segments, ggml_backend_device* device,
    const residency::LoadOptions& options, const residency::WeightUse& use)>;

// Most batches that a load says there is memory for: as many as a link takes.
inline constexpr std::uint32_t kMaxBatches = 64;
// Most batches of a group: two groups are in a ring.
[[nodiscard]] constexpr std::uint32_t max_group(bool in_ring) {
  return in_ring ? kMaxBatches / 2 : kMaxBatches;
}

// Of batches that wait for each other where weights are streamed: at most as many tokens as there are cells
// for.
[[nodiscard]] plan::GroupNeeds group_needs(const model::HyperParams& params, std::uint32_t n_ubatch,
                                           std::uint32_t n_cells, std::uint32_t n_seq, bool in_ring);

// Full batches on their way that every device of a ring has memory for: one is computed, one waits, one
// leaves. Each is one frame; two are there twice, the one at hand (what came and what is taken from it, or
// its rows and what leaves) and the one that a link seals or opens.
inline constexpr std::uint64_t kLeastBatches = 3;
inline constexpr std::uint64_t kLeastFrames = kLeastBatches + 2;

// Hidden states up to this size go as f32, unless the plan says otherwise: a decode step costs one round
// trip, not bandwidth.
inline constexpr std::size_t kSmallFrameBytes = std::size_t{64} * 1024;

class Executor {
 public:
  // `model`, `backend` and a GPU's must outlive it. `max_outputs`: most rows of logits in a batch (head).
  // Without `open_weights` all weights of the processor stay in memory.
  Executor(const model::ModelFile& model, compute::Backend& backend, std::uint32_t max_outputs,
           ExecutorSink sink, OpenWeights open_weights = {}, const GpuUse& gpu = {});
  ~Executor();

  // options.anonymous_limit is for all that is taken: KV cells, buffers and repacked weights. kOutOfMemory,
  // kIo, kInvalidFile, kCancelled: nothing of the epoch is kept then.
  [[nodiscard]] Result<engine::LoadReport> load(const wire::Prepare& plan, std::uint16_t device,
                                                const residency::LoadOptions& options);
  void free(std::uint32_t epoch);
  // The ring never has more batches of `epoch` on their way.
  void activate(std::uint32_t epoch, std::uint32_t max_in_flight);
  void cancel(std::uint32_t epoch, std::uint64_t first_batch, std::uint64_t last_batch);

  // An error ends the epoch it names.
  struct Failure {
    std::uint32_t epoch = 0;
    Error error;
  };
  using Outcome = std::expected<void, Failure>;

  // A frame from another device, `from` proven. Frames of unknown epochs are dropped. It is computed at once,
  // or waits.
  [[nodiscard]] Outcome on_frame(const DeviceKey& from, std::vector<std::uint8_t> frame);
  // Head: a new batch enters the ring.
  [[nodiscard]] Outcome start(std::uint32_t epoch, const engine::OutgoingBatch& batch);

  // The epoch of the batches that wait to be computed; nothing when none does.
  [[nodiscard]] std::optional<std::uint32_t> waiting() const;
  // Whether another batch will come for the window that run_waiting() would take: the last that waits there
  // is a piece of a prompt and came from another device, and more may be on their way than wait here.
  [[nodiscard]] bool expects_more(std::uint32_t epoch) const;
  // Computes one group of those that wait: for the window whose first batch is the oldest, as many as follow
  // it.
  [[nodiscard]] Outcome run_waiting();

  // Asked while a step of `epoch` is computed; true ends it with kCancelled.
  void abort_when(std::function<bool(std::uint32_t epoch)> condition);

  [[nodiscard]] bool holds(std::uint32_t epoch) const { return epochs_.contains(epoch); }

  [[nodiscard]] const ExecutorCounters& counters() const { return counters_; }

 private:
  struct Epoch;
  struct Waiting;
  [[nodiscard]] Result<engine::LoadReport> load_with(const GpuUse& use, const wire::Prepare& plan,
                                                     std::uint16_t device,
                                                     const residency::LoadOptions& options);
  [[nodiscard]] Outcome pass_on(Epoch& epoch, wire::BatchFrame frame, std::uint16_t from,
                                std::span<const float> rows = {}, bool in_memory = false);
  [[nodiscard]] Outcome wait(Epoch& epoch, wire::BatchFrame frame, std::span<const float> rows,
                             bool in_memory);
  [[nodiscard]] Outcome run_group(Epoch& epoch, std::uint16_t step);
  [[nodiscard]] std::unexpected<Failure> failed(const Epoch& epoch, const Error& error) const;
  [[nodiscard]] Result<> checked(Epoch& epoch);
  [[nodiscard]] static Result<> check_returned(Epoch& epoch, const wire::BatchFrame& frame);
  [[nodiscard]] Error located(const Epoch& epoch, const Error& error) const;

  const model::ModelFile& model_;
  compute::Backend& backend_;
  std::uint32_t max_outputs_;
  ExecutorSink sink_;
  OpenWeights open_weights_;
  GpuUse gpu_;
  ExecutorCounters counters_;
  std::uint32_t computing_ = 0;  // epoch of the frame at hand
  std::map<std::uint32_t, std::unique_ptr<Epoch>> epochs_;
};

}  // namespace hearth::node
