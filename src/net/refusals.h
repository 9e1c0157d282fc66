// Refusals: at most a few RefusedEvents per second, the others counted.
//
// A stranger who knocks a thousand times a second must not fill the log. Pure: time is a parameter.
// Thread contract: one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>

#include "net/hub.h"

namespace hearth::net {

class Refusals {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit Refusals(int per_second) : per_second_(per_second) {}

  // The event to report for this refusal, or nullopt when this second has had enough.
  [[nodiscard]] std::optional<RefusedEvent> report(TimePoint now, std::string address, std::string reason);
  // Refusals that were not even described.
  void count(std::size_t n) { suppressed_ += n; }

 private:
  int per_second_;
  int used_ = 0;
  TimePoint window_{};
  std::size_t suppressed_ = 0;
};

}  // namespace hearth::net
