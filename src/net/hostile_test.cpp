// What strangers and broken peers can send to the control lane of a hub over TCP, and what it does about
// each. The data lane's strangers are in data_hostile_test.cpp.
#include <algorithm>
#include <memory>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "net/testing/hub_helpers.h"
#include "net/testing/raw_client.h"
#include "net/zap.h"
#include "net/zmq_hub.h"
#include "net/zmq_socket.h"

namespace hearth::net {
namespace {

using namespace testing;

constexpr int kHandshakeFailed = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

class HostileHub : public ::testing::Test {
 protected:
  void SetUp() override {
    HubLimits limits;
    limits.handshake = std::chrono::milliseconds(500);
    limits.refused_per_second = 1000;
    limits.max_connections = 20;
    limits.max_control_bytes = 1000;
    hub_ = make_test_hub(hub_keys_, limits);
    allow(*hub_, {friend_keys_.public_key()});
  }

  [[nodiscard]] std::uint16_t port() const { return hub_->address().control_port; }
  [[nodiscard]] std::unique_ptr<RawClient> friendly_client() const {
    return std::make_unique<RawClient>(port(), &hub_keys_.public_key(), &friend_keys_);
  }

  // Polls the hub once and keeps what it says.
  void poll() {
    auto event = hub_->poll(std::chrono::milliseconds(1));
    if (!event) return;
    if (auto* message = std::get_if<MessageEvent>(&*event)) {
      messages_.push_back(std::move(*message));
    } else if (auto* refused = std::get_if<RefusedEvent>(&*event)) {
      refusals_.push_back(std::move(*refused));
    } else {
      ADD_FAILURE() << describe(*event);
    }
  }
  template <class Predicate>
  bool poll_until(Predicate done) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!done() && std::chrono::steady_clock::now() < deadline) poll();
    return done();
  }
  bool wait_for_refusal(std::string_view reason) {
    const bool seen = poll_until([&] {
      return std::ranges::any_of(refusals_, [&](const RefusedEvent& r) { return r.reason.contains(reason); });
    });
    if (!seen)
      for (const RefusedEvent& r : refusals_) ADD_FAILURE() << "instead: " << r.address << " " << r.reason;
    return seen;
  }
  void expect_nothing_delivered() {
    const auto deadline = std::chrono::steady_clock::now() + kQuiet;
    while (std::chrono::steady_clock::now() < deadline) poll();
    EXPECT_TRUE(messages_.empty());
  }
  // A listed device that hub_ has a link to.
  std::unique_ptr<Hub> linked_friend() {
    auto other = make_test_hub(friend_keys_);
    allow(*other, {hub_->key()});
    EXPECT_TRUE(hub_->connect(other->key(), local(*other), kPatience));
    (void)wait_for<PeerUpEvent>(*hub_, {other.get()});
    return other;
  }
  // Whatever happened before: a listed device can still link and be heard.
  void expect_still_serving() {
    auto other = make_test_hub(friend_keys_);
    ASSERT_TRUE(other->connect(hub_->key(), local(*hub_), kPatience));
    (void)wait_for<PeerUpEvent>(*other, {hub_.get()});
    Bytes message = text("still here");
    ASSERT_EQ(other->send(hub_->key(), Lane::kData, message), SendStatus::kSent);
    messages_.clear();
    ASSERT_TRUE(poll_until([&] { return !messages_.empty(); }));
    EXPECT_EQ(messages_.front().from, friend_keys_.public_key());
    EXPECT_EQ(messages_.front().bytes, text("still here"));
  }

  const KeyPair hub_keys_ = new_keys();
  const KeyPair friend_keys_ = new_keys();
  std::unique_ptr<Hub> hub_;
  std::vector<MessageEvent> messages_;
  std::vector<RefusedEvent> refusals_;
};

