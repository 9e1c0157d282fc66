#include "net/outgoing_link.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace hearth::net {
namespace {

constexpr std::chrono::milliseconds kFirstPause{10};
constexpr std::chrono::milliseconds kLongestPause{500};
// To have an answer from the data lane's listener, as for the control lane's.
constexpr std::chrono::milliseconds kAnswerTime{3000};

}  // namespace

OutgoingLink::OutgoingLink(Shared& shared, const DeviceKey& peer, std::vector<std::string> control,
                           std::vector<std::string> data, std::chrono::milliseconds timeout)
    : shared_(shared),
      peer_(peer),
      timeout_(timeout),
      deadline_(Clock::now() + timeout),
      pause_(kFirstPause),
      last_failure_{ErrorCode::kTimeout, "no answer"} {
  ++shared_.next_id.counter;
  id_ = shared_.next_id;
  data_secret_ = new_stream_secret();
  prepare(lanes_[static_cast<int>(Lane::kControl)], std::move(control));
  if (!data.empty()) prepare(lanes_[static_cast<int>(Lane::kData)], std::move(data));
}

bool OutgoingLink::add_data_lane(std::vector<std::string> data, std::chrono::milliseconds timeout) {
  OneLane& lane = this->data();
  if (lane.state != State::kAbsent) return false;
  prepare(lane, std::move(data));
  timeout_ = timeout;
  deadline_ = Clock::now() + timeout;
  pause_ = kFirstPause;
  up_reported_ = false;
  return true;
}

void OutgoingLink::prepare(OneLane& lane, std::vector<std::string> endpoints) {
  lane.state = State::kWaiting;
  lane.endpoints = std::move(endpoints);
  lane.retry_at = Clock::time_point::min();
}

OutgoingLink::Change OutgoingLink::service(Clock::time_point now) {
  service_control(now);
  if (!error_) service_data(now);
  if (error_) return Change::kGone;
  if (up_reported_) return Change::kNone;
  const bool up = std::ranges::all_of(
      lanes_, [](const OneLane& lane) { return lane.state == State::kUp || lane.state == State::kAbsent; });
  if (up) {
    up_reported_ = true;
    for (OneLane& lane : lanes_) lane.established = lane.state == State::kUp;
    return Change::kUp;
  }
  if (now < deadline_) return Change::kNone;
  end(last_failure_.code, std::format("no link to device {} at {} within {} ms: {}", peer_.short_hex(),
                                      where(lanes_[0]), timeout_.count(), last_failure_.message));
  return Change::kGone;
}

void OutgoingLink::service_control(Clock::time_point now) {
  OneLane& lane = control();
  if (lane.state == State::kWaiting) {
    if (now < lane.retry_at) return;
    start_control();
    if (error_) return;
  }
  // Answers first: they may say why the connection breaks.
  if (lane.socket_watch.ready) read_answers();
  if (error_ || lane.state == State::kWaiting) return;
  if (lane.monitor_watch.ready) read_monitor(now);
  if (!error_) open_control();
}

void OutgoingLink::open_control() {
  OneLane& lane = control();
  // The handshake is done in the transport's thread; the socket takes messages a moment later.
  if (lane.state == State::kHandshaken && lane.can_write) {
    std::uint8_t payload[kLinkIdBytes];
    write_link_id(id_, payload);
    if (!send_frame(Lane::kControl, FrameKind::kOpen, payload)) return;
    lane.state = State::kOpening;
  }
  if (lane.state != State::kOpening) return;
  if (lane.next_sequence == 1 && !send_frame(Lane::kControl, FrameKind::kDataKey, data_secret_)) return;
  if (lane.flush_sequence == 0 && !ask_flush(Lane::kControl)) return;
  if (lane.flushed >= lane.flush_sequence) lane.state = State::kUp;
}

