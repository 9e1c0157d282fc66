#include "node/executor.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <format>
#include <utility>

#include "base/give_back.h"
#include "base/units.h"
#include "engine/plan_rules.h"
#include "plan/plan.h"
#include "residency/division.h"
#include "residency/gpu_source.h"
#include "wire/hidden.h"

namespace hearth::node {
namespace {

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

Result<std::unique_ptr<residency::WeightSource>> open_resident(const model::ModelFile& model,
                                                               std::span<const model::SegmentId> segments,
                                                               ggml_backend_device* device,
                                                               const residency::LoadOptions& options,
                                                               const residency::WeightUse&) {
  HEARTH_TRY(auto source, residency::ResidentSource::load(model, segments, device, options));
  return std::unique_ptr<residency::WeightSource>(std::move(source));
}

// What a plan gives a device.
struct Share {
  std::vector<model::SegmentId> segments;  // layers in the order of their steps; the head's own after them
  std::vector<std::uint32_t> visit_of;     // [segments]
  std::uint32_t n_layers = 0, n_windows = 0;

  // What the GPU has does not count for the processor any more.
  void leave_to(const GpuShare& gpu) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      if (gpu.has(segments[i])) continue;
      segments[kept] = segments[i];
      visit_of[kept++] = visit_of[i];
    }
    segments.resize(kept);
    visit_of.resize(kept);
    n_layers -= gpu.n_layers();
  }
};

Share share_of(const wire::Prepare& plan, std::uint16_t device) {
  std::vector<std::uint16_t> device_of_step;
  for (const wire::StepSpec& step : plan.steps) device_of_step.push_back(step.device);
  const plan::Visits visits = plan::visits_of(device_of_step);
  Share share;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const wire::StepSpec& step = plan.steps[i];
    if (step.device != device) continue;
    ++share.n_windows;
    share.n_layers += step.layer_end - step.layer_begin;
    for (std::uint32_t il = step.layer_begin; il < step.layer_end; ++il)
      share.segments.push_back(model::SegmentId::of_layer(il));
    share.visit_of.resize(share.segments.size(), visits.of_step[i]);
  }
  if (device == 0) {
    share.segments.push_back(model::SegmentId::embedding());
    share.segments.push_back(model::SegmentId::output());
    share.visit_of.resize(share.segments.size(), visits.of_output);
  }
  return share;
}

}  // namespace

// A batch that has come to a window of its own device, and was taken there.
struct Executor::Waiting {
  wire::BatchFrame frame;
  std::vector<float> rows;  // [n_tokens][n_embd]; empty when nothing is computed
};

struct Executor::Epoch {
  Epoch(const wire::Prepare& prepare, std::uint16_t index)
      : plan(prepare), device(index), member(prepare, index) {}

  wire::Prepare plan;
  std::uint16_t device;
  engine::MemberCore member;
  wire::FrameLimits limits;
  // Destroyed in reverse: windows and head use scratch and weights.
  std::unique_ptr<residency::WeightSource> weights;
  std::unique_ptr<compute::Scratch> scratch, gpu_scratch;
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
  std::vector<float> embedded;   // rows of a batch that starts elsewhere
  std::size_t group_tokens = 0;  // of all batches that wait, at most; 0: none waits, each is computed at once
  std::size_t waiting_tokens = 0;
  std::uint64_t gpu_bytes = 0;
  std::size_t max_in_flight = kMaxBatches;               // nothing is known before activate()
  std::map<std::uint16_t, std::deque<Waiting>> waiting;  // by step; no queue is empty

