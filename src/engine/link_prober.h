// LinkProber: measures this device's links, one peer after the other, by control messages that come back.
//
// A pair takes one large probe that warms the connection up, then kSmallProbes small ones and kLargeProbes
// large ones, each sent when the one before was answered. The medians of their round trips give latency and
// rate. A peer whose answers do not all come within the pair's time is left out; what it answers later is
// ignored, as are answers that nobody asked for.
//
// Pure. Thread contract: none; one thread owns it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/device_key.h"
#include "engine/actions.h"
#include "plan/profiles.h"
#include "wire/messages.h"

namespace hearth::engine {

inline constexpr std::size_t kSmallProbes = 5;
inline constexpr std::size_t kLargeProbes = 3;
// Bytes of a large one: some 20 packets, the order of a prompt's row; 0.3 ms on 1 Gbit/s.
inline constexpr std::uint32_t kLargeProbeBytes = 32 * 1024;
// Of all probes to one peer; a tick later it is seen that they are over.
inline constexpr Milliseconds kPairLimit{1500};

// From medians of round trips: latency is half of a small one's; `n_bytes` more take the difference of both.
// A large one that is no slower gives no rate: 0, without limit.
[[nodiscard]] plan::LinkProfile link_of(std::chrono::nanoseconds small, std::chrono::nanoseconds large,
                                        std::uint32_t n_bytes);

// As a LinkReport carries it, and back.
[[nodiscard]] wire::MeasuredLink to_wire(std::uint16_t member, const plan::LinkProfile& link);
[[nodiscard]] plan::LinkProfile link_of(const wire::MeasuredLink& link);

// For workers to connect to each other before they probe.
inline constexpr Milliseconds kConnectLimit{2000};

class LinkProber {
 public:
  // Asks the first peer. The links to all `peers` are up. Probes are numbered from `first_id`.
  LinkProber(std::vector<DeviceKey> peers, std::uint64_t first_id, TimePoint now, Actions& out);

  void on_reply(const DeviceKey& from, const wire::ProbeReply& reply, TimePoint now, Actions& out);
  // The link to `peer` is down: it is left out.
  void on_gone(const DeviceKey& peer, TimePoint now, Actions& out);
  // Goes on without a peer whose time is over.
  void tick(TimePoint now, Actions& out);

  [[nodiscard]] bool done() const { return at_ == peers_.size(); }
  // Of the peers that were measured so far.
  [[nodiscard]] const std::map<DeviceKey, plan::LinkProfile>& links() const { return links_; }
  [[nodiscard]] std::uint64_t next_id() const { return next_id_; }

 private:
  void begin_peer(TimePoint now, Actions& out);
  void next_peer(TimePoint now, Actions& out);
  void ask(TimePoint now, Actions& out);

  std::vector<DeviceKey> peers_;
  std::size_t at_ = 0;  // peers_[at_] is being measured
  std::vector<std::chrono::nanoseconds>
      trips_;  // of this peer: the first one warms up, small ones, large ones
  TimePoint asked_at_{}, pair_until_{};
  std::uint64_t next_id_;  // the one before is on its way
  std::map<DeviceKey, plan::LinkProfile> links_;
};

// Answers to the probes of others. A peer that asks on and on without reading what it is told must not fill
// this device's memory; one that measures needs kSmallProbes + kLargeProbes + 1 answers and is done.
class ProbeAnswers {
 public:
  // Whether this peer gets one more before the next tick.
  [[nodiscard]] bool may_answer(const DeviceKey& peer) { return ++given_[peer] <= kMost; }
  void tick() { given_.clear(); }

 private:
  static constexpr std::uint32_t kMost = 64;
  std::map<DeviceKey, std::uint32_t> given_;
};

}  // namespace hearth::engine
