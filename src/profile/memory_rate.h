// How fast this machine's memory is read: the limit of a decode step, which reads every weight once.
#pragma once

#include <chrono>
#include <cstdint>

#include "base/result.h"

namespace hearth::profile {

struct MemoryRate {
  std::uint64_t bytes_per_s = 0;       // of all threads together, the median of passes
  double spread = 0;                   // half their interquartile range over it
  std::uint64_t best_bytes_per_s = 0;  // of the fastest pass: what others left of the machine at its best
  friend bool operator==(const MemoryRate&, const MemoryRate&) = default;
};

struct MemoryOptions {
  // Of all threads' buffers together, taken while it runs; 0: four times the caches of the last level,
  // 256 MiB to 1 GiB or twice the caches.
  std::uint64_t bytes = 0;
  // Less than `bytes` = 0 would take. Twice the caches at least, or they would be measured.
  std::uint64_t most_bytes = ~std::uint64_t{0};
  std::chrono::milliseconds duration{300};  // of the passes, at least three; making pages comes before
};

// `n_threads` >= 1 each read a buffer of their own from end to end, at the same time, again and again.
// Blocks; any thread. kOutOfMemory, also when most_bytes is too little; kInvalidArgument (no threads, or less
// than a page for each); kIo when the system does not start so many threads.
[[nodiscard]] Result<MemoryRate> measure_memory(std::uint32_t n_threads, const MemoryOptions& options = {});

}  // namespace hearth::profile
