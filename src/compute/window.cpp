#include "compute/window.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <vector>

#include "compute/slices.h"
#include "compute/sliding_cells.h"
#include "wire/hidden.h"

namespace hearth::compute {
namespace {

// Of a window's graphs: some 60 KB for each shape in use and each kind of layer.
constexpr std::uint64_t kGraphBytes = 512 << 10;
constexpr std::size_t kShapesKept = 4;  // decode, a full chunk, a chunk's rest, one more

// A tensor of another place for each layer, with the views of it that the graph's nodes are.
struct MovingTensor {
  ggml_tensor* tensor = nullptr;
  std::vector<ggml_tensor*> views;
};

// One graph for all layers of a kind: where weights, keys and values are is said before each compute.
struct LayerGraph {
  std::uint64_t generation = 0;  // of the scratch memory it points to
  residency::ContextPtr ctx;
  ggml_cgraph* graph = nullptr;
  Slices slices;                      // of a layer whose weights come in parts
  std::vector<ggml_tensor*> weights;  // of all parts, one after another
  std::vector<std::size_t> first;     // of each part's weights
  MovingTensor k, v;
};

struct Shape {
  std::uint32_t n_tokens = 0, n_kv = 0, n_out = 0;
  std::uint32_t n_kv_sliding = 0;  // of layers with a sliding window
  friend bool operator==(const Shape&, const Shape&) = default;
};

struct GraphSet {
  Shape shape;
  std::uint64_t last_used = 0;
  std::vector<LayerGraph> kinds;  // empty ones are built when they are needed
};

void point_weights(std::span<ggml_tensor* const> tensors, std::span<const residency::TensorPlace> places) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    tensors[i]->data = places[i].data;
    tensors[i]->buffer = places[i].buffer;
    tensors[i]->extra = places[i].extra;
  }
}

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

// With which batch of a group the tokens of a table came.
struct Arrivals {
  std::span<const std::uint32_t> of_cell = {};  // counted from 1; 0: before the group. Empty: no group
  std::uint32_t now = 0;                        // later ones are not there yet
};

// What a mask is made from: the tokens in the cells that are looked at.
struct Sight {
  const CellTable& cells;
  std::uint32_t n_kv;
  std::uint32_t n_swa = 0;  // only so many tokens back; 0: all
  Arrivals arrivals = {};
};

// mask[i][c] = 0 where token i may see cell c, -inf elsewhere.
template <class Value>
void fill_mask(Value* mask, const wire::Batch& batch, const Sight& sight, Value hidden) {
  const CellTable& cells = sight.cells;
  const Arrivals& arrivals = sight.arrivals;
  for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
    const wire::BatchToken& token = batch.tokens[i];
    Value* row = mask + i * sight.n_kv;
    for (std::uint32_t cell = 0; cell < sight.n_kv; ++cell) {
      const std::int32_t position = cells.position(cell);
      const bool visible =
          position >= 0 && position <= token.position &&
          (sight.n_swa == 0 || std::int64_t{token.position} - position < std::int64_t{sight.n_swa}) &&
          cells.sequences(cell).intersects(token.sequences) &&
          (arrivals.of_cell.empty() || arrivals.of_cell[cell] <= arrivals.now);
      row[cell] = visible ? Value{0} : hidden;
    }
  }
}

// A batch's place in the layers with a sliding window, when it was the last to come.
struct SlidingPlace {
  std::vector<std::uint32_t> cells;  // of each token
  std::optional<CellTable> table;  // of a group's batch, whose later ones change it; else the window's is it
};

constexpr ggml_fp16_t kHalfMinusInfinity = 0xFC00;

}  // namespace

