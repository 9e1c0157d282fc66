// How fast this machine's memory can be read: the limit of a decode step, which reads every weight once.
#pragma once

#include <cstdint>

namespace hearth::bench {

// Bytes per second at which n_threads read `bytes` (more than any cache holds) together; the best of
// `passes`. Takes that memory while it runs.
[[nodiscard]] double read_bandwidth_bytes_per_s(std::uint32_t n_threads, std::uint64_t bytes = 1ull << 30,
                                                int passes = 5);

}  // namespace hearth::bench
