// The contract of Hub, for both implementations.
#include <atomic>
#include <functional>
#include <memory>
#include <numeric>
#include <semaphore>
#include <thread>

#include <gtest/gtest.h>

#include "net/inproc_hub.h"
#include "net/testing/hub_helpers.h"
#include "net/zmq_hub.h"

namespace hearth::net {
namespace {

using namespace testing;

enum class Kind { kZmq, kInproc };

class HubContract : public ::testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<Hub> make(const HubLimits& limits = {}) { return make_as(new_keys(), limits); }
  std::unique_ptr<Hub> make_as(const KeyPair& keys, const HubLimits& limits = {}) {
    if (GetParam() == Kind::kInproc) return switchboard_.make_hub(keys.public_key(), limits);
    return make_test_hub(keys, limits);
  }
  InprocSwitchboard switchboard_;
};

INSTANTIATE_TEST_SUITE_P(Hubs, HubContract, ::testing::Values(Kind::kZmq, Kind::kInproc),
                         [](const auto& param) { return param.param == Kind::kZmq ? "Zmq" : "Inproc"; });

TEST_P(HubContract, ConnectReportsUpAndDeliversBothLanesWithTheProvenSender) {
  auto a = make(), b = make();
  link(*a, *b);
  Bytes control = text("control"), data = text("data");
  EXPECT_EQ(a->send(b->key(), Lane::kControl, control), SendStatus::kSent);
  EXPECT_TRUE(control.empty()) << "the bytes are taken";
  EXPECT_EQ(a->send(b->key(), Lane::kData, data), SendStatus::kSent);
  const MessageEvent first = wait_for<MessageEvent>(*b, {a.get()});
  const MessageEvent second = wait_for<MessageEvent>(*b, {a.get()});
  EXPECT_EQ(first.from, a->key());
  EXPECT_EQ(second.from, a->key());
  const bool control_first = first.lane == Lane::kControl;
  EXPECT_EQ((control_first ? first : second).bytes, text("control"));
  EXPECT_EQ((control_first ? second : first).bytes, text("data"));
}

TEST_P(HubContract, AnEmptyMessageIsAMessage) {
  auto a = make(), b = make();
  link(*a, *b);
  Bytes nothing;
  EXPECT_EQ(a->send(b->key(), Lane::kControl, nothing), SendStatus::kSent);
  EXPECT_TRUE(wait_for<MessageEvent>(*b, {a.get()}).bytes.empty());
}

TEST_P(HubContract, PollReturnsControlBeforeData) {
  auto a = make(), b = make();
  link(*a, *b);
  link_back(*b, *a);
  Bytes data = text("data"), control = text("control");
  ASSERT_EQ(a->send(b->key(), Lane::kData, data), SendStatus::kSent);
  ASSERT_EQ(a->send(b->key(), Lane::kControl, control), SendStatus::kSent);
  // b takes messages in while it flushes, without returning them; when a's flush is over, b has both.
  std::atomic<bool> arrived{false};
  std::thread other([&] {
    a->flush(b->key(), kPatience);
    arrived.store(true);
  });
  while (!arrived.load()) b->flush(a->key(), std::chrono::milliseconds(10));
  other.join();
  EXPECT_EQ(wait_for<MessageEvent>(*b, {}).lane, Lane::kControl);
  EXPECT_EQ(wait_for<MessageEvent>(*b, {}).lane, Lane::kData);
}

TEST_P(HubContract, TenThousandMessagesArriveOnceInOrderWithBackPressure) {
  const HubLimits limits{.control_high_water = 50, .data_high_water = 20};
  auto a = make(limits), b = make(limits);
  link(*a, *b);
  constexpr std::uint32_t kCount = 10'000;
  // 20 MB a lane, more than the kernel's buffers take: the sender is refused before the receiver begins to
  // read.
  const auto numbered = [](std::uint32_t n) {
    Bytes message = number(n);
    message.resize(2048);
    return message;
  };
  std::atomic<bool> done{false};
  std::binary_semaphore both_blocked{0};
  std::thread sender([&] {
    std::uint32_t next[2] = {};
    bool blocked[2] = {}, told = false;
    while (next[0] < kCount || next[1] < kCount) {
      bool waits = true;
      for (const Lane lane : {Lane::kControl, Lane::kData}) {
        std::uint32_t& n = next[static_cast<int>(lane)];
        if (n == kCount) continue;
        Bytes message = numbered(n);
        const SendStatus status = a->send(b->key(), lane, message);
        ASSERT_NE(status, SendStatus::kPeerGone);
        if (status == SendStatus::kSent) {
          ++n;
          waits = false;
        } else {
          blocked[static_cast<int>(lane)] = true;
          EXPECT_EQ(message, numbered(n)) << "a refused message is untouched";
        }
      }
      if (!told && blocked[0] && blocked[1]) {
        told = true;
        both_blocked.release();
      }
      // Returns as soon as there is room again, well before this patience.
      if (!waits) continue;
      const bool event = a->poll(kPatience).has_value();
      ASSERT_FALSE(event);
    }
    while (!done.load()) (void)a->poll(std::chrono::milliseconds(5));
  });
  EXPECT_TRUE(both_blocked.try_acquire_for(kPatience));
  std::uint32_t expected[2] = {};
  while (expected[0] < kCount || expected[1] < kCount) {
    auto event = b->poll(kPatience);
    ASSERT_TRUE(event.has_value()) << "got " << expected[0] << " and " << expected[1];
    auto* message = std::get_if<MessageEvent>(&*event);
    ASSERT_NE(message, nullptr) << describe(*event);
    ASSERT_EQ(message->bytes, numbered(expected[static_cast<int>(message->lane)]++));
  }
  done.store(true);
  sender.join();
}

TEST_P(HubContract, WouldBlockAtTheHighWaterMarkOfAReceiverThatDoesNotPoll) {
  const HubLimits limits{.control_high_water = 10, .data_high_water = 10};
  auto a = make(limits), b = make(limits);
  link(*a, *b);
  // Beyond what sender, receiver and the kernel between them take.
  constexpr int kFarTooMany = 5000;
  int sent = 0;
  SendStatus status = SendStatus::kSent;
  for (; sent < kFarTooMany && status == SendStatus::kSent; ++sent) {
    Bytes message(64 * 1024);
    status = a->send(b->key(), Lane::kData, message);
  }
  EXPECT_EQ(status, SendStatus::kWouldBlock);
  Bytes control = text("overtakes");
  EXPECT_EQ(a->send(b->key(), Lane::kControl, control), SendStatus::kSent);
}

TEST_P(HubContract, SendToAnUnknownPeerSaysGone) {
  auto a = make(), b = make();
  Bytes message = text("x");
  EXPECT_EQ(a->send(b->key(), Lane::kControl, message), SendStatus::kPeerGone);
  EXPECT_EQ(message, text("x"));
}

TEST_P(HubContract, PeerGoneWhenThePeerIsDestroyed) {
  auto a = make(), b = make();
  link(*a, *b);
  const DeviceKey peer = b->key();
  b.reset();
  const auto gone = wait_for<PeerGoneEvent>(*a, {});
  EXPECT_EQ(gone.peer, peer);
  EXPECT_EQ(gone.reason.code, ErrorCode::kPeerGone);
  EXPECT_TRUE(gone.reason.message.contains(peer.short_hex())) << gone.reason.message;
  Bytes message = text("x");
  EXPECT_EQ(a->send(peer, Lane::kControl, message), SendStatus::kPeerGone);
  expect_quiet(*a, {});
}

TEST_P(HubContract, AnUnlistedKeyIsRefusedOnBothSides) {
  auto a = make(), b = make();
  ASSERT_TRUE(a->connect(b->key(), local(*b), std::chrono::milliseconds(300)));
  const auto refused = wait_for<RefusedEvent>(*b, {a.get()});
  EXPECT_TRUE(refused.reason.contains(a->key().hex())) << refused.reason;
  const auto gone = wait_for<PeerGoneEvent>(*a, {b.get()});
  EXPECT_EQ(gone.peer, b->key());
  EXPECT_EQ(gone.reason.code, ErrorCode::kUnauthorized);
  EXPECT_TRUE(gone.reason.message.contains("allow-list")) << gone.reason.message;
}

TEST_P(HubContract, AKeyThatIsListedWhileConnectWaitsIsAccepted) {
  auto a = make(), b = make();
  ASSERT_TRUE(a->connect(b->key(), local(*b), kPatience));
  wait_for<RefusedEvent>(*b, {a.get()});
  allow(*b, {a->key()});
  EXPECT_EQ(wait_for<PeerUpEvent>(*a, {b.get()}).peer, b->key());
}

TEST_P(HubContract, AListenerWithAnotherKeyIsRefused) {
  auto a = make(), b = make();
  allow(*b, {a->key()});
  const DeviceKey expected = new_keys().public_key();
  ASSERT_TRUE(a->connect(expected, local(*b), std::chrono::milliseconds(300)));
  const auto gone = wait_for<PeerGoneEvent>(*a, {b.get()});
  EXPECT_EQ(gone.peer, expected);
  EXPECT_EQ(gone.reason.code, ErrorCode::kUnauthorized) << gone.reason.message;
}

TEST_P(HubContract, ConnectTimesOutWhereNothingListens) {
  auto a = make(), b = make();
  const wire::Address address = local(*b);
  const DeviceKey peer = b->key();
  b.reset();
  ASSERT_TRUE(a->connect(peer, address, std::chrono::milliseconds(200)));
  const auto gone = wait_for<PeerGoneEvent>(*a, {});
  EXPECT_EQ(gone.peer, peer);
  EXPECT_EQ(gone.reason.code, ErrorCode::kTimeout) << gone.reason.message;
}

TEST_P(HubContract, ConnectRefusesASecondLinkAndAMissingPort) {
  auto a = make(), b = make();
  link(*a, *b);
  EXPECT_EQ(a->connect(b->key(), local(*b), kPatience).error().code, ErrorCode::kInvalidArgument);
  wire::Address address = local(*b);
  address.control_port = 0;
  EXPECT_EQ(a->connect(new_keys().public_key(), address, kPatience).error().code,
            ErrorCode::kInvalidArgument);
}

TEST_P(HubContract, ControlLaneFirstThenTheDataLane) {
  auto a = make(), b = make();
  allow(*b, {a->key()});
  wire::Address address = local(*b);
  address.data_port = 0;
  ASSERT_TRUE(a->connect(b->key(), address, kPatience));
  wait_for<PeerUpEvent>(*a, {b.get()});
  Bytes hello = text("hello"), data = text("data");
  EXPECT_EQ(a->send(b->key(), Lane::kData, data), SendStatus::kPeerGone);
  ASSERT_EQ(a->send(b->key(), Lane::kControl, hello), SendStatus::kSent);
  EXPECT_EQ(wait_for<MessageEvent>(*b, {a.get()}).bytes, text("hello"));
  ASSERT_TRUE(a->connect(b->key(), local(*b), kPatience));
  wait_for<PeerUpEvent>(*a, {b.get()});
  EXPECT_EQ(a->send(b->key(), Lane::kData, data), SendStatus::kSent);
  EXPECT_EQ(wait_for<MessageEvent>(*b, {a.get()}).bytes, text("data"));
  Bytes more = text("more");
  EXPECT_EQ(a->send(b->key(), Lane::kControl, more), SendStatus::kSent);
  EXPECT_EQ(wait_for<MessageEvent>(*b, {a.get()}).bytes, text("more"));
}

TEST_P(HubContract, AfterAReconnectNothingOfTheOldLinkIsDelivered) {
  auto a = make(), b = make();
  link(*a, *b);
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 5; ++i) {
      Bytes old_control = text("old"), old_data = text("old");
      ASSERT_EQ(a->send(b->key(), Lane::kControl, old_control), SendStatus::kSent);
      ASSERT_EQ(a->send(b->key(), Lane::kData, old_data), SendStatus::kSent);
    }
    a->disconnect(b->key());
    ASSERT_TRUE(a->connect(b->key(), local(*b), kPatience));
    wait_for<PeerUpEvent>(*a, {b.get()});
    Bytes control = text("new"), data = text("new");
    ASSERT_EQ(a->send(b->key(), Lane::kControl, control), SendStatus::kSent);
    ASSERT_EQ(a->send(b->key(), Lane::kData, data), SendStatus::kSent);
    bool new_seen[2] = {};
    while (!new_seen[0] || !new_seen[1]) {
      const auto message = wait_for<MessageEvent>(*b, {a.get()});
      bool& seen = new_seen[static_cast<int>(message.lane)];
      const bool is_new = message.bytes == text("new");
      ASSERT_TRUE(is_new || (!new_seen[0] && !new_seen[1])) << "an old message came after a new one";
      seen = seen || is_new;
    }
    expect_quiet(*b, {a.get()});
  }
}

