// The tensors of a synthetic model in file order: name, shape, type and how each is filled. A pure function
// of the spec, checked so that ggml cannot refuse any of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ggml.h>

#include "base/result.h"
#include "model/model_file.h"
#include "synth/synth.h"

namespace hearth::synth {

// The spec's architecture and what the model's hyper-parameters will be; kInvalidArgument when the spec asks
// for what cannot be. `n_vocab` is the final size of the vocabulary.
struct PlannedModel {
  const model::ArchTraits* arch = nullptr;
  model::HyperParams params;
};
[[nodiscard]] Result<PlannedModel> plan_model(const SynthSpec& spec, std::uint32_t n_vocab);

enum class Fill : std::uint8_t {
  kNormal,     // normal with mean 0
  kNorm,       // around `scale`, the gain of a norm
  kRopeFreqs,  // the factors of Llama 3.1
};

struct PlannedTensor {
  std::string name;
  ggml_type type = GGML_TYPE_F32;
  std::int64_t n_in = 0;        // row length
  std::int64_t n_out = 1;       // rows; one-dimensional tensors have 1
  std::int64_t n_matrices = 1;  // that the rows make
  bool one_dimensional = false;
  Fill fill = Fill::kNormal;
  float scale = 1;         // standard deviation, or the centre of a norm gain
  float outlier_gain = 1;  // rows (or elements of a norm) that are outlier channels are multiplied by this

  [[nodiscard]] std::uint64_t bytes() const {
    return ggml_row_size(type, n_in) * static_cast<std::uint64_t>(n_out);
  }
  [[nodiscard]] std::uint64_t weights() const { return static_cast<std::uint64_t>(n_in * n_out); }
};

// Residual channels that carry outliers: every n_embd / 8 th one.
[[nodiscard]] bool is_outlier_channel(std::int64_t channel, std::uint32_t n_embd);

// `n_vocab` is the final size of the vocabulary.
[[nodiscard]] Result<std::vector<PlannedTensor>> plan_tensors(const SynthSpec& spec, std::uint32_t n_vocab);

// general.file_type of the spec's type, or -1 where there is none.
[[nodiscard]] std::int32_t file_type(const std::string& type);

}  // namespace hearth::synth