TEST_F(HostileHub, APlaintextPeerIsRefused) {
  RawClient client(port(), nullptr, nullptr);
  client.send(text("hello"));
  EXPECT_TRUE(client.sees(kHandshakeFailed, kPatience, [&] { poll(); }));
  // Which of the two sides closes first is a race; both see that the mechanisms differ.
  EXPECT_TRUE(poll_until([&] { return !refusals_.empty(); }));
  EXPECT_TRUE(refusals_.back().reason.contains("offered no encryption") ||
              refusals_.back().reason.contains("before it proved a key"))
      << refusals_.back().reason;
  // Unknown when the connection was gone before it could be asked.
  EXPECT_TRUE(refusals_.back().address == "127.0.0.1" || refusals_.back().address.empty());
  expect_nothing_delivered();
  expect_still_serving();
}

TEST_F(HostileHub, AGreetingWithoutEncryptionIsNamed) {
  // Not a libzmq client: it waits to be closed, so the hub's side of the story is certain.
  for (const char* mechanism : {"NULL", "PLAIN", "GSSAPI", "", "CURVEX"}) {
    refusals_.clear();
    RawTcp tcp(port());
    tcp.send(greeting(mechanism));
    EXPECT_TRUE(tcp.closed_within(kPatience, [&] { poll(); })) << mechanism;
    EXPECT_TRUE(wait_for_refusal("offered no encryption"));
  }
}

TEST_F(HostileHub, EveryPlaintextSocketTypeIsRefused) {
  for (const int type : {ZMQ_REQ, ZMQ_ROUTER, ZMQ_PUB, ZMQ_SUB, ZMQ_PUSH, ZMQ_PULL, ZMQ_PAIR}) {
    RawClient client(port(), nullptr, nullptr, type);
    EXPECT_TRUE(client.sees(kHandshakeFailed, kPatience, [&] { poll(); })) << type;
  }
  expect_nothing_delivered();
}

TEST_F(HostileHub, ThePlainMechanismIsRefused) {
  ZmqContext context;
  ZmqSocket socket(context, ZMQ_DEALER);
  socket.set(ZMQ_LINGER, 0);
  socket.set(ZMQ_PLAIN_USERNAME, std::string("root"));
  socket.set(ZMQ_PLAIN_PASSWORD, std::string("password"));
  ASSERT_EQ(zmq_connect(socket.get(), std::format("tcp://127.0.0.1:{}", port()).c_str()), 0);
  EXPECT_TRUE(poll_until([&] { return !refusals_.empty(); }));
  expect_nothing_delivered();
}

TEST_F(HostileHub, AnUnknownKeyIsRefused) {
  const KeyPair stranger = new_keys();
  RawClient client(port(), &hub_keys_.public_key(), &stranger);
  client.send_open();
  client.send_frame(FrameKind::kMessage, 1);
  EXPECT_TRUE(client.sees(ZMQ_EVENT_HANDSHAKE_FAILED_AUTH, kPatience, [&] { poll(); }));
  EXPECT_TRUE(wait_for_refusal(stranger.public_key().hex()));
  EXPECT_EQ(refusals_.back().address, "127.0.0.1");
  expect_nothing_delivered();
}

TEST_F(HostileHub, AClientThatExpectsAnotherServerKeyIsRefused) {
  const KeyPair other = new_keys();
  RawClient client(port(), &other.public_key(), &friend_keys_);
  EXPECT_TRUE(wait_for_refusal("another key"));
  expect_nothing_delivered();
}

TEST_F(HostileHub, APublicKeyWithoutItsSecretIsRefused) {
  // Claims the friend's public key but holds another secret.
  ZmqContext context;
  ZmqSocket socket(context, ZMQ_DEALER);
  const KeyPair thief = new_keys();
  socket.set(ZMQ_LINGER, 0);
  socket.set(ZMQ_CURVE_SERVERKEY, hub_keys_.public_key().bytes);
  socket.set(ZMQ_CURVE_PUBLICKEY, friend_keys_.public_key().bytes);
  socket.set(ZMQ_CURVE_SECRETKEY, thief.secret());
  ASSERT_EQ(zmq_connect(socket.get(), std::format("tcp://127.0.0.1:{}", port()).c_str()), 0);
  EXPECT_TRUE(poll_until([&] { return !refusals_.empty(); }));
  expect_nothing_delivered();
}

