#include "net/zmq_hub.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "net/data_listener.h"
#include "net/incoming_links.h"
#include "net/outgoing_link.h"
#include "net/refusals.h"
#include "net/resolve.h"
#include "net/zap.h"
#include "net/zmq_socket.h"

namespace hearth::net {
namespace {

// A peer that was told to go closes its end itself; one that does not is cut off after this.
constexpr std::chrono::milliseconds kCloseGrace{300};
// Most messages that flush() takes in while it waits.
constexpr std::size_t kMaxInbox = 1024;
// While the data thread waits for frames itself, the control thread looks at least this often whether it
// still does, besides each time that it has anything else to do: what arrives meanwhile is in the kernel's
// buffers.
constexpr std::chrono::milliseconds kLookAfterReceiver{2000};
// How soon to look for strangers again when the system had no room for one.
constexpr std::chrono::milliseconds kAcceptPause{100};
// Member of the data listener's ready set that is no connection.
constexpr std::uint64_t kReceiverWake = 0;

// Properties of a received message (libzmq names them in its draft header only).
constexpr char kUserId[] = "User-Id";
constexpr char kPeerAddress[] = "Peer-Address";

constexpr int index(Lane lane) {
  return static_cast<int>(lane);
}

// A pipe that makes poll(2) return; writing is allowed from any thread.
class WakePipe {
 public:
  static Result<WakePipe> make() {
    int ends[2];
    if (::pipe(ends) != 0)
      return fail(ErrorCode::kIo, "cannot make a pipe: the process has too many open files");
    for (const int end : ends) {
      ::fcntl(end, F_SETFL, O_NONBLOCK);
      ::fcntl(end, F_SETFD, FD_CLOEXEC);
    }
    return WakePipe(ends[0], ends[1]);
  }
  WakePipe(WakePipe&& other) noexcept
      : in_(std::exchange(other.in_, -1)), out_(std::exchange(other.out_, -1)) {}
  WakePipe& operator=(WakePipe&&) = delete;
  ~WakePipe() {
    if (in_ >= 0) ::close(in_);
    if (out_ >= 0) ::close(out_);
  }
  void signal() const {
    const char byte = 0;
    // A full pipe wakes as well.
    [[maybe_unused]] const ssize_t n = ::write(out_, &byte, 1);
  }
  void drain() const {
    char bytes[256];
    while (::read(in_, bytes, sizeof bytes) > 0) {
    }
  }
  [[nodiscard]] int descriptor() const { return in_; }

 private:
  WakePipe(int in, int out) : in_(in), out_(out) {}
  int in_;
  int out_;
};

std::uint64_t random_u64() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

class ZmqHub final : public Hub {
 public:
  ZmqHub(HubOptions options, WakePipe wake_pipe, WakePipe receiver_pipe)
      : options_(std::move(options)),
        wake_pipe_(std::move(wake_pipe)),
        receiver_pipe_(std::move(receiver_pipe)),
        shared_{context_, options_.keys, options_.limits, {random_u64(), 0}},
        incoming_(IncomingLinks::Limits{
            .max_bytes = {options_.limits.max_control_bytes, options_.limits.max_data_bytes}}),
        refusals_(options_.limits.refused_per_second) {}

  Result<> open();

  [[nodiscard]] const DeviceKey& key() const override { return options_.keys.public_key(); }
  [[nodiscard]] const wire::Address& address() const override { return address_; }
  void allow(std::span<const DeviceKey> keys) override;
  Result<> connect(const DeviceKey& peer, const wire::Address& address,
                   std::chrono::milliseconds timeout) override;
  void disconnect(const DeviceKey& peer) override;
  void flush(const DeviceKey& peer, std::chrono::milliseconds timeout) override;
  [[nodiscard]] SendStatus send(const DeviceKey& peer, Lane lane, Bytes& message) override;
  [[nodiscard]] std::optional<Event> poll(std::chrono::milliseconds timeout) override;
  void wake() override {
    woken_.store(true);
    wake_pipe_.signal();
  }
  void separate_data() override { data_separate_ = true; }
  [[nodiscard]] std::optional<MessageEvent> receive(std::chrono::milliseconds timeout) override;
  void wake_receiver() override {
    const std::lock_guard lock(mutex_);
    receiver_woken_ = true;
    if (receiving_) signal_receiver();
  }
  [[nodiscard]] std::vector<DeviceKey> take_data_senders() override;

