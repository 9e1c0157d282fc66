#include "compute/scratch.h"

#include <algorithm>
#include <array>
#include <format>
#include <utility>

#include "base/units.h"
#include "residency/division.h"

namespace hearth::compute {
namespace {

// Of a thread's flash attention: keys, values, scores and results of 64 tokens, heads of 256.
constexpr std::uint64_t kTileBytes = std::uint64_t{256} << 10;

// A layer's parts at their smallest.
std::vector<residency::Part> largest_parts(const model::ModelFile& model, std::uint32_t il,
                                           const ScratchOptions& options) {
  const std::uint64_t max_block = options.max_block_bytes != 0 ? options.max_block_bytes : ~std::uint64_t{0};
  return residency::divide(model, model::SegmentId::of_layer(il), max_block, max_block);
}

// The layers whose graphs are the largest: of those that see all and of those with a sliding window the one
// with the most parts. Layers differ in the types of their matrices, so in their blocks.
std::vector<std::uint32_t> largest_layers(const model::ModelFile& model, const ScratchOptions& options) {
  std::vector<std::uint32_t> layers;
  for (const bool sliding : {false, true}) {
    std::size_t most = 0;
    std::uint32_t largest = 0;
    for (std::uint32_t il = 0; il < model.params().n_layer; ++il) {
      if (model.params().is_sliding(il) != sliding) continue;
      if (const std::size_t n = largest_parts(model, il, options).size(); n > most) {
        most = n;
        largest = il;
      }
    }
    if (most > 0) layers.push_back(largest);
  }
  return layers;
}

// A GPU has all weights of a layer at once.
ScratchOptions gpu_options(ScratchOptions options) {
  options.max_block_bytes = 0;
  return options;
}

// What a GPU's backend takes by itself: a matrix as halves, should it have no kernel for its type; the right
// side of a product; partial sums of a product that is split.
std::uint64_t gpu_work_bytes(const model::ModelFile& model, const ScratchOptions& options) {
  constexpr std::uint64_t kSplits = 4;
  std::uint64_t matrix = 0, columns = 0, rows = 0;
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il)
    for (const model::SegmentTensor& tensor : model.segment(model::SegmentId::of_layer(il))) {
      if (!residency::is_matrix(tensor.role) || model::is_experts(tensor.role)) continue;
      const auto of_row = static_cast<std::uint64_t>(tensor.tensor->ne[0]);
      const auto n_rows = static_cast<std::uint64_t>(tensor.tensor->ne[1]);
      matrix = std::max(matrix, of_row * n_rows);
      columns = std::max(columns, of_row);
      rows = std::max(rows, n_rows);
    }
  // Plain attention multiplies by a copy of the keys.
  if (!options.flash_attention)
    matrix = std::max(matrix, std::uint64_t{options.n_cells} * model.params().n_embd_k());
  return matrix * sizeof(ggml_fp16_t) + options.n_ubatch * (columns + kSplits * rows) * sizeof(float);
}

}  // namespace

std::uint32_t layer_cells(const model::HyperParams& params, std::uint32_t il, const ScratchOptions& options) {
  return params.kv_cells(il, options.n_cells, options.n_ubatch, options.n_seq, kCellPadding);
}

std::uint32_t sliding_cells(const model::HyperParams& params, const ScratchOptions& options) {
  for (std::uint32_t il = 0; il < params.n_layer; ++il)
    if (params.is_sliding(il)) return layer_cells(params, il, options);
  return 0;
}

Result<std::unique_ptr<Scratch>> Scratch::create(Backend& backend, const model::ModelFile& model,
                                                 const ScratchOptions& options) {
  std::unique_ptr<Scratch> scratch(new Scratch(backend, options));
  HEARTH_TRY_VOID(scratch->take_plain(model.params()));
  if (scratch->k_rotation != nullptr) fill_rotation(scratch->k_rotation, scratch->rotation_.k);
  if (scratch->v_rotation != nullptr) fill_rotation(scratch->v_rotation, scratch->rotation_.v);
  scratch->work_bytes_ = work_bytes(model.params(), options, backend.n_threads());
  HEARTH_TRY_VOID(scratch->reserve(model));
  return scratch;
}

