#include "node/head.h"

#include <algorithm>
#include <format>
#include <mutex>
#include <numeric>
#include <random>
#include <utility>

#include "base/units.h"
#include "compute/backend.h"
#include "compute/scratch.h"
#include "net/inproc_hub.h"
#include "net/route.h"
#include "net/zmq_hub.h"
#include "node/control.h"
#include "node/engine_loop.h"
#include "node/weights.h"
#include "wire/limits.h"
#include "wire/text.h"

namespace hearth::node {
namespace {

constexpr std::chrono::milliseconds kPollInterrupts{50};

// Batches in flight: one per step keeps every device busy, one more hides the way back to the head.
std::uint32_t most_in_flight(std::size_t n_steps) {
  return static_cast<std::uint32_t>(std::clamp<std::size_t>(n_steps + 1, 2, 16));
}

// What the control thread tells the thread that waits in HeadNode::start.
struct Met {
  std::vector<engine::WorkerInfo> workers;
};
struct Active {
  std::vector<std::optional<engine::LoadReport>> reports;
};
struct Broken {
  Error error;
};
using Progress = std::variant<Met, Active, Broken>;

// The address this machine shows to all workers alike, or "" (every interface) when it differs.
Result<std::string> bind_address(const std::vector<WorkerAddress>& workers,
                                 std::vector<std::string>& towards) {
  for (const WorkerAddress& worker : workers) {
    HEARTH_TRY(std::string own, net::local_address_towards(worker.host));
    towards.push_back(std::move(own));
  }
  const bool same = std::ranges::adjacent_find(towards, std::not_equal_to<>()) == towards.end();
  return same ? towards.front() : std::string();
}

}  // namespace

struct HeadNode::Impl {
  Impl(model::ModelFile file, model::Tokenizer vocabulary)
      : model(std::move(file)), tokenizer(std::move(vocabulary)) {}
  ~Impl() {
    // The engine still posts what it finishes: control goes last.
    if (control) control->stop();
    inputs.close();
    if (engine.joinable()) engine.join();
  }

  Result<Progress> wait(const std::function<bool()>& interrupted);
  // The ring is gone: on the control thread, because the engine may be in the middle of a long step.
  void fail_requests(const Error& error);
  Result<plan::Plan> make_plan(const HeadNodeOptions& options, const std::vector<engine::WorkerInfo>& workers,
                               std::uint64_t own_memory) const;

