// HeadNode: the device that owns the model, the prompt and the text; leads the workers, or runs alone.
//
// Owns a control thread and an engine thread. Public functions may be called from any thread, one at a time.
// Destruction says goodbye to the workers and frees everything.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "engine/actions.h"
#include "engine/head_session.h"
#include "model/model_file.h"
#include "model/tokenizer.h"
#include "net/keys.h"
#include "node/generator.h"
#include "node/gpu_share.h"
#include "plan/planner.h"
#include "residency/open_weights.h"

namespace hearth::node {

struct WorkerAddress {
  DeviceKey key;
  std::string host;
  std::uint16_t control_port = 0;
};

struct HeadNodeOptions {
  std::string model_path;
  std::string name = "head";
  std::string host;                // address to bind; "": the one that reaches the first worker
  std::uint16_t control_port = 0;  // 0: any
  std::uint16_t data_port = 0;
  std::vector<WorkerAddress> workers;
  std::uint32_t n_threads = 1;
  std::uint64_t memory_bytes = 0;  // of this device; 0: what is available
  residency::WeightOptions weights;
  GpuOptions gpu;
  engine::EpochOptions epoch;
  std::uint32_t max_outputs = 1;  // most rows of logits in one batch
  // A split by hand: layers per round of the head and of each worker, or of each of n_window_rounds, one
  // round after another; empty: as planned.
  std::vector<std::uint32_t> windows;
  std::uint32_t n_window_rounds = 1;
  std::uint32_t rounds = 0;           // times a token passes each device; 0: the best
  std::vector<std::string> excluded;  // names of devices that get no layers
  plan::Traffic traffic;              // that the plan is for
  double max_ttft_s = std::numeric_limits<double>::infinity();  // time to the first token of traffic's prompt
  engine::LivenessOptions liveness;
  std::function<void(engine::LogLevel, const std::string&)> log;
  // Asked once the model file is open (both outlive it as long as the head does), before anything is loaded
  // or anybody is joined; an error ends the start. May be empty.
  std::function<Result<>(const model::ModelFile&, const model::Tokenizer&)> opened;
  // Told what devices and links were measured to do, before a plan is made from it; an error ends the start.
  // May be empty.
  std::function<Result<>(const plan::RingProfile&)> measured;
  // Told the plan before it is loaded, and what it was made from; an error ends the start. May be empty.
  std::function<Result<>(const plan::RingProfile&, const plan::PlanRequest&, const plan::Proposal&)> planned;
  residency::LoadProgress load_progress;  // on the engine thread
  std::function<bool()> interrupted;      // asked while waiting: true ends the wait with kCancelled
};

// What each device takes, in the plan's order.
struct RingReport {
  plan::Plan plan;
  std::uint32_t rounds = 1;
  // Seconds of a token, and to the first one of options.traffic; 0: not predicted, because windows are by
  // hand or a device was not measured.
  double predicted_s = 0, predicted_ttft_s = 0;
  std::vector<engine::LoadReport> devices;
  std::vector<std::string> addresses;
  // [from][to] in the order of the head and HeadNodeOptions::workers; empty where windows are by hand or
  // there are no workers.
  engine::LinkMatrix links;
};

class HeadNode {
 public:
  // Opens the model, meets all workers, makes the plan, loads it everywhere. kTimeout names who did not
  // answer.
  [[nodiscard]] static Result<std::unique_ptr<HeadNode>> start(const HeadNodeOptions& options,
                                                               net::KeyPair key);
  ~HeadNode();

  [[nodiscard]] const model::ModelFile& model() const;
  [[nodiscard]] const model::Tokenizer& tokenizer() const;
  [[nodiscard]] const RingReport& ring() const;

  // Starts a text; read request->events. An empty prompt is kInvalidArgument, a
  // context shift that the model does not allow kUnsupported.
  [[nodiscard]] Result<std::shared_ptr<Request>> submit(std::vector<model::Token> prompt,
                                                        const GenerateOptions& options);
  // The rest of the text is not wanted; Done(kStopped) follows unless it had ended.
  void stop(const std::shared_ptr<Request>& request);

  [[nodiscard]] const ExecutorCounters& counters() const;

 private:
  struct Impl;
  explicit HeadNode(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::node