Result<std::unique_ptr<Scratch>> Scratch::create_beside(const Scratch& cpu, Backend& gpu,
                                                        const model::ModelFile& model) {
  std::unique_ptr<Scratch> scratch(new Scratch(gpu, gpu_options(cpu.options_)));
  static_cast<BatchMemory&>(*scratch) = cpu;
  scratch->rotation_ = cpu.rotation_;
  scratch->io_ = IoMemory::copy_of(*cpu.io_, gpu);
  if (!scratch->io_)
    return fail(ErrorCode::kOutOfMemory, "{}: {} of its memory for the buffers of a batch are not free",
                gpu.description(), format_bytes(cpu.io_->bytes()));
  for (const auto& [matrix, n] :
       {std::pair{cpu.k_rotation, cpu.rotation_.k}, std::pair{cpu.v_rotation, cpu.rotation_.v}})
    if (matrix != nullptr) HEARTH_TRY_VOID(scratch->send(matrix, std::size_t{n} * n * sizeof(float)));
  scratch->work_bytes_ = gpu_work_bytes(model, cpu.options_);
  HEARTH_TRY_VOID(scratch->reserve(model));
  HEARTH_TRY_VOID(gpu.synchronize());
  return scratch;
}

Result<GpuNeeds> Scratch::gpu_needs(Backend& cpu, Backend& gpu, const model::ModelFile& model,
                                    const ScratchOptions& options) {
  // Of plain memory nothing is written, so none is taken.
  Scratch scratch(cpu, gpu_options(options));
  HEARTH_TRY_VOID(scratch.take_plain(model.params()));
  GpuNeeds needs = {.bytes = 0, .unsupported = {}};
  const std::unique_ptr<ggml_gallocr, FreeAllocator> measuring(ggml_gallocr_new(gpu.buffer_type()));
  std::size_t activations = 0;
  (void)scratch.each_largest(model, [&](ggml_cgraph* graph) {
    std::size_t bytes = 0;
    ggml_gallocr_reserve_n_size(measuring.get(), graph, nullptr, nullptr, &bytes);
    activations = std::max(activations, bytes);
    return true;
  });
  needs.bytes = scratch.io_->bytes() + activations + gpu_work_bytes(model, options);
  const Measured shift = scratch.shift_graph(model);
  const Stored stored = {storage_type(options.kv_type.k), storage_type(options.kv_type.v)};
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il) {
    auto operation = first_unsupported(gpu, scratch.largest_graph(model, il, 0, stored).graph);
    if (!operation && shift.graph != nullptr) operation = first_unsupported(gpu, shift.graph);
    if (operation) needs.unsupported.emplace(il, *std::move(operation));
  }
  return needs;
}

// The memory of the batch inputs.
Result<> Scratch::take_plain(const model::HyperParams& params) {
  HEARTH_CHECK(options_.n_cells % kCellPadding == 0 && options_.n_cells > 0 && options_.n_ubatch > 0);
  const std::size_t n = options_.n_ubatch, n_cells = options_.n_cells, n_embd = params.n_embd;
  const std::size_t mask_value = options_.flash_attention ? sizeof(ggml_fp16_t) : sizeof(float);
  const std::size_t n_sliding = n_sliding_cells = compute::sliding_cells(params, options_);
  rotation_ = kv_rotation(params, options_.kv_type);
  const std::array<std::size_t, 10> sizes = {n * n_embd * sizeof(float),
                                             n * sizeof(std::int32_t),
                                             n * sizeof(std::int64_t),
                                             n * sizeof(std::int32_t),
                                             n_cells * sizeof(std::int32_t),
                                             n * n_cells * mask_value,
                                             n_sliding == 0 ? 0 : n * sizeof(std::int64_t),
                                             n * n_sliding * mask_value,
                                             std::size_t{rotation_.k} * rotation_.k * sizeof(float),
                                             std::size_t{rotation_.v} * rotation_.v * sizeof(float)};
  std::size_t total = 0;
  for (const std::size_t size : sizes) total += io_aligned(size);
  io_ = IoMemory::plain(*backend_, total);
  if (!io_)
    return fail(ErrorCode::kOutOfMemory,
                "the buffers of a batch of {} tokens over {} cells need {} bytes, which are not free", n,
                n_cells, total);
  std::byte* address = io_->base();
  std::array<void*, sizes.size()> parts{};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    parts[i] = address;
    address += io_aligned(sizes[i]);
  }
  hidden = static_cast<float*>(parts[0]);
  positions = static_cast<std::int32_t*>(parts[1]);
  cells = static_cast<std::int64_t*>(parts[2]);
  out_rows = static_cast<std::int32_t*>(parts[3]);
  deltas = static_cast<std::int32_t*>(parts[4]);
  mask = parts[5];
  sliding_cells = static_cast<std::int64_t*>(parts[6]);
  sliding_mask = parts[7];
  k_rotation = rotation_.k > 0 ? static_cast<float*>(parts[8]) : nullptr;
  v_rotation = rotation_.v > 0 ? static_cast<float*>(parts[9]) : nullptr;
  return {};
}

