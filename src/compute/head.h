// Head: what only the head device computes: tokens -> embeddings before the first layer, hidden rows ->
// logits after the last.
//
// Engine thread only. Results are valid until the next call.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "compute/backend.h"
#include "compute/gpu_needs.h"
#include "model/model_file.h"
#include "residency/weight_source.h"

namespace hearth::compute {

class Head {
 public:
  // `weights` holds the embedding segment, in one part and not on a GPU, and the output segment, in any; it,
  // `model` and the backends must outlive the head. max_tokens: the largest batch; max_outputs: the most rows
  // that logits() is asked for at once. `gpu` computes logits if the weights of the output head are there.
  // kOutOfMemory.
  [[nodiscard]] static Result<std::unique_ptr<Head>> create(Backend& backend, const model::ModelFile& model,
                                                            residency::WeightSource& weights,
                                                            std::uint32_t max_tokens,
                                                            std::uint32_t max_outputs,
                                                            Backend* gpu = nullptr);
  // What a GPU that computes logits would take, and whether it has the operations; nothing is taken.
  [[nodiscard]] static GpuNeeds gpu_needs(Backend& gpu, const model::ModelFile& model,
                                          std::uint32_t max_tokens, std::uint32_t max_outputs);
  ~Head();

  // rows: [n_tokens][n_embd], written. kInvalidArgument for a token that is not in the vocabulary.
  [[nodiscard]] Result<> embed(std::span<const std::int32_t> tokens, std::span<float> rows);

  // hidden: [n_rows][n_embd] after the last layer -> [n_rows][n_vocab]. kNumeric when a logit is NaN or Inf.
  [[nodiscard]] Result<std::span<const float>> logits(std::span<const float> hidden);

  // Not counting a GPU's.
  [[nodiscard]] std::uint64_t bytes() const;

 private:
  struct Impl;
  explicit Head(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::compute
