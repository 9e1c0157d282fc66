#include "support/precision.h"

#include <algorithm>
#include <cmath>
#include <format>
#include <iterator>

#include "model/tokenizer.h"
#include "support/executor_ring.h"

namespace hearth::testing {
namespace {

std::size_t best(std::span<const float> row) {
  return static_cast<std::size_t>(std::ranges::max_element(row) - row.begin());
}

double log_sum_exp(std::span<const float> row) {
  const double most = *std::ranges::max_element(row);
  double sum = 0;
  for (const float value : row) sum += std::exp(value - most);
  return most + std::log(sum);
}

}  // namespace

double kl_divergence(std::span<const float> reference, std::span<const float> logits) {
  const double reference_norm = log_sum_exp(reference), norm = log_sum_exp(logits);
  double sum = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double log_p = reference[i] - reference_norm;
    sum += std::exp(log_p) * (log_p - (logits[i] - norm));
  }
  return sum;
}

Divergence divergence(std::span<const std::vector<float>> reference,
                      std::span<const std::vector<float>> rows) {
  HEARTH_CHECK(reference.size() == rows.size() && !rows.empty());
  Divergence d{.n = rows.size()};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double kl = kl_divergence(reference[i], rows[i]);
    d.mean += kl / static_cast<double>(rows.size());
    d.most = std::max(d.most, kl);
    if (best(reference[i]) == best(rows[i])) ++d.n_same_top;
  }
  return d;
}

Result<PrecisionRun> read_text(const std::string& model_path, std::uint32_t n_devices,
                               const engine::EpochOptions& options, std::span<const std::int32_t> text,
                               std::size_t n_prompt) {
  PrecisionRun run;
  HEARTH_TRY(const auto ring, ExecutorRing::create(model_path, n_devices, options));
  HEARTH_TRY(run.rows, ring->read(text.first(n_prompt), engine::Outputs::kAll));
  (void)ring->take_bytes_sent();
  for (const std::int32_t& token : text.subspan(n_prompt)) {
    HEARTH_TRY(auto row, ring->read({&token, 1}, engine::Outputs::kAll));
    std::ranges::move(row, std::back_inserter(run.rows));
  }
  run.bytes_per_decode_token =
      static_cast<double>(ring->take_bytes_sent()) / static_cast<double>(text.size() - n_prompt);
  HEARTH_TRY(const auto another, ExecutorRing::create(model_path, n_devices, options));
  HEARTH_TRY_VOID(another->read(text.first(n_prompt), engine::Outputs::kLast));
  run.bytes_per_prompt_token =
      static_cast<double>(another->take_bytes_sent()) / static_cast<double>(n_prompt);
  return run;
}

Result<std::vector<std::int32_t>> stories(const std::string& model_path, std::size_t n) {
  constexpr std::size_t kAnswer = 200;
  constexpr std::string_view kThings[] = {"a fox and a lamp", "a boat and a star", "a cat and a drum",
                                          "a bear and a key", "an owl and a kite"};
  HEARTH_TRY(const model::Tokenizer tokenizer, model::Tokenizer::load(model_path));
  const auto n_ctx = static_cast<std::uint32_t>(n + 64 + kAnswer);
  HEARTH_TRY(const auto ring, ExecutorRing::create(model_path, 1, {.n_ctx = n_ctx, .n_ubatch = 64}));
  std::vector<std::int32_t> text;
  for (std::size_t i = 0; text.size() < n; ++i) {
    HEARTH_TRY(const auto request,
               tokenizer.encode(std::format("<s><|im_start|>user\nTell me a story about {}.<|im_end|>\n"
                                            "<|im_start|>assistant\n",
                                            kThings[i % std::size(kThings)]),
                                {.add_special = false, .parse_special = true}));
    text.insert(text.end(), request.begin(), request.end());
    HEARTH_TRY(auto rows, ring->read(request, engine::Outputs::kLast));
    for (std::size_t k = 0; k < kAnswer && text.size() < n; ++k) {
      text.push_back(static_cast<std::int32_t>(best(rows.front())));
      HEARTH_TRY(rows, ring->read({&text.back(), 1}, engine::Outputs::kLast));
    }
  }
  text.resize(n);
  return text;
}

}  // namespace hearth::testing
