// DirectReader: reads large parts of one file at the speed of the disk, past the page cache, into buffers of
// the caller.
//
// A read is cut into requests of `request_bytes`, and `queue_depth` of them are kept in flight, over the
// borders of reads: a disk that always has the next requests never rests. io_uring carries them, threads
// where the system refuses io_uring. Short reads are continued, interrupted ones repeated.
//
// "Direct" is verified, not assumed: some file systems accept O_DIRECT and buffer silently, so the first
// requests look (mincore) whether their pages are in the page cache afterwards. Where they are, or where
// O_DIRECT is refused, the reader reads buffered and drops the pages behind itself. Memory that others need
// is not filled with bytes that are read once, either way.
//
// Offsets, buffers and their sizes are multiples of alignment(), which never changes.
//
// Threads: one owner at a time for everything but wake(), counters and names, which are for any thread.
// A buffer belongs to the reader from submit() to the completion. The destructor waits for requests in
// flight.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>

#include "base/result.h"

namespace hearth {

class ReadQueue;

class DirectReader {
 public:
  enum class Method { kAuto, kUring, kThreads };
  // kUnverified: O_DIRECT was accepted, and no request has yet been able to tell whether it is honoured
  // (mincore tells nothing about files of other users, or about pages that somebody else keeps in memory).
  enum class Caching { kUnverified, kDirect, kDropBehind };

  struct Options {
    unsigned queue_depth = 16;  // requests in flight, 1 to kMaxQueueDepth
    std::size_t request_bytes =
        std::size_t{1024} * 1024;   // rounded up to alignment(); 512 KiB to 2 MiB are good
    Method method = Method::kAuto;  // kUring fails where kAuto falls back to threads
    bool allow_direct = true;       // false: always buffered with drop-behind
    // Fault injection for tests: called with the file offset of each request before it is made; an errno
    // that it returns is the result of that request, and nothing is read.
    std::function<std::optional<int>(std::uint64_t offset)> inject = {};
  };
  static constexpr unsigned kMaxQueueDepth = 256;
  static constexpr std::size_t kMaxRequestBytes = std::size_t{64} * 1024 * 1024;

  struct Read {
    std::uint64_t id = 0;  // the caller's, comes back in the completion
    std::uint64_t offset = 0;
    std::span<std::uint8_t> into;
    // Bytes that the file must have from `offset` on, 0 for all of `into`; less only where a file ends inside
    // the last aligned block. What follows them in `into` is unspecified.
    std::size_t want_bytes = 0;
  };
  struct Completion {
    std::uint64_t id = 0;
    // kIo names file, offset, bytes expected and got; kCancelled after cancel(). `into` is then unspecified.
    std::optional<Error> error;
  };

  // Errors: those of InputFile::open; kUnsupported when Options::method was refused.
  [[nodiscard]] static Result<DirectReader> open(const std::filesystem::path& path, Options options);
  [[nodiscard]] static Result<DirectReader> open(const std::filesystem::path& path) { return open(path, {}); }
  // With a queue of the caller's instead of Options::method: for tests that script its results.
  [[nodiscard]] static Result<DirectReader> open(const std::filesystem::path& path, Options options,
                                                 std::unique_ptr<ReadQueue> queue);
  DirectReader(DirectReader&& other) noexcept;
  DirectReader& operator=(DirectReader&& other) noexcept;
  ~DirectReader();

  // Starts a read. Reads are served in the order of submit(); any number may wait.
  void submit(const Read& read);
  // The next completed read, in any order; nothing after `timeout` or a wake(). Requests are made in submit()
  // and in wait() only: a caller that wants the disk busy stays in here. An error means that the system
  // refused to take requests at all: destroy the reader then, before the buffers.
  [[nodiscard]] Result<std::optional<Completion>> wait(std::chrono::nanoseconds timeout);
  // Makes the current or the next wait() return soon. Any thread.
  void wake();
  // All reads complete as soon as their requests in flight have, with kCancelled unless they already had.
  void cancel();
  // Reads submitted whose completion has not been taken.
  [[nodiscard]] std::size_t pending() const;

  // One read at a time, while nothing is pending. kCancelled when `stop` was asked for.
  [[nodiscard]] Result<> read(std::uint64_t offset, std::span<std::uint8_t> into, std::stop_token stop = {});

  [[nodiscard]] std::size_t alignment() const;
  [[nodiscard]] std::uint64_t file_size() const;  // when it was opened
  // For display.
  [[nodiscard]] Method method() const;  // kUring or kThreads
  [[nodiscard]] Caching caching() const;
  [[nodiscard]] bool is_direct() const { return caching() != Caching::kDropBehind; }
  [[nodiscard]] std::string describe() const;      // e.g. "io_uring, direct"
  [[nodiscard]] std::uint64_t bytes_read() const;  // in all, by the system's answers

 private:
  struct State;
  explicit DirectReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace hearth