  [[nodiscard]] std::size_t n_waiting() const {
    std::size_t n = 0;
    for (const auto& [step, queue] : waiting) n += queue.size();
    return n;
  }
  // Full batches on their way that there is memory for besides the least: `set_aside` is for groups, `left`
  // for nothing.
  [[nodiscard]] std::uint32_t max_batches(std::uint64_t one_frame, std::uint64_t set_aside,
                                          std::uint64_t left) const {
    const std::uint64_t more = group_tokens > 0
                                   ? 2 * (group_tokens / plan.n_ubatch)      // one is computed, one comes
                               : weights->streams() ? set_aside / one_frame  // no group is possible
                                                    : left / 2 / one_frame;
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(kMaxBatches, kLeastBatches + more));
  }
  // The step whose first batch is the oldest.
  [[nodiscard]] std::uint16_t oldest_step() const {
    return std::ranges::min_element(waiting, {},
                                    [](const auto& w) { return w.second.front().frame.batch.id; })
        ->first;
  }
};

plan::GroupNeeds group_needs(const model::HyperParams& params, std::uint32_t n_ubatch, std::uint32_t n_cells,
                             std::uint32_t n_seq, bool in_ring) {
  const std::uint64_t least = 2ULL * n_ubatch;
  // Each batch's table of the layers with a sliding window, shared out to its tokens.
  const std::uint32_t sliding =
      compute::sliding_cells(params, {.n_cells = n_cells, .n_ubatch = n_ubatch, .n_seq = n_seq});
  const std::uint64_t table = sliding == 0 ? 0 : compute::CellTable::bytes(sliding);
  return {.least_tokens = least,
          .most_tokens = std::min(std::uint64_t{max_group(in_ring)} * n_ubatch,
                                  std::max(least, std::uint64_t{n_cells} + n_ubatch)),
          // Of one that waits: what came or leaves, and its rows.
          .token_bytes = 2 * compute::Window::group_bytes(params, 1) + (table + n_ubatch - 1) / n_ubatch};
}

Executor::Executor(const model::ModelFile& model, compute::Backend& backend, std::uint32_t max_outputs,
                   ExecutorSink sink, OpenWeights open_weights, const GpuUse& gpu)
    : model_(model),
      backend_(backend),
      max_outputs_(max_outputs),
      sink_(std::move(sink)),
      open_weights_(open_weights ? std::move(open_weights) : open_resident),
      gpu_(gpu) {}
Executor::~Executor() = default;

Result<engine::LoadReport> Executor::load(const wire::Prepare& plan, std::uint16_t device,
                                          const residency::LoadOptions& options) {
  GpuUse use = gpu_;
  for (const auto& [id, epoch] : epochs_) use.memory_bytes -= std::min(use.memory_bytes, epoch->gpu_bytes);
  // Where its memory is the processor's, that needs some for what it computes.
  if (use.backend != nullptr && use.backend->gpu_info().integrated)
    use.memory_bytes = std::min(use.memory_bytes, options.anonymous_limit / 4 * 3);
  auto report = load_with(use, plan, device, options);
  // Another program may have taken the GPU's memory since it was asked.
  const bool as_many_as_fit = use.backend != nullptr && !use.n_layers;
  if (report || report.error().code != ErrorCode::kOutOfMemory || !as_many_as_fit) return report;
  auto without = load_with({}, plan, device, options);
  if (without && sink_.notice)
    sink_.notice(
        std::format("nothing is computed by {}: {}", use.backend->gpu_info().name, report.error().message));
  return without;
}

