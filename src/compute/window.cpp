#include "compute/window.h"

#include <algorithm>
#include <array>
#include <format>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compute/layer_graphs.h"
#include "compute/sliding_cells.h"
#include "wire/hidden.h"

namespace hearth::compute {
namespace {

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
  Scratches scratches;
  Scratch& scratch;  // the processor's: the plain memory
  const model::ModelFile& model;
  plan::LayerRange layers;
  residency::WeightSource& weights;
  CellTable cells;
  std::optional<SlidingCells> sliding;  // of the layers with a sliding window, if there are any
  std::unique_ptr<KvStorage> kv;
  LayerGraphs graphs;
  // [n_cells] of the shift being applied, of both kinds of layers.
  std::vector<std::int32_t> deltas, sliding_deltas;
  // Of the group at hand.
  std::vector<Shape> shapes;            // of each batch; n_tokens = 0: nothing to compute
  std::vector<SlidingPlace> slid;       // of each batch
  std::vector<std::uint32_t> arrivals;  // [n_cells], all 0 between groups; empty before the first
  std::vector<std::span<const residency::TensorPlace>> held;  // of a layer's parts
  std::uint32_t n_released = 0;                               // the first of them that went already
  // Of the batch at hand: whether the GPU has its inputs; the first layer that the rows went to it for.
  bool inputs_sent = false;
  std::optional<std::uint32_t> on_gpu_since;

