#include "net/inproc_hub.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "net/refusals.h"

namespace hearth::net {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int index(Lane lane) {
  return static_cast<int>(lane);
}

struct QueuedMessage {
  MessageEvent message;
  std::uint64_t link;
  bool flushed = false;  // survives a disconnect
};

struct Link {
  wire::Address address;
  std::uint64_t id = 0;
  bool wanted[2] = {true, true};
  bool up[2] = {};
  bool blocked[2] = {};
  bool refusal_reported = false;
  std::chrono::milliseconds timeout{};
  Clock::time_point deadline;
  Error last_failure{ErrorCode::kTimeout, "nothing listens there"};

  [[nodiscard]] bool complete() const { return up[0] == wanted[0] && up[1] == wanted[1]; }
};

// One hub, as the others see it. Guarded by the switchboard's mutex.
struct Endpoint {
  Endpoint(const DeviceKey& own_key, const HubLimits& hub_limits)
      : key(own_key), limits(hub_limits), refusals(hub_limits.refused_per_second) {}

  DeviceKey key;
  HubLimits limits;
  wire::Address address;
  std::set<DeviceKey> allowed;
  std::map<DeviceKey, Link> links;
  std::deque<QueuedMessage> inbox[2];
  std::deque<Event> events;
  Refusals refusals;
  bool woken = false;
  bool receiver_woken = false;
  bool data_separate = false;
  std::set<DeviceKey> data_senders;
  bool writable_again = false;
  std::condition_variable changed;

  [[nodiscard]] std::size_t high_water(Lane lane) const {
    return static_cast<std::size_t>(lane == Lane::kControl ? limits.control_high_water
                                                           : limits.data_high_water);
  }
  [[nodiscard]] std::size_t max_bytes(Lane lane) const {
    return lane == Lane::kControl ? limits.max_control_bytes : limits.max_data_bytes;
  }
  template <class Predicate>
  void drop_messages(Predicate applies) {
    for (auto& box : inbox) std::erase_if(box, applies);
  }
};

}  // namespace

struct InprocSwitchboard::State {
  std::mutex mutex;
  std::map<std::uint16_t, Endpoint*> endpoints;  // by control port
  std::uint16_t next_port = 1;
  std::uint64_t next_link = 1;

  Endpoint* at(std::uint16_t control_port) {
    const auto found = endpoints.find(control_port);
    return found == endpoints.end() ? nullptr : found->second;
  }
};

namespace {

class InprocHub final : public Hub {
 public:
  InprocHub(std::shared_ptr<InprocSwitchboard::State> state, const DeviceKey& key, const HubLimits& limits)
      : state_(std::move(state)), self_(key, limits) {
    const std::lock_guard lock(state_->mutex);
    self_.address = {"inproc", state_->next_port, static_cast<std::uint16_t>(state_->next_port + 1)};
    state_->next_port = static_cast<std::uint16_t>(state_->next_port + 2);
    state_->endpoints[self_.address.control_port] = &self_;
  }

  ~InprocHub() override {
    const std::lock_guard lock(state_->mutex);
    state_->endpoints.erase(self_.address.control_port);
    for (auto& [peer, link] : self_.links) drop_unflushed(link);
    for (auto& [port, other] : state_->endpoints)
      if (other->links.contains(self_.key) &&
          other->links.at(self_.key).address.control_port == port_of(self_))
        lose(*other, self_.key,
             {ErrorCode::kPeerGone,
              std::format("lost device {}: the connection was closed", self_.key.short_hex())});
  }

  [[nodiscard]] const DeviceKey& key() const override { return self_.key; }
  [[nodiscard]] const wire::Address& address() const override { return self_.address; }

  void allow(std::span<const DeviceKey> keys) override {
    const std::lock_guard lock(state_->mutex);
    self_.allowed = std::set<DeviceKey>(keys.begin(), keys.end());
    self_.drop_messages(
        [&](const QueuedMessage& queued) { return !self_.allowed.contains(queued.message.from); });
    for (auto& [port, other] : state_->endpoints) {
      if (other->links.contains(self_.key) && !self_.allowed.contains(other->key))
        lose(*other, self_.key,
             {ErrorCode::kUnauthorized,
              std::format("device {} closed the link: this device's key was taken off the "
                          "allow-list",
                          self_.key.short_hex())});
      other->changed.notify_all();  // waiting links may be accepted now
    }
  }

