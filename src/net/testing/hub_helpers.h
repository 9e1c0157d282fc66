// What tests with hubs share: making, linking and waiting, each wait bounded.
#pragma once

#include <chrono>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "net/zmq_hub.h"

namespace hearth::net::testing {

// Longest wait for what must happen; generous, because it only costs time when the test fails.
inline constexpr std::chrono::milliseconds kPatience{20'000};
// How long to look for what must not happen.
inline constexpr std::chrono::milliseconds kQuiet{100};

inline KeyPair new_keys() {
  auto keys = KeyPair::generate();
  if (!keys) ADD_FAILURE() << keys.error().message;
  return *std::move(keys);
}

inline std::unique_ptr<Hub> make_test_hub(const KeyPair& keys, const HubLimits& limits = {},
                                          const std::string& host = "127.0.0.1") {
  auto hub =
      make_zmq_hub({.keys = keys.clone(), .bind_host = host, .advertised_host = host, .limits = limits});
  if (!hub) ADD_FAILURE() << hub.error().message;
  return *std::move(hub);
}

inline Bytes text(std::string_view value) {
  return Bytes(value.begin(), value.end());
}
inline Bytes number(std::uint32_t value) {
  return text(std::to_string(value));
}

inline std::string describe(const Event& event) {
  struct Visitor {
    std::string operator()(const MessageEvent& e) const {
      return "message of " + std::to_string(e.bytes.size());
    }
    std::string operator()(const PeerUpEvent& e) const { return "up " + e.peer.short_hex(); }
    std::string operator()(const PeerGoneEvent& e) const { return "gone: " + e.reason.message; }
    std::string operator()(const RefusedEvent& e) const { return "refused " + e.address + ": " + e.reason; }
    std::string operator()(const WokenEvent&) const { return "woken"; }
  };
  return std::visit(Visitor{}, event);
}

inline wire::Address local(const Hub& hub) {
  return hub.address();
}

inline void allow(Hub& hub, std::initializer_list<DeviceKey> keys) {
  hub.allow(std::span<const DeviceKey>(keys.begin(), keys.size()));
}

// The next event of type T at `hub`, while `others` are polled too; events of other types are skipped, except
// that a lost peer is a failure when something else was expected.
template <class T>
T wait_for(Hub& hub, std::initializer_list<Hub*> others, std::chrono::milliseconds patience = kPatience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (std::chrono::steady_clock::now() < deadline) {
    auto event = hub.poll(std::chrono::milliseconds(others.size() == 0 ? 100 : 2));
    if (event) {
      if (auto* wanted = std::get_if<T>(&*event)) return std::move(*wanted);
      if (std::holds_alternative<PeerGoneEvent>(*event)) ADD_FAILURE() << describe(*event);
    }
    for (Hub* other : others) (void)other->poll(std::chrono::milliseconds(0));
  }
  ADD_FAILURE() << "waited in vain";
  // Without the event no test can go on; without exceptions the way out is the process.
  std::abort();
}

// No event but refusals at `hub` for a short while.
inline void expect_quiet(Hub& hub, std::initializer_list<Hub*> others) {
  const auto deadline = std::chrono::steady_clock::now() + kQuiet;
  while (std::chrono::steady_clock::now() < deadline) {
    const auto event = hub.poll(std::chrono::milliseconds(5));
    if (event && !std::holds_alternative<RefusedEvent>(*event)) ADD_FAILURE() << describe(*event);
    for (Hub* other : others) (void)other->poll(std::chrono::milliseconds(0));
  }
}

// a may send to b afterwards.
inline void link(Hub& a, Hub& b) {
  const DeviceKey keys[] = {a.key()};
  b.allow(keys);
  const auto started = a.connect(b.key(), local(b), kPatience);
  ASSERT_TRUE(started) << started.error().message;
  EXPECT_EQ(wait_for<PeerUpEvent>(a, {&b}).peer, b.key());
}
inline void link_back(Hub& b, Hub& a) {
  link(b, a);
}

}  // namespace hearth::net::testing
