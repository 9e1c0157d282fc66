#include "node/ring_plan.h"

#include <algorithm>
#include <numeric>

#include "compute/kv_storage.h"
#include "compute/scratch.h"
#include "compute/window.h"
#include "node/executor.h"
#include "residency/division.h"
#include "wire/hidden.h"
#include "wire/limits.h"

namespace hearth::node {
namespace {

using model::SegmentId;

// Disks within this factor count as equally fast where layers are shared out.
constexpr double kAlike = 1.3;

// What buffers need besides, roughly.
constexpr std::uint64_t kSmallBuffers = 4ULL << 20;

// Bytes of everything, for one request.
class Needs {
 public:
  Needs(const model::ModelFile& model, const RingRequest& request, std::size_t n_devices)
      : model_(model),
        request_(request),
        n_devices_(n_devices),
        n_cells_(compute::pad_cells(request.n_ctx)),
        output_(model.segment_bytes(SegmentId::output())) {
    for (std::uint32_t il = 0; il < model.params().n_layer; ++il) {
      weights_.push_back(model.segment_bytes(SegmentId::of_layer(il)));
      with_kv_.push_back(weights_.back() + kv(1));
    }
  }

  [[nodiscard]] std::uint64_t kv(std::uint32_t layers) const {
    return compute::KvStorage::bytes(model_.params(), layers, request_.kv_type, n_cells_);
  }
  // Hidden rows, mask and activations of the largest batch, frames, what windows know of their cells, on the
  // head the logits: a generous estimate, the exact number comes with loading. Without flash
  // attention each head's scores are in memory, and a layer's values.
  [[nodiscard]] std::uint64_t buffers(std::uint32_t n_ubatch, bool head) const {
    const model::HyperParams& p = model_.params();
    const bool flash = request_.flash_attention;
    std::uint64_t bytes = n_ubatch * (n_cells_ * 4ULL + 16ULL * (std::uint64_t{p.n_embd} + p.n_ff));
    if (!flash) bytes += 4ULL * n_cells_ * (std::uint64_t{n_ubatch} * p.n_head + p.n_embd_v());
    bytes += compute::Scratch::work_bytes(
        p, {.n_cells = n_cells_, .n_ubatch = n_ubatch, .flash_attention = flash}, 1);
    if (n_devices_ > 1)
      bytes += kLeastFrames * wire::hidden_bytes(wire::HiddenEncoding::kF32, n_ubatch, p.n_embd);
    if (head) bytes += 4ULL * request_.max_outputs * p.n_vocab;
    return bytes + kSmallBuffers;
  }
  // What a device's windows, and the head besides, know of their cells.
  [[nodiscard]] std::uint64_t tables(std::uint64_t n_windows, bool head) const {
    return (n_windows + (head ? 1 : 0)) * compute::Window::table_bytes(n_cells_);
  }
  [[nodiscard]] std::uint32_t n_layer() const { return model_.params().n_layer; }
  [[nodiscard]] std::uint64_t output() const { return output_; }
  [[nodiscard]] const std::vector<std::uint64_t>& layers() const { return weights_; }
  [[nodiscard]] const std::vector<std::uint64_t>& layers_with_kv() const { return with_kv_; }

  // A device's share of a token under `plan`; its rates stay empty.
  [[nodiscard]] plan::DeviceLoad load(const plan::Plan& plan, std::uint16_t device, std::uint32_t n_ubatch,
                                      std::uint64_t memory_bytes) const {
    plan::DeviceLoad load = {.parts = {}, .n_layers = plan.layers_of(device), .rates = {}};
    std::vector<SegmentId> segments;
    for (const std::uint16_t step : plan.steps_of(device))
      for (std::uint32_t il = plan.steps[step].layers.begin; il < plan.steps[step].layers.end; ++il)
        segments.push_back(SegmentId::of_layer(il));
    if (device == 0) segments.push_back(SegmentId::output());
    std::uint64_t n_parts = 0;
    for (const SegmentId id : segments) {
      (id.kind == SegmentId::Kind::kLayer ? load.layers_bytes : load.output_bytes) +=
          model_.segment_bytes(id);
      for (const residency::Part& part :
           residency::divide(model_, id, residency::kPartBytes, residency::kBlockBytes)) {
        ++n_parts;
        load.parts.largest_bytes =
            std::max(load.parts.largest_bytes, residency::part_bytes(model_, id, part));
      }
    }
    if (n_parts > 0) load.parts.mean_bytes = load.weight_bytes() / n_parts;
    const std::uint64_t taken = buffers(n_ubatch, device == 0) + kv(load.n_layers) +
                                tables(plan.steps_of(device).size(), device == 0);
    load.memory_bytes = memory_bytes - std::min(memory_bytes, taken);
    return load;
  }
  // Without what waiting batches of a prompt take where weights are streamed.
  [[nodiscard]] plan::DeviceLoad load_with_groups(const plan::Plan& plan, std::uint16_t device,
                                                  std::uint32_t n_ubatch, std::uint64_t memory_bytes) const {
    plan::DeviceLoad load = this->load(plan, device, n_ubatch, memory_bytes);
    if (load.n_layers > 0 && load.streams())
      load.memory_bytes -=
          group_memory(model_.params(), n_ubatch, n_cells_, load.memory_bytes, n_devices_ > 1).bytes();
    return load;
  }