void OutgoingLink::start_control() {
  OneLane& lane = control();
  const std::string& endpoint = lane.endpoints[lane.attempt++ % lane.endpoints.size()];
  auto made = connect_control(shared_.context, shared_.keys, peer_, endpoint, shared_.limits);
  if (!made) {
    end(made.error().code, std::move(made).error().message);
    return;
  }
  lane.socket = std::move(made->socket);
  lane.monitor = std::move(made->monitor);
  lane.socket_watch = {.descriptor = lane.socket.descriptor()};
  lane.monitor_watch = {.descriptor = lane.monitor.descriptor()};
  lane.state = State::kConnecting;
}

void OutgoingLink::service_data(Clock::time_point now) {
  OneLane& lane = data();
  if (lane.state == State::kWaiting && now >= lane.retry_at && control().state == State::kUp) start_data(now);
  if (!lane.stream) return;
  if (lane.state == State::kConnecting && now >= lane.retry_at) {
    last_failure_ = {ErrorCode::kTimeout, "no answer on the data lane"};
    lane_failed(lane, now);
    return;
  }
  // The other thread may have met an error that the descriptor does not show.
  if (!lane.socket_watch.ready && lane.stream->error().empty()) return;
  lane.socket_watch.ready = false;
  std::vector<std::vector<std::uint8_t>> frames;
  const bool alive = lane.stream->write_some() && lane.stream->read_some(frames, 1 + kMaxReasonBytes);
  for (const auto& frame : frames) {
    take_answer(Lane::kData, frame, true);
    if (error_) return;
  }
  // From here on the listener may have taken the opening frame.
  if (lane.state == State::kConnecting && lane.stream->peer_answered()) lane.state = State::kOpening;
  if (!alive) {
    last_failure_ = {lane.state == State::kConnecting ? ErrorCode::kTimeout : ErrorCode::kPeerGone,
                     lane.stream->error()};
    lane_failed(lane, now);
    return;
  }
  if (lane.state == State::kOpening && lane.flushed >= lane.flush_sequence) lane.state = State::kUp;
  lane.can_write = lane.stream->unsent_records() < static_cast<std::size_t>(shared_.limits.data_high_water);
  lane.socket_watch.events = static_cast<short>(POLLIN | (lane.stream->wants_to_write() ? POLLOUT : 0));
}

// Everything up to the question whether the receiver has taken it goes out with the connection's first bytes.
// The address that answered on the control lane comes first.
void OutgoingLink::start_data(Clock::time_point now) {
  OneLane& lane = data();
  if (lane.attempt == 0) lane.attempt = control().attempt - 1;
  const std::string& endpoint = lane.endpoints[lane.attempt++ % lane.endpoints.size()];
  auto stream = DataStream::connect(endpoint, data_secret_);
  if (!stream) {
    last_failure_ = stream.error();
    lane_failed(lane, now);
    return;
  }
  lane.stream = *std::move(stream);
  lane.socket_watch = {.descriptor = lane.stream->descriptor(), .events = POLLIN | POLLOUT};
  lane.state = State::kConnecting;
  lane.retry_at = now + kAnswerTime;
  std::uint8_t payload[kLinkIdBytes];
  write_link_id(id_, payload);
  (void)send_frame(Lane::kData, FrameKind::kOpen, payload);
  (void)ask_flush(Lane::kData);
}

