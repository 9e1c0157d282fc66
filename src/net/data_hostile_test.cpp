// What strangers and broken peers can send to the data lane of a hub, and what it does about each.
#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <random>

#include <gtest/gtest.h>

#include "net/sealed_stream.h"
#include "net/testing/hub_helpers.h"
#include "net/testing/raw_client.h"

namespace hearth::net {
namespace {

using namespace testing;

constexpr LinkId kLink{11, 1};

std::string as_text(std::span<const std::uint8_t> bytes) {
  return {bytes.begin(), bytes.end()};
}

// A device that is listed, has opened the control lane of kLink and told the secret of its data lane.
class HostileData : public ::testing::Test {
 protected:
  void SetUp() override {
    HubLimits limits;
    limits.handshake = std::chrono::milliseconds(300);
    limits.refused_per_second = 1000;
    limits.max_connections = 20;
    limits.max_data_bytes = 1000;
    hub_ = make_test_hub(hub_keys_, limits);
    allow(*hub_, {friend_keys_.public_key()});
    client_ =
        std::make_unique<RawClient>(hub_->address().control_port, &hub_keys_.public_key(), &friend_keys_);
    client_->send_open(kLink);
    client_->send_frame(FrameKind::kDataKey, 1, secret_);
    client_->send_frame(FrameKind::kMessage, 2, text("ready"));
    EXPECT_TRUE(poll_until([&] { return !messages_.empty(); }));
    messages_.clear();
  }

  [[nodiscard]] std::uint16_t port() const { return hub_->address().data_port; }

  void poll() {
    auto event = hub_->poll(std::chrono::milliseconds(1));
    if (!event) return;
    if (auto* message = std::get_if<MessageEvent>(&*event)) messages_.push_back(std::move(*message));
    if (auto* refused = std::get_if<RefusedEvent>(&*event)) refusals_.push_back(std::move(*refused));
  }
  template <class Predicate>
  bool poll_until(Predicate done) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!done() && std::chrono::steady_clock::now() < deadline) poll();
    return done();
  }
  bool refused(std::string_view reason) {
    const bool seen = poll_until([&] {
      return std::ranges::any_of(refusals_, [&](const RefusedEvent& r) { return r.reason.contains(reason); });
    });
    if (!seen)
      for (const RefusedEvent& r : refusals_) ADD_FAILURE() << "instead: " << r.address << " " << r.reason;
    return seen;
  }
  bool closes(RawTcp& tcp) {
    return tcp.closed_within(kPatience, [&] { poll(); });
  }
  // The bytes of a connection that follows the rules: prologue, then one record per frame.
  struct Script {
    explicit Script(const StreamSecret& secret, std::optional<StreamTag> tag = {})
        : writer(secret, Direction::kForward),
          bytes(as_text(tag ? *tag : tag_of(secret)) + as_text(writer.header())) {}
    Script& frame(FrameKind kind, std::uint64_t sequence, std::span<const std::uint8_t> payload = {}) {
      std::uint8_t head[kFrameHeaderBytes];
      write_header({kind, sequence}, head);
      Bytes out;
      writer.seal(head, payload, out);
      bytes += as_text(out);
      return *this;
    }
    Script& open(LinkId link = kLink) {
      std::uint8_t id[kLinkIdBytes];
      write_link_id(link, id);
      return frame(FrameKind::kOpen, 0, id);
    }
    SealedWriter writer;
    std::string bytes;
  };

  // Whatever happened before: the link's own data lane still opens and delivers.
  void expect_still_serving() {
    RawTcp tcp(port());
    tcp.send(Script(secret_).open().frame(FrameKind::kMessage, 1, text("still here")).bytes);
    messages_.clear();
    ASSERT_TRUE(poll_until([&] { return !messages_.empty(); }));
    EXPECT_EQ(messages_.front().from, friend_keys_.public_key());
    EXPECT_EQ(messages_.front().lane, Lane::kData);
    EXPECT_EQ(messages_.front().bytes, text("still here"));
  }

  const KeyPair hub_keys_ = new_keys();
  const KeyPair friend_keys_ = new_keys();
  const StreamSecret secret_ = new_stream_secret();
  std::unique_ptr<Hub> hub_;
  std::unique_ptr<RawClient> client_;
  std::deque<MessageEvent> messages_;
  std::vector<RefusedEvent> refusals_;
};

TEST_F(HostileData, AHandWrittenConnectionThatFollowsTheRulesIsServed) {
  expect_still_serving();
  EXPECT_TRUE(refusals_.empty());
}

TEST_F(HostileData, ASecretThatNobodyToldIsRefused) {
  RawTcp tcp(port());
  tcp.send(Script(new_stream_secret()).open().bytes);
  EXPECT_TRUE(closes(tcp));
  EXPECT_TRUE(refused("belongs to no link"));
  EXPECT_EQ(refusals_.back().address, "127.0.0.1");
  EXPECT_TRUE(messages_.empty());
  expect_still_serving();
}