TEST_F(HostileHub, RandomBytesAreClosed) {
  std::mt19937 random(1);
  for (int i = 0; i < 40; ++i) {
    RawTcp tcp(port());
    std::string bytes(1 + random() % 5000, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    if (i % 4 == 1) bytes = greeting("CURVE") + bytes;
    if (i % 4 == 3) bytes[0] = '\xff';
    tcp.send(bytes);
    EXPECT_TRUE(tcp.closed_within(kPatience, [&] { poll(); })) << i;
  }
  expect_nothing_delivered();
  expect_still_serving();
}

TEST_F(HostileHub, AnHttpRequestIsClosed) {
  RawTcp tcp(port());
  tcp.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(tcp.closed_within(kPatience, [&] { poll(); }));
  EXPECT_TRUE(wait_for_refusal("without a word"));
  expect_nothing_delivered();
}

TEST_F(HostileHub, AConnectionThatSaysNothingIsClosedAfterTheHandshakeTime) {
  RawTcp silent(port());
  RawTcp halfway(port());
  halfway.send(greeting("CURVE"));
  EXPECT_TRUE(silent.closed_within(kPatience, [&] { poll(); }));
  EXPECT_TRUE(halfway.closed_within(kPatience, [&] { poll(); }));
  EXPECT_TRUE(wait_for_refusal("before it proved a key"));
}

TEST_F(HostileHub, AGreetingWithHugeLengthsIsClosedWithoutAllocating) {
  // Frame flags (long, command) and the 64-bit length of what is said to follow.
  const std::string lengths[] = {
      std::string("\0\0\0\0\x80\0\0\0", 8),                // 2 GB
      std::string("\0\0\0\0\xff\xff\xff\xff", 8),          // 4 GB - 1
      std::string("\x7f\xff\xff\xff\xff\xff\xff\xff", 8),  // 2^63 - 1
      std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8),
  };
  for (const std::string& length : lengths) {
    for (const char flags : {'\x06', '\x02', '\x03', '\x07'}) {
      RawTcp tcp(port());
      tcp.send(greeting("CURVE") + flags + length + std::string(1000, 'x'));
      EXPECT_TRUE(tcp.closed_within(kPatience, [&] { poll(); }));
    }
  }
  expect_still_serving();
}

TEST_F(HostileHub, AListedPeerThatSendsMoreThanAllowedIsClosed) {
  auto client = friendly_client();
  client->send_open();
  client->send_frame(FrameKind::kMessage, 1, Bytes(1000));
  ASSERT_TRUE(poll_until([&] { return messages_.size() == 1; }));
  client->send_frame(FrameKind::kMessage, 2, Bytes(1'000'000));
  EXPECT_TRUE(client->sees(ZMQ_EVENT_DISCONNECTED, kPatience, [&] { poll(); }));
  EXPECT_EQ(messages_.size(), 1U);
}

TEST_F(HostileHub, AReplayedSequenceNumberClosesThePeer) {
  auto client = friendly_client();
  client->send_open();
  client->send_frame(FrameKind::kMessage, 1, text("a"));
  client->send_frame(FrameKind::kMessage, 2, text("b"));
  client->send_frame(FrameKind::kMessage, 2, text("b"));
  client->send_frame(FrameKind::kMessage, 3, text("c"));
  EXPECT_TRUE(wait_for_refusal("frame 2 where frame 3 was expected"));
  EXPECT_TRUE(client->sees(ZMQ_EVENT_DISCONNECTED, kPatience, [&] { poll(); })) << "cut off at the socket";
  EXPECT_EQ(messages_.size(), 2U);
  expect_still_serving();
}

