#include "compute/head.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "compute/io_memory.h"
#include "compute/layer_graph.h"
#include "compute/layer_graphs.h"
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

// Where graphs are computed: what they see of the io memory, and their activations.
struct Side {
  Backend* backend = nullptr;
  const IoMemory* io = nullptr;
  std::unique_ptr<ggml_gallocr, FreeAllocator> activations;
};

// The model's scale and soft cap of logits, in place.
ggml_tensor* finished(ggml_context* ctx, const model::HyperParams& p, ggml_tensor* logits) {
  if (p.logit_scale != 1.0F) logits = ggml_scale_inplace(ctx, logits, p.logit_scale);
  return soft_cap(ctx, logits, p.logit_cap);
}

// The plain memory of a head whose output comes in `parts`.
struct IoLayout {
  std::size_t rows = 0, logits = 0, normed = 0, block = 0, tokens = 0;  // bytes of each
  [[nodiscard]] std::size_t total() const {
    return io_aligned(rows) + io_aligned(logits) + io_aligned(normed) + io_aligned(block) +
           io_aligned(tokens);
  }
};

IoLayout layout_of(const model::HyperParams& p, std::span<const residency::Part> parts,
                   std::uint32_t max_tokens, std::uint32_t max_outputs) {
  const std::size_t row = p.n_embd * sizeof(float), n_outputs = max_outputs;
  std::size_t largest_block = 0;
  for (const residency::Part& part : parts)
    largest_block = std::max<std::size_t>(largest_block, part.row_end - part.row_begin);
  const bool in_parts = parts.size() > 1;
  return {.rows = std::max(max_tokens, max_outputs) * row,
          .logits = n_outputs * p.n_vocab * sizeof(float),
          .normed = in_parts ? n_outputs * row : 0,
          .block = in_parts && n_outputs > 1 ? n_outputs * largest_block * sizeof(float) : 0,
          .tokens = max_tokens * sizeof(std::int32_t)};
}

}  // namespace

struct Head::Impl {
  const model::ModelFile& model;
  residency::WeightSource& weights;
  std::uint32_t max_tokens, max_outputs;
  std::unique_ptr<IoMemory> io, gpu_io;
  float* rows = nullptr;           // [max(max_tokens, max_outputs)][n_embd]
  std::int32_t* tokens = nullptr;  // [max_tokens]
  float* logits = nullptr;         // [max_outputs][n_vocab]
  float* normed = nullptr;         // [max_outputs][n_embd]: rows after the norm, for an output in parts
  float* block = nullptr;          // [max_outputs][largest block]: a part's logits of several rows
  Side embedding, output;
  GraphSet embed_one, embed_many, output_one, output_many;

  // Declares the part's tensors in a fresh graph.
  void begin(SmallGraph& g, const Side& side, model::SegmentId segment, const residency::Part& part);
  Result<> build_embed(GraphSet& set, std::int64_t n_rows);
  Result<> build_output(GraphSet& set, std::int64_t n_rows);
  // Part by part as the weights come; a block's logits go to their place.
  Result<> run(GraphSet& set, const Side& side, model::SegmentId segment);
  void place_block(const residency::Part& part, std::int64_t n_rows) const;
};

