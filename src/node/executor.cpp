#include "node/executor.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <format>
#include <utility>

#include "base/units.h"
#include "engine/plan_rules.h"
#include "wire/hidden.h"

namespace hearth::node {
namespace {

// Frames up to this size go as f32 whatever the plan says: a decode step costs one round trip, not bandwidth.
constexpr std::size_t kSmallFrameBytes = 64 * 1024;

class Stopwatch {
 public:
  explicit Stopwatch(std::atomic<std::uint64_t>& sum) : sum_(sum), start_(std::chrono::steady_clock::now()) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    const auto spent = std::chrono::steady_clock::now() - start_;
    sum_ += static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count());
  }

 private:
  std::atomic<std::uint64_t>& sum_;
  std::chrono::steady_clock::time_point start_;
};

// Takes `bytes` off what is left, or says what they were for and what would help.
Result<> take(std::uint64_t& left, std::uint64_t bytes, std::string_view what, std::string_view advice) {
  if (bytes > left)
    return fail(ErrorCode::kOutOfMemory, "{} takes {}, there are {}; {}", what, format_bytes(bytes),
                format_bytes(left), advice);
  left -= bytes;
  return {};
}

}  // namespace

struct Executor::Epoch {
  Epoch(const wire::Prepare& prepare, std::uint16_t index)
      : plan(prepare), device(index), member(prepare, index) {}

  wire::Prepare plan;
  std::uint16_t device;
  engine::MemberCore member;
  wire::FrameLimits limits;
  // Destroyed in reverse: windows and head use scratch and weights.
  std::unique_ptr<residency::ResidentSource> weights;
  std::unique_ptr<compute::Scratch> scratch;
  std::unique_ptr<compute::Head> head;                                // on the head only
  std::map<std::uint16_t, std::unique_ptr<compute::Window>> windows;  // own steps
  // What the head has sent and not got back, in order: the last device must return just that.
  struct Sent {
    std::uint64_t batch = 0;
    std::size_t n_tokens = 0;
    std::uint32_t n_outputs = 0;
    bool operations_only = false;
  };
  std::deque<Sent> sent;
  std::vector<float> embedded;  // rows of a batch that starts elsewhere
};

Executor::Executor(const model::ModelFile& model, compute::Backend& backend, std::uint32_t max_outputs,
                   ExecutorSink sink)
    : model_(model), backend_(backend), max_outputs_(max_outputs), sink_(std::move(sink)) {}
Executor::~Executor() = default;

Result<engine::LoadReport> Executor::load(const wire::Prepare& plan, std::uint16_t device,
                                          const residency::LoadOptions& options) {
  HEARTH_CHECK(device < plan.members.size() && !epochs_.contains(plan.epoch));
  if (plan.n_layer != model_.params().n_layer)
    return fail(ErrorCode::kModelMismatch, "the plan has {} layers, the model here has {}", plan.n_layer,
                model_.params().n_layer);
  auto epoch = std::make_unique<Epoch>(plan, device);
  epoch->limits = {.n_ctx = plan.n_ctx,
                   .n_ubatch = plan.n_ubatch,
                   .n_embd = model_.params().n_embd,
                   .n_steps = epoch->member.n_steps()};

  std::vector<model::SegmentId> segments;
  std::uint64_t kv_bytes = 0;
  const std::uint32_t n_cells = compute::pad_cells(plan.n_ctx);
  for (const wire::StepSpec& step : plan.steps) {
    if (step.device != device) continue;
    for (std::uint32_t il = step.layer_begin; il < step.layer_end; ++il)
      segments.push_back(model::SegmentId::of_layer(il));
    kv_bytes +=
        compute::KvStorage::bytes(model_.params(), step.layer_end - step.layer_begin, plan.kv_type, n_cells);
  }
  std::uint64_t left = options.anonymous_limit;
  const std::size_t n_layers = segments.size();
  HEARTH_TRY_VOID(take(left, kv_bytes,
                       std::format("the KV cache of {} layers with {} cells", n_layers, n_cells),
                       "ask for a smaller context (-c) or give this device fewer layers"));
  engine::LoadReport report = {.weight_bytes = 0, .kv_bytes = kv_bytes, .compute_bytes = 0};
  if (n_layers > 0) {
    HEARTH_TRY(epoch->scratch,
               compute::Scratch::create(
                   backend_, model_,
                   {.n_cells = n_cells, .n_ubatch = plan.n_ubatch, .flash_attention = plan.flash_attention}));
    report.compute_bytes += epoch->scratch->bytes();
    HEARTH_TRY_VOID(take(left, epoch->scratch->bytes(),
                         std::format("computing {} tokens at once", plan.n_ubatch),
                         "ask for smaller batches (-ub)"));
  }
  const bool is_head = device == 0;
  if (is_head) {
    segments.push_back(model::SegmentId::embedding());
    segments.push_back(model::SegmentId::output());
  }
  residency::LoadOptions weight_options = options;
  weight_options.repack = plan.repack;
  weight_options.anonymous_limit = left;
  HEARTH_TRY(epoch->weights,
             residency::ResidentSource::load(model_, segments, backend_.device(), weight_options));
  report.weight_bytes = epoch->weights->resident_bytes();
  left -= std::min(left, epoch->weights->cost().repacked_bytes);
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const wire::StepSpec& step = plan.steps[i];
    if (step.device != device) continue;
    HEARTH_TRY(auto window,
               compute::Window::create(*epoch->scratch, model_, {step.layer_begin, step.layer_end},
                                       *epoch->weights, plan.kv_type));
    epoch->windows.emplace(static_cast<std::uint16_t>(i), std::move(window));
  }
  if (is_head) {
    HEARTH_TRY(epoch->head, compute::Head::create(backend_, model_, *epoch->weights, plan.n_ubatch,
                                                  std::min(max_outputs_, plan.n_ubatch)));
    report.compute_bytes += epoch->head->bytes();
    HEARTH_TRY_VOID(take(left, epoch->head->bytes(), "the output head", "ask for smaller batches (-ub)"));
  }
  epochs_.emplace(plan.epoch, std::move(epoch));
  return report;
}

