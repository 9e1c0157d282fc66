#include "compute/head.h"

#include <algorithm>
#include <vector>

#include "compute/layer_graph.h"
#include "compute/scratch.h"
#include "residency/ggml_tensors.h"
#include "wire/hidden.h"

namespace hearth::compute {
namespace {

constexpr std::size_t kMaxNodes = 16;
constexpr std::size_t kMaxTensors = 32;

// A graph over one part of a segment.
struct SmallGraph {
  residency::ContextPtr ctx;
  ggml_cgraph* graph = nullptr;       // without nodes: nothing to compute
  std::vector<ggml_tensor*> weights;  // of the part
};

// The graphs of a segment, one per part, for one number of rows.
struct GraphSet {
  std::int64_t n_rows = 0;
  std::vector<SmallGraph> parts;
};

}  // namespace

struct Head::Impl {
  Backend& backend;
  const model::ModelFile& model;
  residency::WeightSource& weights;
  std::uint32_t max_tokens, max_outputs;
  residency::BufferPtr io;
  float* rows = nullptr;           // [max(max_tokens, max_outputs)][n_embd]
  std::int32_t* tokens = nullptr;  // [max_tokens]
  float* logits = nullptr;         // [max_outputs][n_vocab]
  float* normed = nullptr;         // [max_outputs][n_embd]: rows after the norm, for an output in parts
  float* block = nullptr;          // [max_outputs][largest block]: a part's logits of several rows
  std::unique_ptr<ggml_gallocr, FreeAllocator> activations;
  std::size_t io_bytes = 0;
  GraphSet embed_one, embed_many, output_one, output_many;

