#include "net/data_listener.h"

#include <algorithm>
#include <cerrno>
#include <format>
#include <utility>

#include <sys/socket.h>

#include "net/resolve.h"

namespace hearth::net {
namespace {

constexpr int kMostAtOnce = 64;
constexpr std::chrono::milliseconds kPause{100};

}  // namespace

Result<std::unique_ptr<DataListener>> DataListener::open(const std::string& host, std::uint16_t port,
                                                         const HubLimits& limits, Awaited awaited,
                                                         Refused refused) {
  HEARTH_TRY(Listening listening, listen_data(host, port, limits.backlog));
  HEARTH_TRY(ReadySet ready, ReadySet::make());
  return std::unique_ptr<DataListener>(new DataListener(std::move(listening), std::move(ready), limits,
                                                        std::move(awaited), std::move(refused)));
}

DataListener::DataListener(Listening listening, ReadySet ready, const HubLimits& limits, Awaited awaited,
                           Refused refused)
    : socket_(std::move(listening.socket)),
      port_(listening.port),
      ready_(std::move(ready)),
      limits_(limits),
      awaited_(std::move(awaited)),
      refused_(std::move(refused)) {}

void DataListener::accept_new(TimePoint now) {
  // The rest next time: links that exist are not to wait for a crowd of strangers.
  for (int i = 0; i < kMostAtOnce; ++i) {
    Descriptor socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) pause_until_ = now + kPause;
      return;
    }
    std::string address = remote_address(socket.get(), port_);
    if (connections_.size() >= static_cast<std::size_t>(limits_.max_connections)) {
      refused_(std::move(address), "too many connections at once");
      continue;
    }
    const std::uint64_t id = next_id_++;
    const auto added = connections_.emplace(
        id, Connection{
                .stream = DataStream::accept(std::move(socket),
                                             [this, id](const StreamTag& tag) -> std::optional<StreamSecret> {
                                               const auto lane = awaited_(tag);
                                               // Another connection that named the link may still owe
                                               // its proof.
                                               if (!lane) return std::nullopt;
                                               connections_.at(id).from = lane->from;
                                               return lane->secret;
                                             }),
                .address = std::move(address),
                .deadline = now + limits_.handshake,
                .from = {}});
    if (!ready_.add(added.first->second.stream.descriptor(), id)) connections_.erase(added.first);
  }
}

void DataListener::read(std::span<const std::uint64_t> ready, std::vector<Frame>& frames,
                        std::vector<std::uint64_t>& ended) {
  for (const std::uint64_t id : ready)
    if (const auto found = connections_.find(id); found != connections_.end())
      read_one(id, found->second, frames, ended);
  for (const std::uint64_t id : ended) connections_.erase(id);
}

void DataListener::read_one(std::uint64_t id, Connection& connection, std::vector<Frame>& frames,
                            std::vector<std::uint64_t>& ended) {
  std::vector<std::vector<std::uint8_t>> contents;
  bool alive = connection.stream.write_some();
  if (alive) alive = connection.stream.read_some(contents, limits_.max_data_bytes);
  if (alive) watch_output(id, connection);
  if (!contents.empty()) connection.proven = true;
  if (!connection.dismissed)
    for (auto& bytes : contents) frames.push_back({id, *connection.from, std::move(bytes)});
  if (alive) return;
  const std::string& why = connection.stream.error();
  if (!connection.from)
    refused_(connection.address, std::format("closed on the data lane: {}", why));
  else if (!connection.proven)
    refused_(connection.address, std::format("named a link of device {} without proving it: {}",
                                             connection.from->short_hex(), why));
  else if (connection.stream.broke_rules())
    refused_(connection.address, std::format("device {} broke the rules of the data lane: {}",
                                             connection.from->short_hex(), why));
  ended.push_back(id);
}

void DataListener::answer(std::uint64_t id, FrameHeader header, std::string_view payload) {
  const auto found = connections_.find(id);
  if (found == connections_.end() || found->second.dismissed || !found->second.proven) return;
  DataStream& stream = found->second.stream;
  // A sender that does not read its answers loses them.
  if (stream.unsent_records() >= static_cast<std::size_t>(limits_.data_high_water)) return;
  stream.send(header, std::span(reinterpret_cast<const std::uint8_t*>(payload.data()), payload.size()));
  watch_output(id, found->second);
}

void DataListener::watch_output(std::uint64_t id, Connection& connection) {
  const bool wanted = connection.stream.wants_to_write();
  if (std::exchange(connection.watches_output, wanted) != wanted)
    ready_.watch_output(connection.stream.descriptor(), id, wanted);
}

void DataListener::dismiss(std::uint64_t id, TimePoint until) {
  const auto found = connections_.find(id);
  if (found == connections_.end() || found->second.dismissed) return;
  found->second.dismissed = true;
  found->second.deadline = until;
  found->second.stream.finish_sending();
}

void DataListener::service(TimePoint now, std::vector<std::uint64_t>& ended) {
  const std::size_t before = ended.size();
  for (auto& [id, connection] : connections_) {
    if (now < connection.deadline || (connection.proven && !connection.dismissed)) continue;
    if (!connection.dismissed) refused_(connection.address, "closed or stayed silent before it proved a key");
    ended.push_back(id);
  }
  for (std::size_t i = before; i < ended.size(); ++i) connections_.erase(ended[i]);
}

DataListener::TimePoint DataListener::next_timer() const {
  TimePoint next = TimePoint::max();
  for (const auto& [id, connection] : connections_)
    if (!connection.proven || connection.dismissed) next = std::min(next, connection.deadline);
  return next;
}

}  // namespace hearth::net
