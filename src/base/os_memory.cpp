#include "base/os_memory.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

namespace hearth {
namespace {

namespace fs = std::filesystem;

// v1 says "no limit" as the largest number of pages; no machine has this much.
constexpr std::uint64_t kAbsurdLimit = std::uint64_t{1} << 60;

// Files, folders and keys that differ between the two versions of control groups.
struct Version {
  const char* used;
  std::vector<const char*> limits;  // the smallest counts
  const char* inherited_limit;  // a key of memory.stat with the limits of groups that cannot be seen, or ""
  const char* inactive_file;
  const char* active_file;
};
const Version kVersion1{"memory.usage_in_bytes",
                        {"memory.limit_in_bytes"},
                        "hierarchical_memory_limit",
                        "total_inactive_file",
                        "total_active_file"};
// Above memory.high a group is slowed down until it is below again: that is no place to work.
const Version kVersion2{"memory.current", {"memory.max", "memory.high"}, "", "inactive_file", "active_file"};

std::optional<std::uint64_t> read_number(const fs::path& path) {
  std::ifstream in(path);
  std::uint64_t value = 0;
  if (!(in >> value)) return std::nullopt;  // a missing file, or "max"
  return value;
}

// The number after `key` in a file of lines "KEY NUMBER" or "KEY: NUMBER kB".
std::optional<std::uint64_t> read_key(const fs::path& path, std::string_view key) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    if (!line.starts_with(key) || line.size() == key.size()) continue;
    if (line[key.size()] != ' ' && line[key.size()] != ':') continue;
    std::istringstream rest(line.substr(key.size() + 1));
    std::uint64_t value = 0;
    std::string unit;
    if (!(rest >> value)) return std::nullopt;
    return rest >> unit && unit == "kB" ? value * 1024 : value;
  }
  return std::nullopt;
}

// Makes `group` the one that `status` tells of if it leaves less than the one before.
void look_at(MemoryStatus& status, const MemoryGroup& group) {
  const Version& version = group.version2 ? kVersion2 : kVersion1;
  const fs::path statistics = group.folder / "memory.stat";
  std::uint64_t limit = kNoLimit;
  for (const char* file : version.limits)
    limit = std::min(limit, read_number(group.folder / file).value_or(kNoLimit));
  if (*version.inherited_limit != '\0')
    limit = std::min(limit, read_key(statistics, version.inherited_limit).value_or(kNoLimit));
  const auto used = read_number(group.folder / version.used);
  if (!used || limit >= kAbsurdLimit) return;
  const std::uint64_t inactive = read_key(statistics, version.inactive_file).value_or(0);
  const std::uint64_t active = read_key(statistics, version.active_file).value_or(0);
  const std::uint64_t kept = *used - std::min(*used, inactive + active);
  const std::uint64_t left = limit - std::min(limit, kept);
  if (left >= status.group_available) return;
  status.group = group.folder.string();
  status.group_limit = limit;
  status.group_used = *used;
  status.group_inactive_file = inactive;
  status.group_active_file = active;
  status.group_available = left;
}

}  // namespace

std::vector<MemoryGroup> memory_groups(const std::filesystem::path& root) {
  return control_groups("memory", root);
}

MemoryStatus memory_status(const std::filesystem::path& root) {
  MemoryStatus status;
  status.total = read_key(root / "proc/meminfo", "MemTotal").value_or(0);
  status.available = read_key(root / "proc/meminfo", "MemAvailable").value_or(kNoLimit);
  for (const MemoryGroup& group : memory_groups(root)) look_at(status, group);
  return status;
}

ProcessMemory process_memory(const std::filesystem::path& root) {
  const auto status = [&](std::string_view key) {
    return read_key(root / "proc/self/status", key).value_or(0);
  };
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return {.anonymous = status("RssAnon"),
          .file = status("RssFile"),
          .shared = status("RssShmem"),
          .locked = status("VmLck"),
          .swapped = status("VmSwap"),
          .major_faults = static_cast<std::uint64_t>(usage.ru_majflt),
          .read_bytes = read_key(root / "proc/self/io", "read_bytes").value_or(0)};
}

void give_back_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

void prefer_huge_pages(void* begin, std::size_t size) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto from = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page;
  const auto to = (reinterpret_cast<std::uintptr_t>(begin) + size) / page * page;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
}

}  // namespace hearth
