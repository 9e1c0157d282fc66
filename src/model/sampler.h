// Sampler: picks the next token from a row of logits by libllama's sampler chain, under a grammar if there is
// one.
//
// One per sequence; not thread safe. Names, defaults and order of the chain are llama.cpp's.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/tokenizer.h"

namespace hearth::model {

// Steps of the chain that may be ordered.
enum class SamplerStep : std::uint8_t {
  kPenalties,
  kDry,
  kTopNSigma,
  kTopK,
  kTypical,
  kTopP,
  kMinP,
  kXtc,
  kTemperature,
};
// llama.cpp's name: "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc",
// "temperature".
[[nodiscard]] std::string_view name(SamplerStep step);
// "top_k;temperature" -> the steps; kInvalidArgument names one that is not known.
[[nodiscard]] Result<std::vector<SamplerStep>> parse_sampler_steps(std::string_view text);

struct LogitBias {
  Token token = 0;
  float bias = 0;  // added to the token's logit; minus infinity forbids it
};

struct SamplingOptions {
  float temperature = 0.8F;  // <= 0: greedy
  std::int32_t top_k = 40;   // <= 0: all
  float top_p = 0.95F;
  float min_p = 0.05F;
  float repeat_penalty = 1.0F;  // 1: none
  std::int32_t repeat_last_n = 64;
  std::optional<std::uint32_t> seed = std::nullopt;  // none, or 2^32 - 1 as in llama.cpp: random

  float presence_penalty = 0;
  float frequency_penalty = 0;
  float typical_p = 1;         // 1: off
  float top_n_sigma = -1;      // < 0: off
  float xtc_probability = 0;   // 0: off
  float xtc_threshold = 0.1F;  // above 0.5 it does nothing
  float dynatemp_range = 0;    // temperature - range to temperature + range, by entropy; 0: off
  float dynatemp_exponent = 1;
  float dry_multiplier = 0;  // 0: off
  float dry_base = 1.75F;
  std::int32_t dry_allowed_length = 2;
  std::int32_t dry_last_n = 4096;
  std::vector<std::string> dry_breakers = {"\n", ":", "\"", "*"};
  std::int32_t mirostat = 0;  // 1 or 2: in place of every step but biases and temperature
  float mirostat_lr = 0.1F;
  float mirostat_ent = 5.0F;
  std::vector<LogitBias> logit_bias = {};
  std::vector<SamplerStep> steps = {};  // empty: llama.cpp's
  std::string grammar = {};             // GBNF whose rule `root` the text must match; "": none
};

class Sampler {
 public:
  // Whether the numbers are in range; kInvalidArgument by name. create() asks it, too.
  [[nodiscard]] static Result<> check(const SamplingOptions& options);
  // kInvalidArgument also for a token that the vocabulary lacks and for a grammar that cannot be used
  // (model/grammar_check.h).
  [[nodiscard]] static Result<Sampler> create(const Tokenizer& tokenizer, const SamplingOptions& options);
  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;
  ~Sampler();

  // Tokens of the prompt, so that penalties see them. The grammar is for the answer alone.
  void accept(Token token);
  // logits: [n_vocab]. Picks and accepts a token. Under a grammar the token is one that the grammar allows,
  // an end token when its text is complete; kNoToken when it allows none (a vocabulary without an end token,
  // or without the bytes that the grammar wants).
  [[nodiscard]] Token sample(std::span<const float> logits);
  static constexpr Token kNoToken = -1;
  [[nodiscard]] std::uint32_t seed() const;
  // Times that the token picked first was not the grammar's, so that all tokens had to be compared with it.
  [[nodiscard]] std::uint64_t n_resampled() const;

 private:
  struct Impl;
  explicit Sampler(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::model