// All rows pass on, or all but one.
template <class Visit>
bool Scratch::each_largest(const model::ModelFile& model, Visit visit) const {
  for (const std::uint32_t il : largest_layers(model, options_))
    for (const std::uint32_t n_out : {0U, options_.n_ubatch - 1})
      if (!visit(largest_graph(model, il, n_out, kWidest).graph)) return false;
  const Measured shift = shift_graph(model);
  return shift.graph == nullptr || visit(shift.graph);
}

// The largest graphs a layer can need decide the size of the activations, once.
Result<> Scratch::reserve(const model::ModelFile& model) {
  activations_.reset(ggml_gallocr_new(backend_->buffer_type()));
  if (!activations_ || !each_largest(model, [&](ggml_cgraph* graph) {
        return ggml_gallocr_reserve(activations_.get(), graph);
      }))
    return fail(ErrorCode::kOutOfMemory,
                "the activations of a batch of {} tokens over {} cells do not fit in memory{}; ask for a "
                "smaller batch (-ub) or context (-c)",
                options_.n_ubatch, options_.n_cells,
                backend_->is_gpu() ? std::format(" of {}", backend_->description()) : "");
  return {};
}

Scratch::Measured Scratch::largest_graph(const model::ModelFile& model, std::uint32_t il, std::uint32_t n_out,
                                         const Stored& stored) const {
  const model::HyperParams& p = model.params();
  const auto segment = model::SegmentId::of_layer(il);
  const std::vector<residency::Part> parts = largest_parts(model, il, options_);
  std::size_t n_weights = 0;
  for (const residency::Part& part : parts) n_weights += part.n_tensors;
  const std::size_t max_nodes = max_layer_nodes(n_weights, p.n_expert_used);
  Measured measured = {.ctx = residency::make_context(max_layer_tensors(n_weights, p.n_expert_used),
                                                      ggml_graph_overhead_custom(max_nodes, false))};
  ggml_context* ctx = measured.ctx.get();
  measured.graph = ggml_new_graph_custom(ctx, max_nodes, false);
  LayerWeights weights;
  for (const residency::Part& part : parts) declare(ctx, model, segment, part, weights);
  const std::uint32_t n_cells = layer_cells(p, il, options_);
  const LayerKv kv = {.k = place(ggml_new_tensor_2d(ctx, stored.k, p.n_embd_k(), n_cells), hidden),
                      .v = place(ggml_new_tensor_2d(ctx, stored.v, p.n_embd_v(), n_cells), hidden),
                      .n_kv = n_cells};
  const BatchInputs in = inputs(ctx, {.n_embd = p.n_embd,
                                      .n_tokens = options_.n_ubatch,
                                      .n_kv = n_cells,
                                      .n_out = n_out,
                                      .sliding = p.is_sliding(il)});
  const LayerOptions options = {
      .layer = il, .n_ctx = options_.n_cells, .flash_attention = options_.flash_attention};
  place(build_layer(ctx, measured.graph, model, options, weights, kv, in), hidden);
  return measured;
}

