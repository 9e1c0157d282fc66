#include "profile/memory_rate.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cstring>
#include <span>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/median.h"
#include "base/os_cpu.h"
#include "base/os_pages.h"
#include "base/units.h"

namespace hearth::profile {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kLeastBytes = std::uint64_t{256} << 20, kMostBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kTimesTheCache = 4;
constexpr std::size_t kLeastPasses = 3, kMostPasses = 1000;

// Sixteen independent sums keep enough loads in flight and become vector instructions.
std::uint64_t sum(std::span<const std::uint64_t> words) {
  std::array<std::uint64_t, 16> sums{};
  for (std::size_t i = 0; i + sums.size() <= words.size(); i += sums.size()) {
    for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += words[i + j];
  }
  std::uint64_t result = 0;
  for (const std::uint64_t s : sums) result += s;
  return result;
}

}  // namespace

Result<MemoryRate> measure_memory(std::uint32_t n_threads, const MemoryOptions& options) {
  const std::uint64_t cache = last_level_cache_bytes();
  std::uint64_t all = options.bytes;
  if (all == 0) {
    // Some servers have more than 1 GiB of caches.
    const std::uint64_t most = std::max(kMostBytes, 2 * cache);
    all = std::min(std::clamp(kTimesTheCache * cache, kLeastBytes, most), options.most_bytes);
    if (all < 2 * cache)
      return fail(ErrorCode::kOutOfMemory,
                  "memory is measured with twice the caches at least, {}; there are {}",
                  format_bytes(2 * cache), format_bytes(all));
  }
  const std::uint64_t bytes = n_threads == 0 ? 0 : all / n_threads / page_bytes() * page_bytes();
  if (bytes == 0)
    return fail(ErrorCode::kInvalidArgument,
                "memory is measured by at least one thread with {} bytes for each, got {} threads, {} bytes",
                page_bytes(), n_threads, all);
  std::vector<AlignedBuffer> buffers;
  for (std::uint32_t t = 0; t < n_threads; ++t) {
    HEARTH_TRY(auto buffer, AlignedBuffer::make(bytes, {.huge_pages = true}));
    buffers.push_back(std::move(buffer));
  }
  std::atomic<std::uint64_t> sink = 0;  // so that no read can be left out
  std::vector<Clock::time_point> marks;
  marks.reserve(kMostPasses + 2);
  bool done = false;                  // written while all threads wait
  std::atomic<bool> lacking = false;  // not all threads could be started
  std::barrier between_passes(static_cast<std::ptrdiff_t>(n_threads), [&]() noexcept {
    marks.push_back(Clock::now());
    const std::size_t n_passes = marks.size() - 1;
    done = lacking || n_passes >= kMostPasses ||
           (n_passes >= kLeastPasses && marks.back() - marks.front() >= options.duration);
  });
  {
    std::vector<std::jthread> threads;
    const auto read = [&](std::uint32_t t) {
      const std::span<std::uint8_t> own = buffers[t].bytes();
      std::memset(own.data(), static_cast<int>(t % 255) + 1, own.size());  // pages near this thread
      const std::span<const std::uint64_t> words(reinterpret_cast<const std::uint64_t*>(own.data()),
                                                 own.size() / sizeof(std::uint64_t));
      for (;;) {
        between_passes.arrive_and_wait();
        if (done) break;
        sink += sum(words);
      }
    };
    for (std::uint32_t t = 0; t < n_threads && !lacking; ++t) {
      try {
        threads.emplace_back(read, t);
      } catch (const std::system_error&) {
        // Those that were started wait for the others.
        lacking = true;
        for (; t < n_threads; ++t) between_passes.arrive_and_drop();
      }
    }
  }
  if (lacking)
    return fail(ErrorCode::kIo,
                "cannot start {} threads to measure the memory; a limit of processes (ulimit -u, pids.max) "
                "is reached, or use fewer threads (-t)",
                n_threads);
  std::vector<double> rates;
  for (std::size_t i = 1; i < marks.size(); ++i) {
    const double seconds = std::chrono::duration<double>(marks[i] - marks[i - 1]).count();
    rates.push_back(static_cast<double>(bytes * n_threads) / std::max(seconds, 1e-9));
  }
  const double best = std::ranges::max(rates);
  const Median median = median_of(std::move(rates));
  return MemoryRate{.bytes_per_s = static_cast<std::uint64_t>(median.value),
                    .spread = median.spread,
                    .best_bytes_per_s = static_cast<std::uint64_t>(best)};
}

}  // namespace hearth::profile