Head::Head(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Head::~Head() = default;
std::uint64_t Head::bytes() const {
  const Side& output = impl_->output;
  return impl_->io->bytes() +
         (output.backend->is_gpu() ? 0 : ggml_gallocr_get_buffer_size(output.activations.get(), 0));
}

Result<std::unique_ptr<Head>> Head::create(Backend& backend, const model::ModelFile& model,
                                           residency::WeightSource& weights, std::uint32_t max_tokens,
                                           std::uint32_t max_outputs, Backend* gpu) {
  HEARTH_CHECK(max_tokens > 0 && max_outputs > 0);
  const bool on_gpu = weights.on_gpu(model::SegmentId::output());
  HEARTH_CHECK(!on_gpu || gpu != nullptr, "an output head on a GPU that nothing is computed with");
  std::unique_ptr<Impl> impl(new Impl{.model = model,
                                      .weights = weights,
                                      .max_tokens = max_tokens,
                                      .max_outputs = max_outputs,
                                      .io = {},
                                      .gpu_io = {},
                                      .embedding = {},
                                      .output = {},
                                      .embed_one = {},
                                      .embed_many = {},
                                      .output_one = {},
                                      .output_many = {}});
  const IoLayout layout =
      layout_of(model.params(), weights.parts(model::SegmentId::output()), max_tokens, max_outputs);
  impl->io = IoMemory::plain(backend, layout.total());
  if (impl->io && on_gpu) impl->gpu_io = IoMemory::copy_of(*impl->io, *gpu);
  impl->embedding = {.backend = &backend, .io = impl->io.get(), .activations = {}};
  impl->output = {.backend = on_gpu ? gpu : &backend,
                  .io = on_gpu ? impl->gpu_io.get() : impl->io.get(),
                  .activations = {}};
  impl->output.activations.reset(ggml_gallocr_new(impl->output.backend->buffer_type()));
  if (impl->output.io == nullptr || !impl->output.activations)
    return fail(ErrorCode::kOutOfMemory,
                "the output head needs {} bytes for {} rows of {} logits, which are not free", layout.total(),
                max_outputs, model.params().n_vocab);
  std::byte* address = impl->io->base();
  const auto take = [&](std::size_t bytes) { return std::exchange(address, address + io_aligned(bytes)); };
  impl->rows = reinterpret_cast<float*>(take(layout.rows));
  impl->logits = reinterpret_cast<float*>(take(layout.logits));
  impl->normed = reinterpret_cast<float*>(take(layout.normed));
  impl->block = reinterpret_cast<float*>(take(layout.block));
  impl->tokens = reinterpret_cast<std::int32_t*>(take(layout.tokens));
  // A graph for the most rows decides the size of the activations; later ones are smaller and find them
  // there.
  GraphSet largest;
  HEARTH_TRY_VOID(impl->build_output(largest, max_outputs));
  return std::unique_ptr<Head>(new Head(std::move(impl)));
}

GpuNeeds Head::gpu_needs(Backend& gpu, const model::ModelFile& model, std::uint32_t max_tokens,
                         std::uint32_t max_outputs) {
  const model::HyperParams& p = model.params();
  const residency::ContextPtr ctx =
      residency::make_context(kMaxTensors, ggml_graph_overhead_custom(kMaxNodes, false));
  ggml_cgraph* graph = ggml_new_graph_custom(ctx.get(), kMaxNodes, false);
  ggml_tensor *norm = nullptr, *output = nullptr;
  for (const model::SegmentTensor& tensor : model.segment(model::SegmentId::output()))
    (tensor.role == model::Role::kOutput ? output : norm) = residency::declare(ctx.get(), *tensor.tensor);
  ggml_tensor* rows = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, p.n_embd, max_outputs);
  ggml_tensor* x = rms_norm(ctx.get(), rows, norm, p.rms_eps);
  ggml_build_forward_expand(graph, finished(ctx.get(), p, ggml_mul_mat(ctx.get(), output, x)));
  // Rows, before and after the norm, also in the type of the product; logits.
  GpuNeeds needs = {.bytes = layout_of(p, {}, max_tokens, max_outputs).total() +
                             std::uint64_t{3} * max_outputs * p.n_embd * sizeof(float)};
  if (auto operation = first_unsupported(gpu, graph))
    needs.unsupported.emplace(GpuNeeds::kOutput, *std::move(operation));
  return needs;
}