 private:
  struct Connection {
    std::string address;
    bool heard = false;  // a frame came from it
  };
  struct ControlListener {
    BoundControl bound;
    Watch socket_watch;
    Watch monitor_watch;
    std::map<int, Connection> connections;  // by descriptor
    std::string failed_handshake;           // reason; the descriptor comes with the next event
    std::map<int, std::string>
        never_heard;  // ended without a frame so far; its frames may still be in the socket
  };
  struct Closing {
    IncomingLinks::Closing what;  // tag: the descriptor
    Clock::time_point at;
  };

  void signal_receiver() {
    receiver_signalled_ = true;
    receiver_pipe_.signal();
  }
  std::optional<Event> take_event();
  std::optional<Event> take_message(Lane lane);
  std::optional<MessageEvent> take_data(std::vector<std::uint64_t>& ready);
  bool receive_one();
  void receive_data(std::vector<std::uint64_t>& ready);
  void service(Clock::time_point now);
  void service_links(Clock::time_point now);
  void service_listener(Clock::time_point now);
  void service_data(Clock::time_point now);
  void connection_ended(int descriptor, Clock::time_point now);
  void close_refused_connections(Clock::time_point now);
  bool answer(const std::string& connection, FrameHeader header, std::string_view payload);
  bool answer_closed(const IncomingLinks::Closing& closing);
  void violated(const DeviceKey& peer, std::string address, Error error);
  void report_refusal(Clock::time_point now, std::string address, std::string reason);
  void wait_until(std::unique_lock<std::mutex>& lock, Clock::time_point deadline);
  [[nodiscard]] bool has_room_for_data() const {
    return inbox_[index(Lane::kData)].size() < static_cast<std::size_t>(options_.limits.data_high_water);
  }

  HubOptions options_;
  wire::Address address_;
  WakePipe wake_pipe_;
  Watch wake_watch_;
  std::atomic<bool> woken_{false};
  WakePipe receiver_pipe_;  // written to only while the data thread sleeps: it is in the ready set

  // Guards all that follows; not held while a thread sleeps. The data thread only sends on and reads from the
  // data lane: what else it meets it leaves to the control thread, in these lists.
  std::mutex mutex_;
  bool data_separate_ = false;
  bool receiving_ = false;  // the data thread sleeps in receive()
  bool receiver_woken_ = false;
  bool receiver_signalled_ = false;  // a byte is in the pipe
  std::vector<std::pair<DeviceKey, Error>> violations_;
  std::set<DeviceKey> data_senders_;
  std::vector<std::uint64_t> ready_;
  std::atomic<bool> refused_by_zap_{false};

  // Destroyed from the last to the first: links and listeners, then the handler, then the context.
  ZmqContext context_;
  std::unique_ptr<ZapHandler> zap_;
  ControlListener listener_;
  std::unique_ptr<DataListener> data_;
  Watch data_listening_watch_;
  Watch data_ready_watch_;
  OutgoingLink::Shared shared_;
  std::map<DeviceKey, std::unique_ptr<OutgoingLink>> links_;

