// Memory of this machine as the kernel and the control groups tell it, and how this process uses it.
//
// All numbers are bytes. Files of the kernel are read at each call (some 50 us). Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/os_groups.h"

namespace hearth {

// A limit that nobody set.
inline constexpr std::uint64_t kNoLimit = ~std::uint64_t{0};

struct MemoryStatus {
  std::uint64_t total = 0;      // of the machine, 0 when unknown
  std::uint64_t available = 0;  // the kernel's MemAvailable, kNoLimit when unknown
  // The control group (v1 or v2; this process' or one above it, because limits are inherited) that leaves the
  // least: nothing is set where no group has a limit.
  std::string group;                         // its folder, for display
  std::uint64_t group_limit = kNoLimit;      // memory.max or memory.high, memory.limit_in_bytes
  std::uint64_t group_used = 0;              // everything charged to it, page cache as well
  std::uint64_t group_inactive_file = 0;     // of that, page cache not used lately
  std::uint64_t group_active_file = 0;       // page cache used lately: read more than once, not locked
  std::uint64_t group_available = kNoLimit;  // limit - (used - cache): the kernel drops cache before it fails

  // Bytes this process may still take without harming others, as far as the kernel knows: the smaller of the
  // two. It counts every page of clean cache as free, also those that this program pinned there.
  [[nodiscard]] std::uint64_t usable() const {
    return available < group_available ? available : group_available;
  }
};

// `root` is "/"; tests give a folder with recorded files: proc/meminfo, proc/self/cgroup, proc/self/mountinfo
// and the groups' files under the mount points that the latter names.
[[nodiscard]] MemoryStatus memory_status(const std::filesystem::path& root = "/");

// A control group that limits, or may limit, the memory of this process.
using MemoryGroup = ControlGroup;
// This process' own group first, then those above it that can be seen; empty without control groups. A
// machine with both versions gives those of both.
[[nodiscard]] std::vector<MemoryGroup> memory_groups(const std::filesystem::path& root = "/");

// What this process uses. 0 for what the system does not say.
struct ProcessMemory {
  std::uint64_t anonymous = 0;  // resident: heap, stacks, private copies
  std::uint64_t file = 0;       // resident pages of mapped files; clean ones can be taken back
  std::uint64_t shared = 0;     // resident shared memory
  std::uint64_t locked = 0;
  std::uint64_t swapped = 0;
  std::uint64_t major_faults = 0;  // since its start: page faults that had to read
  std::uint64_t read_bytes =
      0;  // since its start: what storage had to read for it, faults and read-ahead included
};

[[nodiscard]] ProcessMemory process_memory(const std::filesystem::path& root = "/");

// Gives the system what this process has allocated and freed again: reading a vocabulary leaves a dozen MB of
// that. Milliseconds; where the C library cannot, it does nothing.
void give_back_freed_memory();

// Asks for huge pages behind fresh anonymous memory that will be read from end to end again and again: fewer
// misses in the processor's address cache. Call it before the first write; the system may ignore it.
void prefer_huge_pages(void* begin, std::size_t size);

}  // namespace hearth
