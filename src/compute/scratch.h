// Scratch: the memory that a device's windows share because they compute one after another: hidden rows,
// batch inputs, activations. Sized once for the largest batch; nothing is allocated while tokens flow.
//
// A device whose GPU computes layers too has a second one: its inputs are a copy of the first one's in the
// GPU's memory, its activations are there.
//
// Inside compute only. Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "compute/backend.h"
#include "compute/gpu_needs.h"
#include "compute/io_memory.h"
#include "compute/kv_rotation.h"
#include "compute/layer_graph.h"
#include "model/model_file.h"
#include "residency/ggml_tensors.h"
#include "residency/weight_source.h"

namespace hearth::compute {

struct ScratchOptions {
  std::uint32_t n_cells = 0;   // KV cells of layers that see the whole context, a multiple of kCellPadding
  std::uint32_t n_ubatch = 0;  // most tokens in a batch
  std::uint32_t n_seq = 1;     // most sequences at a time
  bool flash_attention = true;
  wire::KvTypes kv_type = {};
  // Matrices come in blocks of rows of this size (residency/division.h); 0: whole.
  std::uint64_t max_block_bytes = 0;
};

// Attention looks at a multiple of this many cells, as libllama's does; graphs are rebuilt only when that
// number grows.
inline constexpr std::uint32_t kCellPadding = 256;

[[nodiscard]] constexpr std::uint32_t pad_cells(std::uint32_t n_ctx) {
  return (n_ctx + kCellPadding - 1) / kCellPadding * kCellPadding;
}

// Quantized keys are shifted by way of f32, so many cells at a time.
inline constexpr std::uint32_t kShiftCells = 256;
inline constexpr std::size_t kShiftNodes = 16;

struct FreeAllocator {
  void operator()(ggml_gallocr* allocator) const { ggml_gallocr_free(allocator); }
};

// Plain memory of the batch inputs, large enough for n_ubatch tokens and n_cells cells.
struct BatchMemory {
  float* hidden = nullptr;            // [n_ubatch][n_embd]; a layer's output replaces its input
  std::int32_t* positions = nullptr;  // [n_ubatch]
  std::int64_t* cells = nullptr;      // [n_ubatch]
  std::int32_t* out_rows = nullptr;   // [n_ubatch]
  std::int32_t* deltas = nullptr;     // [n_cells]
  void* mask = nullptr;               // [n_ubatch][n_cells] f16 with flash attention, else f32
  // Matrices of kv_rotation.h, filled; nullptr: nothing is rotated.
  float* k_rotation = nullptr;
  float* v_rotation = nullptr;
  // As `cells` and `mask`, of layers with a sliding window; [n_cells] are n_sliding_cells.
  std::int64_t* sliding_cells = nullptr;
  void* sliding_mask = nullptr;
  std::uint32_t n_sliding_cells = 0;  // KV cells of each layer with a sliding window; 0: the model has none
};

class Scratch : public BatchMemory {
 public:
  // kOutOfMemory with the number of bytes that were not free.
  [[nodiscard]] static Result<std::unique_ptr<Scratch>> create(Backend& backend,
                                                               const model::ModelFile& model,
                                                               const ScratchOptions& options);
  // For a GPU: the inputs are those of `cpu`, which must outlive it. Takes what gpu_needs() says.
  // kOutOfMemory.
  [[nodiscard]] static Result<std::unique_ptr<Scratch>> create_beside(const Scratch& cpu, Backend& gpu,
                                                                      const model::ModelFile& model);
  // What a GPU would take for it, and which layers it has no operations for; nothing is taken.
  [[nodiscard]] static Result<GpuNeeds> gpu_needs(Backend& cpu, Backend& gpu, const model::ModelFile& model,
                                                  const ScratchOptions& options);

  // Of a GPU: what of the above its graphs see. Nothing to do for the processor.
  [[nodiscard]] Result<> send(const void* address, std::size_t bytes) const {
    return io_->send(address, bytes);
  }
  [[nodiscard]] Result<> fetch(void* address, std::size_t bytes) const { return io_->fetch(address, bytes); }

