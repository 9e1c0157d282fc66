#include "compute/scratch.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "residency/division.h"

namespace hearth::compute {
namespace {

constexpr std::size_t kAlignment = 64;
// Of a thread's flash attention: keys, values, scores and results of 64 tokens, heads of 256.
constexpr std::uint64_t kTileBytes = std::uint64_t{256} << 10;

std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

Result<std::unique_ptr<Scratch>> Scratch::create(Backend& backend, const model::ModelFile& model,
                                                 const ScratchOptions& options) {
  HEARTH_CHECK(options.n_cells % kCellPadding == 0 && options.n_cells > 0 && options.n_ubatch > 0);
  std::unique_ptr<Scratch> scratch(new Scratch(backend, options));
  const std::size_t n = options.n_ubatch, n_cells = options.n_cells, n_embd = model.params().n_embd;
  const std::size_t mask_value = options.flash_attention ? sizeof(ggml_fp16_t) : sizeof(float);
  const KvRotation rotation = kv_rotation(model.params(), options.kv_type);
  scratch->rotation_ = rotation;
  const std::array<std::size_t, 8> sizes = {n * n_embd * sizeof(float),
                                            n * sizeof(std::int32_t),
                                            n * sizeof(std::int64_t),
                                            n * sizeof(std::int32_t),
                                            n_cells * sizeof(std::int32_t),
                                            n * n_cells * mask_value,
                                            std::size_t{rotation.k} * rotation.k * sizeof(float),
                                            std::size_t{rotation.v} * rotation.v * sizeof(float)};
  std::size_t total = kAlignment;
  for (const std::size_t size : sizes) total += aligned(size);
  scratch->io_.reset(ggml_backend_buft_alloc_buffer(backend.buffer_type(), total));
  if (!scratch->io_)
    return fail(ErrorCode::kOutOfMemory,
                "the buffers of a batch of {} tokens over {} cells need {} bytes, which are not free", n,
                n_cells, total);
  auto address = reinterpret_cast<std::uintptr_t>(ggml_backend_buffer_get_base(scratch->io_.get()));
  std::array<void*, 8> parts{};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    address = aligned(address);
    parts[i] = reinterpret_cast<void*>(address);
    address += sizes[i];
  }
  scratch->hidden = static_cast<float*>(parts[0]);
  scratch->positions = static_cast<std::int32_t*>(parts[1]);
  scratch->cells = static_cast<std::int64_t*>(parts[2]);
  scratch->out_rows = static_cast<std::int32_t*>(parts[3]);
  scratch->deltas = static_cast<std::int32_t*>(parts[4]);
  scratch->mask = parts[5];
  if (rotation.k > 0) fill_rotation(scratch->k_rotation = static_cast<float*>(parts[6]), rotation.k);
  if (rotation.v > 0) fill_rotation(scratch->v_rotation = static_cast<float*>(parts[7]), rotation.v);

  scratch->io_bytes_ = total;
  scratch->work_bytes_ = work_bytes(model.params(), options, backend.n_threads());

  // The largest graphs a layer can need decide the size of the activations, once: all rows pass on, or all
  // but one.
  scratch->activations_.reset(ggml_gallocr_new(backend.buffer_type()));
  for (const std::uint32_t n_out : {0U, options.n_ubatch - 1}) {
    if (!scratch->activations_ || !scratch->reserve(model, n_out) || !scratch->reserve_shift(model))
      return fail(ErrorCode::kOutOfMemory,
                  "the activations of a batch of {} tokens over {} cells do not fit in memory; ask for a "
                  "smaller batch "
                  "(-ub) or context (-c)",
                  n, n_cells);
  }
  return scratch;
}

bool Scratch::reserve(const model::ModelFile& model, std::uint32_t n_out) {
  const model::HyperParams& p = model.params();
  // Layers differ in the types of their matrices, so in their blocks.
  const std::uint64_t max_block =
      options_.max_block_bytes != 0 ? options_.max_block_bytes : ~std::uint64_t{0};
  auto segment = model::SegmentId::of_layer(0);
  std::vector<residency::Part> parts = residency::divide(model, segment, max_block, max_block);
  for (std::uint32_t il = 1; il < p.n_layer; ++il)
    if (auto other = residency::divide(model, model::SegmentId::of_layer(il), max_block, max_block);
        other.size() > parts.size()) {
      segment = model::SegmentId::of_layer(il);
      parts = std::move(other);
    }
  std::size_t n_weights = 0;
  for (const residency::Part& part : parts) n_weights += part.n_tensors;
  const std::size_t max_nodes = max_layer_nodes(n_weights);
  const residency::ContextPtr ctx =
      residency::make_context(max_layer_tensors(n_weights), ggml_graph_overhead_custom(max_nodes, false));
  ggml_cgraph* graph = ggml_new_graph_custom(ctx.get(), max_nodes, false);
  LayerWeights weights;
  for (const residency::Part& part : parts) declare(ctx.get(), model, segment, part, weights);
  // Without flash attention the values are copied in their own type, so the wider one counts.
  const LayerKv kv = {
      .k = place(ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, p.n_embd_k(), options_.n_cells), hidden),
      .v = place(ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, p.n_embd_v(), options_.n_cells), hidden),
      .n_kv = options_.n_cells};
  const BatchInputs in = inputs(ctx.get(), p.n_embd, options_.n_ubatch, options_.n_cells, n_out);
  ggml_tensor* out = build_layer(ctx.get(), graph, model, weights, kv, in, options_.flash_attention);
  place(out, hidden);
  return ggml_gallocr_reserve(activations_.get(), graph);
}

