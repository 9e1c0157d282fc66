#include "base/os_cpu.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <system_error>

#include "base/os_groups.h"
#include "base/units.h"

namespace hearth {
namespace {

namespace fs = std::filesystem;

// No cache and no period is larger; what is not a number is 0.
constexpr std::int64_t kAbsurd = std::int64_t{1} << 50;

std::int64_t read_number(const fs::path& path) {
  std::ifstream in(path);
  std::int64_t value = 0;
  return in >> value && value > 0 && value < kAbsurd ? value : 0;
}

std::string read_word(const fs::path& path) {
  std::ifstream in(path);
  std::string word;
  in >> word;
  return word;
}

}  // namespace

std::uint64_t last_level_cache_bytes(const fs::path& root) {
  std::int64_t last = 0;
  std::uint64_t bytes = 0;
  std::set<std::string> seen;  // a cache is listed by each processor that shares it
  std::error_code error;
  for (fs::directory_iterator cpu(root / "sys/devices/system/cpu", error), end; !error && cpu != end;
       cpu.increment(error)) {
    std::error_code none;  // a folder of something else
    for (fs::directory_iterator cache(cpu->path() / "cache", none); !none && cache != end;
         cache.increment(none)) {
      const std::int64_t level = read_number(cache->path() / "level");
      const auto size = parse_bytes(read_word(cache->path() / "size"));  // "32768K"
      if (level < last || level == 0 || !size || *size >= kAbsurd ||
          read_word(cache->path() / "type") == "Instruction")
        continue;
      if (level > last) {
        last = level;
        bytes = 0;
        seen.clear();
      }
      if (seen.insert(read_word(cache->path() / "shared_cpu_list")).second) bytes += *size;
    }
  }
  return bytes;
}

std::optional<double> cpu_quota(const fs::path& root) {
  std::optional<double> least;
  for (const ControlGroup& group : control_groups("cpu", root)) {
    std::int64_t quota = 0, period = 0;
    if (group.version2) {
      std::ifstream in(group.folder / "cpu.max");  // "150000 100000", "max 100000"
      if (!(in >> quota >> period)) continue;
    } else {
      quota = read_number(group.folder / "cpu.cfs_quota_us");  // -1: none
      period = read_number(group.folder / "cpu.cfs_period_us");
    }
    if (quota <= 0 || period <= 0) continue;
    const double cores = static_cast<double>(quota) / static_cast<double>(period);
    least = std::min(least.value_or(cores), cores);
  }
  return least;
}

}  // namespace hearth
