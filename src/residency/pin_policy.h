// PinPolicy: how much of the planned pins may stay in memory while other programs want some of it.
//
// Pins are clean pages of a file, so the kernel takes them back by itself when memory is short; then nothing
// is left to do but to stream what is gone. Giving pins back before that keeps other programs from waiting.
// They are taken again when memory has been quiet for a while and is there beyond all that is pinned. Whoever
// takes them too early sees them go again, and waits longer the next time.
//
// Pure; any thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

#include "base/os_pressure.h"

namespace hearth::residency {

class PinPolicy {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  struct Options {
    // Quiet for this long before anything is pinned again; doubled, up to `most_patience`, each time that
    // pins are lost within `relapse` after some were taken.
    std::chrono::milliseconds patience{4'000};
    std::chrono::milliseconds most_patience{60'000};
    std::chrono::milliseconds relapse{10'000};
    // Memory that stays free when pins are taken again.
    std::uint64_t margin_bytes = std::uint64_t{16} << 20;
  };
  struct Look {
    TimePoint now{};
    std::optional<Pressure::Level> pressure{};  // told since the last look
    // Of the machine or the group that the pressure is about: what could be taken, pins not counted, and its
    // size.
    std::uint64_t short_free_bytes = 0;
    std::uint64_t short_total_bytes = 0;
    std::uint64_t planned_bytes = 0;  // of all pins
    std::uint64_t pinned_bytes = 0;   // now
    bool lost = false;                // some were found gone since the last look
    std::uint64_t free_bytes = 0;     // that could be taken, pins not counted
  };
  // At most one of them is not 0. Pressure gives back up to a step, until a step or a sixteenth of all memory
  // is free, at most 1 GiB: where that is free already, what makes others wait is not the pins. Nothing is
  // taken while others wait.
  struct Change {
    std::uint64_t give_back_bytes = 0;
    std::uint64_t take_bytes = 0;
    friend bool operator==(const Change&, const Change&) = default;
  };

  explicit PinPolicy(const Options& options) : options_(options), patience_(options.patience) {}
  [[nodiscard]] Change decide(const Look& look);
  // Some were pinned again.
  void took(TimePoint now) { taken_ = now; }

 private:
  Options options_;
  std::chrono::milliseconds patience_;
  std::optional<TimePoint> trouble_;  // when memory was last short
  std::optional<TimePoint> taken_;    // when pins were last taken again
  // The last step back, and why: sources tell of the same stall one after the other.
  std::optional<TimePoint> stepped_;
  Pressure::Level step_level_ = Pressure::Level::kShort;
};

}  // namespace hearth::residency