  model::ModelFile model;
  model::Tokenizer tokenizer;
  RingReport ring;
  std::unique_ptr<compute::Backend> backend;
  std::unique_ptr<Executor> executor;
  std::unique_ptr<Generator> generator;
  std::atomic<std::uint32_t> in_flight{0};
  std::uint32_t n_ctx = 0;
  Channel<Progress> progress{64};
  std::mutex requests_mutex;
  std::vector<std::weak_ptr<Request>> requests;  // that may not have ended
  std::optional<Error> failure;
  EngineInbox inputs{4096};
  Recalls recalls;
  std::unique_ptr<Control<engine::HeadSession>> control;
  std::thread engine;
};

HeadNode::HeadNode(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HeadNode::~HeadNode() = default;
const model::ModelFile& HeadNode::model() const {
  return impl_->model;
}
const model::Tokenizer& HeadNode::tokenizer() const {
  return impl_->tokenizer;
}
const RingReport& HeadNode::ring() const {
  return impl_->ring;
}
const ExecutorCounters& HeadNode::counters() const {
  return impl_->executor->counters();
}

void HeadNode::Impl::fail_requests(const Error& error) {
  const std::lock_guard lock(requests_mutex);
  failure = error;
  for (const auto& weak : std::exchange(requests, {}))
    if (const auto request = weak.lock()) fail_request(*request, error);
}

Result<Progress> HeadNode::Impl::wait(const std::function<bool()>& interrupted) {
  while (true) {
    if (auto news = progress.receive_for(kPollInterrupts)) {
      if (auto* broken = std::get_if<Broken>(&*news)) return std::unexpected(broken->error);
      return std::move(*news);
    }
    if (interrupted && interrupted())
      return fail(ErrorCode::kCancelled, "interrupted while the ring was forming");
  }
}

// By hand, or in proportion to memory; the head pays for embedding, output head and buffers first.
Result<plan::Plan> HeadNode::Impl::make_plan(const HeadNodeOptions& options,
                                             const std::vector<engine::WorkerInfo>& workers,
                                             std::uint64_t own_memory) const {
  std::vector<std::string> names = {options.name};
  for (const engine::WorkerInfo& worker : workers) names.push_back(worker.name);
  if (!options.windows.empty()) {
    if (options.windows.size() != names.size())
      return fail(
          ErrorCode::kInvalidArgument,
          "--layer-window names {} devices, the ring has {}: the head first, then the workers in order",
          options.windows.size(), names.size());
    return plan::split_by_windows(model.params().n_layer, names, options.windows, options.rounds);
  }
  const std::uint32_t n_cells = compute::pad_cells(options.epoch.n_ctx);
  std::vector<std::uint64_t> layer_bytes;
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il)
    layer_bytes.push_back(model.segment_bytes(model::SegmentId::of_layer(il)) +
                          compute::KvStorage::bytes(model.params(), 1, options.epoch.kv_type, n_cells));
  // Hidden rows, mask and activations of the largest batch: a generous estimate, the exact number comes with
  // loading.
  const std::uint64_t rows = options.epoch.n_ubatch;
  const std::uint64_t buffers =
      rows * (n_cells * 4ULL + 16ULL * (std::uint64_t{model.params().n_embd} + model.params().n_ff)) +
      (32ULL << 20);
  // The embedding is looked up row by row in the model file and takes no memory of its own.
  const std::uint64_t output = model.segment_bytes(model::SegmentId::output());
  const std::uint64_t logits = 4ULL * options.max_outputs * model.params().n_vocab;
  std::vector<plan::DeviceMemory> devices = {
      {.name = names[0], .bytes = own_memory, .reserved = buffers + logits + output}};
  for (const engine::WorkerInfo& worker : workers)
    devices.push_back({.name = worker.name, .bytes = worker.memory_bytes, .reserved = buffers});
  auto plan = plan::split_by_memory(layer_bytes, devices, options.rounds);
  if (plan || plan.error().code != ErrorCode::kOutOfMemory) return plan;

  // What does not fit is read from the disk for every token. Weights go in proportion to memory all the same,
  // of which the output head is the head's part, as if each device had that much more.
  devices[0].reserved -= output;
  std::uint64_t there = 0;
  for (const plan::DeviceMemory& device : devices)
    there += device.bytes - std::min(device.bytes, device.reserved);
  if (there == 0) return plan;
  const auto needed = static_cast<double>(std::reduce(layer_bytes.begin(), layer_bytes.end(), output));
  for (plan::DeviceMemory& device : devices) {
    const std::uint64_t free = device.bytes - std::min(device.bytes, device.reserved);
    auto share = static_cast<std::uint64_t>(static_cast<double>(free) / static_cast<double>(there) * needed);
    if (&device == &devices[0]) share -= std::min(share, output);
    // One layer more: shares are whole layers.
    device = {.name = device.name,
              .bytes = share == 0 ? 0 : share + *std::ranges::max_element(layer_bytes),
              .reserved = 0};
  }
  return plan::split_by_memory(layer_bytes, devices, options.rounds);
}

Result<std::unique_ptr<HeadNode>> HeadNode::start(const HeadNodeOptions& options, net::KeyPair key) {
  HEARTH_TRY(model::ModelFile file, model::ModelFile::open(options.model_path));
  HEARTH_TRY_VOID(wire::check_device_name(options.name));
  for (const WorkerAddress& worker : options.workers) HEARTH_TRY_VOID(wire::check_host(worker.host));
  const std::uint64_t largest_batch =
      std::uint64_t{options.epoch.n_ubatch} * file.params().n_embd * sizeof(float);
  if (largest_batch > wire::kMaxHiddenBytes)
    return fail(ErrorCode::kInvalidArgument,
                "{} tokens of width {} are more than a frame holds ({}); ask for smaller batches (-ub)",
                options.epoch.n_ubatch, file.params().n_embd, format_bytes(wire::kMaxHiddenBytes));
  HEARTH_TRY(model::Tokenizer vocabulary, model::Tokenizer::load(options.model_path));
  auto impl = std::make_unique<Impl>(std::move(file), std::move(vocabulary));
  Impl& node = *impl;
  HEARTH_TRY(node.backend, compute::Backend::cpu(options.n_threads));
  node.n_ctx = options.epoch.n_ctx;

  std::unique_ptr<net::Hub> hub;
  std::vector<std::string> own_addresses;
  const DeviceKey own_key = key.public_key();
  if (options.workers.empty()) {
    hub = net::InprocSwitchboard().make_hub(own_key);
  } else {
    std::string host = options.host;
    if (host.empty()) {
      HEARTH_TRY(host, bind_address(options.workers, own_addresses));
    } else {
      own_addresses.assign(options.workers.size(), host);
    }
    HEARTH_TRY(hub, net::make_zmq_hub({.keys = std::move(key),
                                       .bind_host = host,
                                       .control_port = options.control_port,
                                       .data_port = options.data_port,
                                       .advertised_host = own_addresses.front(),
                                       .limits = {}}));
  }

  engine::HeadOptions session_options = {.key = own_key,
                                         .name = options.name,
                                         .version = HEARTH_VERSION,
                                         .model = node.model.file().fingerprint(),
                                         .first_epoch = (std::random_device{}() & 0x3fffffff) + 1,
                                         .workers = {},
                                         .liveness = options.liveness};
  for (std::size_t i = 0; i < options.workers.size(); ++i) {
    wire::Address head_address = hub->address();
    head_address.host = own_addresses[i];
    session_options.workers.push_back({.key = options.workers[i].key,
                                       .address = {.host = options.workers[i].host,
                                                   .control_port = options.workers[i].control_port,
                                                   .data_port = 0},
                                       .head_address = head_address});
  }

  const std::uint64_t memory = memory_for_epochs(options.memory_bytes);
  node.executor = std::make_unique<Executor>(
      node.model, *node.backend, options.max_outputs,
      ExecutorSink{.send =
                       [&node](const DeviceKey& to, std::vector<std::uint8_t> frame) {
                         node.control->send_frame(to, std::move(frame));
                       },
                   .finished = [&node](const FinishedBatch& batch) { node.generator->on_finished(batch); }},
      open_weights_with(options.weights));
  const std::size_t n_steps = options.rounds * (options.workers.size() + 1);
  node.generator = std::make_unique<Generator>(
      node.tokenizer, *node.executor,
      Generator::Options{.n_ctx = options.epoch.n_ctx,
                         .n_ubatch = options.epoch.n_ubatch,
                         .n_seq_max = options.n_seq_max,
                         .max_in_flight = most_in_flight(n_steps)},
      [&node](std::uint32_t epoch, engine::BatchRange range) {
        node.control->post(AnnounceCancel{epoch, range.first, range.last});
      },
      node.in_flight);
  node.control = std::make_unique<Control<engine::HeadSession>>(
      engine::HeadSession(session_options), std::move(hub), node.inputs, node.recalls,
      node.executor->counters(), node.in_flight,
      ControlObserver{
          .all_welcome =
              [&node](const std::vector<engine::WorkerInfo>& workers) { node.progress.send(Met{workers}); },
          .active =
              [&node](std::uint32_t, const std::vector<std::optional<engine::LoadReport>>& reports) {
                node.progress.send(Active{reports});
              },
          .failed =
              [&node](const Error& error) {
                Progress news = Broken{error};
                (void)node.progress.try_send(news);  // nobody waits after the start
                node.fail_requests(error);
              },
          .log = options.log});
  node.engine = std::thread([&node, &load_progress = options.load_progress, memory] {
    run_engine(node.inputs, node.recalls, *node.executor, node.generator.get(),
               {.loaded =
                    [&node](std::uint32_t epoch, Result<engine::LoadReport> report) {
                      node.control->post(EpochLoaded{epoch, std::move(report)});
                    },
                .broken = [&node](std::uint32_t epoch,
                                  Error error) { node.control->post(EpochBroken{epoch, std::move(error)}); },
                .load_progress = load_progress,
                .freed = {}},
               memory);
  });

  HEARTH_TRY(Progress met, node.wait(options.interrupted));
  const auto& workers = std::get<Met>(met).workers;
  HEARTH_TRY(node.ring.plan, node.make_plan(options, workers, memory));
  node.control->post(UsePlan{node.ring.plan, options.epoch});
  HEARTH_TRY(Progress active, node.wait(options.interrupted));
  for (const auto& report : std::get<Active>(active).reports)
    node.ring.devices.push_back(report.value_or(engine::LoadReport{}));
  node.ring.addresses.push_back("this device");
  for (const engine::WorkerInfo& worker : workers)
    node.ring.addresses.push_back(std::format("{}:{}", worker.address.host, worker.address.control_port));
  return std::unique_ptr<HeadNode>(new HeadNode(std::move(impl)));
}

Result<std::shared_ptr<Request>> HeadNode::submit(std::vector<model::Token> prompt,
                                                  const GenerateOptions& options) {
  if (prompt.empty()) return fail(ErrorCode::kInvalidArgument, "the prompt is empty");
  if (prompt.size() > impl_->n_ctx)
    return fail(ErrorCode::kInvalidArgument,
                "the prompt has {} tokens, the context {}; ask for a larger one (-c)", prompt.size(),
                impl_->n_ctx);
  auto request = std::make_shared<Request>();
  request->prompt = std::move(prompt);
  request->options = options;
  {
    const std::lock_guard lock(impl_->requests_mutex);
    if (impl_->failure) {
      fail_request(*request, *impl_->failure);
      return request;
    }
    std::erase_if(impl_->requests, [](const auto& weak) { return weak.expired(); });
    impl_->requests.push_back(request);
  }
  impl_->inputs.send(Submit{request});
  return request;
}

void HeadNode::stop(const std::shared_ptr<Request>& request) {
  impl_->inputs.send(StopRequest{request});
}

}  // namespace hearth::node