void OutgoingLink::read_monitor(Clock::time_point now) {
  OneLane& lane = control();
  MonitorEvent event;
  while (receive_monitor(lane.monitor, event)) {
    switch (event.event) {
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        lane.state = State::kHandshaken;
        read_answers();
        if (error_) return;
        break;
      case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        last_failure_ = {ErrorCode::kUnauthorized,
                         std::format("it refused this device's key {}, which is not on its allow-list",
                                     shared_.keys.public_key().short_hex())};
        lane_failed(lane, now);
        return;
      case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
      case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        // A peer that cannot read our greeting (it has another key) just closes.
        last_failure_ = {
            ErrorCode::kUnauthorized,
            std::format("what listens there did not prove that it is the device with key {}; another "
                        "device or another program",
                        peer_.short_hex())};
        lane_failed(lane, now);
        return;
      case ZMQ_EVENT_CLOSED:
        last_failure_ = {ErrorCode::kTimeout, "nothing listens there, or the device cannot be reached"};
        lane_failed(lane, now);
        return;
      case ZMQ_EVENT_DISCONNECTED:
        // What arrived before the end is still to be read: it may hold the reason.
        read_answers();
        if (error_ || lane.state == State::kWaiting) return;
        last_failure_ = {ErrorCode::kPeerGone, std::format("the connection was closed, or silent for {} ms",
                                                           shared_.limits.heartbeat_timeout.count())};
        lane_failed(lane, now);
        return;
      default:
        break;
    }
  }
  lane.monitor_watch.ready = false;
}

// Reads the socket empty and notes whether it can be written: both from one look at its events, because every
// look may swallow the signal that the other answer would have needed.
void OutgoingLink::read_answers() {
  OneLane& lane = control();
  int events = 0;
  do {
    for (ZmqMessage message; message.receive(lane.socket);) {
      take_answer(Lane::kControl, message.bytes(), !message.more());
      if (error_) return;
    }
    events = lane.socket.get_int(ZMQ_EVENTS);
  } while ((events & ZMQ_POLLIN) != 0);
  lane.can_write = (events & ZMQ_POLLOUT) != 0;
  lane.socket_watch.ready = false;
}

void OutgoingLink::take_answer(Lane which, std::span<const std::uint8_t> frame, bool whole) {
  OneLane& lane = lanes_[static_cast<int>(which)];
  const auto header = read_header(frame);
  const bool usable = whole && header &&
                      (header->kind == FrameKind::kClosed ||
                       (header->kind == FrameKind::kFlushed && header->sequence < lane.next_sequence));
  if (!usable) {
    end(ErrorCode::kProtocol, std::format("device {} answered on the {} lane with what is no frame of a link",
                                          peer_.short_hex(), which == Lane::kControl ? "control" : "data"));
  } else if (header->kind == FrameKind::kFlushed) {
    lane.flushed = std::max(lane.flushed, header->sequence);
  } else {
    const ClosedReason reason = read_reason(frame.subspan(kFrameHeaderBytes));
    end(reason.code, std::format("device {} closed the link: {}", peer_.short_hex(), reason.text));
  }
}

void OutgoingLink::lane_failed(OneLane& lane, Clock::time_point now) {
  const bool opened = lane.state == State::kUp || lane.state == State::kOpening;
  if (lane.established || (opened && control().established)) {
    end(ErrorCode::kPeerGone,
        std::format("lost device {} at {}: {}", peer_.short_hex(), where(lane), last_failure_.message));
    return;
  }
  if (opened) {
    restart(now);
    return;
  }
  close(lane);
  lane.state = State::kWaiting;
  lane.retry_at = now + pause_;
  pause_ = std::min(pause_ * 2, kLongestPause);
}

// The other lane may be open already under this link id, and one id never opens a lane twice: begin anew.
void OutgoingLink::restart(Clock::time_point now) {
  ++shared_.next_id.counter;
  id_ = shared_.next_id;
  data_secret_ = new_stream_secret();
  for (OneLane& lane : lanes_) {
    if (lane.state == State::kAbsent) continue;
    close(lane);
    lane.state = State::kWaiting;
    lane.retry_at = now + pause_;
  }
  pause_ = std::min(pause_ * 2, kLongestPause);
}

void OutgoingLink::close(OneLane& lane) {
  lane.socket.close();
  lane.monitor.close();
  lane.stream.reset();
  lane.next_sequence = lane.flush_sequence = lane.flushed = 0;
  lane.wants_writable = lane.can_write = false;
}