TEST_F(HostileData, KnowingTheTagIsNotKnowingTheSecret) {
  RawTcp tcp(port());
  tcp.send(
      Script(new_stream_secret(), tag_of(secret_)).open().frame(FrameKind::kMessage, 1, text("x")).bytes);
  EXPECT_TRUE(closes(tcp));
  EXPECT_TRUE(refused("without proving it"));
  EXPECT_TRUE(messages_.empty());
  expect_still_serving();
}

TEST_F(HostileData, AnotherListedDeviceCannotTakeTheLink) {
  const KeyPair other = new_keys();
  allow(*hub_, {friend_keys_.public_key(), other.public_key()});
  // It knows the id of the friend's link and opens one of the same id, with a secret of its own.
  RawClient thief(hub_->address().control_port, &hub_keys_.public_key(), &other);
  const StreamSecret own = new_stream_secret();
  thief.send_open(kLink);
  thief.send_frame(FrameKind::kDataKey, 1, own);
  thief.send_frame(FrameKind::kMessage, 2, text("ready"));
  ASSERT_TRUE(poll_until([&] { return !messages_.empty(); }));
  RawTcp tcp(port());
  tcp.send(Script(own).open().frame(FrameKind::kMessage, 1, text("mine")).bytes);
  ASSERT_TRUE(poll_until([&] { return messages_.size() == 2; }));
  EXPECT_EQ(messages_.back().from, other.public_key()) << "its own lane, under its own name";
  expect_still_serving();
}

TEST_F(HostileData, AConnectionThatNamesTheLinkAndSaysNothingDoesNotKeepTheOwnerOut) {
  RawTcp squatter(port());
  squatter.send(Script(secret_).bytes);
  expect_still_serving();
  EXPECT_TRUE(closes(squatter));
  EXPECT_TRUE(refused("before it proved a key"));
}

TEST_F(HostileData, AReplayedConnectionIsRefusedAndTheRealOneGoesOn) {
  Script script(secret_);
  script.open().frame(FrameKind::kMessage, 1, text("once"));
  RawTcp real(port());
  real.send(script.bytes);
  ASSERT_TRUE(poll_until([&] { return messages_.size() == 1; }));
  RawTcp replay(port());
  replay.send(script.bytes);
  EXPECT_TRUE(closes(replay));
  EXPECT_TRUE(refused("belongs to no link that waits"));
  const std::string before = script.bytes;
  real.send(script.frame(FrameKind::kMessage, 2, text("twice")).bytes.substr(before.size()));
  ASSERT_TRUE(poll_until([&] { return messages_.size() == 2; }));
  EXPECT_EQ(messages_.back().bytes, text("twice"));
}

TEST_F(HostileData, AConnectionThatIsReplayedAfterTheRealOneEndedOpensNothing) {
  const std::string script = Script(secret_).open().frame(FrameKind::kMessage, 1, text("once")).bytes;
  {
    RawTcp real(port());
    real.send(script);
    ASSERT_TRUE(poll_until([&] { return messages_.size() == 1; }));
  }
  for (int i = 0; i < 3; ++i) {
    RawTcp replay(port());
    replay.send(script);
    EXPECT_TRUE(closes(replay));
  }
  EXPECT_TRUE(refused("belongs to no link that waits"));
  EXPECT_EQ(messages_.size(), 1U);
}

TEST_F(HostileData, AChangedRecordEndsTheConnection) {
  Script script(secret_);
  script.open();
  const std::size_t good = script.bytes.size();
  script.frame(FrameKind::kMessage, 1, text("changed"));
  script.bytes[good + kLengthBytes + 3] ^= 1;
  RawTcp tcp(port());
  tcp.send(script.bytes);
  EXPECT_TRUE(closes(tcp));
  EXPECT_TRUE(refused("not sealed by the device of this link"));
  EXPECT_TRUE(messages_.empty());
}

TEST_F(HostileData, LengthsAreCheckedBeforeAnythingIsAllocated) {
  const std::string lengths[] = {
      std::string("\0\0\0\0", 4), std::string("\x27\0\0\0", 4),         // shorter than a sealed frame header
      std::string("\0\0\0\x80", 4), std::string("\xff\xff\xff\xff", 4)  // 2 GB, 4 GB - 1
  };
  // Before the sender has proven itself, and after.
  for (const std::string& length : lengths) {
    RawTcp early(port());
    early.send(Script(secret_).bytes + length + std::string(100, 'x'));
    EXPECT_TRUE(closes(early));
  }
  EXPECT_TRUE(refused("a record of 2147483648 bytes, 40 to 56 are allowed"));
  RawTcp late(port());
  late.send(Script(secret_).open().bytes + lengths[2] + std::string(100, 'x'));
  EXPECT_TRUE(closes(late));
  EXPECT_TRUE(refused("a record of 2147483648 bytes, 40 to 1040 are allowed"));
  EXPECT_TRUE(messages_.empty());
}

