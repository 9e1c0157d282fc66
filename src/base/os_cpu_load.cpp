#include "base/os_cpu_load.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

namespace hearth {
namespace {

// Takes the next number off the front of `text`, past blanks.
std::optional<std::uint64_t> take_number(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

Result<std::string> read_text(const char* path) {
  std::ifstream file(path);
  if (!file) return fail(ErrorCode::kIo, "cannot read {}; the CPU load is measured on Linux only", path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace

Result<CpuTimes> parse_cpu_times(std::string_view stat, std::string_view self_stat) {
  // user nice system idle iowait irq softirq steal; guest times, which follow, are part of user and nice.
  std::array<std::uint64_t, 8> fields{};
  if (!stat.starts_with("cpu "))
    return fail(ErrorCode::kInvalidFile, "/proc/stat does not start with 'cpu '");
  stat.remove_prefix(4);
  CpuTimes times;
  for (std::uint64_t& field : fields) {
    const auto value = take_number(stat);
    if (!value) return fail(ErrorCode::kInvalidFile, "/proc/stat has fewer than 8 numbers in its first line");
    field = *value;
    times.total += field;
  }
  times.idle = fields[3] + fields[4];
  times.steal = fields[7];

  // pid (name) state and then numbers; the name may hold anything, also blanks and brackets.
  const std::size_t bracket = self_stat.rfind(')');
  if (bracket == std::string_view::npos || self_stat.size() < bracket + 4) {
    return fail(ErrorCode::kInvalidFile, "/proc/self/stat has no process name");
  }
  self_stat.remove_prefix(bracket + 4);  // ") S "
  constexpr int kUserTime = 14, kSystemTime = 15, kFirst = 4;
  for (int i = kFirst; i <= kSystemTime; ++i) {
    self_stat.remove_prefix(std::min(self_stat.find_first_not_of(" -"), self_stat.size()));
    const auto value = take_number(self_stat);
    if (!value) return fail(ErrorCode::kInvalidFile, "/proc/self/stat has no field {}", i);
    if (i >= kUserTime) times.own += *value;
  }
  return times;
}

Result<CpuTimes> read_cpu_times() {
  HEARTH_TRY(const std::string stat, read_text("/proc/stat"));
  HEARTH_TRY(const std::string self, read_text("/proc/self/stat"));
  return parse_cpu_times(stat, self);
}

Taken taken_between(const CpuTimes& before, const CpuTimes& after) {
  const auto total = static_cast<double>(after.total - before.total);
  if (total <= 0) return {};
  const auto steal = static_cast<double>(after.steal - before.steal);
  const double busy = total - static_cast<double>(after.idle - before.idle) - steal;
  const double others = busy - static_cast<double>(after.own - before.own);
  return {.steal = steal / total, .others = std::clamp(others / total, 0.0, 1.0)};
}

}  // namespace hearth