void Executor::free(std::uint32_t epoch) {
  epochs_.erase(epoch);
  // Work that will never be finished must not look like work that is stuck. One thread: nothing else is open.
  counters_.steps_done = counters_.steps_accepted.load();
}

void Executor::abort_when(std::function<bool(std::uint32_t epoch)> condition) {
  backend_.abort_when([this, condition = std::move(condition)] { return condition(computing_); });
}

void Executor::cancel(std::uint32_t epoch, std::uint64_t first_batch, std::uint64_t last_batch) {
  if (const auto found = epochs_.find(epoch); found != epochs_.end())
    found->second->member.cancel(first_batch, last_batch);
}

Executor::Outcome Executor::on_frame(const DeviceKey& from, std::span<const std::uint8_t> bytes) {
  const auto head = wire::peek_batch_frame(bytes);
  // Without a readable header no epoch can be named: the sender broke the rules of all that it takes part in.
  const auto found = head ? epochs_.find(head->epoch) : epochs_.end();
  if (!head) {
    for (const auto& [id, epoch] : epochs_)
      if (engine::member_index(epoch->plan, from)) return std::unexpected(Failure{id, head.error()});
    return {};
  }
  if (found == epochs_.end()) return {};
  Epoch& epoch = *found->second;
  const auto sender = engine::member_index(epoch.plan, from);
  if (!sender)
    return std::unexpected(
        Failure{head->epoch,
                {ErrorCode::kUnauthorized,
                 std::format("a frame came from {}, which is no member of the plan", from.short_hex())}});
  auto frame = wire::decode_batch_frame(bytes, epoch.limits);
  if (!frame)
    return std::unexpected(Failure{
        head->epoch,
        {frame.error().code,
         std::format("from device '{}': {}", epoch.plan.members[*sender].name, frame.error().message)}});
  return pass_on(epoch, std::move(*frame), *sender);
}

Executor::Outcome Executor::start(std::uint32_t id, const engine::OutgoingBatch& batch) {
  const auto found = epochs_.find(id);
  HEARTH_CHECK(found != epochs_.end() && found->second->head != nullptr,
               "a batch for an epoch that is not loaded");
  Epoch& epoch = *found->second;
  epoch.sent.push_back(
      {batch.batch.id, batch.batch.tokens.size(), batch.batch.n_outputs(), batch.batch.operations_only});
  wire::BatchFrame frame = {.epoch = id,
                            .step = 0,
                            .batch = batch.batch,
                            .encoding = wire::HiddenEncoding::kF32,
                            .n_embd = epoch.limits.n_embd,
                            .hidden = {}};
  return pass_on(epoch, std::move(frame), 0, batch.tokens);
}

