#include "engine/liveness.h"

#include <algorithm>
#include <format>
#include <utility>

namespace hearth::engine {

namespace {

// The part of the time since the last tick that counts, and the tick itself.
Milliseconds attention(std::optional<TimePoint>& last_tick, TimePoint now, Milliseconds most) {
  const Milliseconds gap =
      last_tick ? std::chrono::duration_cast<Milliseconds>(now - *last_tick) : Milliseconds{0};
  if (last_tick && gap <= Milliseconds{0}) return Milliseconds{0};  // keeps fractions of a millisecond
  last_tick = now;
  return std::min(gap, most);
}

}  // namespace

void Liveness::watch(const DeviceKey& key, std::string who, TimePoint now) {
  peers_[key] = Peer{.who = std::move(who), .heard = now};
}

void Liveness::forget(const DeviceKey& key) {
  peers_.erase(key);
}

void Liveness::heard(const DeviceKey& key, TimePoint now) {
  const auto found = peers_.find(key);
  if (found == peers_.end()) return;
  found->second.heard = std::max(found->second.heard, now);
  found->second.silence = Milliseconds{0};
}

std::vector<Liveness::Silent> Liveness::tick(TimePoint now) {
  const std::optional<TimePoint> before = last_tick_;
  const Milliseconds counted = attention(last_tick_, now, options_.most_per_tick);
  std::vector<Silent> silent;
  for (auto& [key, peer] : peers_) {
    // Heard since the last tick: silent since then only.
    const auto since = std::chrono::duration_cast<Milliseconds>(now - peer.heard);
    if (!before || peer.heard >= *before)
      peer.silence = std::clamp(since, Milliseconds{0}, counted);
    else
      peer.silence += counted;
    if (peer.silence <= options_.silence_limit) continue;
    silent.push_back(
        {key, Error{ErrorCode::kTimeout,
                    std::format("{} is silent for {:.1f} s: it is stopped, asleep, or the network "
                                "between us is down",
                                peer.who, static_cast<double>(since.count()) / 1000)}});
  }
  for (const Silent& report : silent) peers_.erase(report.key);
  return silent;
}

bool StuckWatch::tick(bool pending, std::uint64_t done, TimePoint now) {
  const Milliseconds counted = attention(last_tick_, now, most_per_tick_);
  if (!pending || done != done_) {
    done_ = done;
    standing_ = Milliseconds{0};
    return false;
  }
  standing_ += counted;
  if (standing_ < limit_) return false;
  standing_ = Milliseconds{0};
  return true;
}

Error stuck_error(const std::string& name, const Progress& progress, Milliseconds limit) {
  return {
      ErrorCode::kTimeout,
      std::format(
          "the computation on {} stands still: {} of {} steps are done, and nothing moved for {:.0f} s: its "
          "disk or another program may have stopped it",
          name, progress.steps_done, progress.steps_accepted, static_cast<double>(limit.count()) / 1000)};
}

}  // namespace hearth::engine
