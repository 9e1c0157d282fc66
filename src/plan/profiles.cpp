#include "plan/profiles.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/result.h"

namespace hearth::plan {

double ComputeProfile::pass_s(double bytes, std::uint32_t n_tokens) const {
  HEARTH_CHECK(known());
  const auto seconds = [&](const PassRate& pass) { return bytes / pass.bytes_per_s; };
  const auto above = std::ranges::lower_bound(passes, n_tokens, {}, &PassRate::n_tokens);
  if (above == passes.begin()) return seconds(passes.front());
  const PassRate& below = *std::prev(above);
  if (above == passes.end()) return seconds(below) * n_tokens / below.n_tokens;
  const double share =
      static_cast<double>(n_tokens - below.n_tokens) / static_cast<double>(above->n_tokens - below.n_tokens);
  return std::lerp(seconds(below), seconds(*above), share);
}

std::uint64_t GroupNeeds::tokens_in(std::uint64_t left) const {
  if (token_bytes == 0) return 0;
  const std::uint64_t tokens = std::min(most_tokens, left / kGroupDivisor / token_bytes);
  return tokens < least_tokens ? 0 : tokens;
}

std::uint64_t ModelProfile::kv_bytes_of(LayerRange layers) const {
  if (layer_kv_bytes.empty()) return kv_bytes * layers.size();
  std::uint64_t bytes = 0;
  for (std::uint32_t il = layers.begin; il < layers.end; ++il) bytes += layer_kv_bytes[il];
  return bytes;
}

std::uint64_t ModelProfile::kv_bytes_of(const Plan& plan, std::size_t m) const {
  std::uint64_t bytes = 0;
  for (const Step& step : plan.steps)
    if (step.device == m) bytes += kv_bytes_of(step.layers);
  return bytes;
}

const BatchNeeds& ModelProfile::batch_of(std::uint32_t n_tokens) const {
  const auto found = std::ranges::find(batches, n_tokens, &BatchNeeds::n_tokens);
  HEARTH_CHECK(found != batches.end());
  return *found;
}

std::uint64_t ModelProfile::buffer_bytes(const BatchNeeds& batch, std::size_t m,
                                         std::uint64_t n_windows) const {
  return m == 0 ? batch.head_bytes + window_bytes * (n_windows + 1)
                : batch.worker_bytes + window_bytes * n_windows;
}

std::uint64_t ModelProfile::weight_bytes() const {
  return std::reduce(layer_bytes.begin(), layer_bytes.end(), output_bytes);
}

}  // namespace hearth::plan
