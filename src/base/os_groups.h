// The control groups of this process, as the kernel tells them. Any thread.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

namespace hearth {

struct ControlGroup {
  std::filesystem::path folder;
  bool version2 = false;
};

// Those that may limit this process in what `controller` ("memory", "cpu") divides: its own group first, then
// those above it that can be seen; empty without control groups. A machine with both versions gives those of
// both. `root` is "/"; tests give a folder with recorded files.
[[nodiscard]] std::vector<ControlGroup> control_groups(std::string_view controller,
                                                       const std::filesystem::path& root = "/");

}  // namespace hearth
