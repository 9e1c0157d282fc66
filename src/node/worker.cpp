#include "node/worker.h"

#include <algorithm>
#include <format>
#include <optional>
#include <string>
#include <utility>

#include "base/units.h"
#include "compute/backend.h"
#include "model/model_file.h"
#include "net/zmq_hub.h"
#include "node/control.h"
#include "node/engine_loop.h"
#include "node/own_profile.h"
#include "node/weights.h"
#include "wire/text.h"

namespace hearth::node {

namespace {

// Loading in lines for a log: every tenth of what takes long.
class LoadLog {
 public:
  std::optional<std::string> line(residency::LoadStage stage, std::uint64_t done, std::uint64_t total) {
    if (stage != stage_ || total != total_) tenths_ = 0;
    stage_ = stage;
    total_ = total;
    const std::uint64_t tenths = total == 0 ? 0 : 10 * done / total;
    if (total < kWorthALine || tenths == tenths_) return std::nullopt;
    tenths_ = tenths;
    return std::format("{}: {} of {}", name(stage), format_bytes(done), format_bytes(total));
  }

 private:
  static constexpr std::uint64_t kWorthALine = std::uint64_t{1} << 30;
  residency::LoadStage stage_{};
  std::uint64_t total_ = 0, tenths_ = 0;
};

}  // namespace

struct WorkerNode::Impl {
  explicit Impl(model::ModelFile file) : model(std::move(file)) {}
  ~Impl() {
    // The engine still posts what it finishes: control goes last.
    if (control) control->stop();
    inputs.close();
    if (engine.joinable()) engine.join();
  }

  model::ModelFile model;
  DeviceKey key;
  std::uint16_t control_port = 0;
  std::function<void(engine::LogLevel, const std::string&)> log;
  std::unique_ptr<compute::Backend> backend;
  DeviceGpu gpu;
  std::unique_ptr<Executor> executor;
  std::atomic<std::uint32_t> in_flight{0};
  EngineInbox inputs{4096};
  Recalls recalls;
  std::unique_ptr<Control<engine::WorkerSession>> control;
  std::thread engine;
};

WorkerNode::WorkerNode(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
WorkerNode::~WorkerNode() = default;
const DeviceKey& WorkerNode::key() const {
  return impl_->key;
}
std::uint16_t WorkerNode::control_port() const {
  return impl_->control_port;
}

Result<std::unique_ptr<WorkerNode>> WorkerNode::start(const WorkerNodeOptions& options, net::KeyPair key) {
  HEARTH_TRY_VOID(wire::check_device_name(options.name));
  HEARTH_TRY(model::ModelFile file, model::ModelFile::open(options.model_path));
  auto impl = std::make_unique<Impl>(std::move(file));
  Impl& node = *impl;
  HEARTH_TRY(node.backend, compute::Backend::cpu(options.n_threads));
  HEARTH_TRY(node.gpu, open_gpu(options.gpu));
  node.key = key.public_key();
  node.log = options.log;
  const std::uint64_t memory = memory_for_epochs(options.memory_bytes);
  // Before anybody can connect: until the session starts, nobody is on the allow-list.
  const engine::DeviceSpeed speed = speed_of(own_profile(node.model, *node.backend,
                                                         {.memory_bytes = memory,
                                                          .cache_dir = options.weights.cache_dir,
                                                          .log = options.log,
                                                          .cancelled = options.interrupted})
                                                 .rates);
  if (options.interrupted && options.interrupted())
    return fail(ErrorCode::kCancelled, "interrupted while the device was measured");
  HEARTH_TRY(auto hub, net::make_zmq_hub({.keys = std::move(key),
                                          .bind_host = options.host,
                                          .control_port = options.control_port,
                                          .data_port = options.data_port,
                                          .advertised_host = options.host,
                                          .limits = {}}));
  node.control_port = hub->address().control_port;

  engine::WorkerSession session({.key = node.key,
                                 .name = options.name,
                                 .version = HEARTH_VERSION,
                                 .data_port = hub->address().data_port,
                                 .model = node.model.file().fingerprint(),
                                 .memory_bytes = memory,
                                 .n_threads = options.n_threads,
                                 .speed = speed,
                                 .heads = options.heads,
                                 .liveness = options.liveness});
  node.executor = std::make_unique<Executor>(
      node.model, *node.backend, 1,
      ExecutorSink{
          .send = [&node](
                      const DeviceKey& to,
                      std::vector<std::uint8_t> frame) { node.control->send_frame(to, std::move(frame)); },
          .finished = [](const FinishedBatch&) { HEARTH_CHECK(false, "only the head finishes batches"); },
          .notice = options.weights.notice},
      open_weights_with(options.weights), node.gpu.use);
  node.control = std::make_unique<Control<engine::WorkerSession>>(
      std::move(session), std::move(hub), node.inputs, node.recalls, node.executor->counters(),
      node.in_flight,
      ControlObserver{
          .all_welcome = {}, .links_measured = {}, .active = {}, .failed = {}, .log = options.log});
  node.engine = std::thread([&node, memory] {
    run_engine(
        node.inputs, node.recalls, *node.executor, nullptr,
        // What was free at the start other programs may have taken since.
        {.memory = [memory] { return memory_left(memory); },
         .loaded =
             [&node](std::uint32_t epoch, Result<engine::LoadReport> report) {
               node.control->post(EpochLoaded{epoch, std::move(report)});
             },
         .broken = [&node](std::uint32_t epoch,
                           Error error) { node.control->post(EpochBroken{epoch, std::move(error)}); },
         .load_progress =
             [&node, log = LoadLog()](residency::LoadStage stage, std::uint64_t done,
                                      std::uint64_t total) mutable {
               if (const auto line = log.line(stage, done, total)) node.log(engine::LogLevel::kInfo, *line);
             },
         .freed =
             [&node](std::uint32_t epoch) {
               const ExecutorCounters& all = node.executor->counters();
               node.log(
                   engine::LogLevel::kInfo,
                   std::format("epoch {} is freed; since the start {} steps, {:.6f} s of computing", epoch,
                               all.steps_done.load(), static_cast<double>(all.compute_ns.load()) * 1e-9));
             }});
  });
  return std::unique_ptr<WorkerNode>(new WorkerNode(std::move(impl)));
}

}  // namespace hearth::node
