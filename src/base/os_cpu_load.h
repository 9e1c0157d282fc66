// What of this machine's processor time went elsewhere while something was measured.
//
// Two thieves are told apart: the hypervisor (steal of /proc/stat) and other processes of this machine (busy
// time that is not our own). A clock tick is 10 ms, so a measured span should be half a second or more.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace hearth {

// Clock ticks since boot, summed over all cores.
struct CpuTimes {
  std::uint64_t total = 0;  // busy, idle and stolen
  std::uint64_t idle = 0;   // idle and waiting for a disk
  std::uint64_t steal = 0;
  std::uint64_t own = 0;  // user and system time of this process
};

// Text of /proc/stat and of /proc/self/stat. kInvalidFile where they are not as proc(5) says.
[[nodiscard]] Result<CpuTimes> parse_cpu_times(std::string_view stat, std::string_view self_stat);
// Those of now; kIo where there is no /proc.
[[nodiscard]] Result<CpuTimes> read_cpu_times();

// Shares of all processor time between two readings, 0 to 1.
struct Taken {
  double steal = 0;
  double others = 0;
  [[nodiscard]] double sum() const { return steal + others; }
};
[[nodiscard]] Taken taken_between(const CpuTimes& before, const CpuTimes& after);

}  // namespace hearth