Result<engine::LoadReport> Executor::load_with(const GpuUse& use, const wire::Prepare& plan,
                                               std::uint16_t device, const residency::LoadOptions& options) {
  HEARTH_CHECK(device < plan.members.size() && !epochs_.contains(plan.epoch));
  if (plan.n_layer != model_.params().n_layer)
    return fail(ErrorCode::kModelMismatch, "the plan has {} layers, the model here has {}", plan.n_layer,
                model_.params().n_layer);
  HEARTH_TRY_VOID(compute::KvStorage::check(model_.params(), plan.kv_type, plan.flash_attention));
  auto epoch = std::make_unique<Epoch>(plan, device);
  epoch->limits = {.n_ctx = plan.n_ctx,
                   .n_ubatch = plan.n_ubatch,
                   .n_embd = model_.params().n_embd,
                   .n_steps = epoch->member.n_steps()};

  const std::uint32_t n_cells = compute::pad_cells(plan.n_ctx);
  const bool is_head = device == 0;
  Share share = share_of(plan, device);
  const std::size_t n_layers = share.n_layers;
  const compute::ScratchOptions scratch_options = {.n_cells = n_cells,
                                                   .n_ubatch = plan.n_ubatch,
                                                   .n_seq = plan.n_seq,
                                                   .flash_attention = plan.flash_attention,
                                                   .kv_type = plan.kv_type};
  HEARTH_TRY(const GpuShare gpu, gpu_share(use, backend_, model_, scratch_options,
                                           std::min(max_outputs_, plan.n_ubatch), share.segments));
  if (sink_.notice)
    for (const std::string& text : gpu.notices) sink_.notice(text);
  share.leave_to(gpu);
  std::uint64_t kv_bytes = 0;
  for (const model::SegmentId id : share.segments)
    if (id.kind == model::SegmentId::Kind::kLayer)
      kv_bytes += compute::KvStorage::bytes(model_.params(), 1, plan.kv_type,
                                            compute::layer_cells(model_.params(), id.layer, scratch_options));
  std::uint64_t weight_bytes = 0;
  for (const model::SegmentId id : share.segments)
    if (id.kind != model::SegmentId::Kind::kEmbedding) weight_bytes += model_.segment_bytes(id);
  std::uint64_t left = options.anonymous_limit;
  if (!gpu.segments.empty() && use.backend->gpu_info().integrated)
    HEARTH_TRY_VOID(take(left, gpu.bytes(), std::format("what {} computes", use.backend->gpu_info().name),
                         "give the GPU fewer layers (-ngl)"));
  if (!gpu.segments.empty())
    HEARTH_TRY_VOID(take(left, residency::GpuSource::kLoadBytes, "copying weights to the GPU",
                         "lend more memory (--memory)"));
  HEARTH_TRY_VOID(take(left, kv_bytes,
                       std::format("the KV cache of {} layers with {} cells", share.n_layers, n_cells),
                       "ask for a smaller context (-c) or smaller types (-ctk q8_0 -ctv q8_0), or give this "
                       "device fewer layers"));
  // Those of the windows, and the head's own.
  const std::uint64_t n_tables = share.n_windows + (is_head ? 1 : 0);
  const std::uint64_t table_bytes = n_tables * compute::Window::table_bytes(n_cells);
  HEARTH_TRY_VOID(take(left, table_bytes, std::format("{} tables of {} cells", n_tables, n_cells),
                       share.n_windows > 1 ? "ask for a smaller context (-c) or fewer rounds (-k)"
                                           : "ask for a smaller context (-c)"));
  const bool in_ring = plan.members.size() > 1;
  const std::uint64_t one_frame = wire::hidden_bytes(plan.hidden, plan.n_ubatch, model_.params().n_embd);
  const bool passes_frames = in_ring && (n_layers > 0 || is_head);
  const std::uint64_t frames = passes_frames ? kLeastFrames * one_frame : 0;
  HEARTH_TRY_VOID(take(left, frames, std::format("passing on {} tokens at once", plan.n_ubatch),
                       "ask for smaller batches (-ub)"));
  engine::LoadReport report = {.weight_bytes = 0,
                               .kv_bytes = kv_bytes,
                               .compute_bytes = table_bytes + frames,
                               .gpu_layers = gpu.n_layers(),
                               .gpu_bytes = gpu.bytes(),
                               .gpu_output = gpu.has(model::SegmentId::output())};
  if (n_layers > 0) {
    // Whether layers are streamed, in blocks of rows, shows when this is known: where it may be, room for it.
    const bool may_stream = weight_bytes > left / 2;
    compute::ScratchOptions blocks = scratch_options;
    blocks.max_block_bytes = may_stream ? residency::kBlockBytes : 0;
    HEARTH_TRY(epoch->scratch, compute::Scratch::create(backend_, model_, blocks));
    report.compute_bytes += epoch->scratch->bytes();
    HEARTH_TRY_VOID(take(left, epoch->scratch->bytes(),
                         std::format("computing {} tokens at once", plan.n_ubatch),
                         "ask for smaller batches (-ub)"));
  }
  residency::LoadOptions weight_options = options;
  weight_options.repack = plan.repack;
  weight_options.anonymous_limit = left;
  // What the head takes once the weights are there, a little more than it needs.
  const std::uint64_t rows = std::max(plan.n_ubatch, max_outputs_);
  const std::uint64_t later_bytes = is_head ? 4 * rows * model_.params().n_embd * sizeof(float) +
                                                  3 * std::uint64_t{std::min(max_outputs_, plan.n_ubatch)} *
                                                      model_.params().n_vocab * sizeof(float)
                                            : 0;
  const plan::GroupNeeds group = group_needs(model_.params(), plan.n_ubatch, n_cells, plan.n_seq, in_ring);
  std::uint64_t group_tokens = n_layers > 0 ? group.tokens_in(left) : 0;
  const auto group_bytes = [&] { return group_tokens * group.token_bytes; };
  const auto open = [&] {
    return open_weights_(
        model_, share.segments, backend_.device(), weight_options,
        {.later_bytes = later_bytes, .streaming_bytes = group_bytes(), .visit_of = share.visit_of});
  };
  auto weights = open();
  if (!weights && weights.error().code == ErrorCode::kOutOfMemory && group_tokens > 0) {
    group_tokens = 0;
    weights = open();
  }
  if (!weights) return std::unexpected(std::move(weights).error());
  epoch->weights = *std::move(weights);
  epoch->gpu_bytes = gpu.bytes();
  if (!gpu.segments.empty()) {
    HEARTH_TRY(epoch->weights, residency::GpuSource::load(model_, gpu.segments, use.backend->device(),
                                                          options, std::move(epoch->weights)));
    if (gpu.n_layers() > 0) {
      HEARTH_TRY(epoch->gpu_scratch, compute::Scratch::create_beside(*epoch->scratch, *use.backend, model_));
    }
  }
  const residency::StreamStatistics statistics = epoch->weights->statistics();
  const std::uint64_t besides = later_bytes + (epoch->weights->streams() ? group_bytes() : 0);
  counters_.weight_budget_bytes = left - std::min(left, besides);
  counters_.pinned_bytes = statistics.pinned_bytes;
  counters_.slots_bytes = statistics.slots_bytes;
  counters_.streamed_bytes_per_pass = statistics.streamed_bytes_per_pass;
  report.weight_bytes = epoch->weights->resident_bytes();
  left -= std::min(left, epoch->weights->anonymous_bytes());
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const wire::StepSpec& step = plan.steps[i];
    if (step.device != device) continue;
    HEARTH_TRY(auto window,
               compute::Window::create({*epoch->scratch, epoch->gpu_scratch.get()}, model_,
                                       {step.layer_begin, step.layer_end}, *epoch->weights, plan.kv_type));
    epoch->windows.emplace(static_cast<std::uint16_t>(i), std::move(window));
  }
  if (is_head) {
    HEARTH_TRY(epoch->head, compute::Head::create(backend_, model_, *epoch->weights, plan.n_ubatch,
                                                  std::min(max_outputs_, plan.n_ubatch), use.backend));
    report.compute_bytes += epoch->head->bytes();
    HEARTH_TRY_VOID(take(left, epoch->head->bytes(), "the output head", "ask for smaller batches (-ub)"));
  }
  // Batches wait for each other where each layer can stay until all have passed it; else a group would only
  // read it again and again.
  const bool can_hold = std::ranges::all_of(share.segments, [&](const model::SegmentId id) {
    return id.kind != model::SegmentId::Kind::kLayer || epoch->weights->can_hold(id);
  });
  if (epoch->weights->streams() && group_tokens > 0) {
    report.compute_bytes += group_bytes();
    if (can_hold) {
      epoch->group_tokens = group_tokens;
      report.max_group = static_cast<std::uint32_t>(group_tokens / plan.n_ubatch);
    }
  }
  const std::uint64_t mapped = report.weight_bytes - epoch->weights->anonymous_bytes();  // still in `left`
  report.max_batches = passes_frames
                           ? epoch->max_batches(one_frame, group_bytes(), left - std::min(left, mapped))
                           : kMaxBatches;
  epochs_.emplace(plan.epoch, std::move(epoch));
  return report;
}