struct Window::Impl {
  Scratch& scratch;
  const model::ModelFile& model;
  plan::LayerRange layers;
  residency::WeightSource& weights;
  CellTable cells;
  std::optional<SlidingCells> sliding;  // of the layers with a sliding window, if there are any
  std::unique_ptr<KvStorage> kv;
  // By layer of the window. Layers of a kind have the same graph.
  std::vector<std::uint32_t> kind_of;
  std::vector<GraphSet> graphs;
  std::uint64_t clock = 0;
  // [n_cells] of the shift being applied, of both kinds of layers.
  std::vector<std::int32_t> deltas, sliding_deltas;
  // Of the group at hand.
  std::vector<Shape> shapes;            // of each batch; n_tokens = 0: nothing to compute
  std::vector<SlidingPlace> slid;       // of each batch
  std::vector<std::uint32_t> arrivals;  // [n_cells], all 0 between groups; empty before the first
  std::vector<std::span<const residency::TensorPlace>> held;  // of a layer's parts
  std::uint32_t n_released = 0;                               // the first of them that went already

  [[nodiscard]] bool is_last() const { return layers.end == model.params().n_layer; }
  // The batch's tokens in both tables.
  Result<SlidingPlace> place(const wire::Batch& batch);
  [[nodiscard]] Shape shape_of(const wire::Batch& batch) const;  // in the state after the batch was placed
  Result<LayerGraph> build(std::uint32_t il, const Shape& shape);
  [[nodiscard]] bool same_kind(std::uint32_t il, std::uint32_t other) const;
  void find_kinds();
  Result<LayerGraph*> graph_of(std::uint32_t il, GraphSet& set);
  template <class Take, class Leave>
  Result<> compute_parts(std::uint32_t il, GraphSet& set, Take take, Leave leave);
  Result<> compute(std::uint32_t il, GraphSet& set);
  Result<> compute_and_hold(std::uint32_t il, GraphSet& set);
  Result<> compute_held(std::uint32_t il, GraphSet& set);
  Result<> compute_and_release(std::uint32_t il, GraphSet& set);
  void release_held(model::SegmentId segment);
  Result<> place_group(std::span<GroupItem> items);
  Result<> compute_group(std::uint32_t il, std::span<GroupItem> items);
  Result<> check_rows(std::uint32_t il, const wire::Batch& batch, const Shape& shape) const;
  GraphSet& graphs_for(const Shape& shape);
  Result<> apply(std::span<const wire::KvOp> operations);
  Result<> shift_keys();
  Result<> shift_layer(std::uint32_t il, std::uint32_t n_cells);
  Result<> shift_cells(std::uint32_t il, std::uint32_t first, std::uint32_t n,
                       const gguf::Tensor* rope_factors, std::span<const residency::TensorPlace> at);
  void fill_inputs(const wire::Batch& batch, const Shape& shape, const Arrivals& seen,
                   const SlidingPlace& at);
  void write_mask(void* mask, const wire::Batch& batch, const Sight& sight) const;
};