  [[nodiscard]] Backend& backend() const { return *backend_; }
  [[nodiscard]] const ScratchOptions& options() const { return options_; }
  // With what the backend takes by itself when it computes.
  [[nodiscard]] std::uint64_t bytes() const;
  // That: a matrix product has its right side in the type of the left one's dot product, at most 2 bytes a
  // value. The longest rows are those of the feed-forward network; without flash attention the scores of all
  // heads. And each thread has its tiles of attention.
  [[nodiscard]] static std::uint64_t work_bytes(const model::HyperParams& params,
                                                const ScratchOptions& options, std::uint32_t n_threads);

  // Tensors over the memory above, for a graph in `ctx`. n_out = 0: all rows pass on.
  struct InputShape {
    std::int64_t n_embd, n_tokens, n_kv, n_out;
    bool sliding;  // of a layer with a sliding window
  };
  [[nodiscard]] BatchInputs inputs(ggml_context* ctx, const InputShape& shape) const;
  ggml_tensor* place(ggml_tensor* tensor, void* address) const;          // returns `tensor`
  [[nodiscard]] ggml_tensor* rotation_of_keys(ggml_context* ctx) const;  // nullptr: none
  // The tensors of a part of a layer, also added to `weights`. They are somewhere, so that they count as
  // allocated; where they really are is said before each compute.
  std::vector<ggml_tensor*> declare(ggml_context* ctx, const model::ModelFile& model, model::SegmentId layer,
                                    const residency::Part& part, LayerWeights& weights) const;

  // Gives every tensor of `graph` that has no memory yet a place among the activations. Should they not
  // suffice (the sizing at creation makes that unlikely, ggml's placement does not exclude it) they move, and
  // generation() changes: graphs of an earlier generation must be built again.
  [[nodiscard]] Result<> allocate(ggml_cgraph* graph);
  [[nodiscard]] std::uint64_t generation() const { return generation_; }

 private:
  Scratch(Backend& backend, const ScratchOptions& options) : backend_(&backend), options_(options) {}

  // A graph whose tensors have places, but for activations.
  struct Measured {
    residency::ContextPtr ctx;
    ggml_cgraph* graph = nullptr;
  };
  // A full batch over all cells of layer il, whose keys and values are stored as these types.
  struct Stored {
    ggml_type k, v;
  };
  // Without flash attention the values are copied in their own type, so the wider one counts.
  static constexpr Stored kWidest = {GGML_TYPE_F32, GGML_TYPE_F32};
  [[nodiscard]] Measured largest_graph(const model::ModelFile& model, std::uint32_t il, std::uint32_t n_out,
                                       const Stored& stored) const;
  [[nodiscard]] Measured shift_graph(const model::ModelFile& model) const;  // of quantized keys
  // The graphs that decide the size of the activations, one after another, as long as visit() says true.
  template <class Visit>
  [[nodiscard]] bool each_largest(const model::ModelFile& model, Visit visit) const;
  [[nodiscard]] Result<> reserve(const model::ModelFile& model);
  [[nodiscard]] Result<> take_plain(const model::HyperParams& params);

  Backend* backend_;
  ScratchOptions options_;
  std::unique_ptr<IoMemory> io_;
  std::unique_ptr<ggml_gallocr, FreeAllocator> activations_;
  KvRotation rotation_;
  std::uint64_t work_bytes_ = 0;
  std::uint64_t generation_ = 0;
};

// What the layers of a device are computed with: each by the GPU where its weights are there.
struct Scratches {
  Scratches(Scratch& of_cpu, Scratch* of_gpu = nullptr) : cpu(of_cpu), gpu(of_gpu) {}
  Scratch& cpu;
  Scratch* gpu;  // nullptr: no weights are there
  [[nodiscard]] Scratch& of(const residency::WeightSource& weights, std::uint32_t il) const {
    const bool on_gpu = weights.on_gpu(model::SegmentId::of_layer(il));
    HEARTH_CHECK(!on_gpu || gpu != nullptr, "weights on a GPU that nothing is computed with");
    return on_gpu ? *gpu : cpu;
  }
};

// KV cells of layer il of a window of a Scratch with these options.
[[nodiscard]] std::uint32_t layer_cells(const model::HyperParams& params, std::uint32_t il,
                                        const ScratchOptions& options);
// As layer_cells, of the layers with a sliding window; 0: the model has none.
[[nodiscard]] std::uint32_t sliding_cells(const model::HyperParams& params, const ScratchOptions& options);

}  // namespace hearth::compute