  Result<> connect(const DeviceKey& peer, const wire::Address& address,
                   std::chrono::milliseconds timeout) override {
    const std::lock_guard lock(state_->mutex);
    if (address.control_port == 0)
      return fail(ErrorCode::kInvalidArgument, "the address of device {} has no control port",
                  peer.short_hex());
    if (const auto existing = self_.links.find(peer); existing != self_.links.end()) {
      Link& link = existing->second;
      if (link.wanted[1] || address.data_port == 0)
        return fail(ErrorCode::kInvalidArgument, "there is a link to device {} already", peer.short_hex());
      link.wanted[1] = true;
      link.address.data_port = address.data_port;
      link.timeout = timeout;
      link.deadline = Clock::now() + timeout;
      return {};
    }
    Link link;
    link.address = address;
    link.id = state_->next_link++;
    link.wanted[1] = address.data_port != 0;
    link.timeout = timeout;
    link.deadline = Clock::now() + timeout;
    self_.links.emplace(peer, std::move(link));
    return {};
  }

  void disconnect(const DeviceKey& peer) override {
    const std::lock_guard lock(state_->mutex);
    const auto found = self_.links.find(peer);
    if (found != self_.links.end()) {
      drop_unflushed(found->second);
      self_.links.erase(found);
    }
    std::erase_if(self_.events, [&](const Event& event) {
      const auto* up = std::get_if<PeerUpEvent>(&event);
      const auto* gone = std::get_if<PeerGoneEvent>(&event);
      return (up != nullptr && up->peer == peer) || (gone != nullptr && gone->peer == peer);
    });
  }

  void flush(const DeviceKey& peer, std::chrono::milliseconds) override {
    const std::lock_guard lock(state_->mutex);
    const auto found = self_.links.find(peer);
    if (found == self_.links.end()) return;
    Endpoint* target = state_->at(found->second.address.control_port);
    if (target == nullptr) return;
    for (auto& box : target->inbox)
      for (QueuedMessage& queued : box) queued.flushed = queued.flushed || queued.link == found->second.id;
  }

  [[nodiscard]] SendStatus send(const DeviceKey& peer, Lane lane, Bytes& message) override {
    const std::lock_guard lock(state_->mutex);
    const auto found = self_.links.find(peer);
    if (found == self_.links.end() || !found->second.up[index(lane)]) return SendStatus::kPeerGone;
    Link& link = found->second;
    Endpoint& target = *state_->at(link.address.control_port);
    auto& box = target.inbox[index(lane)];
    const auto waiting =
        std::ranges::count_if(box, [&](const QueuedMessage& q) { return q.link == link.id; });
    if (static_cast<std::size_t>(waiting) >= target.high_water(lane)) {
      link.blocked[index(lane)] = true;
      return SendStatus::kWouldBlock;
    }
    const std::size_t size = message.size();
    box.push_back({{self_.key, lane, std::move(message)}, link.id});
    message = Bytes();
    if (size > target.max_bytes(lane)) {
      box.pop_back();
      lose(self_, peer,
           {ErrorCode::kPeerGone,
            std::format("lost device {}: it refused a message of {} bytes", peer.short_hex(), size)});
    }
    target.changed.notify_all();
    return SendStatus::kSent;
  }

  [[nodiscard]] std::optional<Event> poll(std::chrono::milliseconds timeout) override {
    std::unique_lock lock(state_->mutex);
    const auto deadline = Clock::now() + timeout;
    for (;;) {
      if (auto event = take_event()) return event;
      if (std::exchange(self_.writable_again, false)) return std::nullopt;
      if (Clock::now() >= deadline) return std::nullopt;
      auto until = deadline;
      for (const auto& [peer, link] : self_.links)
        if (!link.complete()) until = std::min(until, link.deadline);
      self_.changed.wait_until(lock, until);
    }
  }

  void wake() override {
    const std::lock_guard lock(state_->mutex);
    self_.woken = true;
    self_.changed.notify_all();
  }

  void separate_data() override {
    const std::lock_guard lock(state_->mutex);
    self_.data_separate = true;
  }

  [[nodiscard]] std::optional<MessageEvent> receive(std::chrono::milliseconds timeout) override {
    std::unique_lock lock(state_->mutex);
    const auto deadline = Clock::now() + timeout;
    for (;;) {
      if (auto event = take_message(Lane::kData)) {
        auto message = std::get<MessageEvent>(*std::move(event));
        self_.data_senders.insert(message.from);
        return message;
      }
      if (std::exchange(self_.receiver_woken, false) || Clock::now() >= deadline) return std::nullopt;
      self_.changed.wait_until(lock, deadline);
    }
  }

