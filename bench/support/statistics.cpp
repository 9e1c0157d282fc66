#include "support/statistics.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/result.h"

namespace hearth::bench {

double median(std::vector<double> values) {
  return quantile(std::move(values), 0.5);
}

double quantile(std::vector<double> values, double q) {
  HEARTH_CHECK(!values.empty() && q >= 0 && q <= 1);
  std::ranges::sort(values);
  const double place = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(place));
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return std::lerp(values[below], values[above], place - std::floor(place));
}

Interval bootstrap_median(std::span<const double> values, double confidence, std::size_t resamples,
                          std::uint64_t seed) {
  HEARTH_CHECK(!values.empty() && resamples > 0 && confidence > 0 && confidence < 1);
  std::mt19937_64 random(seed);
  std::vector<double> medians, sample(values.size());
  medians.reserve(resamples);
  for (std::size_t i = 0; i < resamples; ++i) {
    for (double& x : sample) x = values[random() % values.size()];
    medians.push_back(median(sample));
  }
  const double tail = (1 - confidence) / 2;
  return {.low = quantile(medians, tail),
          .median = median({values.begin(), values.end()}),
          .high = quantile(medians, 1 - tail)};
}

}  // namespace hearth::bench
