// How fast the disk of a folder reads, past the page cache, the way packs are streamed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "base/result.h"

namespace hearth::residency {

struct DiskRate {
  std::uint64_t bytes_per_s = 0;  // the mean of windows of reading that did not stall
  double spread = 0;              // half the interquartile range of all over their median
  friend bool operator==(const DiskRate&, const DiskRate&) = default;
};

// Of a nameless file of `bytes` that is written for it and read, again from its start where that takes less
// time: a second to write at most (what is there by then has to do), then half a second to three of reading,
// until the windows agree. `folder` is made when it is not there. Blocks; any thread. kIo, also when the disk
// is full; kOutOfMemory.
[[nodiscard]] Result<DiskRate> measure_disk(const std::filesystem::path& folder,
                                            std::uint64_t bytes = std::uint64_t{256} << 20);

// Of reads of `read_bytes`, which ended at `ended_s`, seconds after the first was asked for, in order. The
// first quarter of them, at least one where there are more, does not count: caches of the disk, and limits
// that let a while of rest be made up for. The others make windows of an equal number of reads but for one.
// Those of more than twice the median time stalled and do not count. The rate is the mean of the others:
// where a throttle gives in slices a window has one more or less, so that their median may be a fifth off.
[[nodiscard]] DiskRate steady_rate(std::span<const double> ended_s, std::uint64_t read_bytes);

}  // namespace hearth::residency
