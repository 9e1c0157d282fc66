#include "net/data_stream.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <format>
#include <memory>
#include <new>
#include <system_error>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/give_back.h"

namespace hearth::net {
namespace {

constexpr std::size_t kTagBytes = std::tuple_size_v<StreamTag>;
constexpr std::size_t kPrologueBytes = kTagBytes + kStreamHeaderBytes;
// Room for the usual record, so that it and its length come by one call.
constexpr std::size_t kReadBytes = 64 * 1024;
// Larger buffers live as long as what they hold.
constexpr std::size_t kKeptBytes = 1 << 20;
// A listener forgets a connection whose device vanished without a word after about a minute.
constexpr int kKeepaliveIdleS = 30, kKeepaliveIntervalS = 10, kKeepaliveCount = 3;

struct FreeAddresses {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Addresses numeric_address(const std::string& host, const std::string& port, bool passive) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  if (::getaddrinfo(host.c_str(), port.c_str(), &hints, &list) != 0) return nullptr;
  return Addresses(list);
}

std::string system_error(int number) {
  return std::error_code(number, std::generic_category()).message();
}

void set_option(int fd, int level, int option, int value) {
  // Refused options cost speed or a timely end, nothing else.
  (void)::setsockopt(fd, level, option, &value, sizeof value);
}

std::uint32_t get_u32(const std::uint8_t* in) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) value |= std::uint32_t{in[i]} << (8 * i);
  return value;
}

}  // namespace

void Descriptor::close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Result<Listening> listen_data(const std::string& host, std::uint16_t port, int backlog) {
  // As for the control lane: one IPv6 socket serves IPv4 as well, unless this kernel has no IPv6.
  const std::vector<std::string> hosts =
      host.empty() ? std::vector<std::string>{"::", "0.0.0.0"} : std::vector<std::string>{host};
  int reason = EADDRNOTAVAIL;
  for (const std::string& candidate : hosts) {
    const Addresses address = numeric_address(candidate, std::to_string(port), true);
    if (!address) continue;
    Descriptor socket(::socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (socket) {
      if (address->ai_family == AF_INET6)
        set_option(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, host.empty() ? 0 : 1);
      set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
      sockaddr_storage bound{};
      socklen_t size = sizeof bound;
      if (::bind(socket.get(), address->ai_addr, address->ai_addrlen) == 0 &&
          ::listen(socket.get(), backlog) == 0 &&
          ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&bound), &size) == 0) {
        const std::uint16_t got = bound.ss_family == AF_INET6
                                      ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                      : reinterpret_cast<const sockaddr_in&>(bound).sin_port;
        return Listening{.socket = std::move(socket), .port = ntohs(got)};
      }
    }
    reason = errno;
  }
  return fail(ErrorCode::kIo, "cannot listen on {} port {} (data lane): {}; choose another address or port",
              host.empty() ? "any address" : host, port, system_error(reason));
}

DataStream::DataStream(Descriptor socket) : socket_(std::move(socket)) {
  const int fd = socket_.get();
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, kKeepaliveIdleS);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, kKeepaliveIntervalS);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepaliveCount);
}

Result<DataStream> DataStream::connect(const std::string& endpoint, const StreamSecret& secret) {
  const std::size_t colon = endpoint.rfind(':');
  std::string host = endpoint.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const Addresses address =
      colon == std::string::npos ? nullptr : numeric_address(host, endpoint.substr(colon + 1), false);
  if (!address) return fail(ErrorCode::kInvalidArgument, "'{}' is no address and port", endpoint);
  Descriptor socket(::socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return fail(ErrorCode::kIo, "cannot make a socket: {}", system_error(errno));
  DataStream stream(std::move(socket));
  stream.connecting_end_ = true;
  stream.secret_ = secret;
  if (::connect(stream.descriptor(), address->ai_addr, address->ai_addrlen) != 0) {
    if (errno != EINPROGRESS)
      return fail(ErrorCode::kIo, "cannot connect to {}: {}", endpoint, system_error(errno));
    stream.connecting_ = true;
  }
  const StreamTag tag = tag_of(secret);
  stream.unsent_.assign(tag.begin(), tag.end());
  stream.begin_writing(secret, Direction::kForward);
  return stream;
}

DataStream DataStream::accept(Descriptor socket, SecretOf secret_of) {
  DataStream stream(std::move(socket));
  stream.secret_of_ = std::move(secret_of);
  return stream;
}

void DataStream::begin_writing(const StreamSecret& secret, Direction direction) {
  writer_.emplace(secret, direction);
  unsent_.insert(unsent_.end(), writer_->header().begin(), writer_->header().end());
}

void DataStream::send(FrameHeader header, std::span<const std::uint8_t> payload) {
  HEARTH_CHECK(writer_.has_value(), "a frame for a connection whose peer is not known");
  std::uint8_t head[kFrameHeaderBytes];
  write_header(header, head);
  // Much takes just its size: memory is counted for it.
  const std::size_t all = unsent_.size() + kLengthBytes + sizeof head + payload.size() + kSealBytes;
  if (all > kKeptBytes) unsent_.reserve(all);
  writer_->seal(head, payload, unsent_);
  ends_.push_back(unsent_.size());
  // A failure shows again when the descriptor is looked at.
  if (!connecting_) (void)write_some();
}

bool DataStream::fail_with(std::string reason) {
  if (error_.empty()) error_ = std::move(reason);
  return false;
}

bool DataStream::break_rules(std::string what) {
  broke_rules_ = true;
  return fail_with(std::move(what));
}

bool DataStream::write_some() {
  if (!error_.empty()) return false;
  if (connecting_) {
    int reason = 0;
    socklen_t size = sizeof reason;
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &reason, &size) != 0) reason = errno;
    if (reason != 0) return fail_with(system_error(reason));
    sockaddr_storage peer{};
    size = sizeof peer;
    if (::getpeername(socket_.get(), reinterpret_cast<sockaddr*>(&peer), &size) != 0) return true;  // not yet
    connecting_ = false;
  }
  while (unsent_begin_ < unsent_.size()) {
    const ssize_t n = ::send(socket_.get(), unsent_.data() + unsent_begin_, unsent_.size() - unsent_begin_,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n < 0) return fail_with(system_error(errno));
    unsent_begin_ += static_cast<std::size_t>(n);
  }
  const auto sent = std::ranges::upper_bound(ends_, unsent_begin_);
  ends_.erase(ends_.begin(), sent);
  if (unsent_begin_ == unsent_.size()) {
    // Room for a large frame is given back.
    if (unsent_.capacity() > kKeptBytes)
      give_back(unsent_);
    else
      unsent_.clear();
    unsent_begin_ = 0;
  } else if (unsent_begin_ > unsent_.size() / 2) {
    unsent_.erase(unsent_.begin(), unsent_.begin() + static_cast<std::ptrdiff_t>(unsent_begin_));
    for (std::size_t& end : ends_) end -= unsent_begin_;
    unsent_begin_ = 0;
  }
  return true;
}

