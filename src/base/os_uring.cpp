// The only file that knows io_uring.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/read_queue.h"

namespace hearth {
namespace {

// How often the system may say "not now" to a submission while nothing is in flight that could free
// resources.
constexpr int kMaxRefusals = 1000;

class UringQueue : public ReadQueue {
 public:
  UringQueue() = default;
  UringQueue(const UringQueue&) = delete;
  UringQueue& operator=(const UringQueue&) = delete;

  ~UringQueue() override {
    if (ready_) {
      // Requests that were never started end here; those in flight write to buffers that may be freed next.
      std::vector<Done> rest;
      while (in_flight_ > 0) {
        io_uring_cqe* entry = nullptr;
        const int result = io_uring_wait_cqe(&ring_, &entry);
        HEARTH_CHECK(result == 0 || result == -EINTR, "io_uring lost its requests");
        reap(rest);
      }
      io_uring_queue_exit(&ring_);
    }
    if (wake_ >= 0) close(wake_);
  }

  Result<> init(unsigned depth) {
    // Default flags: the ring may change threads, and its descriptor can be polled together with `wake_`.
    const int result = io_uring_queue_init(depth, &ring_, 0);
    if (result < 0)
      return fail(ErrorCode::kUnsupported, "io_uring is refused by this system: {}",
                  std::generic_category().message(-result));
    ready_ = true;
    io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
    const bool reads = probe != nullptr && io_uring_opcode_supported(probe, IORING_OP_READ) != 0;
    if (probe != nullptr) io_uring_free_probe(probe);
    if (!reads) return fail(ErrorCode::kUnsupported, "io_uring of this kernel cannot read (Linux 5.6 can)");
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_ < 0)
      return fail(ErrorCode::kIo, "cannot make an eventfd: {}", std::generic_category().message(errno));
    return {};
  }

  void push(const Request& request) override {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    HEARTH_CHECK(entry != nullptr, "more requests than the queue is deep");
    io_uring_prep_read(entry, request.descriptor, request.into.data(),
                       static_cast<unsigned>(request.into.size()), request.offset);
    io_uring_sqe_set_data64(entry, request.tag);
    ++pushed_;
  }

  Result<> start() override {
    int refusals = 0;
    while (pushed_ > 0) {
      const int result = io_uring_submit(&ring_);
      if (result > 0) {
        pushed_ -= static_cast<unsigned>(result);
        in_flight_ += static_cast<unsigned>(result);
        continue;
      }
      if (result == -EINTR) continue;
      if (result == 0 || result == -EAGAIN || result == -EBUSY) {
        // What is in flight frees what is missing; the next wait() tries again.
        if (in_flight_ > 0) return {};
        if (++refusals < kMaxRefusals) continue;
      }
      return fail(ErrorCode::kIo, "io_uring takes no requests: {}", std::generic_category().message(-result));
    }
    return {};
  }

  Result<bool> wait(std::chrono::nanoseconds timeout, std::vector<Done>& done) override {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    const std::size_t before = done.size();
    while (true) {
      HEARTH_TRY_VOID(start());
      reap(done);
      if (take_wake()) return true;
      if (done.size() > before) return false;
      const auto left = std::max(deadline - std::chrono::steady_clock::now(), std::chrono::nanoseconds{0});
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
      const timespec limit{.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
      std::array<pollfd, 2> fds{pollfd{.fd = ring_.ring_fd, .events = POLLIN, .revents = 0},
                                pollfd{.fd = wake_, .events = POLLIN, .revents = 0}};
      const int ready = ppoll(fds.data(), fds.size(), &limit, nullptr);
      if (ready < 0 && errno != EINTR)
        return fail(ErrorCode::kIo, "cannot wait for io_uring: {}", std::generic_category().message(errno));
      if (ready == 0) {
        reap(done);
        return take_wake();
      }
    }
  }

  void wake() override {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof one);  // full: it is awake already
  }

 private:
  void reap(std::vector<Done>& done) {
    io_uring_cqe* entry = nullptr;
    while (io_uring_peek_cqe(&ring_, &entry) == 0) {
      done.push_back({.tag = io_uring_cqe_get_data64(entry), .result = entry->res});
      io_uring_cqe_seen(&ring_, entry);
      --in_flight_;
    }
  }

  bool take_wake() const {
    std::uint64_t count = 0;
    return read(wake_, &count, sizeof count) == sizeof count;
  }

  io_uring ring_{};
  bool ready_ = false;
  int wake_ = -1;
  unsigned pushed_ = 0;     // filled in, not yet taken by the system
  unsigned in_flight_ = 0;  // taken, no result yet
};

}  // namespace

Result<std::unique_ptr<ReadQueue>> make_uring_queue(unsigned depth) {
  auto queue = std::make_unique<UringQueue>();
  HEARTH_TRY_VOID(queue->init(depth));
  return queue;
}

}  // namespace hearth
