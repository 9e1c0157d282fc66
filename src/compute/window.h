// Window: one plan step's layers on this device. Takes a batch's hidden rows in, gives them out.
//
// Its cell table passes through the states of every other window's: each batch's operations and placements
// are applied exactly once, in batch order, whether or not the batch is computed. Graphs are kept per batch
// shape and reused. Engine thread only. Windows of one device share a Scratch, so a result is valid until the
// next window runs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "compute/cell_table.h"
#include "compute/kv_storage.h"
#include "compute/scratch.h"
#include "model/model_file.h"
#include "plan/plan.h"
#include "residency/weight_source.h"
#include "wire/batch.h"

namespace hearth::compute {

class Window {
 public:
  // `model`, `weights` and what `scratches` names must outlive the window. A layer is computed, and its KV
  // cache is, where the weights say. kOutOfMemory when the KV cache does not fit; what KvStorage::check()
  // refuses.
  [[nodiscard]] static Result<std::unique_ptr<Window>> create(Scratches scratches,
                                                              const model::ModelFile& model,
                                                              plan::LayerRange layers,
                                                              residency::WeightSource& weights,
                                                              wire::KvTypes kv_type);
  ~Window();

  // Where the caller writes the batch's rows, [n_tokens][n_embd] f32, before run().
  [[nodiscard]] std::span<float> input(std::uint32_t n_tokens);

  // Applies the batch's operations, places its tokens and, unless operations_only, computes the layers over
  // input(). Returns the rows to pass on: [n_tokens][n_embd], after the model's last layer only the output
  // rows; empty when nothing was computed. Errors: kProtocol (cells), kNumeric (a row became NaN or Inf;
  // names the layer, of a GPU its layers), those of the weight source and of Backend::compute().
  [[nodiscard]] Result<std::span<const float>> run(const wire::Batch& batch);

  // A batch of a group.
  struct GroupItem {
    const wire::Batch* batch = nullptr;
    std::span<float> rows = {};  // in: [n_tokens][n_embd]; out: the first n_rows of them are those to pass
                                 // on. Not read for a batch that is not computed
    std::uint32_t n_rows = 0;    // out
  };
  // Whether `batch` may stand behind others in a group: operations would change what those before it see.
  [[nodiscard]] static bool may_follow(const wire::Batch& batch) { return batch.operations.empty(); }
  // Consecutive batches, in their order, all but the first as may_follow() says: gives what run() of one
  // after another gives, bit for bit, but computes layer by layer. A layer's weights are acquired once for
  // all batches where the source lets all its parts be held; else once for each. Errors are those of run(),
  // and then no batch of the group is done.
  [[nodiscard]] Result<> run_group(std::span<GroupItem> items);
  // Of what a window knows of its cells, besides KvStorage, and of its graphs, about.
  [[nodiscard]] static std::uint64_t table_bytes(std::uint32_t n_cells);
  // Memory that the rows of n_tokens tokens in groups take, all batches of the group together.
  [[nodiscard]] static std::uint64_t group_bytes(const model::HyperParams& params, std::uint32_t n_tokens);

  // Whether positions of this model can be shifted (wire::KvOpKind::kShift): its keys are turned by their
  // positions, and no layer has dropped cells that would come back into sight. kUnsupported.
  [[nodiscard]] static Result<> check_shift(const model::ModelFile& model);

  [[nodiscard]] plan::LayerRange layers() const;
  [[nodiscard]] const CellTable& cells() const;
  [[nodiscard]] KvStorage& kv();

 private:
  struct Impl;
  explicit Window(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::compute
