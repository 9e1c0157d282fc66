// LinkSet: the outgoing links that a session wants, and the patience with which it gets them.
//
// A device may refuse or cut a connection for a moment (its allow-list changes when *its* copy of the plan
// arrives), so a link that fails is tried again until its deadline. Once it is settled, because somebody
// relies on what passes there, a break means that the peer is lost.
//
// Pure. Thread contract: none; one thread owns it.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "engine/actions.h"
#include "wire/messages.h"

namespace hearth::engine {

class LinkSet {
 public:
  LinkSet(Milliseconds connect_timeout, Milliseconds retry_after)
      : connect_timeout_(connect_timeout), retry_after_(retry_after) {}

  // Wants a link to `peer`. Already wanted at that address: keeps it, the deadline becomes the later one. At
  // another address (the data port became known): connects anew.
  void want(const DeviceKey& peer, const wire::Address& address, TimePoint deadline, Actions& out);
  // Closes it.
  void drop(const DeviceKey& peer, bool flush, Actions& out);
  void drop_all(bool flush, Actions& out);

  // True when this was news: the link is usable now.
  bool on_up(const DeviceKey& peer);

  // From now on a break is a loss. The link is up.
  void settle(const DeviceKey& peer);

  enum class Gone : std::uint8_t {
    kUnknown,      // not wanted, ignore
    kRetry,        // tick() connects again
    kUnreachable,  // never settled and the deadline is over; not wanted any more
    kLost,         // was settled; not wanted any more
  };
  [[nodiscard]] Gone on_gone(const DeviceKey& peer, TimePoint now);
  // Connects again where it is time.
  void tick(TimePoint now, Actions& out);

  [[nodiscard]] bool wants(const DeviceKey& peer) const { return links_.contains(peer); }
  [[nodiscard]] bool is_up(const DeviceKey& peer) const;
  [[nodiscard]] std::vector<DeviceKey> up() const;
  [[nodiscard]] std::vector<DeviceKey> wanted() const;

 private:
  enum class State : std::uint8_t { kConnecting, kWaiting, kUp };
  struct Link {
    wire::Address address{};
    State state = State::kConnecting;
    bool settled = false;
    TimePoint deadline{};
    TimePoint retry_at{};
  };
  Milliseconds connect_timeout_;
  Milliseconds retry_after_;
  std::map<DeviceKey, Link> links_;
};

}  // namespace hearth::engine
