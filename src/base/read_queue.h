// ReadQueue: positioned reads in flight, the part of DirectReader that differs between io_uring and threads.
//
// It neither retries nor interprets: a request gives exactly one result, in any order. At most `depth`
// requests are in flight. Buffers belong to the system from push() to the result; the destructor waits until
// nothing is written to any buffer. One owner thread; wake() may come from every thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"

namespace hearth {

class ReadQueue {
 public:
  struct Request {
    std::uint64_t tag = 0;
    int descriptor = -1;
    std::uint64_t offset = 0;
    std::span<std::uint8_t> into;
  };
  struct Done {
    std::uint64_t tag = 0;
    std::int64_t result = 0;  // bytes read, 0 at the end of the file, or -errno
  };

  virtual ~ReadQueue() = default;
  // May keep the request back until start() or wait().
  virtual void push(const Request& request) = 0;
  // Gives everything that was pushed to the system.
  [[nodiscard]] virtual Result<> start() = 0;
  // start(), then waits until there is a result, a wake() or `timeout`. Appends all results there are.
  // True when it was woken. A wake() before the call counts.
  [[nodiscard]] virtual Result<bool> wait(std::chrono::nanoseconds timeout, std::vector<Done>& done) = 0;
  virtual void wake() = 0;
};

// kUnsupported where the system has no io_uring or refuses it (a seccomp filter, a sysctl, an old kernel).
[[nodiscard]] Result<std::unique_ptr<ReadQueue>> make_uring_queue(unsigned depth);
// `depth` threads that call pread.
[[nodiscard]] Result<std::unique_ptr<ReadQueue>> make_thread_queue(unsigned depth);

}  // namespace hearth