void Executor::free(std::uint32_t epoch) {
  epochs_.erase(epoch);
  // Work that will never be finished must not look like work that is stuck. One thread: nothing else is open.
  counters_.steps_done = counters_.steps_accepted.load();
}

void Executor::activate(std::uint32_t epoch, std::uint32_t max_in_flight) {
  if (const auto found = epochs_.find(epoch); found != epochs_.end())
    found->second->max_in_flight = max_in_flight;
}

void Executor::abort_when(std::function<bool(std::uint32_t epoch)> condition) {
  // It is asked after every operation, of a GPU after every graph.
  const auto ask = [this, condition = std::move(condition)] {
    counters_.work_done.fetch_add(1, std::memory_order_relaxed);
    return condition(computing_);
  };
  backend_.abort_when(ask);
  if (gpu_.backend != nullptr) gpu_.backend->abort_when(ask);
}

void Executor::cancel(std::uint32_t epoch, std::uint64_t first_batch, std::uint64_t last_batch) {
  if (const auto found = epochs_.find(epoch); found != epochs_.end())
    found->second->member.cancel(first_batch, last_batch);
}

Executor::Outcome Executor::on_frame(const DeviceKey& from, std::vector<std::uint8_t> bytes) {
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
  give_back(bytes);  // computing takes long, and memory is counted for one copy
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
  if (batch.tokens.empty() || batch.batch.operations_only) return pass_on(epoch, std::move(frame), 0);
  computing_ = id;
  const auto n_tokens = static_cast<std::uint32_t>(batch.tokens.size());
  std::span<float> rows;
  if (epoch.windows.contains(0)) {
    rows = epoch.windows.at(0)->input(n_tokens);
  } else {
    epoch.embedded.resize(std::size_t{n_tokens} * epoch.limits.n_embd);
    rows = epoch.embedded;
  }
  {
    const Stopwatch watch(counters_.compute_ns);
    if (const auto done = epoch.head->embed(batch.tokens, rows); !done) return failed(epoch, done.error());
    if (!epoch.windows.contains(0))  // they leave as they are
      if (const auto good = checked(epoch); !good) return failed(epoch, good.error());
  }
  return pass_on(epoch, std::move(frame), 0, rows, true);
}

