#include "support/memory_bandwidth.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <memory>
#include <span>
#include <thread>
#include <vector>

namespace hearth::bench {
namespace {

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

double read_bandwidth_bytes_per_s(std::uint32_t n_threads, std::uint64_t bytes, int passes) {
  using Clock = std::chrono::steady_clock;
  n_threads = std::max(1u, n_threads);
  const std::size_t n_words = bytes / sizeof(std::uint64_t) / n_threads;
  std::atomic<std::uint64_t> sink = 0;  // so that no read can be left out
  std::vector<Clock::time_point> marks;
  marks.reserve(static_cast<std::size_t>(passes) + 1);
  std::barrier start_of_pass(static_cast<std::ptrdiff_t>(n_threads),
                             [&]() noexcept { marks.push_back(Clock::now()); });
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t t = 0; t < n_threads; ++t) {
      threads.emplace_back([&, t] {
        std::vector<std::uint64_t> words(n_words, t + 1);  // each thread's first touch makes its pages
        for (int pass = 0; pass < passes; ++pass) {
          start_of_pass.arrive_and_wait();
          sink += sum(words);
        }
        start_of_pass.arrive_and_wait();
      });
    }
  }
  double best_s = 1e30;
  for (std::size_t i = 1; i < marks.size(); ++i) {
    best_s = std::min(best_s, std::chrono::duration<double>(marks[i] - marks[i - 1]).count());
  }
  return static_cast<double>(n_words * sizeof(std::uint64_t) * n_threads) / best_s;
}

}  // namespace hearth::bench