TEST_P(HubContract, RemovingAKeyClosesItsConnections) {
  auto a = make(), b = make();
  link(*a, *b);
  Bytes first = text("first");
  ASSERT_EQ(a->send(b->key(), Lane::kControl, first), SendStatus::kSent);
  wait_for<MessageEvent>(*b, {a.get()});
  b->allow({});
  const auto gone = wait_for<PeerGoneEvent>(*a, {b.get()});
  EXPECT_EQ(gone.reason.code, ErrorCode::kUnauthorized) << gone.reason.message;
  ASSERT_TRUE(a->connect(b->key(), local(*b), std::chrono::milliseconds(200)));
  EXPECT_EQ(wait_for<PeerGoneEvent>(*a, {b.get()}).reason.code, ErrorCode::kUnauthorized);
}

TEST_P(HubContract, AMessageOfARemovedKeyIsDropped) {
  auto a = make(), b = make();
  link(*a, *b);
  Bytes message = text("too late");
  ASSERT_EQ(a->send(b->key(), Lane::kData, message), SendStatus::kSent);
  b->allow({});  // before b has looked at anything
  wait_for<PeerGoneEvent>(*a, {b.get()});
  expect_quiet(*b, {a.get()});
}

TEST_P(HubContract, WakeFromAnotherThreadEndsAPoll) {
  auto a = make();
  std::thread other([&] { a->wake(); });
  const auto event = a->poll(kPatience);
  other.join();
  ASSERT_TRUE(event.has_value());
  EXPECT_TRUE(std::holds_alternative<WokenEvent>(*event));
  // Several wakes may become one, but the last is never lost.
  a->wake();
  a->wake();
  EXPECT_TRUE(a->poll(std::chrono::milliseconds(0)).has_value());
  (void)a->poll(std::chrono::milliseconds(0));
  EXPECT_FALSE(a->poll(std::chrono::milliseconds(0)).has_value());
}