// Runs the frame through own steps until it belongs to another device or is finished. The rows are in
// `frame.hidden` when it came over a link, else in memory: of the first window for `tokens`, of the window
// before for the next own step.
Executor::Outcome Executor::pass_on(Epoch& epoch, wire::BatchFrame frame, std::uint16_t from,
                                    std::span<const std::int32_t> tokens) {
  const auto failed = [&](const Error& error) {
    return std::unexpected(Failure{epoch.plan.epoch, located(epoch, error)});
  };
  const auto n_tokens = static_cast<std::uint32_t>(frame.batch.tokens.size());
  const std::size_t n_embd = epoch.limits.n_embd;
  computing_ = epoch.plan.epoch;
  std::span<const float> rows;
  bool in_memory = false;

  if (!tokens.empty() && !frame.batch.operations_only) {
    std::span<float> target;
    if (epoch.windows.contains(0)) {
      target = epoch.windows.at(0)->input(n_tokens);
    } else {
      epoch.embedded.resize(std::size_t{n_tokens} * n_embd);
      target = epoch.embedded;
    }
    const Stopwatch watch(counters_.compute_ns);
    if (const auto done = epoch.head->embed(tokens, target); !done) return failed(done.error());
    rows = target;
    in_memory = true;
  }

  while (true) {
    const std::uint16_t n_steps = epoch.member.n_steps();
    const bool to_output = frame.step == n_steps;
    const std::uint16_t device = to_output ? std::uint16_t{0} : epoch.plan.steps[frame.step].device;
    if (device != epoch.device) {
      frame.encoding = rows.size_bytes() <= kSmallFrameBytes ? wire::HiddenEncoding::kF32 : epoch.plan.hidden;
      frame.hidden.clear();
      if (const auto done = wire::encode_hidden(frame.encoding, rows, n_embd, frame.hidden); !done)
        return failed(done.error());
      std::vector<std::uint8_t> bytes;
      wire::encode(frame, bytes);
      sink_.send(epoch.plan.members[device].key, std::move(bytes));
      return {};
    }

    const auto verdict =
        epoch.member.on_frame({.epoch = frame.epoch, .step = frame.step, .batch = frame.batch.id}, from);
    if (!verdict) return failed(verdict.error());
    if (std::holds_alternative<engine::MemberCore::Drop>(*verdict)) return {};
    ++counters_.steps_accepted;
    if (std::get<engine::MemberCore::Run>(*verdict).suppressed) frame.batch.operations_only = true;
    const bool computes = !frame.batch.operations_only && n_tokens > 0;

    if (to_output) {
      if (const auto as_sent = check_returned(epoch, frame); !as_sent)
        return failed(
            {as_sent.error().code,
             std::format("from device '{}': {}", epoch.plan.members[from].name, as_sent.error().message)});
      FinishedBatch finished = {.epoch = frame.epoch,
                                .batch = frame.batch.id,
                                .operations_only = frame.batch.operations_only,
                                .logits = {}};
      if (computes && frame.batch.n_outputs() > 0) {
        if (!in_memory) {
          epoch.embedded.resize(frame.batch.n_outputs() * n_embd);
          if (const auto done = wire::decode_hidden(frame.encoding, frame.hidden, n_embd, epoch.embedded);
              !done)
            return failed(done.error());
          rows = epoch.embedded;
        }
        const Stopwatch watch(counters_.compute_ns);
        const auto logits = epoch.head->logits(rows);
        if (!logits) return failed(logits.error());
        finished.logits = *logits;
      }
      ++counters_.steps_done;
      sink_.finished(finished);
      return {};
    }

    compute::Window& window = *epoch.windows.at(frame.step);
    if (computes && !in_memory) {
      if (const auto done = wire::decode_hidden(frame.encoding, frame.hidden, n_embd, window.input(n_tokens));
          !done)
        return failed(done.error());
    }
    {
      const Stopwatch watch(counters_.compute_ns);
      const auto out = window.run(frame.batch);
      if (!out) return failed(out.error());
      rows = *out;
    }
    in_memory = true;
    ++counters_.steps_done;
    from = epoch.device;
    frame.step = epoch.member.destination(frame.step).step;
  }
}

// A frame for the output stage is one that was sent, as it was sent.
Result<> Executor::check_returned(Epoch& epoch, const wire::BatchFrame& frame) {
  const wire::Batch& batch = frame.batch;
  if (epoch.sent.empty() || epoch.sent.front().batch != batch.id)
    return fail(ErrorCode::kProtocol, "batch {} came back, which was not on its way", batch.id);
  const Epoch::Sent sent = epoch.sent.front();
  epoch.sent.pop_front();
  if (batch.tokens.size() != sent.n_tokens || batch.n_outputs() != sent.n_outputs)
    return fail(ErrorCode::kProtocol,
                "batch {} came back with {} tokens and {} outputs, it left with {} and {}", batch.id,
                batch.tokens.size(), batch.n_outputs(), sent.n_tokens, sent.n_outputs);
  if (batch.operations_only && !sent.operations_only && !epoch.member.suppressed(batch.id))
    return fail(ErrorCode::kProtocol,
                "batch {} came back without having been computed, and nobody cancelled it", batch.id);
  return {};
}

Error Executor::located(const Epoch& epoch, const Error& error) const {
  return {error.code, std::format("device '{}': {}", epoch.plan.members[epoch.device].name, error.message)};
}

}  // namespace hearth::node