 private:
  const model::ModelFile& model_;
  const RingRequest& request_;
  std::size_t n_devices_;
  std::uint32_t n_cells_;
  std::uint64_t output_;
  std::vector<std::uint64_t> weights_, with_kv_;  // by layer
};

std::vector<plan::DeviceMemory> memory_of(const std::vector<RingDevice>& devices, const Needs& needs,
                                          std::uint32_t n_ubatch, std::uint32_t rounds) {
  const std::uint32_t n_windows = std::min(rounds, needs.n_layer());  // of a device, at most
  std::vector<plan::DeviceMemory> memory;
  for (std::size_t m = 0; m < devices.size(); ++m)
    memory.push_back({.name = devices[m].name,
                      .bytes = devices[m].memory_bytes,
                      .reserved = needs.buffers(n_ubatch, m == 0) + needs.tables(n_windows, m == 0)});
  return memory;
}

bool any_streams(const Needs& needs, const plan::Plan& plan, const std::vector<RingDevice>& devices,
                 std::uint32_t n_ubatch) {
  for (std::size_t m = 0; m < devices.size(); ++m) {
    if (needs.load(plan, static_cast<std::uint16_t>(m), n_ubatch, devices[m].memory_bytes).streams())
      return true;
  }
  return false;
}

// Bytes a second of each device's disk; of one that was not measured that of the slowest that was, or an
// assumed one.
std::vector<std::uint64_t> disks_of(const std::vector<plan::DeviceRates>& rates) {
  std::uint64_t slowest = 0;
  for (const plan::DeviceRates& of : rates)
    if (const std::uint64_t rate = of.disk_bytes_per_s; rate != 0)
      slowest = slowest == 0 ? rate : std::min(slowest, rate);
  if (slowest == 0) slowest = kAssumedDiskBytesPerS;
  std::vector<std::uint64_t> disks;
  for (const plan::DeviceRates& of : rates)
    disks.push_back(of.disk_bytes_per_s == 0 ? slowest : of.disk_bytes_per_s);
  return disks;
}

// Disks of about one rate get the lowest of them: a layer that goes elsewhere because a measurement came out
// a little differently would have to be packed again there.
std::vector<std::uint64_t> alike(const std::vector<std::uint64_t>& disks) {
  std::vector<std::size_t> order(disks.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t m) { return disks[m]; });
  std::vector<std::uint64_t> made(disks.size());
  std::uint64_t lowest = 0;
  for (const std::size_t m : order) {
    if (lowest == 0 || static_cast<double>(disks[m]) > kAlike * static_cast<double>(lowest))
      lowest = disks[m];
    made[m] = lowest;
  }
  return made;
}

// Where not everything fits, without windows by hand. `rates`: of each device.
Result<RingPlan> plan_streaming(const Needs& needs, const RingRequest& request,
                                const std::vector<RingDevice>& devices,
                                const std::vector<plan::DeviceRates>& rates, std::uint32_t n_ubatch) {
  RingPlan made = {.plan = {}, .n_ubatch = n_ubatch, .rounds = std::max(request.rounds, 1U), .streams = true};
  const std::vector<std::uint64_t> disks = disks_of(rates);
  const std::vector<std::uint64_t> shared_by = alike(disks);
  const auto split = [&] {
    return plan::split_to_stream({.layer_bytes = needs.layers(),
                                  .kv_bytes = needs.kv(1),
                                  .output_bytes = needs.output(),
                                  .rounds = made.rounds},
                                 memory_of(devices, needs, n_ubatch, made.rounds), shared_by);
  };
  HEARTH_TRY(made.plan, split());
  if (devices.size() == 1) return made;  // rounds are for those who take turns
  std::vector<plan::DeviceLoad> loads;
  bool all_known = true;
  for (std::size_t m = 0; m < devices.size(); ++m) {
    loads.push_back(
        needs.load_with_groups(made.plan, static_cast<std::uint16_t>(m), n_ubatch, devices[m].memory_bytes));
    if (rates[m].compute_bytes_per_s == 0 || (loads.back().streams() && rates[m].disk_bytes_per_s == 0))
      all_known = false;
    loads.back().rates = {.compute_bytes_per_s = rates[m].compute_bytes_per_s, .disk_bytes_per_s = disks[m]};
  }
  if (request.rounds == 0) {
    made.rounds = plan::best_rounds(loads, kAssumedHopS).rounds;
    HEARTH_TRY(made.plan, split());
  }
  if (all_known) made.period_s = plan::token_period(loads, made.plan.steps, kAssumedHopS);
  return made;
}

// Whether each device that streams has memory for the slots it needs at least.
bool has_slots(const Needs& needs, const RingPlan& made, const std::vector<RingDevice>& devices) {
  for (std::size_t m = 0; m < devices.size(); ++m) {
    const plan::DeviceLoad load =
        needs.load(made.plan, static_cast<std::uint16_t>(m), made.n_ubatch, devices[m].memory_bytes);
    if (load.streams() && load.memory_bytes < plan::kLeastParts * load.parts.largest_bytes) return false;
  }
  return true;
}

// Tokens of a batch: where all weights stay in memory, and where some are streamed, the usual first, none
// twice.
struct BatchSizes {
  std::uint32_t resident = 0;
  std::vector<std::uint32_t> streaming;
};

BatchSizes batch_sizes(const model::HyperParams& params, const RingRequest& request) {
  if (request.n_ubatch != 0) return {.resident = request.n_ubatch, .streaming = {request.n_ubatch}};
  // A batch must fit a frame.
  const std::uint64_t most_rows = wire::kMaxHiddenBytes / (std::uint64_t{params.n_embd} * sizeof(float));
  const auto at_most = [&](std::uint32_t usual) {
    return static_cast<std::uint32_t>(
        std::min<std::uint64_t>({usual, request.n_ctx, std::max<std::uint64_t>(most_rows, 1)}));
  };
  BatchSizes sizes = {.resident = at_most(kBatch), .streaming = {}};
  for (std::uint32_t usual = kStreamingBatch; usual >= kLeastBatch; usual /= 2)
    if (const std::uint32_t size = at_most(usual); sizes.streaming.empty() || size < sizes.streaming.back())
      sizes.streaming.push_back(size);
  return sizes;
}

}  // namespace

