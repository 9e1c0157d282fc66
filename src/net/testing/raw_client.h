// Broken and hostile clients for tests: a bare ZeroMQ client that can say anything, and a bare TCP
// connection.
#pragma once

#include <algorithm>
#include <chrono>
#include <format>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/keys.h"
#include "net/link_frame.h"
#include "net/zmq_socket.h"

namespace hearth::net::testing {

// A DEALER that frames nothing by itself.
class RawClient {
 public:
  // With keys: CURVE. Without: no encryption.
  RawClient(std::uint16_t port, const DeviceKey* server, const KeyPair* keys, int type = ZMQ_DEALER)
      : socket_(context_, type) {
    socket_.set(ZMQ_LINGER, 0);
    socket_.set(ZMQ_SNDHWM, 0);  // says whatever it wants
    if (keys != nullptr) {
      socket_.set(ZMQ_CURVE_SERVERKEY, server->bytes);
      socket_.set(ZMQ_CURVE_PUBLICKEY, keys->public_key().bytes);
      socket_.set(ZMQ_CURVE_SECRETKEY, keys->secret());
    }
    monitor_ = open_monitor(context_, socket_, "inproc://raw-monitor", ZMQ_EVENT_ALL);
    EXPECT_EQ(zmq_connect(socket_.get(), std::format("tcp://127.0.0.1:{}", port).c_str()), 0);
  }

  [[nodiscard]] ZmqSocket& socket() { return socket_; }

  // One part; waits for the connection by libzmq's own queue.
  void send(std::span<const std::uint8_t> bytes, bool more = false) {
    ZmqMessage message(bytes);
    EXPECT_TRUE(message.send(socket_, more));
  }
  void send_frame(FrameKind kind, std::uint64_t sequence, std::span<const std::uint8_t> payload = {}) {
    std::vector<std::uint8_t> bytes(kFrameHeaderBytes + payload.size());
    write_header({kind, sequence}, std::span(bytes).first<kFrameHeaderBytes>());
    std::ranges::copy(payload, bytes.begin() + kFrameHeaderBytes);
    send(bytes);
  }
  void send_open(LinkId id = {1, 1}) {
    std::uint8_t payload[kLinkIdBytes];
    write_link_id(id, payload);
    send_frame(FrameKind::kOpen, 0, payload);
  }

  // Whether the monitor reports one of `events` before `deadline`; `meanwhile` is called while waiting.
  template <class Meanwhile>
  bool sees(int events, std::chrono::milliseconds patience, Meanwhile meanwhile) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (std::chrono::steady_clock::now() < deadline) {
      for (MonitorEvent event; receive_monitor(monitor_, event);)
        if ((event.event & events) != 0) return true;
      meanwhile();
    }
    return false;
  }

 private:
  ZmqContext context_;
  ZmqSocket monitor_;  // outlives the socket
  ZmqSocket socket_;
};

class RawTcp {
 public:
  explicit RawTcp(std::uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~RawTcp() { ::close(fd_); }
  RawTcp(const RawTcp&) = delete;
  RawTcp& operator=(const RawTcp&) = delete;

  // A peer that closed is no failure: what was said got its answer.
  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  // Whether the other side closes before the patience ends; `meanwhile` is called while waiting.
  template <class Meanwhile>
  bool closed_within(std::chrono::milliseconds patience, Meanwhile meanwhile) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (std::chrono::steady_clock::now() < deadline) {
      pollfd item{fd_, POLLIN, 0};
      if (::poll(&item, 1, 1) > 0) {
        char buffer[4096];
        if (::recv(fd_, buffer, sizeof buffer, 0) <= 0) return true;
      }
      meanwhile();
    }
    return false;
  }

 private:
  int fd_;
};

// ZMTP 3.1 greeting for a mechanism, as in RFC 37.
inline std::string greeting(std::string_view mechanism) {
  std::string text("\xff\0\0\0\0\0\0\0\0\x7f\x03\x01", 12);
  text.append(mechanism);
  text.resize(64, '\0');
  return text;
}

}  // namespace hearth::net::testing