std::unexpected<Executor::Failure> Executor::failed(const Epoch& epoch, const Error& error) const {
  return std::unexpected(Failure{epoch.plan.epoch, located(epoch, error)});
}

// Runs the frame through own steps until it waits for one, belongs to another device or is finished. The rows
// are in `rows` when in_memory: embedded, or what the window before gave; else in frame.hidden, as they came
// over a link.
Executor::Outcome Executor::pass_on(Epoch& epoch, wire::BatchFrame frame, std::uint16_t from,
                                    std::span<const float> rows, bool in_memory) {
  const auto n_tokens = static_cast<std::uint32_t>(frame.batch.tokens.size());
  const std::size_t n_embd = epoch.limits.n_embd;
  computing_ = epoch.plan.epoch;
  while (true) {
    const std::uint16_t n_steps = epoch.member.n_steps();
    const bool to_output = frame.step == n_steps;
    const std::uint16_t device = to_output ? std::uint16_t{0} : epoch.plan.steps[frame.step].device;
    if (device != epoch.device) {
      const bool as_f32 = !epoch.plan.hidden_always && rows.size_bytes() <= kSmallFrameBytes;
      frame.encoding = as_f32 ? wire::HiddenEncoding::kF32 : epoch.plan.hidden;
      frame.hidden.clear();
      if (const auto done = wire::encode_hidden(frame.encoding, rows, n_embd, frame.hidden); !done)
        return failed(epoch, done.error());
      std::vector<std::uint8_t> bytes;
      wire::encode(frame, bytes);
      give_back(frame.hidden);
      sink_.send(epoch.plan.members[device].key, std::move(bytes));
      return {};
    }

    const auto verdict =
        epoch.member.on_frame({.epoch = frame.epoch, .step = frame.step, .batch = frame.batch.id}, from);
    if (!verdict) return failed(epoch, verdict.error());
    if (std::holds_alternative<engine::MemberCore::Drop>(*verdict)) return {};
    ++counters_.steps_accepted;
    if (std::get<engine::MemberCore::Run>(*verdict).suppressed) frame.batch.operations_only = true;
    const bool computes = !frame.batch.operations_only && n_tokens > 0;

    if (to_output) {
      if (const auto as_sent = check_returned(epoch, frame); !as_sent)
        return failed(
            epoch, {as_sent.error().code, std::format("from device '{}': {}", epoch.plan.members[from].name,
                                                      as_sent.error().message)});
      FinishedBatch finished = {.epoch = frame.epoch,
                                .batch = frame.batch.id,
                                .operations_only = frame.batch.operations_only,
                                .logits = {}};
      if (computes && frame.batch.n_outputs() > 0) {
        if (!in_memory) {
          epoch.embedded.resize(frame.batch.n_outputs() * n_embd);
          if (const auto done = wire::decode_hidden(frame.encoding, frame.hidden, n_embd, epoch.embedded);
              !done)
            return failed(epoch, done.error());
          rows = epoch.embedded;
        }
        const Stopwatch watch(counters_.compute_ns);
        const auto logits = epoch.head->logits(rows);
        if (!logits) return failed(epoch, logits.error());
        if (const auto good = checked(epoch); !good) return failed(epoch, good.error());
        finished.logits = *logits;
      }
      ++counters_.steps_done;
      sink_.finished(finished);
      return {};
    }

    if (epoch.group_tokens > 0) return wait(epoch, std::move(frame), rows, in_memory);
    compute::Window& window = *epoch.windows.at(frame.step);
    if (computes && !in_memory) {
      if (const auto done = wire::decode_hidden(frame.encoding, frame.hidden, n_embd, window.input(n_tokens));
          !done)
        return failed(epoch, done.error());
    }
    {
      const Stopwatch watch(counters_.compute_ns);
      const auto out = window.run(frame.batch);
      if (!out) return failed(epoch, out.error());
      if (const auto good = checked(epoch); !good) return failed(epoch, good.error());
      rows = *out;
    }
    in_memory = true;
    ++counters_.steps_done;
    from = epoch.device;
    frame.step = epoch.member.destination(frame.step).step;
  }
}

