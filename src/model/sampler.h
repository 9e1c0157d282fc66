// Sampler: picks the next token from a row of logits by libllama's sampler chain.
//
// One per sequence; not thread safe. Defaults and order of the chain are llama.cpp's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/result.h"
#include "model/tokenizer.h"

namespace hearth::model {

struct SamplingOptions {
  float temperature = 0.8F;  // <= 0: greedy
  std::int32_t top_k = 40;   // <= 0: all
  float top_p = 0.95F;
  float min_p = 0.05F;
  float repeat_penalty = 1.0F;  // 1: none
  std::int32_t repeat_last_n = 64;
  std::optional<std::uint32_t> seed = std::nullopt;  // none, or 2^32 - 1 as in llama.cpp: random
};

class Sampler {
 public:
  // kInvalidArgument for values out of range, by name.
  [[nodiscard]] static Result<Sampler> create(const Tokenizer& tokenizer, const SamplingOptions& options);
  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;
  ~Sampler();

  // Tokens of the prompt, so that penalties see them.
  void accept(Token token);
  // logits: [n_vocab]. Picks and accepts a token.
  [[nodiscard]] Token sample(std::span<const float> logits);
  [[nodiscard]] std::uint32_t seed() const;

 private:
  struct Impl;
  explicit Sampler(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::model
