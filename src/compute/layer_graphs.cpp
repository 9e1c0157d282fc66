#include "compute/layer_graphs.h"

#include <algorithm>

namespace hearth::compute {
namespace {

constexpr std::size_t kShapesKept = 4;  // decode, a full chunk, a chunk's rest, one more

// A tensor of the type and shape of `stored`, at its place until point_at() names another.
MovingTensor declare_like(ggml_context* ctx, const ggml_tensor* stored) {
  ggml_tensor* tensor = ggml_new_tensor_2d(ctx, stored->type, stored->ne[0], stored->ne[1]);
  tensor->data = stored->data;
  tensor->buffer = stored->buffer;
  return {.tensor = tensor, .views = {}};
}

void find_views(ggml_context* ctx, MovingTensor& moving) {
  for (ggml_tensor* t = ggml_get_first_tensor(ctx); t != nullptr; t = ggml_get_next_tensor(ctx, t))
    if (t->view_src == moving.tensor) moving.views.push_back(t);
}

void point_at(const MovingTensor& moving, const ggml_tensor* stored) {
  moving.tensor->data = stored->data;
  moving.tensor->buffer = stored->buffer;
  for (ggml_tensor* view : moving.views) {
    view->data = static_cast<std::byte*>(stored->data) + view->view_offs;
    view->buffer = stored->buffer;
  }
}

}  // namespace

void point_weights(std::span<ggml_tensor* const> tensors, std::span<const residency::TensorPlace> places) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    tensors[i]->data = places[i].data;
    tensors[i]->buffer = places[i].buffer;
    tensors[i]->extra = places[i].extra;
  }
}

LayerGraphs::LayerGraphs(Scratches scratches, const model::ModelFile& model, plan::LayerRange layers,
                         const residency::WeightSource& weights, const KvStorage& kv)
    : scratches_(scratches), model_(model), layers_(layers), weights_(weights), kv_(kv) {
  std::vector<std::uint32_t> examples;  // a layer of each kind
  for (std::uint32_t il = layers.begin; il < layers.end; ++il) {
    const auto found =
        std::ranges::find_if(examples, [&](std::uint32_t example) { return same_kind(il, example); });
    kind_of_.push_back(static_cast<std::uint32_t>(found - examples.begin()));
    if (found == examples.end()) examples.push_back(il);
  }
  n_kinds_ = static_cast<std::uint32_t>(examples.size());
}

// Whether the layers' graphs differ in nothing but where weights, keys and values are.
bool LayerGraphs::same_kind(std::uint32_t il, std::uint32_t other) const {
  const std::uint32_t last = model_.params().n_layer - 1;  // rows may be left out after it
  const model::HyperParams& p = model_.params();
  if ((il == last) != (other == last) || p.is_sliding(il) != p.is_sliding(other) ||
      p.rope(il) != p.rope(other))
    return false;
  const auto segment = model::SegmentId::of_layer(il), other_segment = model::SegmentId::of_layer(other);
  if (weights_.on_gpu(segment) != weights_.on_gpu(other_segment)) return false;
  const auto same_tensor = [](const model::SegmentTensor& a, const model::SegmentTensor& b) {
    return a.role == b.role && a.tensor->type == b.tensor->type && a.tensor->ne == b.tensor->ne;
  };
  return std::ranges::equal(model_.segment(segment), model_.segment(other_segment), same_tensor) &&
         std::ranges::equal(weights_.parts(segment), weights_.parts(other_segment));
}

Result<LayerGraph*> LayerGraphs::of(std::uint32_t il, const Shape& shape) {
  LayerGraph& layer = set_of(shape).kinds[kind_of_[il - layers_.begin]];
  if (layer.graph == nullptr || layer.generation != scratch_of(il).generation()) {
    HEARTH_TRY(layer, build(il, shape));
  }
  point_at(layer.k, kv_.k(il));
  point_at(layer.v, kv_.v(il));
  return &layer;
}

// Empty ones take the place of those least recently used.
LayerGraphs::Set& LayerGraphs::set_of(const Shape& shape) {
  ++clock_;
  auto found = std::ranges::find(sets_, shape, &Set::shape);
  if (found == sets_.end()) {
    found = sets_.size() < kShapesKept ? sets_.emplace(sets_.end())
                                       : std::ranges::min_element(sets_, {}, &Set::last_used);
    *found = Set{.shape = shape, .last_used = clock_, .kinds = {}};
    found->kinds.resize(n_kinds_);
  }
  found->last_used = clock_;
  return *found;
}

Result<LayerGraph> LayerGraphs::build(std::uint32_t il, const Shape& shape) {
  LayerGraph built;
  Scratch& scratch = scratch_of(il);
  const auto segment = model::SegmentId::of_layer(il);
  const auto parts = weights_.parts(segment);
  std::size_t n_weights = 0;
  for (const residency::Part& part : parts) n_weights += part.n_tensors;
  const model::HyperParams& p = model_.params();
  const std::size_t n_nodes = max_layer_nodes(n_weights, p.n_expert_used);
  built.ctx = residency::make_context(max_layer_tensors(n_weights, p.n_expert_used),
                                      ggml_graph_overhead_custom(n_nodes, false));
  ggml_context* ctx = built.ctx.get();
  built.graph = ggml_new_graph_custom(ctx, n_nodes, false);
  LayerWeights by_role;
  for (const residency::Part& part : parts) {
    built.first.push_back(built.weights.size());
    const auto tensors = scratch.declare(ctx, model_, segment, part, by_role);
    built.weights.insert(built.weights.end(), tensors.begin(), tensors.end());
  }
  // Only after the last layer rows are left out, and only when some are.
  const bool select = il + 1 == p.n_layer && shape.n_out < shape.n_tokens;
  const bool slides = p.is_sliding(il);
  const std::uint32_t n_kv = slides ? shape.n_kv_sliding : shape.n_kv;
  BatchInputs in = scratch.inputs(ctx, {.n_embd = p.n_embd,
                                        .n_tokens = shape.n_tokens,
                                        .n_kv = n_kv,
                                        .n_out = select ? shape.n_out : 0,
                                        .sliding = slides});
  in.keys_and_values_only = shape.n_out == 0 && il + 1 == p.n_layer;
  built.k = declare_like(ctx, kv_.k(il));
  built.v = declare_like(ctx, kv_.v(il));
  const LayerKv layer_kv = {.k = built.k.tensor, .v = built.v.tensor, .n_kv = n_kv};
  const LayerOptions options = {
      .layer = il, .n_ctx = scratch.options().n_cells, .flash_attention = scratch.options().flash_attention};
  ggml_tensor* out = build_layer(ctx, built.graph, model_, options, by_role, layer_kv, in);
  // The layer's output takes the place of its input, whose last reader ran before.
  if (out != nullptr) scratch.place(out, scratch.hidden);
  HEARTH_TRY_VOID(scratch.allocate(built.graph));
  find_views(ctx, built.k);
  find_views(ctx, built.v);
  if (parts.size() > 1) built.slices = cut(built.graph, built.weights, built.first);
  built.generation = scratch.generation();
  return built;
}

}  // namespace hearth::compute
