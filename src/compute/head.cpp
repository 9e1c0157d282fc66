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

struct SmallGraph {
  std::int64_t n_rows = 0;
  residency::ContextPtr ctx;
  ggml_cgraph* graph = nullptr;
  std::vector<ggml_tensor*> weights;
  ggml_tensor* result = nullptr;
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
  std::unique_ptr<ggml_gallocr, FreeAllocator> activations;
  std::size_t io_bytes = 0;
  SmallGraph embed_one, embed_many, output_one, output_many;

  ggml_tensor* place(ggml_tensor* tensor, void* address) const {
    tensor->data = address;
    tensor->buffer = io.get();
    return tensor;
  }
  // Declares the segment's tensors in a fresh graph for n_rows rows.
  void begin(SmallGraph& g, model::SegmentId segment, std::int64_t n_rows,
             std::span<const residency::TensorPlace> places);
  Result<> build_embed(SmallGraph& g, std::int64_t n_rows, std::span<const residency::TensorPlace> places);
  Result<> build_output(SmallGraph& g, std::int64_t n_rows, std::span<const residency::TensorPlace> places);
  Result<> run(SmallGraph& g, std::span<const residency::TensorPlace> places);
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
  const std::size_t total = rows_bytes + logits_bytes + max_tokens * sizeof(std::int32_t) + 4 * kAlignment;
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
  impl->tokens = static_cast<std::int32_t*>(take(max_tokens * sizeof(std::int32_t)));
  impl->io_bytes = total;
  // A graph for the most rows decides the size of the activations; later ones are smaller and find them
  // there.
  SmallGraph largest;
  const residency::TensorPlace anywhere = {.data = impl->rows, .buffer = impl->io.get(), .extra = nullptr};
  const std::vector<residency::TensorPlace> places(model.segment(model::SegmentId::output()).size(),
                                                   anywhere);
  HEARTH_TRY_VOID(impl->build_output(largest, max_outputs, places));
  return std::unique_ptr<Head>(new Head(std::move(impl)));
}

void Head::Impl::begin(SmallGraph& g, model::SegmentId segment, std::int64_t n_rows,
                       std::span<const residency::TensorPlace> places) {
  g = {};
  g.n_rows = n_rows;
  g.ctx = residency::make_context(kMaxTensors, ggml_graph_overhead_custom(kMaxNodes, false));
  g.graph = ggml_new_graph_custom(g.ctx.get(), kMaxNodes, false);
  const auto& tensors = model.segment(segment);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    ggml_tensor* weight = residency::declare(g.ctx.get(), *tensors[i].tensor);
    weight->data = places[i].data;
    weight->buffer = places[i].buffer;
    weight->extra = places[i].extra;
    g.weights.push_back(weight);
  }
}

// rows = token_embd[tokens]
Result<> Head::Impl::build_embed(SmallGraph& g, std::int64_t n_rows,
                                 std::span<const residency::TensorPlace> places) {
  begin(g, model::SegmentId::embedding(), n_rows, places);
  ggml_tensor* ids = place(ggml_new_tensor_1d(g.ctx.get(), GGML_TYPE_I32, n_rows), tokens);
  g.result = place(ggml_get_rows(g.ctx.get(), g.weights[0], ids), rows);
  ggml_build_forward_expand(g.graph, g.result);
  return {};
}

// logits = output * rms_norm(rows)
Result<> Head::Impl::build_output(SmallGraph& g, std::int64_t n_rows,
                                  std::span<const residency::TensorPlace> places) {
  const auto segment = model::SegmentId::output();
  begin(g, segment, n_rows, places);
  ggml_tensor *norm = nullptr, *output = nullptr;
  for (std::size_t i = 0; i < g.weights.size(); ++i) {
    const model::Role role = model.segment(segment)[i].role;
    if (role == model::Role::kOutputNorm) norm = g.weights[i];
    if (role == model::Role::kOutput) output = g.weights[i];
  }
  HEARTH_CHECK(norm != nullptr && output != nullptr);
  ggml_tensor* x = place(ggml_new_tensor_2d(g.ctx.get(), GGML_TYPE_F32, model.params().n_embd, n_rows), rows);
  x = rms_norm(g.ctx.get(), x, norm, model.params().rms_eps);
  g.result = place(ggml_mul_mat(g.ctx.get(), output, x), logits);
  ggml_build_forward_expand(g.graph, g.result);
  if (!ggml_gallocr_alloc_graph(activations.get(), g.graph))
    return fail(ErrorCode::kOutOfMemory, "the output head's activations for {} rows do not fit in memory",
                n_rows);
  return {};
}

Result<> Head::Impl::run(SmallGraph& g, std::span<const residency::TensorPlace> places) {
  for (std::size_t i = 0; i < g.weights.size(); ++i) {
    g.weights[i]->data = places[i].data;
    g.weights[i]->buffer = places[i].buffer;
    g.weights[i]->extra = places[i].extra;
  }
  return backend.compute(g.graph);
}

Result<> Head::embed(std::span<const std::int32_t> tokens, std::span<float> rows) {
  Impl& h = *impl_;
  const std::size_t n_embd = h.model.params().n_embd;
  HEARTH_CHECK(!tokens.empty() && tokens.size() <= h.max_tokens && rows.size() == tokens.size() * n_embd);
  for (const std::int32_t token : tokens)
    if (token < 0 || static_cast<std::uint32_t>(token) >= h.model.params().n_vocab)
      return fail(ErrorCode::kInvalidArgument, "token {} is not in the vocabulary of {} tokens", token,
                  h.model.params().n_vocab);
  const auto segment = model::SegmentId::embedding();
  HEARTH_TRY(const auto places, h.weights.acquire(segment));
  const auto n = static_cast<std::int64_t>(tokens.size());
  SmallGraph& g = n == 1 ? h.embed_one : h.embed_many;
  Result<> done;
  if (g.n_rows != n) done = h.build_embed(g, n, places);
  std::ranges::copy(tokens, h.tokens);
  if (done) done = h.run(g, places);
  h.weights.release(segment);
  HEARTH_TRY_VOID(std::move(done));
  std::copy_n(h.rows, rows.size(), rows.begin());
  return {};
}

Result<std::span<const float>> Head::logits(std::span<const float> hidden) {
  Impl& h = *impl_;
  const std::size_t n_embd = h.model.params().n_embd, n_vocab = h.model.params().n_vocab;
  HEARTH_CHECK(!hidden.empty() && hidden.size() % n_embd == 0 && hidden.size() / n_embd <= h.max_outputs);
  const auto segment = model::SegmentId::output();
  HEARTH_TRY(const auto places, h.weights.acquire(segment));
  const auto n = static_cast<std::int64_t>(hidden.size() / n_embd);
  SmallGraph& g = n == 1 ? h.output_one : h.output_many;
  Result<> done;
  if (g.n_rows != n) done = h.build_output(g, n, places);
  if (!done) g = {};
  std::ranges::copy(hidden, h.rows);
  if (done) done = h.run(g, places);
  h.weights.release(segment);
  HEARTH_TRY_VOID(std::move(done));
  const std::span<const float> logits(h.logits, static_cast<std::size_t>(n) * n_vocab);
  if (const std::size_t row = wire::first_non_finite_row(logits, n_vocab); row < static_cast<std::size_t>(n))
    return fail(ErrorCode::kNumeric,
                "the output head gave a NaN or Inf logit in row {} of {}: its weights are damaged", row, n);
  return logits;
}

}  // namespace hearth::compute
