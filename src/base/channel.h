// Channel: a bounded queue of move-only messages between threads; the only way hearth's threads talk.
//
// Any number of senders and receivers. After close() sends are refused and receivers drain what is left.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace hearth {

template <class T>
class Channel {
 public:
  explicit Channel(std::size_t capacity) : capacity_(capacity) {}
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Waits while full. False when closed; `message` is lost then.
  bool send(T message) {
    std::unique_lock lock(mutex_);
    has_room_.wait(lock, [&] { return closed_ || queue_.size() < capacity_; });
    if (closed_) return false;
    queue_.push_back(std::move(message));
    lock.unlock();
    has_message_.notify_one();
    return true;
  }

  // False when full or closed; `message` is untouched then.
  bool try_send(T& message) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_ || queue_.size() >= capacity_) return false;
      queue_.push_back(std::move(message));
    }
    has_message_.notify_one();
    return true;
  }

  // Waits for a message; nothing when closed and empty.
  std::optional<T> receive() {
    std::unique_lock lock(mutex_);
    has_message_.wait(lock, [&] { return closed_ || !queue_.empty(); });
    return take(lock);
  }

  // Nothing when none came within `timeout`, or closed and empty.
  std::optional<T> receive_for(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    has_message_.wait_for(lock, timeout, [&] { return closed_ || !queue_.empty(); });
    return take(lock);
  }

  std::optional<T> try_receive() {
    std::unique_lock lock(mutex_);
    return take(lock);
  }

  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    has_message_.notify_all();
    has_room_.notify_all();
  }

  [[nodiscard]] bool closed() const {
    const std::lock_guard lock(mutex_);
    return closed_;
  }

 private:
  std::optional<T> take(std::unique_lock<std::mutex>& lock) {
    if (queue_.empty()) return std::nullopt;
    std::optional<T> message(std::move(queue_.front()));
    queue_.pop_front();
    lock.unlock();
    has_room_.notify_one();
    return message;
  }

  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable has_message_, has_room_;
  std::deque<T> queue_;
  bool closed_ = false;
};

}  // namespace hearth
