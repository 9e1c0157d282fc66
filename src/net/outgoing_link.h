// OutgoingLink: one connect() of a hub over TCP: a DEALER socket for the control lane, a DataStream for the
// data lane, from the first attempt to the end.
//
// Until both lanes are up, attempts are repeated with growing pauses until the deadline. Once up, the first
// break ends the link for good: sockets never reconnect, so nothing stale can be delivered later.
//
// Thread contract: guarded by the hub's lock.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <poll.h>

#include "net/data_stream.h"
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
  short events = POLLIN;
};
struct WatchList {
  std::vector<pollfd> descriptors;
  std::vector<Watch*> watches;
  void clear() {
    descriptors.clear();
    watches.clear();
  }
  void add(Watch& watch) {
    descriptors.push_back({watch.descriptor, watch.events, 0});
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

  [[nodiscard]] SendStatus send(Lane lane, std::span<const std::uint8_t> message);
  // True once after a lane that refused a message can take one again.
  [[nodiscard]] bool take_writable();
  // The data lane has more to write, or has failed: whoever waits for its descriptor must look again.
  [[nodiscard]] bool data_needs_service() const;

  // Asks the receiver to confirm what was sent so far; false when the lane is full.
  [[nodiscard]] bool send_flush(Lane lane);
  // Nothing of the lane is unconfirmed.
  [[nodiscard]] bool is_flushed(Lane lane) const;

 private:
  // kOpening: the lane's opening frame is on its way, the receiver has not confirmed it. The data lane begins
  // when the control lane is up.
  enum class State : std::uint8_t { kAbsent, kWaiting, kConnecting, kHandshaken, kOpening, kUp };

  struct OneLane {
    State state = State::kAbsent;
    bool established = false;  // part of a link that was reported up
    std::vector<std::string> endpoints;
    std::size_t attempt = 0;
    Clock::time_point retry_at{};
    bool wants_writable = false;  // send() was refused
    bool can_write = false;       // there is room again
    std::uint64_t next_sequence = 0;
    std::uint64_t flush_sequence = 0;  // of the last flush frame
    std::uint64_t flushed = 0;         // confirmed
    // The control lane's.
    ZmqSocket monitor;  // outlives socket
    ZmqSocket socket;
    Watch monitor_watch;
    // Of either: the ZeroMQ socket or the stream.
    Watch socket_watch;
    std::optional<DataStream> stream;
  };

  [[nodiscard]] OneLane& control() { return lanes_[static_cast<int>(Lane::kControl)]; }
  [[nodiscard]] OneLane& data() { return lanes_[static_cast<int>(Lane::kData)]; }
  [[nodiscard]] const OneLane& data() const { return lanes_[static_cast<int>(Lane::kData)]; }

  void prepare(OneLane& lane, std::vector<std::string> endpoints);
  void service_control(Clock::time_point now);
  void service_data(Clock::time_point now);
  void start_control();
  void start_data(Clock::time_point now);
  void open_control();
  void read_monitor(Clock::time_point now);
  void read_answers();
  void take_answer(Lane which, std::span<const std::uint8_t> frame, bool whole);
  void lane_failed(OneLane& lane, Clock::time_point now);
  void restart(Clock::time_point now);
  void close(OneLane& lane);
  bool ask_flush(Lane which);
  bool send_frame(Lane which, FrameKind kind, std::span<const std::uint8_t> payload);
  void end(ErrorCode code, std::string text);
  [[nodiscard]] std::string where(const OneLane& lane) const;

  Shared& shared_;
  DeviceKey peer_;
  LinkId id_;
  StreamSecret data_secret_;
  OneLane lanes_[2];
  std::chrono::milliseconds timeout_;
  Clock::time_point deadline_;
  std::chrono::milliseconds pause_;
  bool up_reported_ = false;
  Error last_failure_;
  std::optional<Error> error_;
};

}  // namespace hearth::net