  std::set<DeviceKey> allowed_;
  IncomingLinks incoming_;
  std::deque<Closing> closings_;
  Refusals refusals_;
  std::deque<Event> events_;
  std::array<std::deque<MessageEvent>, 2> inbox_;  // received, not yet returned
  bool writable_again_ = false;
  WatchList watch_list_;
};

Result<> ZmqHub::open() {
  HEARTH_TRY(zap_, ZapHandler::start(context_, [this] {
               refused_by_zap_.store(true);
               wake_pipe_.signal();
             }));
  wake_watch_ = {.descriptor = wake_pipe_.descriptor()};
  HEARTH_TRY(listener_.bound, bind_control(context_, options_.keys, options_.bind_host, options_.control_port,
                                           options_.limits));
  listener_.socket_watch = {.descriptor = listener_.bound.socket.descriptor()};
  listener_.monitor_watch = {.descriptor = listener_.bound.monitor.descriptor()};
  HEARTH_TRY(data_, DataListener::open(
                        options_.bind_host, options_.data_port, options_.limits,
                        [this](const StreamTag& tag) {
                          auto lane = incoming_.awaited_data_lane(tag);
                          if (lane && !allowed_.contains(lane->from)) lane.reset();
                          return lane;
                        },
                        [this](std::string address, std::string reason) {
                          report_refusal(Clock::now(), std::move(address), std::move(reason));
                        }));
  data_listening_watch_ = {.descriptor = data_->descriptor()};
  data_ready_watch_ = {.descriptor = data_->ready_set().descriptor()};
  if (!data_->ready_set().add(receiver_pipe_.descriptor(), kReceiverWake))
    return fail(ErrorCode::kIo, "cannot wait for data: the system has no room for another descriptor");
  address_ = {
      .host = options_.advertised_host, .control_port = listener_.bound.port, .data_port = data_->port()};
  return {};
}

void ZmqHub::allow(std::span<const DeviceKey> keys) {
  const std::lock_guard lock(mutex_);
  allowed_ = std::set<DeviceKey>(keys.begin(), keys.end());
  zap_->allow(allowed_);
  for (const DeviceKey& peer : incoming_.connected_keys())
    if (!allowed_.contains(peer))
      incoming_.close_key(peer, {ErrorCode::kUnauthorized, "this device's key was taken off the allow-list"});
  for (auto& box : inbox_)
    std::erase_if(box, [&](const MessageEvent& message) { return !allowed_.contains(message.from); });
  close_refused_connections(Clock::now());
}

Result<> ZmqHub::connect(const DeviceKey& peer, const wire::Address& address,
                         std::chrono::milliseconds timeout) {
  if (address.control_port == 0)
    return fail(ErrorCode::kInvalidArgument, "the address of device {} has no control port",
                peer.short_hex());
  HEARTH_TRY(const std::vector<std::string> hosts, resolve(address.host));
  const std::lock_guard lock(mutex_);
  const auto endpoints = [&](std::string_view scheme, std::uint16_t port) {
    std::vector<std::string> list;
    if (port == 0) return list;
    for (const std::string& host : hosts) list.push_back(std::format("{}{}:{}", scheme, host, port));
    return list;
  };
  if (const auto existing = links_.find(peer); existing != links_.end()) {
    if (address.data_port == 0 || !existing->second->add_data_lane(endpoints("", address.data_port), timeout))
      return fail(ErrorCode::kInvalidArgument, "there is a link to device {} already", peer.short_hex());
    return {};
  }
  links_.emplace(peer,
                 std::make_unique<OutgoingLink>(shared_, peer, endpoints("tcp://", address.control_port),
                                                endpoints("", address.data_port), timeout));
  return {};
}

void ZmqHub::disconnect(const DeviceKey& peer) {
  const std::lock_guard lock(mutex_);
  links_.erase(peer);
  // An event of the link that ended here would be taken for one of the next link.
  std::erase_if(events_, [&](const Event& event) {
    const auto* up = std::get_if<PeerUpEvent>(&event);
    const auto* gone = std::get_if<PeerGoneEvent>(&event);
    return (up != nullptr && up->peer == peer) || (gone != nullptr && gone->peer == peer);
  });
}

SendStatus ZmqHub::send(const DeviceKey& peer, Lane lane, Bytes& message) {
  const std::lock_guard lock(mutex_);
  const auto link = links_.find(peer);
  if (link == links_.end()) return SendStatus::kPeerGone;
  const SendStatus status = link->second->send(lane, message);
  if (status == SendStatus::kSent) message = Bytes();
  // The rest of a large frame goes out from the control thread, which must learn to wait for room.
  if (lane == Lane::kData && link->second->data_needs_service()) wake_pipe_.signal();
  return status;
}

void ZmqHub::flush(const DeviceKey& peer, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  const auto deadline = Clock::now() + timeout;
  std::array<bool, 2> asked{};
  for (;;) {
    service(Clock::now());
    // Looked up every time: service() ends links.
    const auto link = links_.find(peer);
    if (link == links_.end()) return;
    bool done = true;
    for (const Lane lane : {Lane::kControl, Lane::kData}) {
      if (!asked[index(lane)]) asked[index(lane)] = link->second->send_flush(lane);
      done = done && asked[index(lane)] && link->second->is_flushed(lane);
    }
    // The peer may be waiting in its flush() for our confirmation. What it sends may end the link.
    while (listener_.socket_watch.ready && inbox_[index(Lane::kControl)].size() < kMaxInbox)
      if (!receive_one()) break;
    if (inbox_[index(Lane::kData)].size() < kMaxInbox) receive_data(ready_);
    if (done || Clock::now() >= deadline) return;
    wait_until(lock, deadline);
  }
}

std::optional<Event> ZmqHub::poll(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  const auto deadline = Clock::now() + timeout;
  for (bool last_look = false;;) {
    if (auto event = take_event()) return event;
    if (std::exchange(writable_again_, false)) return std::nullopt;
    if (last_look) return std::nullopt;
    wait_until(lock, deadline);
    last_look = Clock::now() >= deadline;
  }
}

std::optional<MessageEvent> ZmqHub::receive(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  const auto deadline = Clock::now() + timeout;
  std::vector<std::uint64_t> ready;
  bool woken = false;
  // One look at least, and one system call for the usual frame, which is still to come.
  for (bool looked = false;; looked = true) {
    if (looked && !ready.empty()) receive_data(ready);
    if (auto& box = inbox_[index(Lane::kData)]; !box.empty()) {
      MessageEvent message = std::move(box.front());
      box.pop_front();
      return message;
    }
    woken = std::exchange(receiver_woken_, false) || woken;
    const auto left = woken ? std::chrono::milliseconds{0}
                            : std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (looked && left.count() <= 0) return std::nullopt;
    receiving_ = true;
    lock.unlock();
    data_->ready_set().wait(static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000)), ready);
    lock.lock();
    receiving_ = false;
    // Also a byte that came after the wait: it would keep the set ready while the engine computes.
    if (std::exchange(receiver_signalled_, false)) receiver_pipe_.drain();
  }
}

