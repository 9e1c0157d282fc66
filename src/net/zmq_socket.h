// RAII over libzmq's context, socket and message, and the configuration that every socket of a hub gets.
//
// Thread contract: a context may be shared; a socket and a message belong to one thread at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include <zmq.h>

#include "base/device_key.h"
#include "base/result.h"
#include "net/hub.h"
#include "net/keys.h"
#include "net/limits.h"

namespace hearth::net {

class ZmqContext {
 public:
  ZmqContext();
  ~ZmqContext();  // every socket must be closed by then
  ZmqContext(const ZmqContext&) = delete;
  ZmqContext& operator=(const ZmqContext&) = delete;
  [[nodiscard]] void* get() const { return context_; }

 private:
  void* context_;
};

class ZmqSocket {
 public:
  ZmqSocket() = default;
  ZmqSocket(ZmqContext& context, int type) : socket_(zmq_socket(context.get(), type)) {}
  ~ZmqSocket() { close(); }
  ZmqSocket(ZmqSocket&& other) noexcept : socket_(std::exchange(other.socket_, nullptr)) {}
  ZmqSocket& operator=(ZmqSocket&& other) noexcept {
    if (this != &other) {
      close();
      socket_ = std::exchange(other.socket_, nullptr);
    }
    return *this;
  }

  explicit operator bool() const { return socket_ != nullptr; }
  [[nodiscard]] void* get() const { return socket_; }
  // Ends its monitor first: a socket closes in the background, and libzmq's thread would wait for ever to
  // tell a reader that is gone. So a monitor's reader must outlive the monitored socket.
  void close();

  // A refused option is a bug of hearth or a libzmq without the feature; both end the process with the
  // option's number.
  void set(int option, int value);
  void set(int option, std::int64_t value);
  void set(int option, std::span<const std::uint8_t> value);
  void set(int option, const std::string& value);
  [[nodiscard]] int get_int(int option) const;
  [[nodiscard]] std::string get_text(int option) const;
  // The descriptor that becomes readable when there may be something to do (edge-triggered: see
  // zmq_getsockopt).
  [[nodiscard]] int descriptor() const;
  [[nodiscard]] bool writable() const { return (get_int(ZMQ_EVENTS) & ZMQ_POLLOUT) != 0; }

 private:
  void* socket_ = nullptr;
};

class ZmqMessage {
 public:
  ZmqMessage() { zmq_msg_init(&message_); }
  explicit ZmqMessage(std::size_t size);
  explicit ZmqMessage(std::span<const std::uint8_t> bytes);
  ~ZmqMessage() { zmq_msg_close(&message_); }
  ZmqMessage(const ZmqMessage&) = delete;
  ZmqMessage& operator=(const ZmqMessage&) = delete;

  // Without waiting. True when a part was received.
  bool receive(ZmqSocket& socket);
  // Without waiting. True when sent (the message is empty then).
  bool send(ZmqSocket& socket, bool more = false);

  [[nodiscard]] std::span<std::uint8_t> bytes() {
    return {static_cast<std::uint8_t*>(zmq_msg_data(&message_)), zmq_msg_size(&message_)};
  }
  [[nodiscard]] std::string text() {
    return {static_cast<char*>(zmq_msg_data(&message_)), zmq_msg_size(&message_)};
  }
  [[nodiscard]] bool more() const { return zmq_msg_more(&message_) != 0; }
  [[nodiscard]] const char* property(const char* name) const { return zmq_msg_gets(&message_, name); }
  // The TCP socket the message came from, -1 when unknown.
  [[nodiscard]] int source_descriptor() const { return zmq_msg_get(&message_, ZMQ_SRCFD); }

 private:
  zmq_msg_t message_;
};

// What a socket's monitor reports.
struct MonitorEvent {
  std::uint16_t event = 0;
  std::uint32_t value = 0;
};
// Starts the monitor of `socket` and returns the socket to read it from.
ZmqSocket open_monitor(ZmqContext& context, ZmqSocket& socket, const std::string& endpoint, int events);
// Ends the monitor of `socket`, before its reader is closed: a monitored socket closes in the background, and
// libzmq's thread would wait for ever to tell a reader that is gone.
void stop_monitor(ZmqSocket& socket);
// Without waiting.
[[nodiscard]] bool receive_monitor(ZmqSocket& monitor, MonitorEvent& event);

// A ROUTER that accepts listed CURVE keys only, bound to `host` (numeric, "" = every interface) and `port` (0
// = any). Runs zap_self_test() first, so that nothing is bound in a context whose handler does not answer.
struct BoundControl {
  ZmqSocket monitor;  // outlives socket
  ZmqSocket socket;
  std::uint16_t port = 0;
};
Result<BoundControl> bind_control(ZmqContext& context, const KeyPair& keys, const std::string& host,
                                  std::uint16_t port, const HubLimits& limits);

// A DEALER with its monitor, connecting to `endpoint` of the device whose key is `peer`: one attempt, no
// reconnection.
struct ConnectingControl {
  ZmqSocket monitor;  // outlives socket
  ZmqSocket socket;
};
Result<ConnectingControl> connect_control(ZmqContext& context, const KeyPair& keys, const DeviceKey& peer,
                                          const std::string& endpoint, const HubLimits& limits);

}  // namespace hearth::net