Executor::Outcome Executor::wait(Epoch& epoch, wire::BatchFrame frame, std::span<const float> rows,
                                 bool in_memory) {
  Waiting batch;
  if (!frame.batch.operations_only && !frame.batch.tokens.empty()) {
    if (in_memory) {
      batch.rows.assign(rows.begin(), rows.end());
    } else {
      batch.rows.resize(frame.batch.tokens.size() * epoch.limits.n_embd);
      if (const auto done =
              wire::decode_hidden(frame.encoding, frame.hidden, epoch.limits.n_embd, batch.rows);
          !done)
        return failed(epoch, done.error());
    }
  }
  give_back(frame.hidden);
  batch.frame = std::move(frame);
  const std::uint16_t step = batch.frame.step;
  epoch.waiting_tokens += batch.frame.batch.tokens.size();
  std::deque<Waiting>& queue = epoch.waiting[step];
  queue.push_back(std::move(batch));
  // Memory is counted for so many. Only this step: of another one a group may be on its way here.
  if (queue.size() == kMaxBatches || epoch.waiting_tokens + epoch.plan.n_ubatch > epoch.group_tokens)
    return run_group(epoch, step);
  return {};
}

std::optional<std::uint32_t> Executor::waiting() const {
  for (const auto& [id, epoch] : epochs_)
    if (!epoch->waiting.empty()) return id;
  return std::nullopt;
}