  ggml_tensor* place(ggml_tensor* tensor, void* address) const {
    tensor->data = address;
    tensor->buffer = io.get();
    return tensor;
  }
  // Declares the part's tensors in a fresh graph.
  void begin(SmallGraph& g, model::SegmentId segment, const residency::Part& part);
  Result<> build_embed(GraphSet& set, std::int64_t n_rows);
  Result<> build_output(GraphSet& set, std::int64_t n_rows);
  // The model's scale and soft cap of logits, in place.
  ggml_tensor* finished(ggml_context* ctx, ggml_tensor* logits) const;
  // Part by part as the weights come; a block's logits go to their place.
  Result<> run(GraphSet& set, model::SegmentId segment);
  void place_block(const residency::Part& part, std::int64_t n_rows) const;
};

Head::Head(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Head::~Head() = default;
std::uint64_t Head::bytes() const {
  return impl_->io_bytes + ggml_gallocr_get_buffer_size(impl_->activations.get(), 0);
}

Result<std::unique_ptr<Head>> Head::create(Backend& backend, const model::ModelFile& model,
                                           residency::WeightSource& weights, std::uint32_t max_tokens,
                                           std::uint32_t max_outputs) {
  HEARTH_CHECK(max_tokens > 0 && max_outputs > 0);
  std::unique_ptr<Impl> impl(new Impl{.backend = backend,
                                      .model = model,
                                      .weights = weights,
                                      .max_tokens = max_tokens,
                                      .max_outputs = max_outputs,
                                      .io = {},
                                      .activations = {},
                                      .embed_one = {},
                                      .embed_many = {},
                                      .output_one = {},
                                      .output_many = {}});
  const std::size_t n_embd = model.params().n_embd, n_vocab = model.params().n_vocab;
  constexpr std::size_t kAlignment = 64;
  const std::size_t rows_bytes = std::size_t{std::max(max_tokens, max_outputs)} * n_embd * sizeof(float);
  const std::size_t logits_bytes = std::size_t{max_outputs} * n_vocab * sizeof(float);
  const auto parts = weights.parts(model::SegmentId::output());
  const bool in_parts = parts.size() > 1;
  std::size_t largest_block = 0;
  for (const residency::Part& part : parts)
    largest_block = std::max<std::size_t>(largest_block, part.row_end - part.row_begin);
  const std::size_t normed_bytes = in_parts ? max_outputs * n_embd * sizeof(float) : 0;
  const std::size_t block_bytes =
      in_parts && max_outputs > 1 ? max_outputs * largest_block * sizeof(float) : 0;
  const std::size_t total = rows_bytes + logits_bytes + normed_bytes + block_bytes +
                            max_tokens * sizeof(std::int32_t) + 6 * kAlignment;
  impl->io.reset(ggml_backend_buft_alloc_buffer(backend.buffer_type(), total));
  impl->activations.reset(ggml_gallocr_new(backend.buffer_type()));
  if (!impl->io || !impl->activations)
    return fail(ErrorCode::kOutOfMemory,
                "the output head needs {} bytes for {} rows of {} logits, which are not free", total,
                max_outputs, n_vocab);
  auto address = reinterpret_cast<std::uintptr_t>(ggml_backend_buffer_get_base(impl->io.get()));
  const auto take = [&](std::size_t bytes) {
    address = (address + kAlignment - 1) / kAlignment * kAlignment;
    void* part = reinterpret_cast<void*>(address);
    address += bytes;
    return part;
  };
  impl->rows = static_cast<float*>(take(rows_bytes));
  impl->logits = static_cast<float*>(take(logits_bytes));
  impl->normed = static_cast<float*>(take(normed_bytes));
  impl->block = static_cast<float*>(take(block_bytes));
  impl->tokens = static_cast<std::int32_t*>(take(max_tokens * sizeof(std::int32_t)));
  impl->io_bytes = total;
  // A graph for the most rows decides the size of the activations; later ones are smaller and find them
  // there.
  GraphSet largest;
  HEARTH_TRY_VOID(impl->build_output(largest, max_outputs));
  return std::unique_ptr<Head>(new Head(std::move(impl)));
}

void Head::Impl::begin(SmallGraph& g, model::SegmentId segment, const residency::Part& part) {
  g.ctx = residency::make_context(kMaxTensors, ggml_graph_overhead_custom(kMaxNodes, false));
  g.graph = ggml_new_graph_custom(g.ctx.get(), kMaxNodes, false);
  g.weights = residency::declare(g.ctx.get(), model.segment(segment), part);
  for (ggml_tensor* weight : g.weights) place(weight, rows);  // somewhere, until it is known where
}

// rows = token_embd[tokens] * embedding_scale
Result<> Head::Impl::build_embed(GraphSet& set, std::int64_t n_rows) {
  const auto segment = model::SegmentId::embedding();
  const auto parts = weights.parts(segment);
  HEARTH_CHECK(parts.size() == 1, "rows are looked up in the whole embedding");
  set = {.n_rows = n_rows, .parts = {}};
  SmallGraph& g = set.parts.emplace_back();
  begin(g, segment, parts[0]);
  ggml_tensor* ids = place(ggml_new_tensor_1d(g.ctx.get(), GGML_TYPE_I32, n_rows), tokens);
  ggml_tensor* embedded = place(ggml_get_rows(g.ctx.get(), g.weights[0], ids), rows);
  if (const float scale = model.params().embedding_scale; scale != 1.0F)
    embedded = place(ggml_scale_inplace(g.ctx.get(), embedded, scale), rows);
  ggml_build_forward_expand(g.graph, embedded);
  return {};
}

// logits = scaled and capped(output * rms_norm(rows)). In parts, the normed rows are kept for the blocks that
// follow.
Result<> Head::Impl::build_output(GraphSet& set, std::int64_t n_rows) {
  const auto segment = model::SegmentId::output();
  const auto parts = weights.parts(segment);
  const std::int64_t n_embd = model.params().n_embd;
  set = {.n_rows = 0, .parts = {}};  // until it is complete
  for (const residency::Part& part : parts) {
    SmallGraph& g = set.parts.emplace_back();
    begin(g, segment, part);
    ggml_tensor *norm = nullptr, *output = nullptr;
    for (std::size_t i = 0; i < g.weights.size(); ++i) {
      const model::Role role = model.segment(segment)[part.first_tensor + i].role;
      if (role == model::Role::kOutputNorm) norm = g.weights[i];
      if (role == model::Role::kOutput) output = g.weights[i];
    }
    HEARTH_CHECK((norm != nullptr) == (set.parts.size() == 1), "the norm comes with the first part");
    ggml_tensor* x = place(ggml_new_tensor_2d(g.ctx.get(), GGML_TYPE_F32, n_embd, n_rows),
                           norm != nullptr ? rows : normed);
    if (norm != nullptr) {
      x = rms_norm(g.ctx.get(), x, norm, model.params().rms_eps);
      if (parts.size() > 1) place(x, normed);
      ggml_build_forward_expand(g.graph, x);
    }
    if (output != nullptr) {
      const bool direct = n_rows == 1 || part.row_end == 0;
      ggml_tensor* out = finished(
          g.ctx.get(), place(ggml_mul_mat(g.ctx.get(), output, x), direct ? logits + part.row_begin : block));
      ggml_build_forward_expand(g.graph, out);
    }
    if (!ggml_gallocr_alloc_graph(activations.get(), g.graph))
      return fail(ErrorCode::kOutOfMemory, "the output head's activations for {} rows do not fit in memory",
                  n_rows);
  }
  set.n_rows = n_rows;
  return {};
}

ggml_tensor* Head::Impl::finished(ggml_context* ctx, ggml_tensor* out) const {
  const model::HyperParams& p = model.params();
  if (p.logit_scale != 1.0F) out = ggml_scale_inplace(ctx, out, p.logit_scale);
  return soft_cap(ctx, out, p.logit_cap);
}

Result<> Head::Impl::run(GraphSet& set, model::SegmentId segment) {
  const auto parts = weights.parts(segment);
  for (std::uint32_t part = 0; part < parts.size(); ++part) {
    HEARTH_TRY(const auto places, weights.acquire(segment, part));
    const SmallGraph& g = set.parts[part];
    for (std::size_t i = 0; i < g.weights.size(); ++i) {
      g.weights[i]->data = places[i].data;
      g.weights[i]->buffer = places[i].buffer;
      g.weights[i]->extra = places[i].extra;
    }
    Result<> done = backend.compute(g.graph);
    weights.release(segment, part);
    HEARTH_TRY_VOID(std::move(done));
    if (parts[part].row_end != 0 && set.n_rows > 1) place_block(parts[part], set.n_rows);
  }
  return {};
}

void Head::Impl::place_block(const residency::Part& part, std::int64_t n_rows) const {
  const std::size_t n = part.row_end - part.row_begin;
  for (std::size_t row = 0; row < static_cast<std::size_t>(n_rows); ++row)
    std::copy_n(block + row * n, n, logits + row * model.params().n_vocab + part.row_begin);
}

Result<> Head::embed(std::span<const std::int32_t> tokens, std::span<float> rows) {
  Impl& h = *impl_;
  const std::size_t n_embd = h.model.params().n_embd;
  HEARTH_CHECK(!tokens.empty() && tokens.size() <= h.max_tokens && rows.size() == tokens.size() * n_embd);
  for (const std::int32_t token : tokens)
    if (token < 0 || static_cast<std::uint32_t>(token) >= h.model.params().n_vocab)
      return fail(ErrorCode::kInvalidArgument, "token {} is not in the vocabulary of {} tokens", token,
                  h.model.params().n_vocab);
  const auto n = static_cast<std::int64_t>(tokens.size());
  GraphSet& set = n == 1 ? h.embed_one : h.embed_many;
  if (set.n_rows != n) HEARTH_TRY_VOID(h.build_embed(set, n));
  std::ranges::copy(tokens, h.tokens);
  HEARTH_TRY_VOID(h.run(set, model::SegmentId::embedding()));
  std::copy_n(h.rows, rows.size(), rows.begin());
  return {};
}

Result<std::span<const float>> Head::logits(std::span<const float> hidden) {
  Impl& h = *impl_;
  const std::size_t n_embd = h.model.params().n_embd, n_vocab = h.model.params().n_vocab;
  HEARTH_CHECK(!hidden.empty() && hidden.size() % n_embd == 0 && hidden.size() / n_embd <= h.max_outputs);
  const auto n = static_cast<std::int64_t>(hidden.size() / n_embd);
  GraphSet& set = n == 1 ? h.output_one : h.output_many;
  if (set.n_rows != n) HEARTH_TRY_VOID(h.build_output(set, n));
  std::ranges::copy(hidden, h.rows);
  HEARTH_TRY_VOID(h.run(set, model::SegmentId::output()));
  const std::span<const float> logits(h.logits, static_cast<std::size_t>(n) * n_vocab);
  if (const std::size_t row = wire::first_non_finite_row(logits, n_vocab); row < static_cast<std::size_t>(n))
    return fail(ErrorCode::kNumeric,
                "the output head gave a NaN or Inf logit in row {} of {}: its weights are damaged", row, n);
  return logits;
}

}  // namespace hearth::compute