std::optional<MessageEvent> ZmqHub::take_data(std::vector<std::uint64_t>& ready) {
  auto& box = inbox_[index(Lane::kData)];
  if (box.empty()) receive_data(ready);
  if (box.empty()) return std::nullopt;
  MessageEvent message = std::move(box.front());
  box.pop_front();
  return message;
}

std::vector<DeviceKey> ZmqHub::take_data_senders() {
  const std::lock_guard lock(mutex_);
  const auto senders = std::exchange(data_senders_, {});
  return {senders.begin(), senders.end()};
}

std::optional<Event> ZmqHub::take_event() {
  if (woken_.exchange(false)) return WokenEvent{};
  service(Clock::now());
  if (auto message = take_message(Lane::kControl)) return message;
  if (!events_.empty()) {
    Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  return data_separate_ ? std::nullopt : take_message(Lane::kData);
}

std::optional<Event> ZmqHub::take_message(Lane lane) {
  if (lane == Lane::kData) return take_data(ready_);
  auto& box = inbox_[index(lane)];
  while (box.empty() && listener_.socket_watch.ready)
    if (!receive_one()) break;
  if (box.empty()) return std::nullopt;
  Event event = std::move(box.front());
  box.pop_front();
  return event;
}

// Takes one message off the control lane's socket; what is to be delivered goes to the inbox. False when
// there was none.
bool ZmqHub::receive_one() {
  constexpr Lane lane = Lane::kControl;
  ControlListener& listener = listener_;
  ZmqMessage id;
  if (!id.receive(listener.bound.socket)) {
    listener.socket_watch.ready = false;
    return false;
  }
  const std::string connection = id.text();
  ZmqMessage frame;
  std::size_t parts = 0;
  if (id.more() && frame.receive(listener.bound.socket)) {
    parts = 1;
    for (bool more = frame.more(); more; ++parts) {
      ZmqMessage extra;
      if (!extra.receive(listener.bound.socket)) break;
      more = extra.more();
    }
  }
  const char* user = frame.property(kUserId);
  const auto from = DeviceKey::from_hex(user == nullptr ? "" : user);
  // Cannot happen while the handler sets it; without a proven sender nothing may be delivered.
  if (!from) return true;

  const int descriptor = frame.source_descriptor();
  listener.never_heard.erase(descriptor);
  if (const auto found = listener.connections.find(descriptor); found != listener.connections.end())
    found->second.heard = true;
  // The list may have changed after the handshake.
  if (!allowed_.contains(*from)) {
    incoming_.refuse(lane, connection, *from,
                     {ErrorCode::kUnauthorized, "this device's key is not on the allow-list"}, descriptor);
    close_refused_connections(Clock::now());
    return true;
  }
  auto outcome = incoming_.receive(lane, connection, *from, parts, frame.bytes(), descriptor);
  switch (outcome.action) {
    case IncomingLinks::Action::kDeliver: {
      const auto payload = frame.bytes().subspan(kFrameHeaderBytes);
      inbox_[index(lane)].push_back({*from, lane, Bytes(payload.begin(), payload.end())});
      break;
    }
    case IncomingLinks::Action::kAnswerFlush:
      answer(connection, {FrameKind::kFlushed, outcome.sequence}, {});
      break;
    case IncomingLinks::Action::kNothing:
      break;
  }
  if (outcome.violation) {
    const char* address = frame.property(kPeerAddress);
    violated(*from, address == nullptr ? "" : address, *std::move(outcome.violation));
  }
  close_refused_connections(Clock::now());
  return true;
}

// Reads the data lane; what is to be delivered goes to the inbox. Either thread. `ready`: connections known
// to have something; looked for when empty.
void ZmqHub::receive_data(std::vector<std::uint64_t>& ready) {
  if (!has_room_for_data()) return;
  std::vector<std::uint64_t> ended;
  std::vector<DataListener::Frame> frames;
  if (ready.empty()) data_->ready_set().wait(0, ready);
  data_->read(ready, frames, ended);
  ready.clear();
  bool for_control = false;
  for (DataListener::Frame& frame : frames) {
    const std::string connection = std::to_string(frame.connection);
    if (!allowed_.contains(frame.from)) {
      incoming_.refuse(Lane::kData, connection, frame.from,
                       {ErrorCode::kUnauthorized, "this device's key is not on the allow-list"});
      for_control = true;
      continue;
    }
    auto outcome = incoming_.receive(Lane::kData, connection, frame.from, 1, frame.bytes);
    if (outcome.action == IncomingLinks::Action::kDeliver) {
      frame.bytes.erase(frame.bytes.begin(), frame.bytes.begin() + kFrameHeaderBytes);
      inbox_[index(Lane::kData)].push_back({frame.from, Lane::kData, std::move(frame.bytes)});
      if (data_separate_) data_senders_.insert(frame.from);
    } else if (outcome.action == IncomingLinks::Action::kAnswerFlush) {
      data_->answer(frame.connection, {FrameKind::kFlushed, outcome.sequence}, {});
    }
    if (outcome.violation) violations_.emplace_back(frame.from, *std::move(outcome.violation));
    for_control = for_control || outcome.action == IncomingLinks::Action::kNothing;
  }
  for (const std::uint64_t id : ended) incoming_.forget(Lane::kData, std::to_string(id));
  if (for_control) wake_pipe_.signal();
}

void ZmqHub::service_data(Clock::time_point now) {
  if (data_listening_watch_.ready) {
    data_listening_watch_.ready = false;
    data_->accept_new(now);
  }
  data_ready_watch_.ready = false;
  // Without a data thread poll() reads as it returns messages; with one, whatever it does not wait for
  // itself.
  if (data_separate_ && !receiving_ && has_room_for_data()) receive_data(ready_);
  std::vector<std::uint64_t> ended;
  data_->service(now, ended);
  for (const std::uint64_t id : ended) incoming_.forget(Lane::kData, std::to_string(id));
  if (data_separate_ && receiving_ && !inbox_[index(Lane::kData)].empty()) signal_receiver();
  for (auto& [peer, error] : std::exchange(violations_, {})) violated(peer, "", std::move(error));
  close_refused_connections(now);
}

void ZmqHub::service(Clock::time_point now) {
  if (wake_watch_.ready) {
    wake_pipe_.drain();
    wake_watch_.ready = false;
  }
  if (refused_by_zap_.exchange(false)) {
    std::size_t dropped = 0;
    for (auto& refused : zap_->take_refused(dropped))
      report_refusal(now, std::move(refused.address), std::move(refused.reason));
    refusals_.count(dropped);
  }
  service_links(now);
  service_data(now);
  // libzmq drops what is no ZMTP without a word.
  if (!listener_.socket_watch.ready)
    for (auto& [descriptor, address] : std::exchange(listener_.never_heard, {}))
      report_refusal(now, std::move(address), "closed without a word that a device of a ring would say");
  if (listener_.monitor_watch.ready) service_listener(now);
  while (!closings_.empty() && closings_.front().at <= now) {
    const IncomingLinks::Closing closing = std::move(closings_.front().what);
    closings_.pop_front();
    // Only while the socket still knows the connection: its descriptor may belong to another one by now.
    if (answer_closed(closing)) shut_down(closing.tag, listener_.bound.port);
  }
}

void ZmqHub::service_links(Clock::time_point now) {
  for (auto it = links_.begin(); it != links_.end();) {
    OutgoingLink& link = *it->second;
    const auto change = link.service(now);
    if (change == OutgoingLink::Change::kUp) events_.push_back(PeerUpEvent{it->first});
    if (change == OutgoingLink::Change::kGone) {
      events_.push_back(PeerGoneEvent{it->first, link.error()});
      // Its last control messages may be here already; they are to be seen before its end.
      listener_.socket_watch.ready = true;
      it = links_.erase(it);
      continue;
    }
    if (link.take_writable()) writable_again_ = true;
    ++it;
  }
}

void ZmqHub::service_listener(Clock::time_point now) {
  ControlListener& listener = listener_;
  MonitorEvent event;
  while (receive_monitor(listener.bound.monitor, event)) {
    const int descriptor = static_cast<int>(event.value);
    switch (event.event) {
      case ZMQ_EVENT_ACCEPTED: {
        std::string address = remote_address(descriptor, listener.bound.port);
        if (listener.connections.size() >= static_cast<std::size_t>(options_.limits.max_connections)) {
          shut_down(descriptor, listener.bound.port);
          report_refusal(now, address, "too many connections at once");
        }
        listener.connections[descriptor] = {.address = std::move(address)};
        break;
      }
      case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        listener.failed_handshake = "closed or stayed silent before it proved a key";
        break;
      case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        switch (event.value) {
          case ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            listener.failed_handshake = "offered no encryption";
            break;
          case ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
            listener.failed_handshake = "expected a device with another key here";
            break;
          default:
            listener.failed_handshake = std::format("broke the handshake (ZMTP error {:#x})", event.value);
        }
        break;
      case ZMQ_EVENT_DISCONNECTED:
        connection_ended(descriptor, now);
        break;
      default:
        break;
    }
  }
  listener.monitor_watch.ready = false;
}

void ZmqHub::connection_ended(int descriptor, Clock::time_point now) {
  ControlListener& listener = listener_;
  Connection connection;
  if (const auto found = listener.connections.find(descriptor); found != listener.connections.end()) {
    connection = std::move(found->second);
    listener.connections.erase(found);
  }
  // libzmq names the reason and then the connection, from one thread.
  if (std::string reason = std::exchange(listener.failed_handshake, {}); !reason.empty()) {
    report_refusal(now, std::move(connection.address), std::move(reason));
  } else if (!connection.heard) {
    listener.never_heard[descriptor] = std::move(connection.address);
  }
}

void ZmqHub::close_refused_connections(Clock::time_point now) {
  for (auto& closing : incoming_.take_closings()) {
    if (closing.lane == Lane::kData) {
      const std::uint64_t id = std::stoull(closing.connection);
      data_->answer(id, {FrameKind::kClosed, 0}, write_reason(closing.reason));
      data_->dismiss(id, now + kCloseGrace);
    } else if (answer_closed(closing)) {
      closings_.push_back({std::move(closing), now + kCloseGrace});
    }
  }
}

bool ZmqHub::answer_closed(const IncomingLinks::Closing& closing) {
  return answer(closing.connection, {FrameKind::kClosed, 0}, write_reason(closing.reason));
}

// To the sender on the way back of its connection. False when the connection is no more; a sender that does
// not read its answers loses them.
bool ZmqHub::answer(const std::string& connection, FrameHeader header, std::string_view payload) {
  ZmqSocket& socket = listener_.bound.socket;
  listener_.socket_watch.ready = true;
  (void)socket.get_int(ZMQ_EVENTS);  // takes in the news about connections that have ended
  ZmqMessage id(std::span(reinterpret_cast<const std::uint8_t*>(connection.data()), connection.size()));
  ZmqMessage frame(kFrameHeaderBytes + payload.size());
  write_header(header, frame.bytes().first<kFrameHeaderBytes>());
  std::ranges::copy(payload, frame.bytes().begin() + kFrameHeaderBytes);
  if (!id.send(socket, true)) return zmq_errno() != EHOSTUNREACH;
  frame.send(socket);
  return true;
}

void ZmqHub::violated(const DeviceKey& peer, std::string address, Error error) {
  if (links_.erase(peer) > 0) {
    events_.push_back(PeerGoneEvent{peer, std::move(error)});
  } else {
    report_refusal(Clock::now(), std::move(address), std::move(error.message));
  }
}

void ZmqHub::report_refusal(Clock::time_point now, std::string address, std::string reason) {
  if (auto event = refusals_.report(now, std::move(address), std::move(reason)))
    events_.push_back(*std::move(event));
}

// Sleeps until a descriptor or a timer asks for service, or `deadline`; one look when it has passed.
void ZmqHub::wait_until(std::unique_lock<std::mutex>& lock, Clock::time_point deadline) {
  watch_list_.clear();
  watch_list_.add(wake_watch_);
  watch_list_.add(listener_.socket_watch);
  watch_list_.add(listener_.monitor_watch);
  const bool accepts = data_->accepts(Clock::now());
  if (accepts) watch_list_.add(data_listening_watch_);
  Clock::time_point until = std::min(deadline, data_->next_timer());
  if (!accepts) until = std::min(until, Clock::now() + kAcceptPause);
  if (receiving_) {
    if (data_->has_connections()) until = std::min(until, Clock::now() + kLookAfterReceiver);
  } else if (has_room_for_data()) {
    watch_list_.add(data_ready_watch_);
  }
  for (auto& [peer, link] : links_) {
    link->watch(watch_list_);
    until = std::min(until, link->next_timer());
  }
  if (!closings_.empty()) until = std::min(until, closings_.front().at);
  // Rounded up: waking a little early would only mean another turn.
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
  int wait_ms = static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
  // Something that was looked at before may have got its signal swallowed by a later send: do not sleep on
  // it.
  if (std::ranges::any_of(watch_list_.watches, [](const Watch* watch) { return watch->ready; })) wait_ms = 0;
  // Its byte may have been drained with one of another purpose.
  if (woken_) wait_ms = 0;
  lock.unlock();
  const int n = ::poll(watch_list_.descriptors.data(), watch_list_.descriptors.size(), wait_ms);
  lock.lock();
  if (n <= 0) return;
  for (std::size_t i = 0; i < watch_list_.watches.size(); ++i)
    if (watch_list_.descriptors[i].revents != 0) watch_list_.watches[i]->ready = true;
}

}  // namespace

Result<std::unique_ptr<Hub>> make_zmq_hub(HubOptions options) {
  HEARTH_TRY(WakePipe wake_pipe, WakePipe::make());
  HEARTH_TRY(WakePipe receiver_pipe, WakePipe::make());
  auto hub = std::make_unique<ZmqHub>(std::move(options), std::move(wake_pipe), std::move(receiver_pipe));
  HEARTH_TRY_VOID(hub->open());
  return hub;
}

}  // namespace hearth::net
