// SamplingFlags: how a text is sampled, with names and defaults of llama.cpp: as flags, as /set of a chat
// takes and shows them, and as a saved conversation keeps them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/result.h"
#include "node/generator.h"

namespace hearth::cli {

struct SamplingFlags {
  std::int64_t max_tokens = -1;
  std::int64_t seed = -1;
  std::string samplers;  // "": llama.cpp's
  float temperature = 0.8F;
  std::int32_t top_k = 40;
  float top_p = 0.95F;
  float min_p = 0.05F;
  float top_n_sigma = -1;
  float typical_p = 1;
  float xtc_probability = 0;
  float xtc_threshold = 0.1F;
  std::int32_t repeat_last_n = 64;  // -1: the context
  float repeat_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  float dry_multiplier = 0;
  float dry_base = 1.75F;
  std::int32_t dry_allowed_length = 2;
  std::int32_t dry_last_n = -1;  // -1: the context
  std::vector<std::string> dry_breakers;
  float dynatemp_range = 0;
  float dynatemp_exponent = 1;
  std::int32_t mirostat = 0;
  float mirostat_lr = 0.1F;
  float mirostat_ent = 5;
  std::vector<std::string> logit_bias;  // TOKEN_ID+BIAS, TOKEN_ID-BIAS
  bool ignore_eos = false;
  bool context_shift = false;
  std::int32_t n_keep = 0;  // of a context shift; -1: all of the prompt

  void add(CLI::App& app);

  // `n_ctx` is what -1 of the two last-n stands for. kInvalidArgument names what cannot be.
  [[nodiscard]] Result<node::GenerateOptions> options(std::uint32_t n_ctx) const;

  // By the flag's name without dashes, e.g. "temp". kInvalidArgument: a name that is not there, a value that
  // cannot be; nothing has changed then.
  [[nodiscard]] Result<> set(std::string_view name, std::string_view value);
  // Name and value of each that set() takes, as it takes them.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> values() const;
};

}  // namespace hearth::cli
