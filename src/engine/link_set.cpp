#include "engine/link_set.h"

#include <algorithm>

namespace hearth::engine {

void LinkSet::want(const DeviceKey& peer, const wire::Address& address, TimePoint deadline, Actions& out) {
  const auto found = links_.find(peer);
  if (found != links_.end() && found->second.address == address) {
    found->second.deadline = std::max(found->second.deadline, deadline);
    return;
  }
  // Only a control lane may be replaced by both lanes without closing it first.
  const bool is_widened = found != links_.end() && found->second.address.data_port == 0;
  if (found != links_.end() && !is_widened) drop(peer, false, out);
  links_[peer] = Link{.address = address, .deadline = deadline};
  out.push_back(Connect{peer, address, connect_timeout_});
}

void LinkSet::drop(const DeviceKey& peer, bool flush, Actions& out) {
  const auto found = links_.find(peer);
  if (found == links_.end()) return;
  if (found->second.state != State::kWaiting) out.push_back(Disconnect{peer, flush});
  links_.erase(found);
}

void LinkSet::drop_all(bool flush, Actions& out) {
  for (const DeviceKey& peer : wanted()) drop(peer, flush, out);
}

bool LinkSet::on_up(const DeviceKey& peer) {
  const auto found = links_.find(peer);
  if (found == links_.end() || found->second.state != State::kConnecting) return false;
  found->second.state = State::kUp;
  return true;
}

LinkSet::Gone LinkSet::on_gone(const DeviceKey& peer, TimePoint now) {
  const auto found = links_.find(peer);
  if (found == links_.end() || found->second.state == State::kWaiting) return Gone::kUnknown;
  Link& link = found->second;
  if (!link.settled && now + retry_after_ <= link.deadline) {
    link.state = State::kWaiting;
    link.retry_at = now + retry_after_;
    return Gone::kRetry;
  }
  const bool settled = link.settled;
  links_.erase(found);
  return settled ? Gone::kLost : Gone::kUnreachable;
}

void LinkSet::settle(const DeviceKey& peer) {
  HEARTH_CHECK(is_up(peer), "only a link that is up can be relied on");
  links_.at(peer).settled = true;
}

void LinkSet::tick(TimePoint now, Actions& out) {
  for (auto& [peer, link] : links_) {
    if (link.state != State::kWaiting || now < link.retry_at) continue;
    link.state = State::kConnecting;
    out.push_back(Connect{peer, link.address, connect_timeout_});
  }
}

bool LinkSet::is_up(const DeviceKey& peer) const {
  const auto found = links_.find(peer);
  return found != links_.end() && found->second.state == State::kUp;
}

std::vector<DeviceKey> LinkSet::up() const {
  std::vector<DeviceKey> keys;
  for (const auto& [peer, link] : links_)
    if (link.state == State::kUp) keys.push_back(peer);
  return keys;
}

std::vector<DeviceKey> LinkSet::wanted() const {
  std::vector<DeviceKey> keys;
  for (const auto& [peer, link] : links_) keys.push_back(peer);
  return keys;
}

}  // namespace hearth::engine
