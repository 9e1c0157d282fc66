#include "net/incoming_links.h"

#include <algorithm>
#include <utility>

namespace hearth::net {
namespace {

constexpr std::size_t kMaxRetired = 64;

std::string_view lane_name(Lane lane) {
  return lane == Lane::kControl ? "control" : "data";
}

}  // namespace

IncomingLinks::Connection& IncomingLinks::find_or_add(Lane lane, const std::string& id, const DeviceKey& from,
                                                      int tag) {
  Connections& connections = connections_[static_cast<int>(lane)];
  const auto found = connections.find(id);
  if (found != connections.end()) return found->second;
  return connections.emplace(id, Connection{.from = from, .link = {}, .tag = tag, .data_key = {}})
      .first->second;
}

void IncomingLinks::refuse(Lane lane, const std::string& id, const DeviceKey& from,
                           const ClosedReason& reason, int tag) {
  if (Connection& connection = find_or_add(lane, id, from, tag); !connection.closed)
    close(lane, id, connection, reason);
}

std::optional<IncomingLinks::DataLane> IncomingLinks::awaited_data_lane(const StreamTag& tag) const {
  for (const auto& [id, control] : connections_[static_cast<int>(Lane::kControl)])
    if (!control.closed && control.data_key && control.data_key->tag == tag)
      return DataLane{.from = control.from, .secret = control.data_key->secret};
  return std::nullopt;
}

void IncomingLinks::forget(Lane lane, const std::string& connection) {
  connections_[static_cast<int>(lane)].erase(connection);
  std::erase_if(closed_,
                [&](const auto& closed) { return closed.first == lane && closed.second == connection; });
}

std::set<DeviceKey> IncomingLinks::connected_keys() const {
  std::set<DeviceKey> keys;
  for (const Connections& connections : connections_)
    for (const auto& [id, connection] : connections)
      if (!connection.closed) keys.insert(connection.from);
  return keys;
}

IncomingLinks::Outcome IncomingLinks::receive(Lane lane, const std::string& id, const DeviceKey& from,
                                              std::size_t parts, std::span<const std::uint8_t> frame,
                                              int tag) {
  Connection& connection = find_or_add(lane, id, from, tag);
  if (connection.closed) return {};
  if (connection.from != from) return violate(lane, id, connection, "changed its key within a connection");
  if (parts != 1)
    return violate(lane, id, connection, std::format("sent a message of {} parts, expected 1", parts));
  const auto header = read_header(frame);
  if (!header)
    return violate(lane, id, connection,
                   std::format("sent {} bytes that are no frame of a link", frame.size()));
  if (header->sequence != connection.next_sequence)
    return violate(
        lane, id, connection,
        std::format("sent frame {} where frame {} was expected", header->sequence, connection.next_sequence));
  const std::span<const std::uint8_t> payload = frame.subspan(kFrameHeaderBytes);
  if ((header->kind == FrameKind::kOpen) != (connection.next_sequence == 0))
    return violate(lane, id, connection, "sent its opening frame at the wrong place");
  ++connection.next_sequence;

  switch (header->kind) {
    case FrameKind::kOpen:
      return open(lane, id, from, payload);
    case FrameKind::kMessage:
      if (payload.size() > limits_.max_bytes[static_cast<int>(lane)])
        return violate(lane, id, connection,
                       std::format("sent {} bytes in one message, at most {} are allowed", payload.size(),
                                   limits_.max_bytes[static_cast<int>(lane)]));
      return Outcome{.action = Action::kDeliver, .violation = {}};
    case FrameKind::kFlush:
      if (!payload.empty()) return violate(lane, id, connection, "sent a flush frame with contents");
      return Outcome{.action = Action::kAnswerFlush, .sequence = header->sequence, .violation = {}};
    case FrameKind::kDataKey: {
      StreamSecret secret;
      if (lane != Lane::kControl || payload.size() != secret.size() || connection.told_data_key)
        return violate(lane, id, connection,
                       "sent the key of a data lane at the wrong place or of the wrong size");
      std::ranges::copy(payload, secret.begin());
      connection.told_data_key = true;
      connection.data_key = DataKey{.tag = tag_of(secret), .secret = secret};
      return {};
    }
    case FrameKind::kFlushed:
    case FrameKind::kClosed:
      break;
  }
  return violate(lane, id, connection, "sent a frame that only receivers send");
}

IncomingLinks::Outcome IncomingLinks::open(Lane lane, const std::string& id, const DeviceKey& from,
                                           std::span<const std::uint8_t> payload) {
  Connection& connection = connections_[static_cast<int>(lane)].find(id)->second;
  const auto link = read_link_id(payload);
  if (!link) return violate(lane, id, connection, "sent an opening frame without a link id");
  connection.link = *link;
  Peer& peer = peers_[from];
  if (is_stale(peer, *link)) {
    close(lane, id, connection, {ErrorCode::kPeerGone, "a newer link of the same device replaced this one"});
    return {};
  }
  // A second connection of the same lane and link: the sender never does that, so one of the two is forged.
  for (const auto& [other_id, other] : connections_[static_cast<int>(lane)])
    if (other_id != id && !other.closed && other.from == from && other.link == *link)
      return violate(lane, id, connection,
                     std::format("opened the {} lane of one link twice", lane_name(lane)));
  if (lane == Lane::kControl)
    open_control(from, *link);
  else if (peer.current != link)
    return violate(lane, id, connection, "opened a data lane before the control lane of its link");
  else
    for (auto& [control_id, control] : connections_[static_cast<int>(Lane::kControl)])
      if (control.from == from && control.link == *link) control.data_key.reset();
  return {};
}

void IncomingLinks::open_control(const DeviceKey& from, LinkId link) {
  Peer& peer = peers_[from];
  if (peer.current) retire(peer, *peer.current);
  peer.current = link;
  close_if(from, {ErrorCode::kPeerGone, "a newer link of the same device replaced this one"},
           [&](const Connection& other) { return other.link != link; });
}

void IncomingLinks::close_key(const DeviceKey& key, const ClosedReason& reason) {
  close_if(key, reason, [](const Connection&) { return true; });
  if (const auto peer = peers_.find(key); peer != peers_.end() && peer->second.current) {
    retire(peer->second, *peer->second.current);
    peer->second.current.reset();
  }
}

std::vector<IncomingLinks::Closing> IncomingLinks::take_closings() {
  return std::exchange(closings_, {});
}

IncomingLinks::Outcome IncomingLinks::violate(Lane lane, const std::string& id, Connection& connection,
                                              std::string what) {
  Outcome outcome;
  outcome.violation =
      Error{ErrorCode::kProtocol,
            std::format("device {} {} ({} lane)", connection.from.short_hex(), what, lane_name(lane))};
  const ClosedReason reason{ErrorCode::kProtocol, std::format("this device {}", what)};
  const DeviceKey from = connection.from;
  close(lane, id, connection, reason);
  close_key(from, reason);
  return outcome;
}

void IncomingLinks::close(Lane lane, const std::string& id, Connection& connection,
                          const ClosedReason& reason) {
  connection.closed = true;
  connection.data_key.reset();
  closings_.push_back({lane, id, reason, connection.tag});
  closed_.emplace_back(lane, id);
  // A closed connection is remembered so that what it still sends is dropped in silence; the oldest is
  // forgotten, and would be closed again for not starting with an opening frame.
  if (closed_.size() > limits_.max_closed) {
    // The oldest is never the one just closed, so `connection` stays valid.
    connections_[static_cast<int>(closed_.front().first)].erase(closed_.front().second);
    closed_.pop_front();
  }
}

template <class Predicate>
void IncomingLinks::close_if(const DeviceKey& key, const ClosedReason& reason, Predicate applies) {
  std::vector<std::pair<Lane, std::string>> targets;
  for (const Lane lane : {Lane::kControl, Lane::kData})
    for (const auto& [id, connection] : connections_[static_cast<int>(lane)])
      if (!connection.closed && connection.from == key && applies(connection)) targets.emplace_back(lane, id);
  for (const auto& [lane, id] : targets) close(lane, id, connections_[static_cast<int>(lane)].at(id), reason);
}

void IncomingLinks::retire(Peer& peer, LinkId link) {
  peer.retired.push_back(link);
  if (peer.retired.size() > kMaxRetired) peer.retired.pop_front();
}

bool IncomingLinks::is_stale(const Peer& peer, LinkId link) {
  if (std::ranges::find(peer.retired, link) != peer.retired.end()) return true;
  return peer.current && link.instance == peer.current->instance && link.counter < peer.current->counter;
}

}  // namespace hearth::net