void DataStream::finish_sending() {
  (void)write_some();
  ::shutdown(socket_.get(), SHUT_WR);
}

bool DataStream::read_some(std::vector<std::vector<std::uint8_t>>& frames, std::size_t max_bytes) {
  if (!error_.empty()) return false;
  if (connecting_) return true;
  try {
    while (true) {
      make_room();
      const std::size_t room = received_.size() - received_end_;
      const ssize_t n = ::recv(socket_.get(), received_.data() + received_end_, room, MSG_DONTWAIT);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
      if (n < 0) return fail_with(system_error(errno));
      if (n == 0) return fail_with("the connection was closed");
      received_end_ += static_cast<std::size_t>(n);
      if (!take_items(frames, max_bytes)) return false;
      if (received_begin_ == received_end_) {
        received_begin_ = received_end_ = 0;
        if (received_.size() > kKeptBytes) give_back(received_);
      }
      // Less than there was room for: nothing more is there now. Whole frames go to their reader first.
      if (static_cast<std::size_t>(n) < room || !frames.empty()) return true;
    }
  } catch (const std::bad_alloc&) {
    return fail_with("this device has no memory for its frame");
  }
}

// At least half a usual read behind what was received, or what is missing of a record. A large record gets
// its room as it arrives, doubled up to just its size: four bytes of length are no reason to take hundreds of
// megabytes.
void DataStream::make_room() {
  const std::size_t missing =
      record_bytes_ > 0 ? received_begin_ + record_bytes_ - received_end_ : kReadBytes;
  if (received_.size() >= received_end_ + std::min(missing, kReadBytes / 2)) return;
  std::copy(received_.begin() + static_cast<std::ptrdiff_t>(received_begin_),
            received_.begin() + static_cast<std::ptrdiff_t>(received_end_), received_.begin());
  received_end_ -= std::exchange(received_begin_, 0);
  const std::size_t wanted = std::max(kReadBytes, std::min(2 * received_end_, record_bytes_));
  if (received_.size() >= wanted) return;
  received_.reserve(wanted);  // just that, where resize() alone may take more
  received_.resize(wanted);
}

bool DataStream::take_items(std::vector<std::vector<std::uint8_t>>& frames, std::size_t max_bytes) {
  for (;;) {
    const std::span<const std::uint8_t> rest =
        std::span(received_).subspan(received_begin_, received_end_ - received_begin_);
    if (!reader_) {
      const std::size_t needed = connecting_end_ ? kStreamHeaderBytes : kPrologueBytes;
      if (rest.size() < needed) return true;
      StreamSecret secret = secret_;
      if (!connecting_end_) {
        StreamTag tag;
        std::copy_n(rest.begin(), kTagBytes, tag.begin());
        const auto known = secret_of_(tag);
        if (!known) return break_rules("it belongs to no link that waits for its data lane");
        secret = *known;
        begin_writing(secret, Direction::kBack);
      }
      reader_.emplace(secret, connecting_end_ ? Direction::kBack : Direction::kForward,
                      rest.subspan(needed - kStreamHeaderBytes).first<kStreamHeaderBytes>());
      received_begin_ += needed;
      continue;
    }
    record_bytes_ = 0;
    if (rest.size() < kLengthBytes) return true;
    const std::size_t length = get_u32(rest.data());
    constexpr std::size_t kLeast = kSealBytes + kFrameHeaderBytes;
    // Who has not proven himself gets no memory.
    const std::size_t most = kLeast + (opened_any_ || connecting_end_ ? max_bytes : kLinkIdBytes);
    if (length < kLeast || length > most)
      return break_rules(
          std::format("it sent a record of {} bytes, {} to {} are allowed", length, kLeast, most));
    record_bytes_ = kLengthBytes + length;
    if (rest.size() < record_bytes_) return true;
    auto contents = reader_->open(rest.subspan(kLengthBytes, length));
    if (!contents) return break_rules("it sent a record that was not sealed by the device of this link");
    opened_any_ = true;
    frames.push_back(*std::move(contents));
    received_begin_ += record_bytes_;
  }
}

}  // namespace hearth::net
