// What a coarser KV cache or coarser links change: the distributions of a model's next tokens, position by
// position on one text, against those of a reference.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/plan_rules.h"

namespace hearth::testing {

// Kullback-Leibler divergences of two softmaxes, in nats: of the reference from the other.
struct Divergence {
  std::size_t n = 0;
  double mean = 0, most = 0;
  std::size_t n_same_top = 0;
};
[[nodiscard]] double kl_divergence(std::span<const float> reference, std::span<const float> logits);
[[nodiscard]] Divergence divergence(std::span<const std::vector<float>> reference,
                                    std::span<const std::vector<float>> rows);

struct PrecisionRun {
  std::vector<std::vector<float>> rows;  // of each position
  // Bytes of all frames, sealing left out. A prompt's have one output row, as in use.
  double bytes_per_prompt_token = 0, bytes_per_decode_token = 0;
};

// Reads `text` on a ring of n_devices: the first n_prompt tokens as a prompt, in batches of
// options.n_ubatch, the others one by one as they would be generated.
[[nodiscard]] Result<PrecisionRun> read_text(const std::string& model_path, std::uint32_t n_devices,
                                             const engine::EpochOptions& options,
                                             std::span<const std::int32_t> text, std::size_t n_prompt);

// n tokens: requests for stories, and the most likely answers of the model, which is one of models/.
[[nodiscard]] Result<std::vector<std::int32_t>> stories(const std::string& model_path, std::size_t n);

}  // namespace hearth::testing
