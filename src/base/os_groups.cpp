#include "base/os_groups.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace hearth {
namespace {

namespace fs = std::filesystem;

// mountinfo writes spaces and backslashes of a path as \040 and so on.
std::string unescaped(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](std::size_t at) { return text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && i + 3 < text.size() && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

bool has_word(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const auto comma = std::min(list.find(','), list.size());
    if (list.substr(0, comma) == word) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

struct Mount {
  std::string group;  // the group that is visible at `point`; not "/" in containers
  std::string point;
};

// Where version 2, or that controller of version 1, is mounted.
std::optional<Mount> find_mount(const fs::path& root, bool version2, std::string_view controller) {
  // "36 35 0:30 /group /sys/fs/cgroup/memory rw,nosuid shared:1 - cgroup cgroup rw,memory"
  std::ifstream in(root / "proc/self/mountinfo");
  std::string line;
  while (std::getline(in, line)) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream front(line.substr(0, dash)), back(line.substr(dash + 3));
    std::string skipped, group, point, type, options;
    front >> skipped >> skipped >> skipped >> group >> point;
    back >> type >> skipped >> options;
    if (version2 ? type == "cgroup2" : type == "cgroup" && has_word(options, controller))
      return Mount{unescaped(group), unescaped(point)};
  }
  return std::nullopt;
}

// The folder of `group` below the mount; the mount point itself when the group is not below it (a container
// whose view of its own group differs).
fs::path folder_of(const fs::path& root, const Mount& mount, std::string group) {
  const fs::path point = root / fs::path(mount.point).relative_path();
  if (mount.group != "/") {
    if (group != mount.group && !group.starts_with(mount.group + "/")) return point;
    group.erase(0, mount.group.size());
  }
  const fs::path below = fs::path(group).relative_path();
  for (const fs::path& part : below)
    if (part == "..") return point;
  return below.empty() ? point : point / below;
}

}  // namespace

std::vector<ControlGroup> control_groups(std::string_view controller, const std::filesystem::path& root) {
  std::vector<ControlGroup> groups;
  // "4:memory:/group" for v1, "0::/group" for v2.
  std::ifstream in(root / "proc/self/cgroup");
  std::string line;
  while (std::getline(in, line)) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && !has_word(controllers, controller)) continue;
    const bool version2 = controllers.empty();
    const auto mount = find_mount(root, version2, controller);
    if (!mount) continue;
    const fs::path top = root / fs::path(mount->point).relative_path();
    fs::path folder = folder_of(root, *mount, line.substr(second + 1));
    while (true) {
      groups.push_back({.folder = folder, .version2 = version2});
      if (folder == top || !folder.has_relative_path()) break;
      folder = folder.parent_path();
    }
  }
  return groups;
}

}  // namespace hearth
