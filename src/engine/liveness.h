// Liveness: tells a dead or stuck peer from a slow one, by values only.
//
// Silence is counted in time that we ourselves were awake: between two ticks at most kMostPerTick of it
// counts. So after our own SIGSTOP, a closed lid or a starved process the peers first get the time to be
// heard; a peer is silent only after silence_limit of *our* attention. With ticks every 500 ms a stopped peer
// is reported 6.0 to 7 s after its last word.
//
// Pure. Thread contract: none; one thread owns it.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "engine/actions.h"

namespace hearth::engine {

struct LivenessOptions {
  // Between two Heartbeats. Far below the limit: five late ones are no alarm. Each wakes three threads on
  // either side, of devices that others use.
  Milliseconds heartbeat{1000};
  // Above the 5 s of a link flap, and detection stays below 10 s.
  Milliseconds silence_limit{6000};
  // Of the time between two ticks no more than this counts as silence of others.
  Milliseconds most_per_tick{1000};
  // Work waits and nothing is computed, not even one operation of a graph: the slowest disk brings a part of
  // a layer in seconds.
  Milliseconds stuck_limit{120'000};
};

class Liveness {
 public:
  explicit Liveness(const LivenessOptions& options) : options_(options) {}

  // `who` names the device in errors, e.g. "kitchen (192.168.1.7:7000)". Watching again starts at zero.
  void watch(const DeviceKey& key, std::string who, TimePoint now);
  void forget(const DeviceKey& key);
  [[nodiscard]] bool watches(const DeviceKey& key) const { return peers_.contains(key); }
  // Any message of the peer proves it is alive. Unknown keys are ignored.
  void heard(const DeviceKey& key, TimePoint now);

  struct Silent {
    DeviceKey key;
    Error error;  // kTimeout: who, how long
  };
  // Peers that are over the limit now; each is forgotten with its report.
  [[nodiscard]] std::vector<Silent> tick(TimePoint now);

 private:
  struct Peer {
    std::string who;
    TimePoint heard;
    Milliseconds silence{0};
  };
  LivenessOptions options_;
  std::map<DeviceKey, Peer> peers_;
  std::optional<TimePoint> last_tick_;
};

// StuckWatch: work waits, but nothing finishes. Time counts as in Liveness.
class StuckWatch {
 public:
  StuckWatch(Milliseconds limit, Milliseconds most_per_tick) : limit_(limit), most_per_tick_(most_per_tick) {}

  // `done`: anything that changes with each piece of work, however small. True once when `pending` held and
  // `done` stood still for the limit; starts anew then.
  [[nodiscard]] bool tick(bool pending, std::uint64_t done, TimePoint now);
  [[nodiscard]] Milliseconds standing() const { return standing_; }

 private:
  Milliseconds limit_;
  Milliseconds most_per_tick_;
  std::optional<TimePoint> last_tick_;
  std::uint64_t done_ = 0;
  Milliseconds standing_{0};
};

// kTimeout: `name` has work and none of it goes on.
[[nodiscard]] Error stuck_error(const std::string& name, const Progress& progress, Milliseconds limit);

}  // namespace hearth::engine
