// OutgoingLink: one connect() of a ZeroMQ hub: two DEALER sockets, one per lane, from the first attempt to
// the end.
//
// Until both lanes are up, attempts are repeated with growing pauses until the deadline. Once up, the first
// break ends the link for good: sockets never reconnect, so nothing stale can be delivered later.
//
// Thread contract: belongs to the hub's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <poll.h>

#include "net/hub.h"
#include "net/link_frame.h"
#include "net/zmq_socket.h"

namespace hearth::net {

using Clock = std::chrono::steady_clock;

// A socket's descriptor, and whether it may have something to do. ZeroMQ's descriptors are edge-triggered:
// the flag stays set until the socket was read empty.
struct Watch {
  int descriptor = -1;
  bool ready = true;
};
struct WatchList {
  std::vector<pollfd> descriptors;
  std::vector<Watch*> watches;
  void clear() {
    descriptors.clear();
    watches.clear();
  }
  void add(Watch& watch) {
    descriptors.push_back({watch.descriptor, POLLIN, 0});
    watches.push_back(&watch);
  }
};

class OutgoingLink {
 public:
  enum class Change : std::uint8_t { kNone, kUp, kGone };

  // What all links of a hub share.
  struct Shared {
    ZmqContext& context;
    const KeyPair& keys;
    const HubLimits& limits;
    LinkId next_id;  // counter grows with every attempt
  };

  // Endpoints of one lane: the addresses of a host, tried in turn; empty: no such lane.
  OutgoingLink(Shared& shared, const DeviceKey& peer, std::vector<std::string> control,
               std::vector<std::string> data, std::chrono::milliseconds timeout);

  // Adds the data lane to a link that was made without it. False when it has one.
  bool add_data_lane(std::vector<std::string> data, std::chrono::milliseconds timeout);

  // Does what the sockets and the clock ask for. After kGone, error() says why and the link must be
  // destroyed.
  [[nodiscard]] Change service(Clock::time_point now);
  [[nodiscard]] const Error& error() const { return *error_; }
  // When service() must be called without any descriptor being readable.
  [[nodiscard]] Clock::time_point next_timer() const;
  void watch(WatchList& list);

  [[nodiscard]] bool is_up(Lane lane) const { return lanes_[static_cast<int>(lane)].established; }
  [[nodiscard]] SendStatus send(Lane lane, std::span<const std::uint8_t> message);
  // True once after a lane that refused a message can take one again.
  [[nodiscard]] bool take_writable();

  // Asks the receiver to confirm what was sent so far; false when the lane is full.
  [[nodiscard]] bool send_flush(Lane lane);
  // Nothing of the lane is unconfirmed.
  [[nodiscard]] bool is_flushed(Lane lane) const;

 private:
  // kOpening: the control lane's opening frame is sent, the receiver has not confirmed it. The data lane
  // waits for that confirmation and then needs none of its own.
  enum class State : std::uint8_t { kAbsent, kWaiting, kConnecting, kHandshaken, kOpening, kUp };

  struct OneLane {
    State state = State::kAbsent;
    bool established = false;  // part of a link that was reported up
    std::vector<std::string> endpoints;
    std::size_t attempt = 0;
    Clock::time_point retry_at{};
    ZmqSocket monitor;  // outlives socket
    ZmqSocket socket;
    Watch socket_watch;
    Watch monitor_watch;
    bool wants_writable = false;  // send() was refused
    bool can_write = false;       // when the socket was last read empty
    std::uint64_t next_sequence = 0;
    std::uint64_t flush_sequence = 0;  // of the last flush frame
    std::uint64_t flushed = 0;         // confirmed
  };

  void prepare(OneLane& lane, std::vector<std::string> endpoints);
  void start_attempt(Lane which, OneLane& lane);
  void service_lane(Lane which, OneLane& lane, Clock::time_point now);
  void open_lane(Lane which, OneLane& lane);
  void read_monitor(Lane which, OneLane& lane, Clock::time_point now);
  void read_answers(Lane which, OneLane& lane);
  void take_answer(Lane which, OneLane& lane, ZmqMessage& message);
  void lane_failed(OneLane& lane, Clock::time_point now);
  void restart(Clock::time_point now);
  void close(OneLane& lane);
  bool ask_flush(OneLane& lane);
  bool send_frame(OneLane& lane, FrameKind kind, std::span<const std::uint8_t> payload);
  void end(ErrorCode code, std::string text);
  [[nodiscard]] std::string where(const OneLane& lane) const;

  Shared& shared_;
  DeviceKey peer_;
  LinkId id_;
  OneLane lanes_[2];
  std::chrono::milliseconds timeout_;
  Clock::time_point deadline_;
  std::chrono::milliseconds pause_;
  bool up_reported_ = false;
  Error last_failure_;
  std::optional<Error> error_;
};

}  // namespace hearth::net
