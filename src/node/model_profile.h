// What a model needs of the devices of a ring, counted as the executor takes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/model_file.h"
#include "plan/profiles.h"
#include "wire/messages.h"

namespace hearth::node {

// Most tokens computed at once, where the user does not say and memory suffices.
inline constexpr std::uint32_t kBatch = 512;
// Buffers of larger batches cost memory that weights could have: a plan may choose smaller ones, down to
// this.
inline constexpr std::uint32_t kLeastBatch = 32;

struct ModelRequest {
  std::uint32_t n_ctx = 0;
  wire::KvTypes kv_type = {};
  bool flash_attention = true;
  std::uint32_t max_outputs = 1;  // most rows of logits in one batch
  std::uint32_t n_ubatch = 0;     // 0: the plan chooses
  std::uint32_t n_seq = 1;        // most sequences at a time
  std::size_t n_devices = 1;
  wire::HiddenEncoding hidden = wire::HiddenEncoding::kF16Scaled;  // on links, of larger pieces
  bool hidden_always = false;                                      // of all
};

// Reads nothing but the file's header.
[[nodiscard]] plan::ModelProfile model_profile(const model::ModelFile& model, const ModelRequest& request);

// Of a model that is only described.
struct ModelSizes {
  std::vector<std::uint64_t> layer_bytes;  // weights
  std::uint64_t output_bytes = 0;
  plan::PartSizes parts;
};
[[nodiscard]] plan::ModelProfile model_profile(const model::HyperParams& params, ModelSizes sizes,
                                               const ModelRequest& request);

}  // namespace hearth::node
