// Medians and their uncertainty, for ratios measured in pairs on a machine that is never quiet.
// Pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hearth::bench {

// The middle value, the mean of the two middle ones where their number is even. `values` must not be empty.
[[nodiscard]] double median(std::vector<double> values);

// The q-quantile, 0 <= q <= 1, linear between neighbours (type 7 of Hyndman and Fan). Not of nothing.
[[nodiscard]] double quantile(std::vector<double> values, double q);

struct Interval {
  double low = 0;
  double median = 0;
  double high = 0;
};

// The median with its percentile bootstrap interval: `resamples` times as many values are drawn with
// replacement and their median taken; the interval holds the middle `confidence` of those medians. The same
// seed gives the same interval. Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
[[nodiscard]] Interval bootstrap_median(std::span<const double> values, double confidence = 0.95,
                                        std::size_t resamples = 10000, std::uint64_t seed = 1);

}  // namespace hearth::bench