TEST_P(HubContract, AGoodbyeIsDeliveredByFlushAndDisconnect) {
  auto a = make(), b = make();
  link(*a, *b);
  std::atomic<bool> stop{false};
  std::vector<Bytes> received;
  std::thread receiver([&] {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while ((!stop.load() || received.size() < 101) && std::chrono::steady_clock::now() < deadline) {
      auto event = b->poll(std::chrono::milliseconds(20));
      if (!event) continue;
      if (auto* message = std::get_if<MessageEvent>(&*event)) received.push_back(message->bytes);
    }
  });
  for (std::uint32_t i = 0; i < 100; ++i) {
    Bytes message = number(i);
    ASSERT_EQ(a->send(b->key(), Lane::kControl, message), SendStatus::kSent);
  }
  Bytes goodbye = text("goodbye");
  ASSERT_EQ(a->send(b->key(), Lane::kControl, goodbye), SendStatus::kSent);
  a->flush(b->key(), kPatience);
  a->disconnect(b->key());
  a.reset();
  stop.store(true);
  receiver.join();
  ASSERT_EQ(received.size(), 101U);
  EXPECT_EQ(received.back(), text("goodbye"));
}

TEST_P(HubContract, TwoPeersThatFlushAtTheSameTimeDoNotWaitForEachOther) {
  auto a = make(), b = make();
  link(*a, *b);
  link_back(*b, *a);
  Bytes to_b = text("bye"), to_a = text("bye");
  ASSERT_EQ(a->send(b->key(), Lane::kControl, to_b), SendStatus::kSent);
  ASSERT_EQ(b->send(a->key(), Lane::kControl, to_a), SendStatus::kSent);
  std::atomic<int> flushed{0};
  const auto flush_and_read = [&](Hub& self, const DeviceKey& peer) {
    self.flush(peer, kPatience);
    ++flushed;
    // The other one may still need this one's confirmation.
    std::optional<Event> received;
    while (flushed.load() < 2 || !received) {
      auto event = self.poll(std::chrono::milliseconds(5));
      if (event) received = std::move(event);
    }
    const auto* message = std::get_if<MessageEvent>(&*received);
    ASSERT_NE(message, nullptr) << describe(*received);
    EXPECT_EQ(message->bytes, text("bye"));
  };
  const auto start = std::chrono::steady_clock::now();
  std::thread other([&] { flush_and_read(*a, b->key()); });
  flush_and_read(*b, a->key());
  other.join();
  EXPECT_LT(std::chrono::steady_clock::now() - start, kPatience) << "a flush ran into its timeout";
}

