#include "support/interleave.h"

#include <algorithm>

namespace hearth::bench {

std::vector<double> Pairs::ratios() const {
  std::vector<double> result;
  for (std::size_t i = 0; i < a_s.size(); ++i) result.push_back(a_s[i] / b_s[i]);
  return result;
}

Result<Pairs> interleave(const InterleaveOptions& options, const std::function<Result<double>()>& a,
                         const std::function<Result<double>()>& b) {
  for (std::size_t i = 0; i < options.n_warmup; ++i) {
    HEARTH_TRY_VOID(a());
    HEARTH_TRY_VOID(b());
  }
  Pairs pairs;
  for (std::size_t tries = 0; tries < options.max_tries && pairs.a_s.size() < options.n_pairs; ++tries) {
    HEARTH_TRY(const CpuTimes before, options.cpu_times());
    HEARTH_TRY(const double a_s, a());
    HEARTH_TRY(const double b_s, b());
    HEARTH_TRY(const CpuTimes after, options.cpu_times());
    const double taken = taken_between(before, after).sum();
    if (taken > options.max_taken) {
      ++pairs.n_discarded;
    } else {
      pairs.a_s.push_back(a_s);
      pairs.b_s.push_back(b_s);
      pairs.worst_kept = std::max(pairs.worst_kept, taken);
    }
    if (options.progress) options.progress(pairs.a_s.size(), pairs.n_discarded);
  }
  return pairs;
}

}  // namespace hearth::bench
