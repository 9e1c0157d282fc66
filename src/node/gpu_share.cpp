#include "node/gpu_share.h"

#include <algorithm>
#include <format>
#include <map>
#include <ranges>

#include "base/units.h"
#include "compute/head.h"
#include "compute/kv_storage.h"
#include "residency/gpu_source.h"

namespace hearth::node {
namespace {

std::uint64_t kv_bytes_of(model::SegmentId id, const model::ModelFile& model,
                          const compute::ScratchOptions& options) {
  return compute::KvStorage::bytes(model.params(), 1, options.kv_type,
                                   compute::layer_cells(model.params(), id.layer, options));
}

// "0-3, 7" of ascending layers.
std::string ranges(std::span<const std::uint32_t> layers) {
  std::string text;
  for (std::size_t i = 0; i < layers.size();) {
    std::size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
    text += text.empty() ? "" : ", ";
    text += i == last ? std::format("{}", layers[i]) : std::format("{}-{}", layers[i], layers[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace

Result<DeviceGpu> open_gpu(const GpuOptions& options) {
  DeviceGpu gpu;
  if (options.n_layers == 0) return gpu;
  std::string name = options.device;
  if (name.empty()) {
    const std::vector<compute::GpuInfo> there = compute::list_gpus();
    auto found = std::ranges::find(there, false, &compute::GpuInfo::integrated);
    if (found == there.end() && options.n_layers) found = there.begin();
    if (found != there.end())
      name = found->name;
    else if (!options.n_layers)
      return gpu;
  }
  HEARTH_TRY(gpu.backend, compute::Backend::gpu(name));
  gpu.use = {
      .backend = gpu.backend.get(), .n_layers = options.n_layers, .memory_bytes = options.memory_bytes};
  return gpu;
}

std::uint32_t GpuShare::n_layers() const {
  return static_cast<std::uint32_t>(
      std::ranges::count(segments, model::SegmentId::Kind::kLayer, &model::SegmentId::kind));
}

bool GpuShare::has(model::SegmentId id) const {
  return std::ranges::contains(segments, id);
}

Result<GpuNeeds> gpu_needs(compute::Backend& cpu, compute::Backend& gpu, const model::ModelFile& model,
                           const compute::ScratchOptions& options, std::uint32_t max_outputs) {
  GpuNeeds needs;
  HEARTH_TRY(needs.of_layers, compute::Scratch::gpu_needs(cpu, gpu, model, options));
  needs.of_output = compute::Head::gpu_needs(gpu, model, options.n_ubatch, max_outputs);
  return needs;
}

Result<GpuShare> gpu_share(const GpuUse& use, compute::Backend& cpu, const model::ModelFile& model,
                           const compute::ScratchOptions& options, std::uint32_t max_outputs,
                           std::span<const model::SegmentId> segments) {
  if (use.backend == nullptr || use.n_layers == 0) return GpuShare{};
  HEARTH_TRY(const GpuNeeds needs, gpu_needs(cpu, *use.backend, model, options, max_outputs));
  return gpu_share(use, needs, model, options, segments);
}

Result<GpuShare> gpu_share(const GpuUse& use, const GpuNeeds& all_needs, const model::ModelFile& model,
                           const compute::ScratchOptions& options,
                           std::span<const model::SegmentId> segments) {
  GpuShare share;
  const std::uint32_t wanted = use.n_layers.value_or(kAllLayers);
  compute::Backend& gpu = *use.backend;
  const compute::GpuInfo info = gpu.gpu_info();
  const std::uint64_t limit =
      std::min(use.memory_bytes, info.free_bytes - std::min(info.free_bytes, kGpuReserve));

  // What it may have, in the order in which it takes them.
  std::vector<model::SegmentId> candidates;
  if (std::ranges::contains(segments, model::SegmentId::output()))
    candidates.push_back(model::SegmentId::output());
  for (const model::SegmentId id : segments | std::views::reverse)
    if (id.kind == model::SegmentId::Kind::kLayer && candidates.size() < wanted) candidates.push_back(id);

  std::map<std::string, std::vector<std::uint32_t>> unsupported;  // layers by operation
  std::uint64_t lacking = 0;
  std::ptrdiff_t n_fitting = 0;
  for (const model::SegmentId& id : candidates) {
    const bool is_layer = id.kind == model::SegmentId::Kind::kLayer;
    const compute::GpuNeeds& needs = is_layer ? all_needs.of_layers : all_needs.of_output;
    const std::uint32_t key = is_layer ? id.layer : compute::GpuNeeds::kOutput;
    if (const auto found = needs.unsupported.find(key); found != needs.unsupported.end()) {
      unsupported[found->second].push_back(key);
      continue;
    }
    const bool shares_buffers = is_layer && share.n_layers() > 0;
    const std::uint64_t weights = residency::GpuSource::bytes(model, {&id, 1}, gpu.device());
    const std::uint64_t kv = is_layer ? kv_bytes_of(id, model, options) : 0;
    const std::uint64_t buffers = shares_buffers ? 0 : needs.bytes;
    if (lacking > 0 || share.bytes() + weights + kv + buffers > limit) {
      if (!use.n_layers && is_layer) break;
      if (!use.n_layers) continue;  // without the output head, layers may fit
      if (lacking == 0) n_fitting = &id - candidates.data();
      lacking += weights + kv + (lacking > 0 ? 0 : buffers);
      continue;
    }
    share.weight_bytes += weights;
    share.kv_bytes += kv;
    share.buffer_bytes += buffers;
    share.segments.push_back(id);
  }
  if (lacking > 0)
    return fail(
        ErrorCode::kOutOfMemory,
        "what {} is to compute takes {} of its memory, {} may be used; -ngl {} would fit, -ngl auto takes as "
        "much as fits",
        info.name, format_bytes(share.bytes() + lacking), format_bytes(limit), n_fitting);
  for (auto& [operation, layers] : unsupported) {
    std::ranges::sort(layers);
    const bool with_output = layers.back() == compute::GpuNeeds::kOutput;
    if (with_output) layers.pop_back();
    std::string what = layers.empty() ? "" : std::format("layers {}", ranges(layers));
    if (with_output) what += what.empty() ? "the output head" : " and the output head";
    share.notices.push_back(std::format("{}: computed by the processor, {} has no {} of these sizes", what,
                                        info.name, operation));
  }
  return share;
}

}  // namespace hearth::node
