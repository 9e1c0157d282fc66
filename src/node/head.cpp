#include "node/head.h"

#include <algorithm>
#include <cmath>
#include <format>
#include <mutex>
#include <random>
#include <utility>

#include "base/units.h"
#include "compute/backend.h"
#include "compute/kv_storage.h"
#include "compute/window.h"
#include "net/inproc_hub.h"
#include "net/route.h"
#include "net/zmq_hub.h"
#include "node/control.h"
#include "node/engine_loop.h"
#include "node/model_profile.h"
#include "node/own_profile.h"
#include "node/weights.h"
#include "wire/limits.h"
#include "wire/text.h"

namespace hearth::node {
namespace {

constexpr std::chrono::milliseconds kPollInterrupts{50};

// What the control thread tells the thread that waits in HeadNode::start.
struct Met {
  std::vector<engine::WorkerInfo> workers;
};
struct Measured {
  engine::LinkMatrix links;
};
struct Active {
  std::vector<std::optional<engine::LoadReport>> reports;
};
struct Broken {
  Error error;
};
using Progress = std::variant<Met, Measured, Active, Broken>;

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

// What is not known is assumed; nothing when nothing was measured.
void use_links(plan::RingProfile& ring, const engine::LinkMatrix& measured) {
  bool any = false;
  for (std::size_t from = 0; from < measured.size(); ++from) {
    std::vector<plan::LinkProfile>& row = ring.links.emplace_back();
    for (std::size_t to = 0; to < measured.size(); ++to) {
      const std::optional<plan::LinkProfile>& link = measured[from][to];
      row.push_back(link.value_or(plan::kAssumedLink));
      any = any || link.has_value();
      if (from != to && !link) ring.links_known = false;
    }
  }
  if (!any) ring.links.clear();
  if (ring.links.empty() && ring.devices.size() > 1) ring.links_known = false;
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
  // Decides what the ring does; the devices are known.
  Result<engine::EpochOptions> make_plan(const HeadNodeOptions& options,
                                         const std::vector<engine::WorkerInfo>& workers,
                                         const engine::LinkMatrix& links, std::uint64_t own_memory);

  model::ModelFile model;
  model::Tokenizer tokenizer;
  RingReport ring;
  std::unique_ptr<compute::Backend> backend;
  DeviceGpu gpu;
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

Result<engine::EpochOptions> HeadNode::Impl::make_plan(const HeadNodeOptions& options,
                                                       const std::vector<engine::WorkerInfo>& workers,
                                                       const engine::LinkMatrix& links,
                                                       std::uint64_t own_memory) {
  plan::RingProfile profile = {
      .model = model_profile(model, {.n_ctx = options.epoch.n_ctx,
                                     .kv_type = options.epoch.kv_type,
                                     .flash_attention = options.epoch.flash_attention,
                                     .max_outputs = options.max_outputs,
                                     .n_ubatch = options.epoch.n_ubatch,
                                     .n_seq = options.epoch.n_seq,
                                     .n_devices = workers.size() + 1,
                                     .hidden = options.epoch.hidden,
                                     .hidden_always = options.epoch.hidden_always}),
      .devices = {{.name = options.name, .memory_bytes = own_memory, .cpu = {}}},
      .links = {}};
  const auto use = [](plan::DeviceProfile& device, const engine::DeviceSpeed& speed) {
    device.cpu = speed.cpu;
    device.disk_bytes_per_s = speed.disk_bytes_per_s;
    device.disk_spread = speed.disk_spread;
  };
  for (const engine::WorkerInfo& worker : workers) {
    profile.devices.push_back({.name = worker.name, .memory_bytes = worker.memory_bytes, .cpu = {}});
    use(profile.devices.back(), worker.speed);
  }
  use_links(profile, links);
  plan::PlanRequest request = {.traffic = options.traffic,
                               .rounds = options.rounds,
                               .windows = options.windows,
                               .n_window_rounds = options.n_window_rounds,
                               .max_ttft_s = options.max_ttft_s,
                               .cancelled = options.interrupted};
  HEARTH_TRY(request.excluded, plan::named(profile, options.excluded));
  const auto measure_own = [&] {
    use(profile.devices[0], speed_of(own_profile(model, *backend,
                                                 {.memory_bytes = own_memory,
                                                  .cache_dir = options.weights.cache_dir,
                                                  .log = options.log,
                                                  .cancelled = options.interrupted})
                                         .rates));
  };
  const bool alone = workers.empty();
  const bool has_limit = std::isfinite(options.max_ttft_s);
  if ((!alone && options.windows.empty()) || has_limit || options.planned || options.measured) measure_own();
  if (request.is_cancelled())
    return fail(ErrorCode::kCancelled, "interrupted while this device was measured");
  if (options.measured) HEARTH_TRY_VOID(options.measured(profile));
  HEARTH_TRY(plan::Proposal made, plan::propose(profile, request));
  // A model that fits a head alone starts at once; how long its tokens take needs no planning.
  if (alone && made.prediction.streams() && made.any_assumed()) {
    measure_own();
    HEARTH_TRY(made, plan::propose(profile, request));
  }
  if (options.planned) HEARTH_TRY_VOID(options.planned(profile, request, made));
  ring.plan = std::move(made.plan);
  ring.rounds = made.rounds;
  if (!made.any_assumed()) {
    ring.predicted_s = made.prediction.period_s;
    if (std::isfinite(made.prediction.ttft_s)) ring.predicted_ttft_s = made.prediction.ttft_s;
  }
  engine::EpochOptions epoch = options.epoch;
  epoch.n_ubatch = made.n_ubatch;
  return epoch;
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
  HEARTH_TRY_VOID(
      compute::KvStorage::check(file.params(), options.epoch.kv_type, options.epoch.flash_attention));
  HEARTH_TRY(model::Tokenizer vocabulary, model::Tokenizer::load(options.model_path));
  auto impl = std::make_unique<Impl>(std::move(file), std::move(vocabulary));
  Impl& node = *impl;
  HEARTH_TRY(node.backend, compute::Backend::cpu(options.n_threads));
  HEARTH_TRY(node.gpu, open_gpu(options.gpu));
  node.n_ctx = options.epoch.n_ctx;
  if (options.opened) HEARTH_TRY_VOID(options.opened(node.model, node.tokenizer));

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
                   .finished = [&node](const FinishedBatch& batch) { node.generator->on_finished(batch); },
                   .notice = options.weights.notice},
      open_weights_with(options.weights), node.gpu.use);
  node.control = std::make_unique<Control<engine::HeadSession>>(
      engine::HeadSession(session_options), std::move(hub), node.inputs, node.recalls,
      node.executor->counters(), node.in_flight,
      ControlObserver{
          .all_welcome =
              [&node](const std::vector<engine::WorkerInfo>& workers) { node.progress.send(Met{workers}); },
          .links_measured = [&node](const engine::LinkMatrix& links) { node.progress.send(Measured{links}); },
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
  HEARTH_TRY(Progress met, node.wait(options.interrupted));
  const auto& workers = std::get<Met>(met).workers;
  if (!workers.empty() && (options.windows.empty() || options.planned || options.measured)) {
    node.control->post(MeasureLinks{});
    HEARTH_TRY(Progress measured, node.wait(options.interrupted));
    node.ring.links = std::move(std::get<Measured>(measured).links);
  }
  HEARTH_TRY(const engine::EpochOptions chosen, node.make_plan(options, workers, node.ring.links, memory));
  node.generator = std::make_unique<Generator>(
      node.tokenizer, *node.executor,
      Generator::Options{.n_ctx = chosen.n_ctx, .n_ubatch = chosen.n_ubatch, .n_seq_max = chosen.n_seq},
      [&node](std::uint32_t epoch, engine::BatchRange range) {
        node.control->post(AnnounceCancel{epoch, range.first, range.last});
      },
      node.in_flight);
  node.engine = std::thread([&node, &load_progress = options.load_progress, memory] {
    run_engine(node.inputs, node.recalls, *node.executor, node.generator.get(),
               {.memory = [memory] { return memory_left(memory); },
                .loaded =
                    [&node](std::uint32_t epoch, Result<engine::LoadReport> report) {
                      node.control->post(EpochLoaded{epoch, std::move(report)});
                    },
                .broken = [&node](std::uint32_t epoch,
                                  Error error) { node.control->post(EpochBroken{epoch, std::move(error)}); },
                .load_progress = load_progress,
                .freed = {}});
  });
  node.control->post(UsePlan{node.ring.plan, chosen});
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
  if (options.context_shift) HEARTH_TRY_VOID(compute::Window::check_shift(impl_->model));
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
