// Executor: the compute side of a node: loads a plan's windows, runs the batches that arrive, passes them on.
//
// Holds up to two epochs. Everything happens on the caller's thread, which must be the node's engine thread.
// What leaves is handed to the sink: frames for other devices, and on the head the batches that have passed
// the ring.
#pragma once

#include <atomic>
#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <memory>
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
#include "residency/resident_source.h"
#include "wire/codec.h"

namespace hearth::node {

// Sums since the start, readable from any thread.
struct ExecutorCounters {
  std::atomic<std::uint64_t> steps_accepted{0};
  std::atomic<std::uint64_t> steps_done{0};
  std::atomic<std::uint64_t> compute_ns{0};  // inside windows, embedding and output head
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
};

class Executor {
 public:
  // `model` and `backend` must outlive it. `max_outputs`: most rows of logits in a batch (head).
  Executor(const model::ModelFile& model, compute::Backend& backend, std::uint32_t max_outputs,
           ExecutorSink sink);
  ~Executor();

  // options.anonymous_limit is for all that is taken: KV cells, buffers and repacked weights. kOutOfMemory,
  // kIo, kInvalidFile, kCancelled: nothing of the epoch is kept then.
  [[nodiscard]] Result<engine::LoadReport> load(const wire::Prepare& plan, std::uint16_t device,
                                                const residency::LoadOptions& options);
  void free(std::uint32_t epoch);
  void cancel(std::uint32_t epoch, std::uint64_t first_batch, std::uint64_t last_batch);

  // An error ends the epoch it names.
  struct Failure {
    std::uint32_t epoch = 0;
    Error error;
  };
  using Outcome = std::expected<void, Failure>;

  // A frame from another device, `from` proven. Frames of unknown epochs are dropped.
  [[nodiscard]] Outcome on_frame(const DeviceKey& from, std::span<const std::uint8_t> frame);
  // Head: a new batch enters the ring.
  [[nodiscard]] Outcome start(std::uint32_t epoch, const engine::OutgoingBatch& batch);

  // Asked while a step of `epoch` is computed; true ends it with kCancelled.
  void abort_when(std::function<bool(std::uint32_t epoch)> condition);

  [[nodiscard]] bool holds(std::uint32_t epoch) const { return epochs_.contains(epoch); }

  [[nodiscard]] const ExecutorCounters& counters() const { return counters_; }

 private:
  struct Epoch;
  [[nodiscard]] Outcome pass_on(Epoch& epoch, wire::BatchFrame frame, std::uint16_t from,
                                std::span<const std::int32_t> tokens = {});
  [[nodiscard]] static Result<> check_returned(Epoch& epoch, const wire::BatchFrame& frame);
  [[nodiscard]] Error located(const Epoch& epoch, const Error& error) const;

  const model::ModelFile& model_;
  compute::Backend& backend_;
  std::uint32_t max_outputs_;
  ExecutorSink sink_;
  ExecutorCounters counters_;
  std::uint32_t computing_ = 0;  // epoch of the frame at hand
  std::map<std::uint32_t, std::unique_ptr<Epoch>> epochs_;
};

}  // namespace hearth::node
