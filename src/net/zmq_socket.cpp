#include "net/zmq_socket.h"

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "net/link_frame.h"
#include "net/zap.h"

namespace hearth::net {
namespace {

// libzmq exports these options in every build but declares them for its draft interface only.
constexpr int kZapEnforceDomain = 93;

constexpr std::chrono::milliseconds kSelfTestTimeout{2000};
constexpr int kConnectTimeoutMs = 3000;

// MAXMSGSIZE counts what CURVE and the hub add to a message: nonce, command name, flags, MAC, frame header.
constexpr std::int64_t kFrameOverhead = 64 + static_cast<std::int64_t>(kFrameHeaderBytes);

void configure(ZmqSocket& socket, const HubLimits& limits) {
  socket.set(ZMQ_LINGER, 0);
  socket.set(ZMQ_SNDHWM, limits.control_high_water);
  socket.set(ZMQ_RCVHWM, limits.control_high_water);
  socket.set(ZMQ_HANDSHAKE_IVL, static_cast<int>(limits.handshake.count()));
  // Probes on the control lane only: on the data lane the answer would wait behind whatever large message is
  // on its way, and a slow link or a receiver that takes its time would look like a dead one. What makes a
  // device unreachable does so on both.
  socket.set(ZMQ_HEARTBEAT_IVL, static_cast<int>(limits.heartbeat_interval.count()));
  socket.set(ZMQ_HEARTBEAT_TIMEOUT, static_cast<int>(limits.heartbeat_timeout.count()));
}

std::string monitor_endpoint() {
  static std::atomic<std::uint64_t> counter{0};
  return std::format("inproc://hearth-monitor-{}", counter.fetch_add(1));
}

Result<std::uint16_t> bound_port(const ZmqSocket& socket) {
  const std::string endpoint = socket.get_text(ZMQ_LAST_ENDPOINT);
  const std::size_t colon = endpoint.rfind(':');
  std::uint16_t port = 0;
  if (colon == std::string::npos ||
      std::from_chars(endpoint.data() + colon + 1, endpoint.data() + endpoint.size(), port).ec != std::errc{})
    return fail(ErrorCode::kIo, "cannot tell the port of '{}'", endpoint);
  return port;
}

}  // namespace

ZmqContext::ZmqContext() : context_(zmq_ctx_new()) {
  HEARTH_CHECK(context_ != nullptr, "zmq_ctx_new failed");
  zmq_ctx_set(context_, ZMQ_BLOCKY, 0);
}

ZmqContext::~ZmqContext() {
  while (zmq_ctx_term(context_) != 0 && zmq_errno() == EINTR) {
  }
}

void ZmqSocket::close() {
  if (socket_ == nullptr) return;
  zmq_socket_monitor(socket_, nullptr, 0);
  zmq_close(std::exchange(socket_, nullptr));
}

void ZmqSocket::set(int option, int value) {
  HEARTH_CHECK(zmq_setsockopt(socket_, option, &value, sizeof value) == 0,
               std::format("libzmq option {}", option));
}
void ZmqSocket::set(int option, std::int64_t value) {
  HEARTH_CHECK(zmq_setsockopt(socket_, option, &value, sizeof value) == 0,
               std::format("libzmq option {}", option));
}
void ZmqSocket::set(int option, std::span<const std::uint8_t> value) {
  HEARTH_CHECK(zmq_setsockopt(socket_, option, value.data(), value.size()) == 0,
               std::format("libzmq option {}", option));
}
void ZmqSocket::set(int option, const std::string& value) {
  HEARTH_CHECK(zmq_setsockopt(socket_, option, value.data(), value.size()) == 0,
               std::format("libzmq option {}", option));
}

int ZmqSocket::get_int(int option) const {
  int value = 0;
  std::size_t size = sizeof value;
  HEARTH_CHECK(zmq_getsockopt(socket_, option, &value, &size) == 0, std::format("libzmq option {}", option));
  return value;
}

std::string ZmqSocket::get_text(int option) const {
  char buffer[1024];
  std::size_t size = sizeof buffer;
  HEARTH_CHECK(zmq_getsockopt(socket_, option, buffer, &size) == 0, std::format("libzmq option {}", option));
  return std::string(buffer, size == 0 ? 0 : size - 1);
}

int ZmqSocket::descriptor() const {
  return get_int(ZMQ_FD);
}

ZmqMessage::ZmqMessage(std::size_t size) {
  HEARTH_CHECK(zmq_msg_init_size(&message_, size) == 0, "out of memory for a message");
}

ZmqMessage::ZmqMessage(std::span<const std::uint8_t> bytes) : ZmqMessage(bytes.size()) {
  if (!bytes.empty()) std::memcpy(zmq_msg_data(&message_), bytes.data(), bytes.size());
}

bool ZmqMessage::receive(ZmqSocket& socket) {
  int rc = 0;
  do rc = zmq_msg_recv(&message_, socket.get(), ZMQ_DONTWAIT);
  while (rc < 0 && zmq_errno() == EINTR);
  return rc >= 0;
}

bool ZmqMessage::send(ZmqSocket& socket, bool more) {
  int rc = 0;
  do rc = zmq_msg_send(&message_, socket.get(), ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
  while (rc < 0 && zmq_errno() == EINTR);
  return rc >= 0;
}

ZmqSocket open_monitor(ZmqContext& context, ZmqSocket& socket, const std::string& endpoint, int events) {
  HEARTH_CHECK(zmq_socket_monitor(socket.get(), endpoint.c_str(), events) == 0,
               "cannot start a socket monitor");
  ZmqSocket monitor(context, ZMQ_PAIR);
  HEARTH_CHECK(static_cast<bool>(monitor), "cannot make a socket");
  monitor.set(ZMQ_LINGER, 0);
  // libzmq's thread waits when the reader is behind by this many parts: far more than strangers can cause
  // between two looks of a living hub.
  monitor.set(ZMQ_RCVHWM, 100'000);
  HEARTH_CHECK(zmq_connect(monitor.get(), endpoint.c_str()) == 0, "cannot read a socket monitor");
  return monitor;
}

bool receive_monitor(ZmqSocket& monitor, MonitorEvent& event) {
  ZmqMessage first;
  if (!first.receive(monitor)) return false;
  HEARTH_CHECK(first.bytes().size() == 6 && first.more(), "a monitor event has another layout");
  std::memcpy(&event.event, first.bytes().data(), 2);
  std::memcpy(&event.value, first.bytes().data() + 2, 4);
  ZmqMessage endpoint;
  return endpoint.receive(monitor);
}

Result<BoundControl> bind_control(ZmqContext& context, const KeyPair& keys, const std::string& host,
                                  std::uint16_t port, const HubLimits& limits) {
  HEARTH_TRY_VOID(zap_self_test(context, kSelfTestTimeout));

  // "" means every interface: IPv6 sockets serve IPv4 as well, unless this kernel has no IPv6.
  const std::vector<std::string> hosts =
      host.empty() ? std::vector<std::string>{"::", "0.0.0.0"} : std::vector<std::string>{host};
  int reason = 0;
  for (const std::string& candidate : hosts) {
    BoundControl bound{.monitor = {}, .socket = ZmqSocket(context, ZMQ_ROUTER)};
    ZmqSocket& socket = bound.socket;
    if (!socket) return fail(ErrorCode::kIo, "cannot make a socket: {}", zmq_strerror(zmq_errno()));
    configure(socket, limits);
    const bool ipv6 = candidate.contains(':');
    socket.set(ZMQ_IPV6, ipv6 ? 1 : 0);
    socket.set(ZMQ_CURVE_SERVER, 1);
    socket.set(ZMQ_CURVE_SECRETKEY, keys.secret());
    socket.set(ZMQ_ZAP_DOMAIN, std::string(kZapDomain));
    // Without a handler libzmq then refuses instead of accepting every key.
    socket.set(kZapEnforceDomain, 1);
    socket.set(ZMQ_MAXMSGSIZE, static_cast<std::int64_t>(limits.max_control_bytes) + kFrameOverhead);
    socket.set(ZMQ_BACKLOG, limits.backlog);
    // Unknown or full receivers of an answer are an error, not silence. ROUTER_HANDOVER stays off: senders
    // never choose their routing id, and with it on a listed device could push another one out by using its
    // id.
    socket.set(ZMQ_ROUTER_MANDATORY, 1);
    bound.monitor =
        open_monitor(context, socket, monitor_endpoint(),
                     ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                         ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL);
    const std::string endpoint = std::format("tcp://{}:{}", ipv6 ? "[" + candidate + "]" : candidate,
                                             port == 0 ? std::string("*") : std::to_string(port));
    if (zmq_bind(socket.get(), endpoint.c_str()) == 0) {
      HEARTH_TRY(bound.port, bound_port(socket));
      return bound;
    }
    reason = zmq_errno();
  }
  return fail(ErrorCode::kIo,
              "cannot listen on {} port {} (control lane): {}; choose another address or port",
              host.empty() ? "any address" : host, port, zmq_strerror(reason));
}

Result<ConnectingControl> connect_control(ZmqContext& context, const KeyPair& keys, const DeviceKey& peer,
                                          const std::string& endpoint, const HubLimits& limits) {
  ConnectingControl result{.monitor = {}, .socket = ZmqSocket(context, ZMQ_DEALER)};
  ZmqSocket& socket = result.socket;
  if (!socket) return fail(ErrorCode::kIo, "cannot make a socket: {}", zmq_strerror(zmq_errno()));
  configure(socket, limits);
  socket.set(ZMQ_IPV6, endpoint.contains('[') ? 1 : 0);
  socket.set(ZMQ_CURVE_SERVERKEY, peer.bytes);
  socket.set(ZMQ_CURVE_PUBLICKEY, keys.public_key().bytes);
  socket.set(ZMQ_CURVE_SECRETKEY, keys.secret());
  // The receiver only answers with short frames.
  socket.set(ZMQ_MAXMSGSIZE, static_cast<std::int64_t>(kMaxReasonBytes) + kFrameOverhead);
  // One connection per socket: nothing is queued before it is up, and after it broke nothing is sent later.
  socket.set(ZMQ_IMMEDIATE, 1);
  socket.set(ZMQ_RECONNECT_IVL, -1);
  socket.set(ZMQ_CONNECT_TIMEOUT, kConnectTimeoutMs);
  result.monitor = open_monitor(context, socket, monitor_endpoint(),
                                ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                                    ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                                    ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED);
  if (zmq_connect(socket.get(), endpoint.c_str()) != 0)
    return fail(ErrorCode::kInvalidArgument, "cannot connect to {}: {}", endpoint, zmq_strerror(zmq_errno()));
  return result;
}

}  // namespace hearth::net
