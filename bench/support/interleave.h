// Two things timed in turn, A B A B …, so that whatever the machine does meets both alike.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "base/os_cpu_load.h"
#include "base/result.h"

namespace hearth::bench {

struct InterleaveOptions {
  std::size_t n_pairs = 30;     // that count
  std::size_t n_warmup = 2;     // before them, not counted
  double max_taken = 0.05;      // a pair that lost more processor time than this to others is discarded
  std::size_t max_tries = 300;  // pairs measured at most, the discarded ones included
  std::function<Result<CpuTimes>()> cpu_times = read_cpu_times;
  std::function<void(std::size_t kept, std::size_t discarded)> progress = {};
};

struct Pairs {
  std::vector<double> a_s, b_s;  // seconds, pair by pair
  std::size_t n_discarded = 0;
  double worst_kept = 0;                             // the largest share taken in a pair that counts
  [[nodiscard]] std::vector<double> ratios() const;  // a / b
};

// Each call of a and b does its work once and returns the seconds that count. Stops after max_tries with what
// there is: a_s.size() < n_pairs tells. Errors are those of a, b and cpu_times.
[[nodiscard]] Result<Pairs> interleave(const InterleaveOptions& options,
                                       const std::function<Result<double>()>& a,
                                       const std::function<Result<double>()>& b);

}  // namespace hearth::bench
