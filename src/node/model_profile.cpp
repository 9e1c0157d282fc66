#include "node/model_profile.h"

#include <algorithm>

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

// What buffers need besides, roughly.
constexpr std::uint64_t kSmallBuffers = 4ULL << 20;

// Hidden rows, mask and activations of the largest batch, frames, on the head the logits: a generous
// estimate, the exact number comes with loading. Without flash attention each head's scores are in memory,
// and a layer's values.
std::uint64_t buffer_bytes(const model::HyperParams& p, const ModelRequest& request, std::uint32_t n_cells,
                           std::uint32_t n_ubatch, bool head) {
  // The widest rows: of feed-forward, or of all experts that a token goes to.
  const std::uint64_t of_experts = p.n_expert_used * (std::uint64_t{p.n_ff_exp} + p.n_embd) + p.n_ff_shared;
  const std::uint64_t wide = p.n_expert == 0 ? p.n_ff : of_experts;
  const compute::ScratchOptions options = {.n_cells = n_cells,
                                           .n_ubatch = n_ubatch,
                                           .n_seq = request.n_seq,
                                           .flash_attention = request.flash_attention};
  const std::uint64_t masks = n_cells + compute::sliding_cells(p, options);
  std::uint64_t bytes = n_ubatch * (masks * 4ULL + 16ULL * (p.n_embd + wide));
  if (!request.flash_attention) bytes += 4ULL * n_cells * (std::uint64_t{n_ubatch} * p.n_head + p.n_embd_v());
  bytes += compute::Scratch::work_bytes(p, options, 1);
  if (request.n_devices > 1)
    bytes += kLeastFrames * wire::hidden_bytes(wire::HiddenEncoding::kF32, n_ubatch, p.n_embd);
  if (head) bytes += 4ULL * request.max_outputs * p.n_vocab;
  return bytes + kSmallBuffers;
}

// Tokens of a batch that a plan may choose, the most first. A batch must fit a frame.
std::vector<std::uint32_t> batch_sizes(const model::HyperParams& p, const ModelRequest& request) {
  if (request.n_ubatch != 0) return {request.n_ubatch};
  const std::uint64_t most_rows = wire::kMaxHiddenBytes / (std::uint64_t{p.n_embd} * sizeof(float));
  std::vector<std::uint32_t> sizes;
  for (std::uint32_t usual = kBatch; usual >= kLeastBatch; usual /= 2) {
    const auto size = static_cast<std::uint32_t>(
        std::min<std::uint64_t>({usual, request.n_ctx, std::max<std::uint64_t>(most_rows, 1)}));
    if (sizes.empty() || size < sizes.back()) sizes.push_back(size);
  }
  return sizes;
}

}  // namespace

plan::ModelProfile model_profile(const model::ModelFile& model, const ModelRequest& request) {
  ModelSizes sizes = {
      .layer_bytes = {}, .output_bytes = model.segment_bytes(SegmentId::output()), .parts = {}};
  std::vector<SegmentId> segments = {SegmentId::output()};
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il) {
    segments.push_back(SegmentId::of_layer(il));
    sizes.layer_bytes.push_back(model.segment_bytes(segments.back()));
  }
  std::uint64_t n_parts = 0, all = 0;
  for (const SegmentId id : segments) {
    for (const residency::Part& part :
         residency::divide(model, id, residency::kPartBytes, residency::kBlockBytes)) {
      const std::uint64_t bytes = residency::part_bytes(model, id, part);
      ++n_parts;
      all += bytes;
      sizes.parts.largest_bytes = std::max(sizes.parts.largest_bytes, bytes);
    }
  }
  sizes.parts.mean_bytes = all / n_parts;
  return model_profile(model.params(), std::move(sizes), request);
}

plan::ModelProfile model_profile(const model::HyperParams& p, ModelSizes sizes, const ModelRequest& request) {
  HEARTH_CHECK(request.n_ctx > 0 && request.max_outputs > 0 && request.n_devices > 0);
  const std::uint32_t n_cells = compute::pad_cells(request.n_ctx);
  plan::ModelProfile profile = {.name = p.name,
                                .n_embd = p.n_embd,
                                .layer_bytes = std::move(sizes.layer_bytes),
                                .output_bytes = sizes.output_bytes,
                                .kv_bytes = 0,
                                .window_bytes = compute::Window::table_bytes(n_cells),
                                .parts = sizes.parts,
                                .batches = {}};
  // With the largest batch: sliding windows keep room for it.
  const std::vector<std::uint32_t> sizes_of_batches = batch_sizes(p, request);
  std::uint64_t all_kv = 0;
  for (std::uint32_t il = 0; il < p.n_layer; ++il) {
    const std::uint32_t cells = compute::layer_cells(
        p, il, {.n_cells = n_cells, .n_ubatch = sizes_of_batches.front(), .n_seq = request.n_seq});
    profile.layer_kv_bytes.push_back(compute::KvStorage::bytes(p, 1, request.kv_type, cells));
    all_kv += profile.layer_kv_bytes.back();
  }
  profile.kv_bytes = (all_kv + p.n_layer - 1) / p.n_layer;
  if (p.sliding.empty()) profile.layer_kv_bytes.clear();
  if (request.hidden != wire::HiddenEncoding::kF32) {
    profile.most_f32_bytes = request.hidden_always ? 0 : kSmallFrameBytes;
    profile.encoded_row_bytes = wire::hidden_bytes(request.hidden, 1, p.n_embd);
  }
  for (const std::uint32_t size : sizes_of_batches)
    profile.batches.push_back({.n_tokens = size,
                               .worker_bytes = buffer_bytes(p, request, n_cells, size, false),
                               .head_bytes = buffer_bytes(p, request, n_cells, size, true),
                               .group = group_needs(p, size, n_cells, request.n_seq, request.n_devices > 1)});
  return profile;
}

}  // namespace hearth::node
