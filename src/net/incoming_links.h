// IncomingLinks: decides what each frame that arrives at a hub means: deliver, answer, drop, or
// close.
//
// Keeps, per connection, the proven key and the next sequence number, and per key the link that is current. A
// newer link of a key supersedes the older one: from then on nothing of the older one is delivered, on either
// lane. Only the control lane says which link is the newest, so a data lane may open only when the control
// lane of its link has; the sender waits for that to be confirmed.
//
// No sockets, clocks or threads: the same object is driven by tests frame by frame.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/device_key.h"
#include "net/hub.h"
#include "net/link_frame.h"
#include "net/sealed_stream.h"

namespace hearth::net {

class IncomingLinks {
 public:
  struct Limits {
    std::size_t max_bytes[2] = {64 * 1024, 256 * 1024 * 1024};  // per lane, without the frame header
    std::size_t max_closed = 256;                               // remembered closed connections
  };

  enum class Action : std::uint8_t { kNothing, kDeliver, kAnswerFlush };
  struct Outcome {
    Action action = Action::kNothing;
    std::uint64_t sequence = 0;      // kAnswerFlush: everything up to this frame was received
    std::optional<Error> violation;  // the peer broke the rules; its link is closed
  };
  // A connection that the hub must close, telling the peer why.
  struct Closing {
    Lane lane;
    std::string connection;
    ClosedReason reason;
    int tag = 0;  // of the connection's first frame
  };

  explicit IncomingLinks(const Limits& limits) : limits_(limits) {}

  // One message of connection `connection` (the transport's id, unique among living connections of the lane)
  // whose key `from` was proven. `parts` is the number of transport parts it came in; only 1 is allowed.
  // kDeliver: the bytes behind the header are a message. `tag` is the caller's and comes back in Closing.
  [[nodiscard]] Outcome receive(Lane lane, const std::string& connection, const DeviceKey& from,
                                std::size_t parts, std::span<const std::uint8_t> frame, int tag = 0);

  // The same for a key that may not connect (any more): nothing is delivered, the connection is closed.
  void refuse(Lane lane, const std::string& connection, const DeviceKey& from, const ClosedReason& reason,
              int tag = 0);

  // Closes every connection of `key` (it left the allow-list).
  void close_key(const DeviceKey& key, const ClosedReason& reason);

  // Whose data lane may open now, and the secret it is sealed with: that of a living link that has told the
  // secret on its control lane and has not opened its data lane with it. A lane opens once: a recorded
  // connection opens none.
  struct DataLane {
    DeviceKey from;
    StreamSecret secret;
  };
  [[nodiscard]] std::optional<DataLane> awaited_data_lane(const StreamTag& tag) const;
  // A connection has ended; nothing is remembered of it.
  void forget(Lane lane, const std::string& connection);

  // Keys that have a connection which is not closed.
  [[nodiscard]] std::set<DeviceKey> connected_keys() const;

  // Connections to close, collected since the last call.
  [[nodiscard]] std::vector<Closing> take_closings();

 private:
  struct DataKey {
    StreamTag tag;
    StreamSecret secret;
  };
  struct Connection {
    DeviceKey from;
    LinkId link;
    std::uint64_t next_sequence = 0;
    bool closed = false;
    int tag = 0;
    // Control lane: the secret of the data lane, told and not used yet.
    bool told_data_key = false;
    std::optional<DataKey> data_key;
  };
  struct Peer {
    std::optional<LinkId> current;
    std::deque<LinkId> retired;
  };
  using Connections = std::map<std::string, Connection, std::less<>>;

  Connection& find_or_add(Lane lane, const std::string& id, const DeviceKey& from, int tag);
  Outcome open(Lane lane, const std::string& id, const DeviceKey& from,
               std::span<const std::uint8_t> payload);
  void open_control(const DeviceKey& from, LinkId link);
  Outcome violate(Lane lane, const std::string& id, Connection& connection, std::string what);
  void close(Lane lane, const std::string& id, Connection& connection, const ClosedReason& reason);
  // Closes all connections of `key` for which `applies(connection)`.
  template <class Predicate>
  void close_if(const DeviceKey& key, const ClosedReason& reason, Predicate applies);
  static void retire(Peer& peer, LinkId link);
  [[nodiscard]] static bool is_stale(const Peer& peer, LinkId link);

  Limits limits_;
  Connections connections_[2];
  std::map<DeviceKey, Peer> peers_;
  std::deque<std::pair<Lane, std::string>> closed_;
  std::vector<Closing> closings_;
};

}  // namespace hearth::net