TEST_P(HubContract, FlushGivesUpAtItsTimeout) {
  auto a = make(), b = make();
  link(*a, *b);
  Bytes message = text("x");
  ASSERT_EQ(a->send(b->key(), Lane::kControl, message), SendStatus::kSent);
  a->flush(b->key(), std::chrono::milliseconds(50));  // b does not poll
  a->flush(new_keys().public_key(), kPatience);       // unknown: returns at once
}

TEST_P(HubContract, ALargeMessageArrivesWhole) {
  auto a = make(), b = make();
  link(*a, *b);
  constexpr std::size_t kSize = 64 * 1024 * 1024;
  Bytes message(kSize);
  std::uint32_t state = 1;
  for (auto& byte : message) byte = static_cast<std::uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  const Bytes expected = message;
  ASSERT_EQ(a->send(b->key(), Lane::kData, message), SendStatus::kSent);
  const auto received = wait_for<MessageEvent>(*b, {a.get()});
  EXPECT_TRUE(received.bytes == expected);
}

TEST_P(HubContract, AMessageAboveTheReceiversLimitClosesTheLink) {
  HubLimits small;
  small.max_control_bytes = 1000;
  auto a = make(), b = make(small);
  link(*a, *b);
  Bytes fits(1000);
  ASSERT_EQ(a->send(b->key(), Lane::kControl, fits), SendStatus::kSent);
  EXPECT_EQ(wait_for<MessageEvent>(*b, {a.get()}).bytes.size(), 1000U);
  for (const std::size_t size : {std::size_t{1001}, std::size_t{100'000}}) {
    Bytes big(size);
    ASSERT_EQ(a->send(b->key(), Lane::kControl, big), SendStatus::kSent);
    EXPECT_EQ(wait_for<PeerGoneEvent>(*a, {b.get()}).peer, b->key());
    a->disconnect(b->key());
    ASSERT_TRUE(a->connect(b->key(), local(*b), kPatience));
    wait_for<PeerUpEvent>(*a, {b.get()});
  }
}

TEST_P(HubContract, ThreeHubsInARing) {
  std::vector<std::unique_ptr<Hub>> hubs;
  for (int i = 0; i < 3; ++i) hubs.push_back(make());
  for (int i = 0; i < 3; ++i) link(*hubs[i], *hubs[(i + 1) % 3]);
  std::vector<std::thread> threads;
  constexpr std::uint32_t kTurns = 200;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      Hub& self = *hubs[i];
      const DeviceKey next = hubs[(i + 1) % 3]->key();
      if (i == 0) {
        Bytes first = number(0);
        ASSERT_EQ(self.send(next, Lane::kData, first), SendStatus::kSent);
      }
      for (std::uint32_t turn = 0; turn < kTurns; ++turn) {
        const auto message = wait_for<MessageEvent>(self, {});
        const std::uint32_t value = turn * 3 + static_cast<std::uint32_t>(i == 0 ? 2 : i - 1);
        ASSERT_EQ(message.bytes, number(value));
        if (i == 0 && turn + 1 == kTurns) break;
        Bytes out = number(value + 1);
        ASSERT_EQ(self.send(next, Lane::kData, out), SendStatus::kSent);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace hearth::net