TEST_F(HostileHub, AMissingSequenceNumberClosesThePeer) {
  auto client = friendly_client();
  client->send_open();
  client->send_frame(FrameKind::kMessage, 1, text("a"));
  client->send_frame(FrameKind::kMessage, 3, text("c"));
  EXPECT_TRUE(wait_for_refusal("frame 3 where frame 2 was expected"));
  EXPECT_TRUE(client->sees(ZMQ_EVENT_DISCONNECTED, kPatience, [&] { poll(); }));
  EXPECT_EQ(messages_.size(), 1U);
}

TEST_F(HostileHub, AMultiPartMessageClosesThePeer) {
  auto client = friendly_client();
  client->send_open();
  Bytes part(kFrameHeaderBytes);
  write_header({FrameKind::kMessage, 1}, std::span(part).first<kFrameHeaderBytes>());
  client->send(part, true);
  client->send(text("second"), true);
  client->send(text("third"));
  EXPECT_TRUE(wait_for_refusal("a message of 3 parts"));
  EXPECT_TRUE(client->sees(ZMQ_EVENT_DISCONNECTED, kPatience, [&] { poll(); }));
  EXPECT_TRUE(messages_.empty());
}

TEST_F(HostileHub, AListedClientThatKnowsNoFramesIsClosed) {
  for (const Bytes& bytes : {Bytes{}, Bytes(7), Bytes(8, 0xff), text("GET / HTTP/1.1")}) {
    auto client = friendly_client();
    client->send(bytes);
    EXPECT_TRUE(client->sees(ZMQ_EVENT_DISCONNECTED, kPatience, [&] { poll(); }));
  }
  EXPECT_TRUE(wait_for_refusal("no frame of a link"));
  EXPECT_TRUE(messages_.empty());
}

TEST_F(HostileHub, AListedClientThatBreaksTheRulesAndIgnoresTheAnswerIsCutOff) {
  auto client = friendly_client();
  client->send_open();
  // It floods, and takes answers only to throw them away (a full queue would hide from it that it was cut
  // off).
  for (std::uint64_t i = 1; i < 3000; ++i) client->send_frame(FrameKind::kFlush, i);
  client->send_frame(FrameKind::kMessage, 1);
  EXPECT_TRUE(client->sees(ZMQ_EVENT_DISCONNECTED, kPatience, [&] {
    poll();
    for (ZmqMessage answer; answer.receive(client->socket());) {
    }
  }));
}

TEST_F(HostileHub, ABrokenRuleEndsTheLinkToThatPeer) {
  const auto other = linked_friend();
  auto client = friendly_client();
  client->send_open();
  client->send_frame(FrameKind::kMessage, 7);
  const auto gone = wait_for<PeerGoneEvent>(*hub_, {});
  EXPECT_EQ(gone.peer, friend_keys_.public_key());
  EXPECT_EQ(gone.reason.code, ErrorCode::kProtocol);
  EXPECT_TRUE(gone.reason.message.contains("frame 7 where frame 1")) << gone.reason.message;
}

TEST_F(HostileHub, ARuleBrokenDuringAFlushEndsTheLinkAndTheFlush) {
  const auto other = linked_friend();
  auto client = friendly_client();
  client->send_open();
  client->send_frame(FrameKind::kMessage, 7);
  // Only flush() reads here, and it waits in vain: the other hub does not answer.
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  Bytes message;
  do {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    hub_->flush(other->key(), std::chrono::milliseconds(20));
    message = text("x");
  } while (hub_->send(other->key(), Lane::kControl, message) != SendStatus::kPeerGone);
  EXPECT_EQ(wait_for<PeerGoneEvent>(*hub_, {}).reason.code, ErrorCode::kProtocol);
}

TEST_F(HostileHub, ConnectionsAreLimited) {
  std::vector<std::unique_ptr<RawTcp>> crowd;
  for (int i = 0; i < 40; ++i) crowd.push_back(std::make_unique<RawTcp>(port()));
  EXPECT_TRUE(wait_for_refusal("too many connections"));
  crowd.clear();
  expect_still_serving();
}