Window::Window(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Window::~Window() = default;

Result<std::unique_ptr<Window>> Window::create(Scratch& scratch, const model::ModelFile& model,
                                               plan::LayerRange layers, residency::WeightSource& weights,
                                               wire::KvTypes kv_type) {
  HEARTH_CHECK(layers.begin < layers.end && layers.end <= model.params().n_layer);
  HEARTH_CHECK(kv_rotation(model.params(), kv_type) == kv_rotation(model.params(), scratch.options().kv_type),
               "buffers for other types of keys and values");
  HEARTH_TRY_VOID(KvStorage::check(model.params(), kv_type, scratch.options().flash_attention));
  const std::uint32_t n_cells = scratch.options().n_cells;
  std::vector<std::uint32_t> cells;
  bool slides = false;
  for (std::uint32_t il = layers.begin; il < layers.end; ++il) {
    cells.push_back(layer_cells(model.params(), il, scratch.options()));
    slides = slides || model.params().is_sliding(il);
  }
  HEARTH_TRY(auto kv, KvStorage::create(scratch.backend(), model.params(), layers, kv_type, cells));
  std::unique_ptr<Impl> impl(new Impl{.scratch = scratch,
                                      .model = model,
                                      .layers = layers,
                                      .weights = weights,
                                      .cells = CellTable(n_cells),
                                      .sliding = {},
                                      .kv = std::move(kv),
                                      .kind_of = {},
                                      .graphs = {},
                                      .clock = 0,
                                      .deltas = {},
                                      .sliding_deltas = {},
                                      .shapes = {},
                                      .slid = {},
                                      .arrivals = {},
                                      .held = {},
                                      .n_released = 0});
  if (slides) impl->sliding.emplace(scratch.n_sliding_cells(), model.params().n_swa);
  impl->find_kinds();
  return std::unique_ptr<Window>(new Window(std::move(impl)));
}

// Whether the layers' graphs differ in nothing but where weights, keys and values are.
bool Window::Impl::same_kind(std::uint32_t il, std::uint32_t other) const {
  const std::uint32_t last = model.params().n_layer - 1;  // rows may be left out after it
  const model::HyperParams& p = model.params();
  if ((il == last) != (other == last) || p.is_sliding(il) != p.is_sliding(other) ||
      p.rope(il) != p.rope(other))
    return false;
  const auto segment = model::SegmentId::of_layer(il), other_segment = model::SegmentId::of_layer(other);
  const auto same_tensor = [](const model::SegmentTensor& a, const model::SegmentTensor& b) {
    return a.role == b.role && a.tensor->type == b.tensor->type && a.tensor->ne == b.tensor->ne;
  };
  return std::ranges::equal(model.segment(segment), model.segment(other_segment), same_tensor) &&
         std::ranges::equal(weights.parts(segment), weights.parts(other_segment));
}

void Window::Impl::find_kinds() {
  std::vector<std::uint32_t> examples;  // a layer of each kind
  for (std::uint32_t il = layers.begin; il < layers.end; ++il) {
    const auto found =
        std::ranges::find_if(examples, [&](std::uint32_t example) { return same_kind(il, example); });
    kind_of.push_back(static_cast<std::uint32_t>(found - examples.begin()));
    if (found == examples.end()) examples.push_back(il);
  }
}

std::span<float> Window::input(std::uint32_t n_tokens) {
  HEARTH_CHECK(n_tokens <= impl_->scratch.options().n_ubatch);
  return {impl_->scratch.hidden, std::size_t{n_tokens} * impl_->model.params().n_embd};
}

plan::LayerRange Window::layers() const {
  return impl_->layers;
}
const CellTable& Window::cells() const {
  return impl_->cells;
}
KvStorage& Window::kv() {
  return *impl_->kv;
}

Result<std::span<const float>> Window::run(const wire::Batch& batch) {
  Impl& w = *impl_;
  const auto n_tokens = static_cast<std::uint32_t>(batch.tokens.size());
  HEARTH_CHECK(n_tokens <= w.scratch.options().n_ubatch);
  HEARTH_TRY_VOID(w.apply(batch.operations));
  HEARTH_TRY(const SlidingPlace at, w.place(batch));
  if (batch.operations_only || n_tokens == 0) return std::span<const float>{};

  const Shape shape = w.shape_of(batch);
  GraphSet& set = w.graphs_for(shape);
  w.fill_inputs(batch, shape, {}, at);
  for (std::uint32_t il = w.layers.begin; il < w.layers.end; ++il) {
    HEARTH_TRY_VOID(w.compute(il, set));
    HEARTH_TRY_VOID(w.check_rows(il, batch, shape));
  }
  return std::span<const float>(w.scratch.hidden, std::size_t{shape.n_out} * w.model.params().n_embd);
}

Result<SlidingPlace> Window::Impl::place(const wire::Batch& batch) {
  HEARTH_TRY_VOID(cells.place(batch.tokens));
  SlidingPlace at;
  if (sliding) {
    HEARTH_TRY(at.cells, sliding->place(batch.tokens));
  }
  return at;
}

Shape Window::Impl::shape_of(const wire::Batch& batch) const {
  const auto n_tokens = static_cast<std::uint32_t>(batch.tokens.size());
  const auto seen = [](const CellTable& table) {
    return std::min(table.size(), std::max(kCellPadding, pad_cells(table.used_end())));
  };
  return {.n_tokens = n_tokens,
          .n_kv = seen(cells),
          .n_out = is_last() ? batch.n_outputs() : n_tokens,
          .n_kv_sliding = sliding ? seen(sliding->table()) : 0};
}

// After a layer: its rows are numbers.
Result<> Window::Impl::check_rows(std::uint32_t il, const wire::Batch& batch, const Shape& shape) const {
  const std::size_t n_embd = model.params().n_embd;
  const std::size_t n_rows = il + 1 == model.params().n_layer ? shape.n_out : shape.n_tokens;
  const std::span<const float> rows(scratch.hidden, n_rows * n_embd);
  const std::size_t row = wire::first_non_finite_row(rows, n_embd);
  if (row >= n_rows) return {};
  const std::size_t token = n_rows < shape.n_tokens ? static_cast<std::size_t>(scratch.out_rows[row]) : row;
  return fail(
      ErrorCode::kNumeric,
      "layer {} gave a NaN or Inf in row {} of {} (position {}) of batch {}: the weights of this layer "
      "are damaged or overflow",
      il, row, n_rows, batch.tokens[token].position, batch.id);
}

Result<LayerGraph*> Window::Impl::graph_of(std::uint32_t il, GraphSet& set) {
  LayerGraph& layer = set.kinds[kind_of[il - layers.begin]];
  if (layer.graph == nullptr || layer.generation != scratch.generation()) {
    HEARTH_TRY(layer, build(il, set.shape));
  }
  point_at(layer.k, kv->k(il));
  point_at(layer.v, kv->v(il));
  return &layer;
}

// The layer, part by part: take(part) gives the places of its weights, leave(part) follows, also when
// computing failed.
template <class Take, class Leave>
Result<> Window::Impl::compute_parts(std::uint32_t il, GraphSet& set, Take take, Leave leave) {
  HEARTH_TRY(LayerGraph* const layer, graph_of(il, set));
  const std::size_t n_parts = weights.parts(model::SegmentId::of_layer(il)).size();
  for (std::uint32_t part = 0; part < n_parts; ++part) {
    HEARTH_TRY(const std::span<const residency::TensorPlace> places, take(part));
    point_weights(std::span(layer->weights).subspan(layer->first[part], places.size()), places);
    ggml_cgraph* const graph = n_parts == 1 ? layer->graph : layer->slices.graphs[part];
    Result<> computed;
    if (graph != nullptr) computed = scratch.backend().compute(graph);
    leave(part);
    HEARTH_TRY_VOID(std::move(computed));
  }
  return {};
}

// Weights come and go while others are computed with.
Result<> Window::Impl::compute(std::uint32_t il, GraphSet& set) {
  const auto segment = model::SegmentId::of_layer(il);
  return compute_parts(
      il, set, [&](std::uint32_t part) { return weights.acquire(segment, part); },
      [&](std::uint32_t part) { weights.release(segment, part); });
}

Result<> Window::check_shift(const model::ModelFile& model) {
  if (model.params().sliding.empty()) return {};
  return fail(
      ErrorCode::kUnsupported,
      "the context of {} models cannot be shifted: layers with a sliding window have dropped what would "
      "come back into sight; ask for a larger context (-c) instead of --context-shift",
      model.arch().name);
}

std::uint64_t Window::table_bytes(std::uint32_t n_cells) {
  return CellTable::bytes(n_cells) +
         n_cells * (sizeof(std::int32_t) + sizeof(std::uint32_t)) +  // deltas, arrivals
         kGraphBytes;
}

std::uint64_t Window::group_bytes(const model::HyperParams& params, std::uint32_t n_tokens) {
  return std::uint64_t{n_tokens} * params.n_embd * sizeof(float);
}

Result<> Window::run_group(std::span<GroupItem> items) {
  Impl& w = *impl_;
  Result<> done = w.place_group(items);
  for (std::uint32_t il = w.layers.begin; done && il < w.layers.end; ++il) {
    done = w.compute_group(il, items);
    w.release_held(model::SegmentId::of_layer(il));  // after an error
  }
  for (const GroupItem& item : items)
    for (const wire::BatchToken& token : item.batch->tokens)
      if (token.cell < w.arrivals.size()) w.arrivals[token.cell] = 0;
  return done;
}

// The table as it is after the last batch, and what must be known of its states before.
Result<> Window::Impl::place_group(std::span<GroupItem> items) {
  arrivals.resize(cells.size());
  shapes.clear();
  slid.clear();
  for (std::size_t i = 0; i < items.size(); ++i) {
    GroupItem& item = items[i];
    const wire::Batch& batch = *item.batch;
    HEARTH_CHECK(batch.tokens.size() <= scratch.options().n_ubatch);
    HEARTH_CHECK(i == 0 || may_follow(batch), "operations in the middle of a group");
    HEARTH_TRY_VOID(apply(batch.operations));
    HEARTH_TRY(slid.emplace_back(), place(batch));
    if (sliding && i + 1 < items.size()) slid.back().table = sliding->table();
    for (const wire::BatchToken& token : batch.tokens)
      arrivals[token.cell] = static_cast<std::uint32_t>(i) + 1;
    shapes.push_back(batch.operations_only ? Shape{} : shape_of(batch));
    item.n_rows = shapes.back().n_out;
    HEARTH_CHECK(shapes.back().n_tokens == 0 ||
                 item.rows.size() == std::size_t{shapes.back().n_tokens} * model.params().n_embd);
  }
  return {};
}

// One layer over all batches, whose rows it replaces. Where its parts can be held, the first batch takes them
// as they come, and the last gives them back one by one: the next layer is read meanwhile.
Result<> Window::Impl::compute_group(std::uint32_t il, std::span<GroupItem> items) {
  const auto is_computed = [](const Shape& shape) { return shape.n_tokens > 0; };
  std::size_t n_left = static_cast<std::size_t>(std::ranges::count_if(shapes, is_computed));
  HEARTH_CHECK(held.empty());
  const bool holds = n_left > 1 && weights.can_hold(model::SegmentId::of_layer(il));
  for (std::size_t i = 0; i < items.size(); ++i) {
    const GroupItem& item = items[i];
    const Shape& shape = shapes[i];
    if (shape.n_tokens == 0) continue;
    std::ranges::copy(item.rows, scratch.hidden);
    fill_inputs(*item.batch, shape, {.of_cell = arrivals, .now = static_cast<std::uint32_t>(i) + 1}, slid[i]);
    GraphSet& set = graphs_for(shape);
    HEARTH_TRY_VOID(!holds         ? compute(il, set)
                    : held.empty() ? compute_and_hold(il, set)
                    : n_left > 1   ? compute_held(il, set)
                                   : compute_and_release(il, set));
    --n_left;
    HEARTH_TRY_VOID(check_rows(il, *item.batch, shape));
    const std::size_t n_rows = il + 1 == layers.end ? shape.n_out : shape.n_tokens;
    std::copy_n(scratch.hidden, n_rows * model.params().n_embd, item.rows.begin());
  }
  return {};
}

// The whole layer; its parts are there.
Result<> Window::Impl::compute_held(std::uint32_t il, GraphSet& set) {
  HEARTH_TRY(LayerGraph* const layer, graph_of(il, set));
  for (std::size_t part = 0; part < held.size(); ++part)
    point_weights(std::span(layer->weights).subspan(layer->first[part], held[part].size()), held[part]);
  return scratch.backend().compute(layer->graph);
}

// All parts stay; after an error those that came.
Result<> Window::Impl::compute_and_hold(std::uint32_t il, GraphSet& set) {
  held.reserve(weights.parts(model::SegmentId::of_layer(il)).size());
  const auto take = [&](std::uint32_t part) -> Result<std::span<const residency::TensorPlace>> {
    HEARTH_TRY(const auto places, weights.acquire(model::SegmentId::of_layer(il), part));
    held.push_back(places);
    return places;
  };
  return compute_parts(il, set, take, [](std::uint32_t) {});
}

Result<> Window::Impl::compute_and_release(std::uint32_t il, GraphSet& set) {
  const auto take = [&](std::uint32_t part) -> Result<std::span<const residency::TensorPlace>> {
    return held[part];
  };
  return compute_parts(il, set, take, [&](std::uint32_t part) {
    weights.release(model::SegmentId::of_layer(il), part);
    ++n_released;
  });
}

void Window::Impl::release_held(model::SegmentId segment) {
  for (std::uint32_t part = n_released; part < held.size(); ++part) weights.release(segment, part);
  held.clear();
  n_released = 0;
}

// The graphs of a shape, empty ones taking the place of those least recently used.
GraphSet& Window::Impl::graphs_for(const Shape& shape) {
  ++clock;
  auto found = std::ranges::find(graphs, shape, &GraphSet::shape);
  if (found == graphs.end()) {
    if (graphs.size() < kShapesKept) {
      found = graphs.emplace(graphs.end());
    } else {
      found = std::ranges::min_element(graphs, {}, &GraphSet::last_used);
    }
    *found = GraphSet{.shape = shape, .last_used = clock, .kinds = {}};
    found->kinds.resize(std::ranges::max(kind_of) + std::size_t{1});
  }
  found->last_used = clock;
  return *found;
}

Result<LayerGraph> Window::Impl::build(std::uint32_t il, const Shape& shape) {
  LayerGraph built;
  const auto segment = model::SegmentId::of_layer(il);
  const auto parts = weights.parts(segment);
  std::size_t n_weights = 0;
  for (const residency::Part& part : parts) n_weights += part.n_tensors;
  const model::HyperParams& p = model.params();
  const std::size_t n_nodes = max_layer_nodes(n_weights, p.n_expert_used);
  built.ctx = residency::make_context(max_layer_tensors(n_weights, p.n_expert_used),
                                      ggml_graph_overhead_custom(n_nodes, false));
  ggml_context* ctx = built.ctx.get();
  built.graph = ggml_new_graph_custom(ctx, n_nodes, false);
  LayerWeights by_role;
  for (const residency::Part& part : parts) {
    built.first.push_back(built.weights.size());
    const auto tensors = scratch.declare(ctx, model, segment, part, by_role);
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
  built.k = declare_like(ctx, kv->k(il));
  built.v = declare_like(ctx, kv->v(il));
  const LayerKv layer_kv = {.k = built.k.tensor, .v = built.v.tensor, .n_kv = n_kv};
  const LayerOptions options = {
      .layer = il, .n_ctx = scratch.options().n_cells, .flash_attention = scratch.options().flash_attention};
  ggml_tensor* out = build_layer(ctx, built.graph, model, options, by_role, layer_kv, in);
  // The layer's output takes the place of its input, whose last reader ran before.
  if (out != nullptr) scratch.place(out, scratch.hidden);
  HEARTH_TRY_VOID(scratch.allocate(built.graph));
  find_views(ctx, built.k);
  find_views(ctx, built.v);
  if (parts.size() > 1) built.slices = cut(built.graph, built.weights, built.first);
  built.generation = scratch.generation();
  return built;
}

Result<> Window::Impl::apply(std::span<const wire::KvOp> operations) {
  bool shifted = false;
  const auto add_to = [&shifted](std::vector<std::int32_t>& sums) {
    return [&](std::uint32_t cell, std::int32_t delta) {
      shifted = true;
      sums[cell] += delta;
    };
  };
  if (std::ranges::contains(operations, wire::KvOpKind::kShift, &wire::KvOp::kind)) {
    deltas.assign(cells.size(), 0);
    if (sliding) sliding_deltas.assign(sliding->table().size(), 0);
  }
  for (const wire::KvOp& operation : operations) {
    HEARTH_TRY_VOID(cells.apply(operation, add_to(deltas)));
    if (sliding) HEARTH_TRY_VOID(sliding->apply(operation, add_to(sliding_deltas)));
  }
  return shifted ? shift_keys() : Result<>{};
}

Result<> Window::Impl::shift_keys() {
  for (std::uint32_t il = layers.begin; il < layers.end; ++il) {
    if (!model.params().rope(il).is_on) continue;
    const bool slides = model.params().is_sliding(il);
    const std::uint32_t n_cells = slides ? sliding->table().used_end() : cells.used_end();
    if (n_cells == 0) continue;
    std::copy_n((slides ? sliding_deltas : deltas).begin(), n_cells, scratch.deltas);
    HEARTH_TRY_VOID(shift_layer(il, n_cells));
  }
  return {};
}

// By scratch.deltas. Quantized keys a few cells at a time: by way of f32 they take memory.
Result<> Window::Impl::shift_layer(std::uint32_t il, std::uint32_t n_cells) {
  // Of the weights only the RoPE factors matter: where there are none nothing is fetched.
  const auto segment = model::SegmentId::of_layer(il);
  const auto& tensors = model.segment(segment);
  const model::Role role = rope_factors(model, scratch.options().n_cells);
  const auto at = static_cast<std::size_t>(std::ranges::find(tensors, role, &model::SegmentTensor::role) -
                                           tensors.begin());
  const bool has_factors = at < tensors.size();
  const auto parts = weights.parts(segment);
  std::uint32_t part = 0;
  std::span<const residency::TensorPlace> factors;
  if (has_factors) {
    while (at >= parts[part].first_tensor + parts[part].n_tensors) ++part;
    HEARTH_TRY(const auto places, weights.acquire(segment, part));
    factors = places.subspan(at - parts[part].first_tensor, 1);
  }
  const std::uint32_t step = ggml_is_quantized(kv->k(il)->type) ? kShiftCells : n_cells;
  Result<> done;
  for (std::uint32_t first = 0; done && first < n_cells; first += step)
    done = shift_cells(il, first, std::min(step, n_cells - first), has_factors ? tensors[at].tensor : nullptr,
                       factors);
  if (has_factors) weights.release(segment, part);
  return done;
}

Result<> Window::Impl::shift_cells(std::uint32_t il, std::uint32_t first, std::uint32_t n,
                                   const gguf::Tensor* rope_factors,
                                   std::span<const residency::TensorPlace> at) {
  const residency::ContextPtr ctx =
      residency::make_context(2 * kShiftNodes, ggml_graph_overhead_custom(kShiftNodes, false));
  ggml_cgraph* graph = ggml_new_graph_custom(ctx.get(), kShiftNodes, false);
  ggml_tensor* factors = nullptr;
  if (rope_factors != nullptr) {
    factors = residency::declare(ctx.get(), *rope_factors);
    point_weights({&factors, 1}, at);
  }
  ggml_tensor* delta = scratch.place(ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, n), scratch.deltas + first);
  ggml_build_forward_expand(graph, build_key_shift(ctx.get(), model, il, kv->k(il), first, delta, factors,
                                                   scratch.rotation_of_keys(ctx.get())));
  HEARTH_TRY_VOID(scratch.allocate(graph));
  return scratch.backend().compute(graph);
}

void Window::Impl::fill_inputs(const wire::Batch& batch, const Shape& shape, const Arrivals& seen,
                               const SlidingPlace& at) {
  std::int32_t out = 0;
  for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
    scratch.positions[i] = batch.tokens[i].position;
    scratch.cells[i] = batch.tokens[i].cell;
    if (sliding) scratch.sliding_cells[i] = at.cells[i];
    if (batch.tokens[i].output) scratch.out_rows[out++] = static_cast<std::int32_t>(i);
  }
  write_mask(scratch.mask, batch, {.cells = cells, .n_kv = shape.n_kv, .arrivals = seen});
  if (sliding)
    write_mask(scratch.sliding_mask, batch,
               {.cells = at.table ? *at.table : sliding->table(),
                .n_kv = shape.n_kv_sliding,
                .n_swa = sliding->n_swa()});
}

void Window::Impl::write_mask(void* mask, const wire::Batch& batch, const Sight& sight) const {
  if (scratch.options().flash_attention)
    fill_mask<ggml_fp16_t>(static_cast<ggml_fp16_t*>(mask), batch, sight, kHalfMinusInfinity);
  else
    fill_mask<float>(static_cast<float*>(mask), batch, sight, -std::numeric_limits<float>::infinity());
}

}  // namespace hearth::compute
