// How fast the disk of a folder reads, past the page cache, the way packs are streamed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "base/result.h"

namespace hearth::residency {

// Bytes a second, of a nameless file of `bytes` that is written for it; on a slow disk of less, so that it
// takes about a second. `folder` is made when it is not there. Blocks; any thread. kIo, also when the disk is
// full; kOutOfMemory.
[[nodiscard]] Result<std::uint64_t> measure_disk(const std::filesystem::path& folder,
                                                 std::uint64_t bytes = std::uint64_t{64} << 20);

// Bytes a second of reads of `read_bytes`, which ended at `ended_s`, seconds after the first was asked for.
// The first quarter of them, at least one where there are more, does not count: caches of the disk, and
// limits that let a while of rest be made up for.
[[nodiscard]] double steady_rate(std::span<const double> ended_s, std::uint64_t read_bytes);

}  // namespace hearth::residency
