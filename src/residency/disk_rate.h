// How fast the disk of a folder reads, past the page cache, the way packs are streamed.
#pragma once

#include <cstdint>
#include <filesystem>

#include "base/result.h"

namespace hearth::residency {

// Bytes a second, of a nameless file of `bytes` that is written for it; on a slow disk of less, so that it
// takes about a second. `folder` is made when it is not there. Blocks; any thread. kIo, also when the disk is
// full; kOutOfMemory.
[[nodiscard]] Result<std::uint64_t> measure_disk(const std::filesystem::path& folder,
                                                 std::uint64_t bytes = std::uint64_t{64} << 20);

}  // namespace hearth::residency