bool Scratch::reserve_shift(const model::ModelFile& model) {
  if (!wire::traits(options_.kv_type.k).quantized) return true;
  const residency::ContextPtr ctx =
      residency::make_context(2 * kShiftNodes, ggml_graph_overhead_custom(kShiftNodes, false));
  ggml_cgraph* graph = ggml_new_graph_custom(ctx.get(), kShiftNodes, false);
  // Any quantized type takes the same way through f32.
  ggml_tensor* k =
      place(ggml_new_tensor_2d(ctx.get(), GGML_TYPE_Q8_0, model.params().n_embd_k(), kShiftCells), hidden);
  ggml_tensor* deltas_of = place(ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, kShiftCells), deltas);
  ggml_build_forward_expand(
      graph, build_key_shift(ctx.get(), model, k, 0, deltas_of, nullptr, rotation_of_keys(ctx.get())));
  return ggml_gallocr_reserve(activations_.get(), graph);
}

std::uint64_t Scratch::bytes() const {
  return io_bytes_ + work_bytes_ + ggml_gallocr_get_buffer_size(activations_.get(), 0);
}

std::uint64_t Scratch::work_bytes(const model::HyperParams& params, const ScratchOptions& options,
                                  std::uint32_t n_threads) {
  const std::uint64_t heads = std::uint64_t{params.n_head} * params.head_dim_v;
  std::uint64_t values = std::max({std::uint64_t{params.n_embd}, std::uint64_t{params.n_ff}, heads});
  if (!options.flash_attention) values = std::max(values, std::uint64_t{options.n_cells} * params.n_head);
  return options.n_ubatch * values * sizeof(ggml_fp16_t) + n_threads * kTileBytes;
}

ggml_tensor* Scratch::place(ggml_tensor* tensor, void* address) const {
  tensor->data = address;
  tensor->buffer = io_.get();
  return tensor;
}

ggml_tensor* Scratch::rotation_of_keys(ggml_context* ctx) const {
  if (k_rotation == nullptr) return nullptr;
  return place(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, rotation_.k, rotation_.k), k_rotation);
}

std::vector<ggml_tensor*> Scratch::declare(ggml_context* ctx, const model::ModelFile& model,
                                           model::SegmentId layer, const residency::Part& part,
                                           LayerWeights& weights) const {
  std::vector<ggml_tensor*> tensors = residency::declare(ctx, model.segment(layer), part);
  for (std::size_t i = 0; i < tensors.size(); ++i)
    weights.add(model.segment(layer)[part.first_tensor + i].role, place(tensors[i], hidden));
  return tensors;
}

BatchInputs Scratch::inputs(ggml_context* ctx, std::int64_t n_embd, std::int64_t n_tokens, std::int64_t n_kv,
                            std::int64_t n_out) const {
  BatchInputs in;
  in.hidden = place(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_embd, n_tokens), hidden);
  in.positions = place(ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_tokens), positions);
  in.cells = place(ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n_tokens), cells);
  in.mask =
      place(ggml_new_tensor_2d(ctx, options_.flash_attention ? GGML_TYPE_F16 : GGML_TYPE_F32, n_kv, n_tokens),
            mask);
  in.k_rotation = rotation_of_keys(ctx);
  if (v_rotation != nullptr)
    in.v_rotation = place(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, rotation_.v, rotation_.v), v_rotation);
  if (n_out > 0) in.out_rows = place(ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_out), out_rows);
  return in;
}

Result<> Scratch::allocate(ggml_cgraph* graph) {
  const std::size_t before = ggml_gallocr_get_buffer_size(activations_.get(), 0);
  if (!ggml_gallocr_alloc_graph(activations_.get(), graph))
    return fail(ErrorCode::kOutOfMemory, "the activations of a graph do not fit in memory");
  // Graphs built earlier point into a buffer that is gone now.
  if (ggml_gallocr_get_buffer_size(activations_.get(), 0) != before) ++generation_;
  return {};
}

}  // namespace hearth::compute