  void wake_receiver() override {
    const std::lock_guard lock(state_->mutex);
    self_.receiver_woken = true;
    self_.changed.notify_all();
  }

  [[nodiscard]] std::vector<DeviceKey> take_data_senders() override {
    const std::lock_guard lock(state_->mutex);
    const auto senders = std::exchange(self_.data_senders, {});
    return {senders.begin(), senders.end()};
  }

 private:
  static std::uint16_t port_of(const Endpoint& endpoint) { return endpoint.address.control_port; }

  std::optional<Event> take_event() {
    if (std::exchange(self_.woken, false)) return WokenEvent{};
    advance_links();
    if (auto message = take_message(Lane::kControl)) return message;
    if (!self_.events.empty()) {
      Event event = std::move(self_.events.front());
      self_.events.pop_front();
      return event;
    }
    return self_.data_separate ? std::nullopt : take_message(Lane::kData);
  }

  std::optional<Event> take_message(Lane lane) {
    auto& box = self_.inbox[index(lane)];
    if (box.empty()) return std::nullopt;
    QueuedMessage queued = std::move(box.front());
    box.pop_front();
    for (auto& [port, other] : state_->endpoints) {
      const auto link = other->links.find(self_.key);
      if (link == other->links.end() || link->second.id != queued.link) continue;
      if (!std::exchange(link->second.blocked[index(lane)], false)) continue;
      other->writable_again = true;
      other->changed.notify_all();
    }
    return std::move(queued.message);
  }

  void advance_links() {
    const auto now = Clock::now();
    std::vector<DeviceKey> late;
    for (auto& [peer, link] : self_.links) {
      if (link.complete()) continue;
      if (try_to_establish(peer, link)) {
        self_.events.push_back(PeerUpEvent{peer});
      } else if (now >= link.deadline) {
        late.push_back(peer);
      }
    }
    for (const DeviceKey& peer : late) {
      const Link& link = self_.links.at(peer);
      lose(self_, peer,
           {link.last_failure.code,
            std::format("no link to device {} at {}:{} within {} ms: {}", peer.short_hex(), link.address.host,
                        link.address.control_port, link.timeout.count(), link.last_failure.message)});
    }
  }

  bool try_to_establish(const DeviceKey& peer, Link& link) {
    Endpoint* target = state_->at(link.address.control_port);
    if (target == nullptr || (link.wanted[1] && target->address.data_port != link.address.data_port)) {
      link.last_failure = {ErrorCode::kTimeout, "nothing listens there"};
      return false;
    }
    if (target->key != peer) {
      link.last_failure = {ErrorCode::kUnauthorized, "another device listens there"};
      return false;
    }
    if (!target->allowed.contains(self_.key)) {
      link.last_failure = {ErrorCode::kUnauthorized,
                           std::format("it refused this device's key {}, which is not on its "
                                       "allow-list",
                                       self_.key.short_hex())};
      if (!std::exchange(link.refusal_reported, true)) {
        if (auto event = target->refusals.report(
                Clock::now(), "inproc", std::format("key {} is not on the allow-list", self_.key.hex())))
          target->events.push_back(*std::move(event));
        target->changed.notify_all();
      }
      return false;
    }
    link.up[0] = true;
    link.up[1] = link.wanted[1];
    // A newer link supersedes what an older one left behind.
    target->drop_messages([&](const QueuedMessage& queued) {
      return queued.message.from == self_.key && queued.link != link.id;
    });
    return true;
  }

  void drop_unflushed(const Link& link) {
    if (Endpoint* target = state_->at(link.address.control_port))
      target->drop_messages(
          [&](const QueuedMessage& queued) { return queued.link == link.id && !queued.flushed; });
  }

  // The link of `owner` to `peer` ends with an event; one that was not up yet goes on trying unless it is the
  // owner's.
  void lose(Endpoint& owner, const DeviceKey& peer, Error error) {
    const auto found = owner.links.find(peer);
    if (&owner != &self_ && !found->second.up[0]) return;
    owner.links.erase(found);
    owner.events.push_back(PeerGoneEvent{peer, std::move(error)});
    owner.changed.notify_all();
  }

  std::shared_ptr<InprocSwitchboard::State> state_;
  Endpoint self_;
};

}  // namespace

InprocSwitchboard::InprocSwitchboard() : state_(std::make_shared<State>()) {}
InprocSwitchboard::~InprocSwitchboard() = default;

std::unique_ptr<Hub> InprocSwitchboard::make_hub(const DeviceKey& key, const HubLimits& limits) {
  return std::make_unique<InprocHub>(state_, key, limits);
}

}  // namespace hearth::net