void Head::Impl::begin(SmallGraph& g, const Side& side, model::SegmentId segment,
                       const residency::Part& part) {
  g.ctx = residency::make_context(kMaxTensors, ggml_graph_overhead_custom(kMaxNodes, false));
  g.graph = ggml_new_graph_custom(g.ctx.get(), kMaxNodes, false);
  g.weights = residency::declare(g.ctx.get(), model.segment(segment), part);
  for (ggml_tensor* weight : g.weights) side.io->place(weight, rows);  // somewhere, until it is known where
}

// rows = token_embd[tokens] * embedding_scale
Result<> Head::Impl::build_embed(GraphSet& set, std::int64_t n_rows) {
  const auto segment = model::SegmentId::embedding();
  const auto parts = weights.parts(segment);
  HEARTH_CHECK(parts.size() == 1, "rows are looked up in the whole embedding");
  set = {.n_rows = n_rows, .parts = {}};
  SmallGraph& g = set.parts.emplace_back();
  const auto place = [&](ggml_tensor* tensor, void* at) { return embedding.io->place(tensor, at); };
  begin(g, embedding, segment, parts[0]);
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
    const auto place = [&](ggml_tensor* tensor, void* at) { return output.io->place(tensor, at); };
    begin(g, output, segment, part);
    ggml_tensor *norm = nullptr, *matrix = nullptr;
    for (std::size_t i = 0; i < g.weights.size(); ++i) {
      const model::Role role = model.segment(segment)[part.first_tensor + i].role;
      if (role == model::Role::kOutputNorm) norm = g.weights[i];
      if (role == model::Role::kOutput) matrix = g.weights[i];
    }
    HEARTH_CHECK((norm != nullptr) == (set.parts.size() == 1), "the norm comes with the first part");
    ggml_tensor* x = place(ggml_new_tensor_2d(g.ctx.get(), GGML_TYPE_F32, n_embd, n_rows),
                           norm != nullptr ? rows : normed);
    if (norm != nullptr) {
      x = rms_norm(g.ctx.get(), x, norm, model.params().rms_eps);
      if (parts.size() > 1) place(x, normed);
      ggml_build_forward_expand(g.graph, x);
    }
    if (matrix != nullptr) {
      const bool direct = n_rows == 1 || part.row_end == 0;
      ggml_tensor* out =
          finished(g.ctx.get(), model.params(),
                   place(ggml_mul_mat(g.ctx.get(), matrix, x), direct ? logits + part.row_begin : block));
      ggml_build_forward_expand(g.graph, out);
    }
    if (!ggml_gallocr_alloc_graph(output.activations.get(), g.graph))
      return fail(ErrorCode::kOutOfMemory, "the output head's activations for {} rows do not fit in memory",
                  n_rows);
  }
  set.n_rows = n_rows;
  return {};
}

Result<> Head::Impl::run(GraphSet& set, const Side& side, model::SegmentId segment) {
  const auto parts = weights.parts(segment);
  for (std::uint32_t part = 0; part < parts.size(); ++part) {
    HEARTH_TRY(const auto places, weights.acquire(segment, part));
    const SmallGraph& g = set.parts[part];
    point_weights(g.weights, places);
    Result<> done = side.backend->compute(g.graph);
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
  HEARTH_TRY_VOID(h.run(set, h.embedding, model::SegmentId::embedding()));
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
  HEARTH_TRY_VOID(h.output.io->send(h.rows, hidden.size_bytes()));
  HEARTH_TRY_VOID(h.run(set, h.output, model::SegmentId::output()));
  HEARTH_TRY_VOID(h.output.io->fetch(h.logits, static_cast<std::size_t>(n) * n_vocab * sizeof(float)));
  const std::span<const float> logits(h.logits, static_cast<std::size_t>(n) * n_vocab);
  if (const std::size_t row = wire::first_non_finite_row(logits, n_vocab); row < static_cast<std::size_t>(n))
    return fail(ErrorCode::kNumeric,
                "the output head gave a NaN or Inf logit in row {} of {}: its weights are damaged", row, n);
  return logits;
}

}  // namespace hearth::compute
