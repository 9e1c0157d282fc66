// Recalls: what the control thread takes back from the engine thread: epochs that are over and batches whose
// results nobody wants. It overtakes everything that waits in the engine's channel, and ends a load that
// runs.
//
// Any thread. Forgetting a batch is harmless (it is computed for nothing); an epoch stays recalled until the
// engine has freed it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

namespace hearth::node {

class Recalls {
 public:
  struct Batches {
    std::uint32_t epoch;
    std::uint64_t first, last;
  };

  void add_epoch(std::uint32_t epoch) {
    const std::lock_guard lock(mutex_);
    epochs_.insert(epoch);
    has_epochs_ = true;
  }
  void add_batches(const Batches& batches) {
    const std::lock_guard lock(mutex_);
    batches_.push_back(batches);
    has_batches_ = true;
  }

  // Cheap while there is none: computing asks between any two nodes of a graph.
  [[nodiscard]] bool has(std::uint32_t epoch) const {
    if (!has_epochs_) return false;
    const std::lock_guard lock(mutex_);
    return epochs_.contains(epoch);
  }
  // Each recalled range once.
  [[nodiscard]] std::vector<Batches> take_batches() {
    if (!has_batches_.exchange(false)) return {};
    const std::lock_guard lock(mutex_);
    return std::exchange(batches_, {});
  }
  void forget(std::uint32_t epoch) {
    const std::lock_guard lock(mutex_);
    epochs_.erase(epoch);
    has_epochs_ = !epochs_.empty();
  }

 private:
  mutable std::mutex mutex_;
  std::set<std::uint32_t> epochs_;
  std::vector<Batches> batches_;
  std::atomic<bool> has_epochs_{false}, has_batches_{false};
};

}  // namespace hearth::node