TEST_F(HostileHub, AFloodOfStrangersIsReportedAFewTimesOnly) {
  HubLimits limits;
  limits.refused_per_second = 2;
  hub_ = make_test_hub(hub_keys_, limits);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; ++i) {
    RawTcp tcp(port());
    tcp.send("rubbish that is long enough to be no greeting at all");
    EXPECT_TRUE(tcp.closed_within(kPatience, [&] { poll(); }));
  }
  EXPECT_TRUE(poll_until([&] { return !refusals_.empty(); }));
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start).count() + 2;
  EXPECT_LE(refusals_.size(), static_cast<std::size_t>(2 * seconds));
}

// The key check itself.

TEST(KeyCheck, NothingBindsWithoutAHandler) {
  ZmqContext context;
  const auto bound = bind_control(context, new_keys(), "127.0.0.1", 0, {});
  ASSERT_FALSE(bound);
  EXPECT_EQ(bound.error().code, ErrorCode::kUnauthorized);
  EXPECT_TRUE(bound.error().message.contains("every key would be accepted")) << bound.error().message;
}

TEST(KeyCheck, NothingBindsAfterTheHandlerStopped) {
  ZmqContext context;
  auto handler = ZapHandler::start(context, [] {});
  ASSERT_TRUE(handler) << handler.error().message;
  EXPECT_TRUE(zap_self_test(context, kPatience));
  handler->reset();
  const auto bound = bind_control(context, new_keys(), "127.0.0.1", 0, {});
  ASSERT_FALSE(bound);
  EXPECT_EQ(bound.error().code, ErrorCode::kUnauthorized);
}

TEST(KeyCheck, ABoundSocketRefusesEveryKeyOnceTheHandlerStopped) {
  ZmqContext context;
  auto handler = ZapHandler::start(context, [] {});
  ASSERT_TRUE(handler);
  const KeyPair server = new_keys(), client_keys = new_keys();
  (*handler)->allow({client_keys.public_key()});
  auto bound = bind_control(context, server, "127.0.0.1", 0, {});
  ASSERT_TRUE(bound) << bound.error().message;
  {
    RawClient accepted(bound->port, &server.public_key(), &client_keys);
    EXPECT_TRUE(accepted.sees(ZMQ_EVENT_HANDSHAKE_SUCCEEDED, kPatience, [] {}));
  }
  handler->reset();
  RawClient refused(bound->port, &server.public_key(), &client_keys);
  EXPECT_TRUE(refused.sees(ZMQ_EVENT_DISCONNECTED, kPatience, [] {}));
  EXPECT_FALSE(refused.sees(ZMQ_EVENT_HANDSHAKE_SUCCEEDED, kQuiet, [] {}));
}

TEST(KeyCheck, AHandlerThatAcceptsEveryoneFailsTheSelfTest) {
  ZmqContext context;
  ZmqSocket careless(context, ZMQ_REP);
  ASSERT_EQ(zmq_bind(careless.get(), "inproc://zeromq.zap.01"), 0);
  std::thread thread([&] {
    for (bool more = true; more;) {
      zmq_pollitem_t item{careless.get(), 0, ZMQ_POLLIN, 0};
      ASSERT_EQ(zmq_poll(&item, 1, static_cast<long>(kPatience.count())), 1);
      ZmqMessage part;
      ASSERT_TRUE(part.receive(careless));
      more = part.more();
    }
    const std::string_view reply[] = {"1.0", "1", "200", "OK", "anyone", ""};
    for (std::size_t i = 0; i < std::size(reply); ++i) {
      ZmqMessage part(std::span(reinterpret_cast<const std::uint8_t*>(reply[i].data()), reply[i].size()));
      ASSERT_TRUE(part.send(careless, i + 1 < std::size(reply)));
    }
  });
  const auto tested = zap_self_test(context, kPatience);
  thread.join();
  ASSERT_FALSE(tested);
  EXPECT_TRUE(tested.error().message.contains("accepted a key that nobody has")) << tested.error().message;
}