Result<RingPlan> plan_ring(const model::ModelFile& model, const RingRequest& request,
                           const std::vector<RingDevice>& devices) {
  HEARTH_CHECK(!devices.empty() && request.n_ctx > 0 && request.max_outputs > 0);
  const Needs needs(model, request, devices.size());
  const BatchSizes batches = batch_sizes(model.params(), request);
  RingPlan made = {.plan = {}, .n_ubatch = batches.resident, .rounds = std::max(request.rounds, 1U)};

  if (!request.windows.empty()) {
    if (request.windows.size() != devices.size())
      return fail(
          ErrorCode::kInvalidArgument,
          "--layer-window names {} devices, the ring has {}: the head first, then the workers in order",
          request.windows.size(), devices.size());
    const std::uint64_t per_round = std::max<std::uint64_t>(
        1, std::reduce(request.windows.begin(), request.windows.end(), std::uint64_t{0}));
    if (request.rounds == 0)
      made.rounds = static_cast<std::uint32_t>((model.params().n_layer + per_round - 1) / per_round);
    std::vector<std::string> names;
    for (const RingDevice& device : devices) names.push_back(device.name);
    HEARTH_TRY(made.plan,
               plan::split_by_windows(model.params().n_layer, names, request.windows, made.rounds));
    if (!any_streams(needs, made.plan, devices, made.n_ubatch)) return made;
    for (const std::uint32_t n_ubatch : batches.streaming) {
      made.n_ubatch = n_ubatch;
      made.streams = any_streams(needs, made.plan, devices, n_ubatch);
      if (!made.streams || has_slots(needs, made, devices)) break;
    }
    return made;
  }

  for (const std::uint32_t n_ubatch : {batches.resident, batches.streaming.front()}) {
    std::vector<plan::DeviceMemory> memory = memory_of(devices, needs, n_ubatch, made.rounds);
    memory[0].reserved += needs.output();
    auto split = plan::split_by_memory(needs.layers_with_kv(), memory, made.rounds);
    if (!split && split.error().code != ErrorCode::kOutOfMemory) return std::unexpected(split.error());
    if (!split) continue;
    made.plan = *std::move(split);
    made.n_ubatch = n_ubatch;
    return made;
  }

  std::vector<plan::DeviceRates> rates(devices.size());
  if (devices.size() > 1)
    for (std::size_t m = 0; m < devices.size(); ++m)
      if (devices[m].rates) rates[m] = devices[m].rates();
  // With the smallest batches, whoever has too little says so with the exact numbers, or does with a little
  // less than was estimated.
  Result<RingPlan> streaming = made;
  for (const std::uint32_t n_ubatch : batches.streaming) {
    streaming = plan_streaming(needs, request, devices, rates, n_ubatch);
    if (!streaming && streaming.error().code != ErrorCode::kOutOfMemory) return streaming;
    if (streaming && has_slots(needs, *streaming, devices)) return streaming;
  }
  return streaming;
}

}  // namespace hearth::node
