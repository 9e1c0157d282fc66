// The middle of repeated measurements, and how far they lie apart.
// Pure functions; any thread.
#pragma once

#include <vector>

namespace hearth {

struct Median {
  double value = 0;   // the middle one, the mean of the two middle ones where their number is even
  double spread = 0;  // half the interquartile range over `value`, 0 of a single one; 0.05: half of them lie
                      // within about 5 %
};

// Of positive numbers, at least one. Quartiles are linear between neighbours (type 7 of Hyndman and Fan).
[[nodiscard]] Median median_of(std::vector<double> values);

}  // namespace hearth