TEST(KeyCheck, MalformedQuestionsAreRefused) {
  ZmqContext context;
  auto handler = ZapHandler::start(context, [] {});
  ASSERT_TRUE(handler);
  const std::string key(32, 'k');
  DeviceKey listed;
  std::ranges::fill(listed.bytes, 'k');
  (*handler)->allow({listed});
  const auto ask = [&](const std::vector<std::string>& parts) {
    ZmqSocket socket(context, ZMQ_REQ);
    socket.set(ZMQ_LINGER, 0);
    EXPECT_EQ(zmq_connect(socket.get(), "inproc://zeromq.zap.01"), 0);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      ZmqMessage part(std::span(reinterpret_cast<const std::uint8_t*>(parts[i].data()), parts[i].size()));
      EXPECT_TRUE(part.send(socket, i + 1 < parts.size()));
    }
    zmq_pollitem_t item{socket.get(), 0, ZMQ_POLLIN, 0};
    EXPECT_EQ(zmq_poll(&item, 1, static_cast<long>(kPatience.count())), 1);
    std::vector<std::string> reply;
    for (bool more = true; more;) {
      ZmqMessage part;
      EXPECT_TRUE(part.receive(socket));
      reply.push_back(part.text());
      more = part.more();
    }
    EXPECT_EQ(reply.size(), 6U);
    return reply.size() == 6 ? reply[2] + " " + reply[4] : "";
  };
  EXPECT_EQ(ask({"1.0", "1", "hearth", "::1", "", "CURVE", key}), "200 " + listed.hex());
  EXPECT_EQ(ask({"1.0", "1", "hearth", "::1", "", "CURVE", std::string(32, 'x')}), "400 ");
  EXPECT_EQ(ask({"1.0", "1", "hearth", "::1", "", "NULL"}), "400 ");
  EXPECT_EQ(ask({"1.0", "1", "hearth", "::1", "", "PLAIN", "root", "password"}), "400 ");
  EXPECT_EQ(ask({"1.0", "1", "hearth", "::1", "", "CURVE"}), "400 ");
  EXPECT_EQ(ask({"1.0", "1", "hearth", "::1", "", "CURVE", key + "k"}), "400 ");
  EXPECT_EQ(ask({"1.0", "1", "hearth", "::1", "", "CURVE", key, key}), "400 ");
  EXPECT_EQ(ask({"2.0", "1", "hearth", "::1", "", "CURVE", key}), "400 ");
  EXPECT_EQ(ask({"1.0"}), "400 ");
}

TEST(KeyCheckDeathTest, TheProcessEndsWithTheHandler) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ZmqContext context;
        auto handler = ZapHandler::start(context, [] {});
        // The context goes away under the handler: its thread cannot answer any more.
        zmq_ctx_shutdown(context.get());
        for (;;) std::this_thread::yield();
      },
      "the ZAP handler ended");
}

// Listening and reaching.

TEST(Listening, APortThatIsTakenIsAClearError) {
  auto first = make_test_hub(new_keys());
  auto second = make_zmq_hub({.keys = new_keys(), .control_port = first->address().control_port});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kIo);
  EXPECT_TRUE(second.error().message.contains(std::to_string(first->address().control_port)))
      << second.error().message;
}

TEST(Listening, AnAddressOfAnotherMachineIsAClearError) {
  auto hub = make_zmq_hub({.keys = new_keys(), .bind_host = "192.0.2.1"});
  ASSERT_FALSE(hub);
  EXPECT_EQ(hub.error().code, ErrorCode::kIo);
  EXPECT_TRUE(hub.error().message.contains("192.0.2.1")) << hub.error().message;
}

TEST(Listening, AnAddressAndPortsThatWereAskedForAreUsed) {
  wire::Address address;
  {
    auto probe = make_test_hub(new_keys());
    address = probe->address();
  }
  auto hub = make_zmq_hub({.keys = new_keys(),
                           .control_port = address.control_port,
                           .data_port = address.data_port,
                           .advertised_host = "attic.local"});
  ASSERT_TRUE(hub) << hub.error().message;
  EXPECT_EQ((*hub)->address(), (wire::Address{"attic.local", address.control_port, address.data_port}));
}