bool Executor::expects_more(std::uint32_t id) const {
  const Epoch& epoch = *epochs_.at(id);
  const std::uint16_t step = epoch.oldest_step();
  const wire::Batch& last = epoch.waiting.at(step).back().frame.batch;
  const std::uint16_t sender = step == 0 ? std::uint16_t{0} : epoch.plan.steps[step - 1U].device;
  return sender != epoch.device && !last.operations_only && !last.tokens.empty() && last.n_outputs() == 0 &&
         epoch.n_waiting() < epoch.max_in_flight;
}

Executor::Outcome Executor::run_waiting() {
  const auto id = waiting();
  if (!id) return {};
  Epoch& epoch = *epochs_.at(*id);
  return run_group(epoch, epoch.oldest_step());
}

// The first batches that wait for `step` pass its window together, then go on one by one.
Executor::Outcome Executor::run_group(Epoch& epoch, std::uint16_t step) {
  computing_ = epoch.plan.epoch;
  std::deque<Waiting>& queue = epoch.waiting.at(step);
  std::vector<Waiting> group;
  do {
    epoch.waiting_tokens -= queue.front().frame.batch.tokens.size();
    group.push_back(std::move(queue.front()));
    queue.pop_front();
  } while (!queue.empty() && compute::Window::may_follow(queue.front().frame.batch));
  if (queue.empty()) epoch.waiting.erase(step);

  std::vector<compute::Window::GroupItem> items;
  for (Waiting& member : group) {
    wire::Batch& batch = member.frame.batch;
    if (epoch.member.suppressed(batch.id)) batch.operations_only = true;
    items.push_back({.batch = &batch, .rows = member.rows});
  }
  compute::Window& window = *epoch.windows.at(step);
  if (group.size() == 1) {
    // A step of a text: part by part, without a way around.
    const Stopwatch watch(counters_.compute_ns);
    const wire::Batch& batch = *items[0].batch;
    if (!batch.operations_only)
      std::ranges::copy(group[0].rows, window.input(static_cast<std::uint32_t>(batch.tokens.size())).begin());
    const auto out = window.run(batch);
    if (!out) return failed(epoch, out.error());
    if (const auto good = checked(epoch); !good) return failed(epoch, good.error());
    std::ranges::copy(*out, group[0].rows.begin());
    items[0].n_rows = static_cast<std::uint32_t>(out->size() / epoch.limits.n_embd);
  } else {
    const Stopwatch watch(counters_.compute_ns);
    const auto done = window.run_group(items);
    if (!done) return failed(epoch, done.error());
    if (const auto good = checked(epoch); !good) return failed(epoch, good.error());
  }
  counters_.steps_done += group.size();

  for (std::size_t i = 0; i < group.size(); ++i) {
    wire::BatchFrame& frame = group[i].frame;
    frame.step = epoch.member.destination(step).step;
    const auto rows = std::span<const float>(group[i].rows).first(items[i].n_rows * epoch.limits.n_embd);
    if (auto passed = pass_on(epoch, std::move(frame), epoch.device, rows, true); !passed) return passed;
    give_back(group[i].rows);
  }
  return {};
}

// What was computed may leave only when the weights it was computed with are still what they were.
Result<> Executor::checked(Epoch& epoch) {
  const residency::StreamStatistics statistics = epoch.weights->statistics();
  counters_.pinned_bytes = statistics.pinned_bytes;
  counters_.streamed_bytes_per_pass = statistics.streamed_bytes_per_pass;
  counters_.read_bytes = statistics.read_bytes;
  counters_.disk_wait_ns = statistics.waited_ns;
  return epoch.weights->still_good();
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
