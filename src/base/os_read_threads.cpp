#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include "base/read_queue.h"

namespace hearth {
namespace {

class ThreadQueue : public ReadQueue {
 public:
  ThreadQueue() = default;
  ThreadQueue(const ThreadQueue&) = delete;
  ThreadQueue& operator=(const ThreadQueue&) = delete;

  ~ThreadQueue() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
      requests_.clear();
    }
    has_request_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  Result<> init(unsigned depth) {
    try {
      for (unsigned i = 0; i < depth; ++i) threads_.emplace_back([this] { serve(); });
    } catch (const std::system_error& error) {
      if (threads_.empty()) return fail(ErrorCode::kIo, "cannot start a thread that reads: {}", error.what());
      // A shallower queue still reads everything.
    }
    return {};
  }

  void push(const Request& request) override {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    has_request_.notify_one();
  }

  Result<> start() override { return {}; }

  Result<bool> wait(std::chrono::nanoseconds timeout, std::vector<Done>& done) override {
    std::unique_lock lock(mutex_);
    has_done_.wait_for(lock, timeout, [&] { return woken_ || !done_.empty(); });
    done.insert(done.end(), done_.begin(), done_.end());
    done_.clear();
    return std::exchange(woken_, false);
  }

  void wake() override {
    {
      const std::lock_guard lock(mutex_);
      woken_ = true;
    }
    has_done_.notify_one();
  }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    while (true) {
      has_request_.wait(lock, [&] { return ending_ || !requests_.empty(); });
      if (ending_) return;
      const Request request = requests_.front();
      requests_.pop_front();
      lock.unlock();
      const ssize_t got = pread(request.descriptor, request.into.data(), request.into.size(),
                                static_cast<off_t>(request.offset));
      const std::int64_t result = got < 0 ? -errno : got;
      lock.lock();
      done_.push_back({.tag = request.tag, .result = result});
      has_done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable has_request_, has_done_;
  std::deque<Request> requests_;
  std::vector<Done> done_;
  bool woken_ = false;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<ReadQueue>> make_thread_queue(unsigned depth) {
  auto queue = std::make_unique<ThreadQueue>();
  HEARTH_TRY_VOID(queue->init(depth));
  return queue;
}

}  // namespace hearth
