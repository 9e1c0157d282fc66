#include "engine/link_prober.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "wire/limits.h"

namespace hearth::engine {

namespace {

using std::chrono::nanoseconds;

constexpr std::size_t kWarmUps = 1;
constexpr std::size_t kProbes = kWarmUps + kSmallProbes + kLargeProbes;

nanoseconds median(std::span<const nanoseconds> trips) {
  std::vector<nanoseconds> sorted(trips.begin(), trips.end());
  std::ranges::sort(sorted);
  return sorted[sorted.size() / 2];
}

// The connection learns by the first one how much it may send at once.
bool is_large(std::size_t probe) {
  return probe < kWarmUps || probe >= kWarmUps + kSmallProbes;
}

}  // namespace

plan::LinkProfile link_of(nanoseconds small, nanoseconds large, std::uint32_t n_bytes) {
  const std::chrono::duration<double> latency = small / 2.0, more = large - small;
  return {.latency_s = latency.count(), .bytes_per_s = more.count() > 0 ? n_bytes / more.count() : 0};
}

wire::MeasuredLink to_wire(std::uint16_t member, const plan::LinkProfile& link) {
  const auto whole = [](double value, std::uint64_t most) {
    return static_cast<std::uint64_t>(std::clamp(std::round(value), 0.0, static_cast<double>(most)));
  };
  return {.member = member,
          .latency_ns = whole(link.latency_s * 1e9, wire::kMaxLatencyNs),
          .bytes_per_s = whole(link.bytes_per_s, wire::kMaxBytesPerS)};
}

plan::LinkProfile link_of(const wire::MeasuredLink& link) {
  return {.latency_s = static_cast<double>(link.latency_ns) / 1e9,
          .bytes_per_s = static_cast<double>(link.bytes_per_s)};
}

LinkProber::LinkProber(std::vector<DeviceKey> peers, std::uint64_t first_id, TimePoint now, Actions& out)
    : peers_(std::move(peers)), next_id_(first_id) {
  begin_peer(now, out);
}

void LinkProber::begin_peer(TimePoint now, Actions& out) {
  trips_.clear();
  if (done()) return;
  pair_until_ = now + kPairLimit;
  ask(now, out);
}

void LinkProber::next_peer(TimePoint now, Actions& out) {
  ++at_;
  begin_peer(now, out);
}

void LinkProber::ask(TimePoint now, Actions& out) {
  asked_at_ = now;
  out.push_back(Send{peers_[at_], wire::Probe{.id = next_id_++,
                                              .n_padding = is_large(trips_.size()) ? kLargeProbeBytes : 0}});
}

void LinkProber::on_reply(const DeviceKey& from, const wire::ProbeReply& reply, TimePoint now, Actions& out) {
  if (done() || from != peers_[at_] || reply.id + 1 != next_id_) return;
  if (now >= pair_until_) return next_peer(now, out);
  trips_.push_back(now - asked_at_);
  if (trips_.size() < kProbes) return ask(now, out);
  const std::span<const nanoseconds> trips = trips_;
  links_[from] = link_of(median(trips.subspan(kWarmUps, kSmallProbes)),
                         median(trips.subspan(kWarmUps + kSmallProbes)), kLargeProbeBytes);
  next_peer(now, out);
}

void LinkProber::on_gone(const DeviceKey& peer, TimePoint now, Actions& out) {
  for (std::size_t i = peers_.size(); i-- > at_ + 1;)
    if (peers_[i] == peer) peers_.erase(peers_.begin() + static_cast<std::ptrdiff_t>(i));
  if (!done() && peers_[at_] == peer) next_peer(now, out);
}

void LinkProber::tick(TimePoint now, Actions& out) {
  if (!done() && now >= pair_until_) next_peer(now, out);
}

}  // namespace hearth::engine
