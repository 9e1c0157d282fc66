#include "net/zap.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <utility>

#include <pthread.h>

namespace hearth::net {
namespace {

constexpr char kEndpoint[] = "inproc://zeromq.zap.01";
constexpr std::string_view kVersion = "1.0";

void send_part(ZmqSocket& socket, std::string_view text, bool more) {
  ZmqMessage message(std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
  HEARTH_CHECK(message.send(socket, more), "the ZAP handler cannot answer; no connection can be trusted");
}

// All parts of one message; empty when there is none.
std::vector<std::string> receive_parts(ZmqSocket& socket) {
  std::vector<std::string> parts;
  for (bool more = true; more;) {
    ZmqMessage message;
    if (!message.receive(socket)) return {};
    parts.push_back(message.text());
    more = message.more();
  }
  return parts;
}

}  // namespace

Result<std::unique_ptr<ZapHandler>> ZapHandler::start(ZmqContext& context, std::function<void()> on_refused) {
  if (zmq_has("curve") == 0)
    return fail(ErrorCode::kUnsupported,
                "this libzmq has no CURVE encryption; install one built with libsodium");
  std::unique_ptr<ZapHandler> handler(new ZapHandler);
  handler->on_refused_ = std::move(on_refused);
  handler->requests_ = ZmqSocket(context, ZMQ_REP);
  handler->stop_in_ = ZmqSocket(context, ZMQ_PAIR);
  handler->stop_out_ = ZmqSocket(context, ZMQ_PAIR);
  if (!handler->requests_ || !handler->stop_in_ || !handler->stop_out_)
    return fail(ErrorCode::kIo, "cannot start the ZAP handler: {}", zmq_strerror(zmq_errno()));
  handler->requests_.set(ZMQ_LINGER, 0);
  const std::string stop_endpoint =
      std::format("inproc://hearth-zap-stop-{}", static_cast<void*>(handler.get()));
  if (zmq_bind(handler->requests_.get(), kEndpoint) != 0 ||
      zmq_bind(handler->stop_in_.get(), stop_endpoint.c_str()) != 0 ||
      zmq_connect(handler->stop_out_.get(), stop_endpoint.c_str()) != 0)
    return fail(ErrorCode::kIo, "cannot start the ZAP handler: {}", zmq_strerror(zmq_errno()));
  handler->thread_ = std::thread([raw = handler.get()] { raw->run(); });
  return handler;
}

ZapHandler::~ZapHandler() {
  if (!thread_.joinable()) return;
  ZmqMessage stop;
  stop.send(stop_out_);
  thread_.join();
}

void ZapHandler::run() {
  // Signals belong to the main thread.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  for (;;) {
    zmq_pollitem_t items[] = {{requests_.get(), 0, ZMQ_POLLIN, 0}, {stop_in_.get(), 0, ZMQ_POLLIN, 0}};
    if (zmq_poll(items, 2, -1) < 0) {
      if (zmq_errno() == EINTR) continue;
      HEARTH_CHECK(false, "the ZAP handler ended; no connection can be trusted, so the process ends too");
    }
    if ((items[1].revents & ZMQ_POLLIN) != 0) break;
    if ((items[0].revents & ZMQ_POLLIN) != 0) answer_one();
  }
  requests_.close();
  stop_in_.close();
}

void ZapHandler::answer_one() {
  // version, request id, domain, address, routing id, mechanism, credentials (RFC 27)
  const std::vector<std::string> request = receive_parts(requests_);
  if (request.empty()) return;
  const std::string request_id = request.size() > 1 ? request[1] : "";
  const std::string address = request.size() > 3 ? request[3] : "";
  std::optional<DeviceKey> key;
  std::string reason;
  if (request.size() < 6 || request[0] != kVersion) {
    reason = "a malformed authentication request";
  } else if (request[5] != "CURVE" || request.size() != 7 || request[6].size() != sizeof(DeviceKey::bytes)) {
    reason = "no CURVE key";
  } else {
    key.emplace();
    std::memcpy(key->bytes.data(), request[6].data(), key->bytes.size());
    const std::lock_guard lock(mutex_);
    if (!allowed_.contains(*key)) reason = std::format("key {} is not on the allow-list", key->hex());
  }
  const bool accepted = reason.empty();
  send_part(requests_, kVersion, true);
  send_part(requests_, request_id, true);
  send_part(requests_, accepted ? "200" : "400", true);
  send_part(requests_, accepted ? "OK" : "not on the allow-list", true);
  send_part(requests_, accepted ? key->hex() : "", true);
  send_part(requests_, "", false);
  // The self-test's domain is its own, so that its refusals are not reported.
  if (!accepted && request.size() > 2 && request[2] == kZapDomain) refuse(address, std::move(reason));
}

void ZapHandler::refuse(std::string address, std::string reason) {
  {
    const std::lock_guard lock(mutex_);
    if (refused_.size() < kMaxQueued) {
      refused_.push_back({std::move(address), std::move(reason)});
    } else {
      ++dropped_;
    }
  }
  on_refused_();
}

void ZapHandler::allow(std::set<DeviceKey> keys) {
  const std::lock_guard lock(mutex_);
  allowed_ = std::move(keys);
}

std::vector<ZapHandler::Refused> ZapHandler::take_refused(std::size_t& dropped) {
  const std::lock_guard lock(mutex_);
  dropped += std::exchange(dropped_, 0);
  return std::exchange(refused_, {});
}

Result<> zap_self_test(ZmqContext& context, std::chrono::milliseconds timeout) {
  const auto refuse_to_bind = [](std::string_view what) {
    return fail(
        ErrorCode::kUnauthorized,
        "the ZAP handler that checks keys {}; without it every key would be accepted, so nothing is opened",
        what);
  };
  ZmqSocket socket(context, ZMQ_REQ);
  if (!socket) return refuse_to_bind("cannot be asked");
  socket.set(ZMQ_LINGER, 0);
  socket.set(ZMQ_RCVTIMEO, static_cast<int>(timeout.count()));
  if (zmq_connect(socket.get(), kEndpoint) != 0) return refuse_to_bind("is not there");
  const std::string nobody(sizeof(DeviceKey::bytes), '\xff');
  const std::string_view parts[] = {kVersion, "1", "hearth-self-test", "127.0.0.1", "", "CURVE", nobody};
  for (std::size_t i = 0; i < std::size(parts); ++i) {
    ZmqMessage message(std::span(reinterpret_cast<const std::uint8_t*>(parts[i].data()), parts[i].size()));
    if (!message.send(socket, i + 1 < std::size(parts))) return refuse_to_bind("is not there");
  }
  zmq_pollitem_t item{socket.get(), 0, ZMQ_POLLIN, 0};
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  int ready = 0;
  do {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    ready = zmq_poll(&item, 1, static_cast<long>(std::max<std::int64_t>(left.count(), 0)));
  } while (ready < 0 && zmq_errno() == EINTR);
  if (ready <= 0) return refuse_to_bind("does not answer");
  const std::vector<std::string> reply = receive_parts(socket);
  if (reply.size() != 6 || reply[0] != kVersion || reply[1] != "1" || reply[2] != "400")
    return refuse_to_bind("accepted a key that nobody has");
  return {};
}

}  // namespace hearth::net
