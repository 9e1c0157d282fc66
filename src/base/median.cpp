#include "base/median.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/result.h"

namespace hearth {

Median median_of(std::vector<double> values) {
  HEARTH_CHECK(!values.empty());
  std::ranges::sort(values);
  const auto quantile = [&](double q) {
    const double at = q * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(at);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return std::lerp(values[below], values[above], at - static_cast<double>(below));
  };
  const double middle = quantile(0.5);
  HEARTH_CHECK(values.front() > 0);
  return {.value = middle, .spread = (quantile(0.75) - quantile(0.25)) / 2 / middle};
}

}  // namespace hearth
