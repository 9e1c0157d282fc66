// Hub: a node's encrypted, authenticated links to the other devices.
//
// Two lanes per link, on separate sockets: control overtakes data. On one lane messages arrive in order, each
// once, or the peer is reported gone; a peer that comes back is a new connection, nothing of the old one is
// delivered later. Every message that poll() returns comes from a device whose key is on the allow-list;
// `from` is proven by the handshake.
//
// Thread contract: one thread, *control*, owns a Hub. wake() and wake_receiver() may be called from any
// thread. After separate_data() a second thread, *data*, sends and receives on the data lane: send(…, kData,
// …) and receive() are its own then, and poll() gives it no data messages. So a frame goes from the thread
// that computed it to the one that computes on it without a third between them.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "wire/messages.h"

namespace hearth::net {

enum class Lane : std::uint8_t { kControl, kData };

enum class SendStatus : std::uint8_t {
  kSent,        // handed to the transport; ownership of the bytes taken
  kWouldBlock,  // the lane is at its high-water mark, `message` is untouched: try again after poll()
  kPeerGone,    // unknown or disconnected peer, `message` is untouched
};

using Bytes = std::vector<std::uint8_t>;

struct MessageEvent {
  DeviceKey from;
  Lane lane;
  Bytes bytes;
};
// Both lanes to this peer are connected and authenticated; send() works from now on.
struct PeerUpEvent {
  DeviceKey peer;
};
// The peer closed its connection, refused ours, or broke the transport's rules. Reported once per connect().
struct PeerGoneEvent {
  DeviceKey peer;
  Error reason;
};
// A stranger or a broken client was refused; for the log. At most a few per second are reported.
struct RefusedEvent {
  std::string address;  // "" when it was gone before it could be asked
  std::string reason;
};
struct WokenEvent {};

using Event = std::variant<MessageEvent, PeerUpEvent, PeerGoneEvent, RefusedEvent, WokenEvent>;

class Hub {
 public:
  virtual ~Hub() = default;

  // Own identity and where others can reach it (ports as bound; host as told or "").
  [[nodiscard]] virtual const DeviceKey& key() const = 0;
  [[nodiscard]] virtual const wire::Address& address() const = 0;

  // Replaces the allow-list of incoming connections; it is empty at first. Connections of keys no longer
  // listed are closed, and what they sent is dropped.
  virtual void allow(std::span<const DeviceKey> keys) = 0;

  // Starts an outgoing link; attempts are repeated until PeerUpEvent, or after `timeout` PeerGoneEvent with
  // the last reason: kTimeout when nothing answers, kUnauthorized when the peer refuses our key or does not
  // prove its own. data_port == 0: the control lane only (the data port is learnt from Welcome; call
  // connect() again with it then, and another PeerUpEvent follows). Errors: kInvalidArgument for a link that
  // exists, kPeerGone for an unknown host name.
  virtual Result<> connect(const DeviceKey& peer, const wire::Address& address,
                           std::chrono::milliseconds timeout) = 0;
  // Closes the outgoing link at once; pending messages are dropped. No event follows. Unknown peers are
  // ignored.
  virtual void disconnect(const DeviceKey& peer) = 0;
  // Waits until what was sent to `peer` has arrived at its hub, or `timeout`. For a Goodbye before
  // disconnect().
  virtual void flush(const DeviceKey& peer, std::chrono::milliseconds timeout) = 0;

  [[nodiscard]] virtual SendStatus send(const DeviceKey& peer, Lane lane, Bytes& message) = 0;

  // The next event, waiting up to `timeout` (0: only what is there). Control messages, then other events,
  // then data. Returns early without an event when a lane that said kWouldBlock can take messages again.
  [[nodiscard]] virtual std::optional<Event> poll(std::chrono::milliseconds timeout) = 0;

  // Makes a waiting or the next poll() return WokenEvent. Any thread; several wakes may become one.
  virtual void wake() = 0;

  // Before the data thread begins.
  virtual void separate_data() = 0;
  // The next data message; nothing after `timeout` (0: only what is there), or after wake_receiver(), at
  // once where that was called before.
  [[nodiscard]] virtual std::optional<MessageEvent> receive(std::chrono::milliseconds timeout) = 0;
  // Any thread; several wakes may become one.
  virtual void wake_receiver() = 0;
  // Whose data messages came since the last call (control thread).
  [[nodiscard]] virtual std::vector<DeviceKey> take_data_senders() = 0;
};

}  // namespace hearth::net