bool OutgoingLink::send_frame(Lane which, FrameKind kind, std::span<const std::uint8_t> payload) {
  OneLane& lane = lanes_[static_cast<int>(which)];
  const FrameHeader header = {kind, lane.next_sequence};
  if (which == Lane::kData) {
    if (lane.stream->unsent_records() >= static_cast<std::size_t>(shared_.limits.data_high_water))
      return false;
    lane.stream->send(header, payload);
    ++lane.next_sequence;
    return true;
  }
  // Sending may swallow the signal of something that arrived, so the socket must be looked at again.
  lane.socket_watch.ready = true;
  if (!lane.socket.writable()) return false;
  ZmqMessage message(kFrameHeaderBytes + payload.size());
  const std::span<std::uint8_t> bytes = message.bytes();
  write_header(header, bytes.first<kFrameHeaderBytes>());
  if (!payload.empty()) std::memcpy(bytes.data() + kFrameHeaderBytes, payload.data(), payload.size());
  if (!message.send(lane.socket)) return false;
  ++lane.next_sequence;
  return true;
}

SendStatus OutgoingLink::send(Lane which, std::span<const std::uint8_t> message) {
  OneLane& lane = lanes_[static_cast<int>(which)];
  if (!lane.established) return SendStatus::kPeerGone;
  if (send_frame(which, FrameKind::kMessage, message)) return SendStatus::kSent;
  lane.wants_writable = true;
  lane.can_write = false;
  return SendStatus::kWouldBlock;
}

bool OutgoingLink::take_writable() {
  bool any = false;
  for (OneLane& lane : lanes_) {
    if (!lane.wants_writable || !lane.can_write) continue;
    lane.wants_writable = false;
    any = true;
  }
  return any;
}

bool OutgoingLink::data_needs_service() const {
  const OneLane& lane = data();
  return lane.stream && (lane.stream->wants_to_write() || !lane.stream->error().empty());
}

bool OutgoingLink::send_flush(Lane which) {
  return !lanes_[static_cast<int>(which)].established || ask_flush(which);
}

bool OutgoingLink::ask_flush(Lane which) {
  OneLane& lane = lanes_[static_cast<int>(which)];
  if (!send_frame(which, FrameKind::kFlush, {})) return false;
  lane.flush_sequence = lane.next_sequence - 1;
  return true;
}

bool OutgoingLink::is_flushed(Lane which) const {
  const OneLane& lane = lanes_[static_cast<int>(which)];
  return !lane.established || lane.flushed >= lane.flush_sequence;
}

Clock::time_point OutgoingLink::next_timer() const {
  if (up_reported_) return Clock::time_point::max();
  Clock::time_point next = deadline_;
  if (lanes_[0].state == State::kWaiting) next = std::min(next, lanes_[0].retry_at);
  if ((lanes_[0].state == State::kUp && data().state == State::kWaiting) ||
      data().state == State::kConnecting)
    next = std::min(next, data().retry_at);
  return next;
}

void OutgoingLink::watch(WatchList& list) {
  if (control().socket) {
    list.add(control().socket_watch);
    list.add(control().monitor_watch);
  }
  if (OneLane& lane = data(); lane.stream) {
    if (lane.stream->wants_to_write()) lane.socket_watch.events = POLLIN | POLLOUT;
    list.add(lane.socket_watch);
  }
}

void OutgoingLink::end(ErrorCode code, std::string text) {
  for (OneLane& lane : lanes_) {
    close(lane);
    lane.established = false;
  }
  error_ = Error{code, std::move(text)};
}

std::string OutgoingLink::where(const OneLane& lane) const {
  constexpr std::string_view kScheme = "tcp://";
  if (lane.endpoints.empty()) return "an unknown address";
  const std::string& endpoint = lane.endpoints.front();
  return endpoint.starts_with(kScheme) ? endpoint.substr(kScheme.size()) : endpoint;
}

}  // namespace hearth::net