TEST(Listening, EveryInterfaceAndNamesWork) {
  const KeyPair keys = new_keys();
  auto hub = make_zmq_hub({.keys = keys.clone(), .bind_host = ""});
  ASSERT_TRUE(hub) << hub.error().message;
  auto client = make_test_hub(new_keys());
  allow(**hub, {client->key()});
  for (const char* host : {"127.0.0.1", "localhost"}) {
    wire::Address address = (*hub)->address();
    address.host = host;
    ASSERT_TRUE(client->connect(keys.public_key(), address, kPatience));
    EXPECT_EQ(wait_for<PeerUpEvent>(*client, {hub->get()}).peer, keys.public_key()) << host;
    client->disconnect(keys.public_key());
  }
}

TEST(Listening, Ipv6Works) {
  const KeyPair keys = new_keys();
  auto hub = make_zmq_hub({.keys = keys.clone(), .bind_host = "::1", .advertised_host = "::1"});
  if (!hub) GTEST_SKIP() << "this machine has no IPv6 loopback: " << hub.error().message;
  auto client = make_test_hub(new_keys());
  allow(**hub, {client->key()});
  for (const char* host : {"::1", "[::1]"}) {
    wire::Address address = (*hub)->address();
    address.host = host;
    ASSERT_TRUE(client->connect(keys.public_key(), address, kPatience));
    EXPECT_EQ(wait_for<PeerUpEvent>(*client, {hub->get()}).peer, keys.public_key()) << host;
    client->disconnect(keys.public_key());
  }
}

TEST(Listening, AnUnknownHostNameIsAClearError) {
  auto hub = make_test_hub(new_keys());
  for (const char* host : {"", "no such host", "256.1.1.1"}) {
    const auto connected = hub->connect(new_keys().public_key(), {host, 1, 2}, kPatience);
    ASSERT_FALSE(connected) << host;
    EXPECT_EQ(connected.error().code, ErrorCode::kPeerGone);
    EXPECT_TRUE(connected.error().message.contains("numeric")) << connected.error().message;
  }
}

TEST(Listening, AReceiverThatAnswersRubbishEndsTheLink) {
  // A server with the right key that sends what no hub sends.
  ZmqContext context;
  auto handler = ZapHandler::start(context, [] {});
  ASSERT_TRUE(handler);
  const KeyPair server = new_keys();
  auto hub = make_test_hub(new_keys());
  (*handler)->allow({hub->key()});
  auto control = bind_control(context, server, "127.0.0.1", 0, {});
  ASSERT_TRUE(control);
  for (const Bytes& answer : {Bytes{}, Bytes(8, 0xff), text("rubbish!"), Bytes{9, 0, 0, 0, 0, 0, 0, 3}}) {
    ASSERT_TRUE(hub->connect(server.public_key(), {"127.0.0.1", control->port, 1}, kPatience));
    ZmqMessage id;
    // The opening frame of this link; what follows an earlier one is passed over.
    for (const auto deadline = std::chrono::steady_clock::now() + kPatience;;) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline);
      EXPECT_FALSE(hub->poll(std::chrono::milliseconds(2))) << "up only when the receiver has confirmed it";
      ZmqMessage frame;
      if (!id.receive(control->socket)) continue;
      ASSERT_TRUE(frame.receive(control->socket));
      if (read_header(frame.bytes())->kind == FrameKind::kOpen) break;
    }
    ASSERT_TRUE(id.send(control->socket, true));
    ZmqMessage message((std::span<const std::uint8_t>(answer)));
    ASSERT_TRUE(message.send(control->socket));
    EXPECT_EQ(wait_for<PeerGoneEvent>(*hub, {}).reason.code, ErrorCode::kProtocol);
  }
}

}  // namespace
}  // namespace hearth::net
