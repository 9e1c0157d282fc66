#include "base/os_memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

namespace hearth {
namespace {

std::optional<std::uint64_t> read_number(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::uint64_t value = 0;
  if (!(in >> value)) return std::nullopt;  // a missing file, or "max"
  return value;
}

std::uint64_t mem_available() {
  std::ifstream in("/proc/meminfo");
  std::string key, unit;
  std::uint64_t kib = 0;
  while (in >> key >> kib) {
    std::getline(in, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return 0;
}

// File pages of the group that the kernel gives back when asked: a line "KEY BYTES" of its memory.stat.
std::uint64_t reclaimable(const std::filesystem::path& group, const char* wanted) {
  std::ifstream in(group / "memory.stat");
  std::string key;
  std::uint64_t bytes = 0;
  while (in >> key >> bytes)
    if (key == wanted) return bytes;
  return 0;
}

// What is left in the group at `path` and, as limits are inherited, in the groups above it.
std::uint64_t left_in_groups(std::filesystem::path path, const std::filesystem::path& root,
                             const char* limit_file, const char* usage_file, const char* cache_key) {
  std::uint64_t left = ~std::uint64_t{0};
  while (true) {
    const auto limit = read_number(path / limit_file);
    const auto usage = read_number(path / usage_file);
    if (limit && usage) {
      const std::uint64_t used = *usage - std::min(*usage, reclaimable(path, cache_key));
      left = std::min(left, *limit > used ? *limit - used : 1);  // 0 would mean that nothing is known
    }
    if (path == root || !path.has_relative_path()) return left;
    path = path.parent_path();
  }
}

}  // namespace

std::uint64_t available_memory() {
  std::uint64_t available = mem_available();
  if (available == 0) available = ~std::uint64_t{0};
  // "4:memory:/group" for v1, "0::/group" for v2.
  std::ifstream in("/proc/self/cgroup");
  std::string line;
  while (std::getline(in, line)) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos || second + 2 > line.size()) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 2);  // without the leading '/'
    if (controllers.empty()) {
      const std::filesystem::path root = "/sys/fs/cgroup";
      available = std::min(
          available, left_in_groups(root / group, root, "memory.max", "memory.current", "inactive_file"));
    } else if (controllers.find("memory") != std::string::npos) {
      const std::filesystem::path root = "/sys/fs/cgroup/memory";
      available = std::min(available, left_in_groups(root / group, root, "memory.limit_in_bytes",
                                                     "memory.usage_in_bytes", "total_inactive_file"));
    }
  }
  return available == ~std::uint64_t{0} ? 0 : available;
}

void prefer_huge_pages(void* begin, std::size_t size) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto from = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page;
  const auto to = (reinterpret_cast<std::uintptr_t>(begin) + size) / page * page;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
}

}  // namespace hearth