Scratch::Measured Scratch::shift_graph(const model::ModelFile& model) const {
  const model::HyperParams& p = model.params();
  std::uint32_t il = 0;
  while (il < p.n_layer && !p.rope(il).is_on) ++il;
  if (!wire::traits(options_.kv_type.k).quantized || il == p.n_layer) return {};
  Measured measured = {
      .ctx = residency::make_context(2 * kShiftNodes, ggml_graph_overhead_custom(kShiftNodes, false))};
  ggml_context* ctx = measured.ctx.get();
  measured.graph = ggml_new_graph_custom(ctx, kShiftNodes, false);
  // Any quantized type takes the same way through f32.
  ggml_tensor* k = place(ggml_new_tensor_2d(ctx, GGML_TYPE_Q8_0, p.n_embd_k(), kShiftCells), hidden);
  ggml_tensor* deltas_of = place(ggml_new_tensor_1d(ctx, GGML_TYPE_I32, kShiftCells), deltas);
  ggml_build_forward_expand(measured.graph,
                            build_key_shift(ctx, model, il, k, 0, deltas_of, nullptr, rotation_of_keys(ctx)));
  return measured;
}

std::uint64_t Scratch::bytes() const {
  return io_->bytes() + work_bytes_ + ggml_gallocr_get_buffer_size(activations_.get(), 0);
}

std::uint64_t Scratch::work_bytes(const model::HyperParams& params, const ScratchOptions& options,
                                  std::uint32_t n_threads) {
  const std::uint64_t heads = std::uint64_t{params.n_head} * params.head_dim_v;
  const std::uint64_t experts = std::uint64_t{params.n_expert_used} * params.n_ff_exp;
  std::uint64_t values = std::max({std::uint64_t{params.n_embd}, std::uint64_t{params.n_ff},
                                   std::uint64_t{params.n_ff_shared}, heads, experts});
  if (!options.flash_attention) values = std::max(values, std::uint64_t{options.n_cells} * params.n_head);
  // Which rows go to each expert: room for all of them.
  const std::uint64_t rows_of_experts = std::uint64_t{params.n_expert} * params.n_expert_used * 8;
  return options.n_ubatch * (values * sizeof(ggml_fp16_t) + rows_of_experts) + n_threads * kTileBytes;
}

ggml_tensor* Scratch::place(ggml_tensor* tensor, void* address) const {
  return io_->place(tensor, address);
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

BatchInputs Scratch::inputs(ggml_context* ctx, const InputShape& shape) const {
  const std::int64_t n_tokens = shape.n_tokens;
  const ggml_type mask_type = options_.flash_attention ? GGML_TYPE_F16 : GGML_TYPE_F32;
  BatchInputs in;
  in.hidden = place(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, shape.n_embd, n_tokens), hidden);
  in.positions = place(ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_tokens), positions);
  in.cells = place(ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n_tokens), shape.sliding ? sliding_cells : cells);
  in.mask =
      place(ggml_new_tensor_2d(ctx, mask_type, shape.n_kv, n_tokens), shape.sliding ? sliding_mask : mask);
  in.k_rotation = rotation_of_keys(ctx);
  if (v_rotation != nullptr)
    in.v_rotation = place(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, rotation_.v, rotation_.v), v_rotation);
  if (shape.n_out > 0) in.out_rows = place(ggml_new_tensor_1d(ctx, GGML_TYPE_I32, shape.n_out), out_rows);
  return in;
}

Result<> Scratch::allocate(ggml_cgraph* graph) {
  // Should they move, nothing may still be computed there.
  HEARTH_TRY_VOID(backend_->synchronize());
  const std::size_t before = ggml_gallocr_get_buffer_size(activations_.get(), 0);
  if (!ggml_gallocr_alloc_graph(activations_.get(), graph))
    return fail(ErrorCode::kOutOfMemory, "the activations of a graph do not fit in memory");
  // Graphs built earlier point into a buffer that is gone now.
  if (ggml_gallocr_get_buffer_size(activations_.get(), 0) != before) ++generation_;
  return {};
}

}  // namespace hearth::compute