  [[nodiscard]] Scratch& scratch_of(std::uint32_t il) const { return scratches.of(weights, il); }
  [[nodiscard]] bool is_last() const { return layers.end == model.params().n_layer; }
  // The batch's tokens in both tables.
  Result<SlidingPlace> place(const wire::Batch& batch);
  [[nodiscard]] Shape shape_of(const wire::Batch& batch) const;  // in the state after the batch was placed
  template <class Take, class Leave>
  Result<> compute_parts(std::uint32_t il, const Shape& shape, Take take, Leave leave);
  Result<> compute_layers(const wire::Batch& batch, const Shape& shape);
  Result<> bring_rows(std::uint32_t il, const wire::Batch& batch, const Shape& shape);
  Result<> take_rows_back(std::uint32_t end, const wire::Batch& batch, const Shape& shape);
  Result<> send_inputs(const Shape& shape);
  void settle();
  [[nodiscard]] std::size_t n_rows_after(std::uint32_t il, const Shape& shape) const {
    return il + 1 == model.params().n_layer ? shape.n_out : shape.n_tokens;
  }
  Result<> compute(std::uint32_t il, const Shape& shape);
  Result<> compute_and_hold(std::uint32_t il, const Shape& shape);
  Result<> compute_held(std::uint32_t il, const Shape& shape);
  Result<> compute_and_release(std::uint32_t il, const Shape& shape);
  void release_held(model::SegmentId segment);
  Result<> place_group(std::span<GroupItem> items);
  Result<> compute_group(std::uint32_t il, std::span<GroupItem> items);
  Result<> check_rows(plan::LayerRange checked, const wire::Batch& batch, const Shape& shape) const;
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

Result<std::unique_ptr<Window>> Window::create(Scratches scratches, const model::ModelFile& model,
                                               plan::LayerRange layers, residency::WeightSource& weights,
                                               wire::KvTypes kv_type) {
  HEARTH_CHECK(layers.begin < layers.end && layers.end <= model.params().n_layer);
  Scratch& scratch = scratches.cpu;
  HEARTH_CHECK(kv_rotation(model.params(), kv_type) == kv_rotation(model.params(), scratch.options().kv_type),
               "buffers for other types of keys and values");
  HEARTH_TRY_VOID(KvStorage::check(model.params(), kv_type, scratch.options().flash_attention));
  const std::uint32_t n_cells = scratch.options().n_cells;
  std::vector<KvCells> cells;
  bool slides = false;
  for (std::uint32_t il = layers.begin; il < layers.end; ++il) {
    cells.push_back({.backend = &scratches.of(weights, il).backend(),
                     .n_cells = layer_cells(model.params(), il, scratch.options())});
    slides = slides || model.params().is_sliding(il);
  }
  HEARTH_TRY(auto kv, KvStorage::create(model.params(), layers, kv_type, cells));
  LayerGraphs graphs(scratches, model, layers, weights, *kv);
  std::unique_ptr<Impl> impl(new Impl{.scratches = scratches,
                                      .scratch = scratch,
                                      .model = model,
                                      .layers = layers,
                                      .weights = weights,
                                      .cells = CellTable(n_cells),
                                      .sliding = {},
                                      .kv = std::move(kv),
                                      .graphs = std::move(graphs),
                                      .deltas = {},
                                      .sliding_deltas = {},
                                      .shapes = {},
                                      .slid = {},
                                      .arrivals = {},
                                      .held = {},
                                      .n_released = 0,
                                      .inputs_sent = false,
                                      .on_gpu_since = {}});
  if (slides) impl->sliding.emplace(scratch.n_sliding_cells, model.params().n_swa);
  return std::unique_ptr<Window>(new Window(std::move(impl)));
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
  w.fill_inputs(batch, shape, {}, at);
  if (auto done = w.compute_layers(batch, shape); !done) {
    w.settle();
    return std::unexpected(std::move(done).error());
  }
  return std::span<const float>(w.scratch.hidden, std::size_t{shape.n_out} * w.model.params().n_embd);
}

Result<> Window::Impl::compute_layers(const wire::Batch& batch, const Shape& shape) {
  for (std::uint32_t il = layers.begin; il < layers.end; ++il) {
    HEARTH_TRY_VOID(bring_rows(il, batch, shape));
    HEARTH_TRY_VOID(compute(il, shape));
    if (!on_gpu_since) HEARTH_TRY_VOID(check_rows({il, il + 1}, batch, shape));
  }
  return take_rows_back(layers.end, batch, shape);
}

// To where layer il is computed. From one layer of the GPU to the next they stay there.
Result<> Window::Impl::bring_rows(std::uint32_t il, const wire::Batch& batch, const Shape& shape) {
  Scratch& next = scratch_of(il);
  if (&next == &scratch) return take_rows_back(il, batch, shape);
  if (on_gpu_since) return {};
  HEARTH_TRY_VOID(send_inputs(shape));
  HEARTH_TRY_VOID(
      next.send(scratch.hidden, std::size_t{shape.n_tokens} * model.params().n_embd * sizeof(float)));
  on_gpu_since = il;
  return {};
}

// Of the layers before `end`, from the GPU if they are there.
Result<> Window::Impl::take_rows_back(std::uint32_t end, const wire::Batch& batch, const Shape& shape) {
  if (!on_gpu_since) return {};
  const plan::LayerRange computed = {*on_gpu_since, end};
  on_gpu_since.reset();
  HEARTH_TRY_VOID(scratches.gpu->fetch(scratch.hidden,
                                       n_rows_after(end - 1, shape) * model.params().n_embd * sizeof(float)));
  return check_rows(computed, batch, shape);
}

Result<> Window::Impl::send_inputs(const Shape& shape) {
  if (std::exchange(inputs_sent, true)) return {};
  const std::size_t mask_value = scratch.options().flash_attention ? sizeof(ggml_fp16_t) : sizeof(float);
  const std::size_t n = shape.n_tokens, n_sliding = sliding ? n : 0;
  struct Piece {
    const void* address;
    std::size_t bytes;
  };
  for (const auto& [address, bytes] :
       {Piece{scratch.positions, n * sizeof(*scratch.positions)},
        Piece{scratch.cells, n * sizeof(*scratch.cells)}, Piece{scratch.mask, n * shape.n_kv * mask_value},
        Piece{scratch.out_rows, is_last() ? shape.n_out * sizeof(*scratch.out_rows) : 0},
        Piece{scratch.sliding_cells, n_sliding * sizeof(*scratch.sliding_cells)},
        Piece{scratch.sliding_mask, n_sliding * shape.n_kv_sliding * mask_value}})
    HEARTH_TRY_VOID(scratches.gpu->send(address, bytes));
  return {};
}

// After an error: what was sent to the GPU is read before it may change.
void Window::Impl::settle() {
  if (scratches.gpu != nullptr) (void)scratches.gpu->backend().synchronize();
  on_gpu_since.reset();
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

// After layers: their rows are numbers.
Result<> Window::Impl::check_rows(plan::LayerRange checked, const wire::Batch& batch,
                                  const Shape& shape) const {
  const std::size_t n_embd = model.params().n_embd;
  const std::size_t n_rows = n_rows_after(checked.end - 1, shape);
  const std::span<const float> rows(scratch.hidden, n_rows * n_embd);
  const std::size_t row = wire::first_non_finite_row(rows, n_embd);
  if (row >= n_rows) return {};
  const std::size_t token = n_rows < shape.n_tokens ? static_cast<std::size_t>(scratch.out_rows[row]) : row;
  const std::string which = checked.size() == 1
                                ? std::format("layer {}", checked.begin)
                                : std::format("one of the layers {} to {}", checked.begin, checked.end - 1);
  return fail(ErrorCode::kNumeric,
              "{} gave a NaN or Inf in row {} of {} (position {}) of batch {}: the weights of this layer "
              "are damaged or overflow",
              which, row, n_rows, batch.tokens[token].position, batch.id);
}

// The layer, part by part: take(part) gives the places of its weights, leave(part) follows, also when
// computing failed.
template <class Take, class Leave>
Result<> Window::Impl::compute_parts(std::uint32_t il, const Shape& shape, Take take, Leave leave) {
  HEARTH_TRY(LayerGraph* const layer, graphs.of(il, shape));
  const std::size_t n_parts = weights.parts(model::SegmentId::of_layer(il)).size();
  for (std::uint32_t part = 0; part < n_parts; ++part) {
    HEARTH_TRY(const std::span<const residency::TensorPlace> places, take(part));
    point_weights(std::span(layer->weights).subspan(layer->first[part], places.size()), places);
    ggml_cgraph* const graph = n_parts == 1 ? layer->graph : layer->slices.graphs[part];
    Result<> computed;
    if (graph != nullptr) computed = scratch_of(il).backend().compute(graph);
    leave(part);
    HEARTH_TRY_VOID(std::move(computed));
  }
  return {};
}

// Weights come and go while others are computed with.
Result<> Window::Impl::compute(std::uint32_t il, const Shape& shape) {
  const auto segment = model::SegmentId::of_layer(il);
  return compute_parts(
      il, shape, [&](std::uint32_t part) { return weights.acquire(segment, part); },
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
         LayerGraphs::kBytes;
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
  if (!done) w.settle();
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
    HEARTH_TRY_VOID(bring_rows(il, *item.batch, shape));
    HEARTH_TRY_VOID(!holds         ? compute(il, shape)
                    : held.empty() ? compute_and_hold(il, shape)
                    : n_left > 1   ? compute_held(il, shape)
                                   : compute_and_release(il, shape));
    --n_left;
    if (on_gpu_since)
      HEARTH_TRY_VOID(take_rows_back(il + 1, *item.batch, shape));
    else
      HEARTH_TRY_VOID(check_rows({il, il + 1}, *item.batch, shape));
    std::copy_n(scratch.hidden, n_rows_after(il, shape) * model.params().n_embd, item.rows.begin());
  }
  return {};
}

// The whole layer; its parts are there.
Result<> Window::Impl::compute_held(std::uint32_t il, const Shape& shape) {
  HEARTH_TRY(LayerGraph* const layer, graphs.of(il, shape));
  for (std::size_t part = 0; part < held.size(); ++part)
    point_weights(std::span(layer->weights).subspan(layer->first[part], held[part].size()), held[part]);
  return scratch_of(il).backend().compute(layer->graph);
}

// All parts stay; after an error those that came.
Result<> Window::Impl::compute_and_hold(std::uint32_t il, const Shape& shape) {
  held.reserve(weights.parts(model::SegmentId::of_layer(il)).size());
  const auto take = [&](std::uint32_t part) -> Result<std::span<const residency::TensorPlace>> {
    HEARTH_TRY(const auto places, weights.acquire(model::SegmentId::of_layer(il), part));
    held.push_back(places);
    return places;
  };
  return compute_parts(il, shape, take, [](std::uint32_t) {});
}

Result<> Window::Impl::compute_and_release(std::uint32_t il, const Shape& shape) {
  const auto take = [&](std::uint32_t part) -> Result<std::span<const residency::TensorPlace>> {
    return held[part];
  };
  return compute_parts(il, shape, take, [&](std::uint32_t part) {
    weights.release(model::SegmentId::of_layer(il), part);
    ++n_released;
  });
}

void Window::Impl::release_held(model::SegmentId segment) {
  for (std::uint32_t part = n_released; part < held.size(); ++part) weights.release(segment, part);
  held.clear();
  n_released = 0;
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
  Result<> done = scratch_of(il).send(scratch.deltas, n_cells * sizeof(*scratch.deltas));
  for (std::uint32_t first = 0; done && first < n_cells; first += step)
    done = shift_cells(il, first, std::min(step, n_cells - first), has_factors ? tensors[at].tensor : nullptr,
                       factors);
  if (auto computed = scratch_of(il).backend().synchronize(); done) done = std::move(computed);
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
  Scratch& s = scratch_of(il);
  ggml_tensor* delta = s.place(ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, n), scratch.deltas + first);
  ggml_build_forward_expand(graph, build_key_shift(ctx.get(), model, il, kv->k(il), first, delta, factors,
                                                   s.rotation_of_keys(ctx.get())));
  HEARTH_TRY_VOID(s.allocate(graph));
  return s.backend().compute(graph);
}

void Window::Impl::fill_inputs(const wire::Batch& batch, const Shape& shape, const Arrivals& seen,
                               const SlidingPlace& at) {
  inputs_sent = false;
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