TEST_F(HostileData, AMessageAboveTheLimitEndsTheConnection) {
  RawTcp tcp(port());
  Script script(secret_);
  tcp.send(script.open().frame(FrameKind::kMessage, 1, Bytes(1000)).bytes);
  ASSERT_TRUE(poll_until([&] { return messages_.size() == 1; }));
  const std::size_t before = script.bytes.size();
  tcp.send(script.frame(FrameKind::kMessage, 2, Bytes(1001)).bytes.substr(before));
  EXPECT_TRUE(closes(tcp));
  EXPECT_TRUE(refused("broke the rules of the data lane"));
  EXPECT_EQ(messages_.size(), 1U);
}

TEST_F(HostileData, ABrokenSequenceEndsTheWholeLink) {
  RawTcp tcp(port());
  tcp.send(Script(secret_).open().frame(FrameKind::kMessage, 7, text("x")).bytes);
  EXPECT_TRUE(closes(tcp));
  EXPECT_TRUE(refused("frame 7 where frame 1 was expected"));
  EXPECT_TRUE(client_->sees(ZMQ_EVENT_DISCONNECTED, kPatience, [&] { poll(); }))
      << "the control lane as well";
  EXPECT_TRUE(messages_.empty());
}

TEST_F(HostileData, TheFirstFrameMustOpenThisLink) {
  RawTcp message_first(port());
  message_first.send(Script(secret_).frame(FrameKind::kMessage, 0, text("x")).bytes);
  EXPECT_TRUE(closes(message_first));
  EXPECT_TRUE(refused("opening frame at the wrong place"));
}

TEST_F(HostileData, AnotherLinkInTheOpeningFrameIsRefused) {
  RawTcp tcp(port());
  tcp.send(Script(secret_).open({99, 1}).bytes);
  EXPECT_TRUE(closes(tcp));
  EXPECT_TRUE(refused("before the control lane of its link"));
}

TEST_F(HostileData, AKeyThatLeavesTheListLosesItsDataLane) {
  RawTcp tcp(port());
  tcp.send(Script(secret_).open().frame(FrameKind::kMessage, 1, text("x")).bytes);
  ASSERT_TRUE(poll_until([&] { return messages_.size() == 1; }));
  allow(*hub_, {});
  EXPECT_TRUE(closes(tcp));
  RawTcp again(port());
  again.send(Script(secret_).open().bytes);
  EXPECT_TRUE(closes(again));
}

TEST_F(HostileData, TheKeyOfADataLaneIsToldOnceAndOnTheControlLane) {
  client_->send_frame(FrameKind::kDataKey, 3, secret_);
  EXPECT_TRUE(refused("key of a data lane at the wrong place"));
  RawTcp tcp(port());
  tcp.send(Script(secret_).open().bytes);
  EXPECT_TRUE(closes(tcp)) << "the link has ended";
}

TEST_F(HostileData, RandomBytesAndOtherProtocolsAreClosed) {
  std::mt19937 random(1);
  for (int i = 0; i < 40; ++i) {
    RawTcp tcp(port());
    std::string bytes(40 + random() % 5000, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    if (i % 4 == 1) bytes = Script(secret_).bytes + bytes;
    if (i % 4 == 2) bytes = "GET / HTTP/1.1\r\nHost: localhost:1234\r\n\r\n" + bytes;
    if (i % 4 == 3) bytes = greeting("CURVE") + bytes;
    tcp.send(bytes);
    EXPECT_TRUE(closes(tcp)) << i;
  }
  EXPECT_TRUE(messages_.empty());
  expect_still_serving();
}

TEST_F(HostileData, SilenceAndHalfAPrologueAreClosedAfterTheHandshakeTime) {
  RawTcp silent(port()), half(port());
  half.send(Script(secret_).bytes.substr(0, 30));
  EXPECT_TRUE(closes(silent));
  EXPECT_TRUE(closes(half));
  EXPECT_TRUE(refused("stayed silent"));
}

TEST_F(HostileData, ConnectionsAreLimited) {
  std::vector<std::unique_ptr<RawTcp>> crowd;
  for (int i = 0; i < 40; ++i) crowd.push_back(std::make_unique<RawTcp>(port()));
  EXPECT_TRUE(refused("too many connections"));
  crowd.clear();
  // The places of those that left are free again.
  EXPECT_TRUE(poll_until([&] { return refusals_.size() >= 40; }));
  expect_still_serving();
}

}  // namespace
}  // namespace hearth::net
