// What the processor of this machine has and what of it this process may use, as the kernel tells it.
//
// Files of the kernel are read at each call. Any thread. `root` is "/"; tests give a folder with recorded
// files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace hearth {

// Bytes of all caches of the last level together: weights that are read again from them are not read from
// memory. 0 when unknown.
[[nodiscard]] std::uint64_t last_level_cache_bytes(const std::filesystem::path& root = "/");

// Cores that the control groups (v1 or v2, this process' own and those above it) let this process use, the
// fewest: quota over period, e.g. 1.5. Nothing when no group has a limit.
[[nodiscard]] std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

}  // namespace hearth
