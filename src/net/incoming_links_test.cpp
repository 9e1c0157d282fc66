#include "net/incoming_links.h"

#include <string>

#include <gtest/gtest.h>

namespace hearth::net {
namespace {

using Action = IncomingLinks::Action;

class Incoming : public ::testing::Test {
 protected:
  static DeviceKey key(std::uint8_t n) {
    DeviceKey key;
    key.bytes[0] = n;
    return key;
  }
  static Bytes frame(FrameKind kind, std::uint64_t sequence, const Bytes& payload = {}) {
    Bytes bytes(kFrameHeaderBytes);
    write_header({kind, sequence}, std::span(bytes).first<kFrameHeaderBytes>());
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    return bytes;
  }
  static Bytes id_bytes(LinkId id) {
    Bytes bytes(kLinkIdBytes);
    write_link_id(id, std::span(bytes).first<kLinkIdBytes>());
    return bytes;
  }
  IncomingLinks::Outcome receive(Lane lane, const std::string& connection, const Bytes& bytes,
                                 std::size_t parts = 1) {
    return links_.receive(lane, connection, kPeer, parts, bytes);
  }
  IncomingLinks::Outcome open(Lane lane, const std::string& connection, LinkId id) {
    return receive(lane, connection, frame(FrameKind::kOpen, 0, id_bytes(id)));
  }
  IncomingLinks::Outcome message(Lane lane, const std::string& connection, std::uint64_t sequence,
                                 const Bytes& payload = {1}) {
    return receive(lane, connection, frame(FrameKind::kMessage, sequence, payload));
  }
  // The connections closed since the last look, as "lane:id" text.
  std::string closed() {
    std::string text;
    for (const auto& closing : links_.take_closings())
      text += std::string(closing.lane == Lane::kControl ? "c:" : "d:") + closing.connection + " ";
    return text;
  }
  void expect_violation(const IncomingLinks::Outcome& outcome, std::string_view what) {
    EXPECT_EQ(outcome.action, Action::kNothing);
    ASSERT_TRUE(outcome.violation);
    EXPECT_EQ(outcome.violation->code, ErrorCode::kProtocol);
    EXPECT_TRUE(outcome.violation->message.contains(what)) << outcome.violation->message;
    EXPECT_TRUE(outcome.violation->message.contains(kPeer.short_hex())) << outcome.violation->message;
  }

  const DeviceKey kPeer = key(1);
  IncomingLinks links_{IncomingLinks::Limits{.max_bytes = {100, 1000}, .max_closed = 4}};
};

TEST_F(Incoming, DeliversInSequence) {
  EXPECT_EQ(open(Lane::kControl, "a", {7, 1}).action, Action::kNothing);
  EXPECT_EQ(open(Lane::kData, "b", {7, 1}).action, Action::kNothing);
  for (std::uint64_t i = 1; i < 5; ++i) {
    EXPECT_EQ(message(Lane::kControl, "a", i).action, Action::kDeliver);
    EXPECT_EQ(message(Lane::kData, "b", i).action, Action::kDeliver);
  }
  EXPECT_EQ(links_.connected_keys(), std::set<DeviceKey>{kPeer});
  EXPECT_EQ(closed(), "");
}

TEST_F(Incoming, AFlushIsAnsweredWithItsNumber) {
  (void)open(Lane::kControl, "a", {7, 1});
  (void)message(Lane::kControl, "a", 1);
  const auto outcome = receive(Lane::kControl, "a", frame(FrameKind::kFlush, 2));
  EXPECT_EQ(outcome.action, Action::kAnswerFlush);
  EXPECT_EQ(outcome.sequence, 2U);
  expect_violation(receive(Lane::kControl, "a", frame(FrameKind::kFlush, 3, {1})),
                   "flush frame with contents");
}

TEST_F(Incoming, EveryRuleBreakClosesBothLanes) {
  struct Case {
    const char* name;
    Bytes bytes;
    std::size_t parts;
    const char* what;
  };
  const Case cases[] = {
      {"replay", frame(FrameKind::kMessage, 1, {1}), 1, "frame 1 where frame 2"},
      {"gap", frame(FrameKind::kMessage, 3, {1}), 1, "frame 3 where frame 2"},
      {"far future", frame(FrameKind::kMessage, kMaxSequence, {1}), 1, "where frame 2"},
      {"opened again", frame(FrameKind::kOpen, 2, id_bytes({7, 1})), 1, "opening frame"},
      {"restarted", frame(FrameKind::kOpen, 0, id_bytes({7, 1})), 1, "frame 0 where frame 2"},
      {"answers", frame(FrameKind::kFlushed, 2), 1, "only receivers send"},
      {"closes", frame(FrameKind::kClosed, 2), 1, "only receivers send"},
      {"two parts", frame(FrameKind::kMessage, 2, {1}), 2, "2 parts"},
      {"no payload part", {}, 0, "0 parts"},
      {"empty", {}, 1, "no frame"},
      {"7 bytes", Bytes(7), 1, "no frame"},
      {"unknown kind", Bytes(8, 0xff), 1, "no frame"},
      {"too large", frame(FrameKind::kMessage, 2, Bytes(101)), 1, "101 bytes"},
  };
  int n = 0;
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    const std::string control = "c" + std::to_string(n), data = "d" + std::to_string(n);
    const LinkId id{7, static_cast<std::uint64_t>(++n)};
    (void)open(Lane::kControl, control, id);
    (void)open(Lane::kData, data, id);
    (void)closed();
    ASSERT_EQ(message(Lane::kControl, control, 1).action, Action::kDeliver);
    expect_violation(receive(Lane::kControl, control, test.bytes, test.parts), test.what);
    EXPECT_EQ(closed(), "c:" + control + " d:" + data + " ");
    EXPECT_EQ(message(Lane::kControl, control, 2).action, Action::kNothing) << "closed: dropped in silence";
    EXPECT_EQ(message(Lane::kData, data, 1).action, Action::kNothing);
    EXPECT_EQ(closed(), "");
  }
}

TEST_F(Incoming, AConnectionMustBeginWithAnOpeningFrame) {
  expect_violation(message(Lane::kControl, "a", 0), "opening frame");
  expect_violation(message(Lane::kControl, "b", 1), "frame 1 where frame 0");
  expect_violation(receive(Lane::kControl, "c", frame(FrameKind::kOpen, 0, {1, 2})), "without a link id");
}

TEST_F(Incoming, TheLargestAllowedMessagePasses) {
  (void)open(Lane::kControl, "a", {7, 1});
  (void)open(Lane::kData, "b", {7, 1});
  EXPECT_EQ(message(Lane::kControl, "a", 1, Bytes(100)).action, Action::kDeliver);
  EXPECT_EQ(message(Lane::kData, "b", 1, Bytes(1000)).action, Action::kDeliver);
  EXPECT_TRUE(message(Lane::kData, "b", 2, Bytes(1001)).violation);
}

TEST_F(Incoming, ADataLaneOpensAfterTheControlLaneOfItsLink) {
  expect_violation(open(Lane::kData, "b", {7, 1}), "before the control lane of its link");
  EXPECT_EQ(closed(), "d:b ");
  EXPECT_EQ(message(Lane::kData, "b", 1).action, Action::kNothing) << "closed: dropped in silence";
}

TEST_F(Incoming, ANewerLinkSupersedesBothLanesOfTheOlder) {
  (void)open(Lane::kControl, "a", {7, 1});
  (void)open(Lane::kData, "b", {7, 1});
  (void)open(Lane::kControl, "c", {7, 2});
  EXPECT_EQ(closed(), "c:a d:b ");
  EXPECT_EQ(message(Lane::kControl, "a", 1).action, Action::kNothing);
  EXPECT_EQ(message(Lane::kData, "b", 1).action, Action::kNothing);
  EXPECT_EQ(message(Lane::kControl, "c", 1).action, Action::kDeliver);
}

TEST_F(Incoming, ALateLaneOfAnOlderLinkIsClosed) {
  (void)open(Lane::kControl, "new", {7, 2});
  EXPECT_FALSE(open(Lane::kControl, "old", {7, 1}).violation) << "its sender did nothing wrong";
  EXPECT_FALSE(open(Lane::kData, "olddata", {7, 1}).violation);
  EXPECT_EQ(closed(), "c:old d:olddata ");
  EXPECT_EQ(message(Lane::kControl, "new", 1).action, Action::kDeliver);
}

TEST_F(Incoming, ARestartedPeerHasAnotherInstanceWhateverItsCounter) {
  (void)open(Lane::kControl, "a", {7, 50});
  (void)open(Lane::kControl, "b", {3, 1});
  EXPECT_EQ(closed(), "c:a ");
  EXPECT_EQ(message(Lane::kControl, "b", 1).action, Action::kDeliver);
  (void)open(Lane::kData, "late", {7, 50});  // of the process that ended
  EXPECT_EQ(closed(), "d:late ");
}

TEST_F(Incoming, TheDataLaneOfANewerLinkThatIsNotCurrentEndsBoth) {
  (void)open(Lane::kControl, "a", {7, 1});
  (void)open(Lane::kData, "b", {7, 1});
  expect_violation(open(Lane::kData, "newdata", {7, 2}), "before the control lane of its link");
  EXPECT_EQ(closed(), "d:newdata c:a d:b ");
}

TEST_F(Incoming, OpeningALaneOfOneLinkTwiceIsForged) {
  (void)open(Lane::kControl, "a", {7, 1});
  expect_violation(open(Lane::kControl, "b", {7, 1}), "twice");
}

TEST_F(Incoming, KeysDoNotDisturbEachOther) {
  const DeviceKey other = key(2);
  (void)open(Lane::kControl, "a", {7, 1});
  (void)links_.receive(Lane::kControl, "o", other, 1, frame(FrameKind::kOpen, 0, id_bytes({7, 9})));
  expect_violation(message(Lane::kControl, "a", 9), "where frame 1");
  EXPECT_EQ(links_.receive(Lane::kControl, "o", other, 1, frame(FrameKind::kMessage, 1)).action,
            Action::kDeliver);
  EXPECT_EQ(links_.connected_keys(), std::set<DeviceKey>{other});
}

TEST_F(Incoming, AConnectionCannotChangeItsKey) {
  (void)open(Lane::kControl, "a", {7, 1});
  const auto outcome = links_.receive(Lane::kControl, "a", key(2), 1, frame(FrameKind::kMessage, 1));
  EXPECT_TRUE(outcome.violation);
  EXPECT_EQ(closed(), "c:a ");
}

TEST_F(Incoming, ClosingAKeyClosesItsConnectionsAndItsLinkNeverComesBack) {
  (void)open(Lane::kControl, "a", {7, 1});
  (void)open(Lane::kData, "b", {7, 1});
  links_.close_key(kPeer, {ErrorCode::kUnauthorized, "removed"});
  const auto closings = links_.take_closings();
  ASSERT_EQ(closings.size(), 2U);
  EXPECT_EQ(closings[0].reason.code, ErrorCode::kUnauthorized);
  EXPECT_TRUE(links_.connected_keys().empty());
  (void)open(Lane::kData, "late", {7, 1});
  EXPECT_EQ(closed(), "d:late ");
}

TEST_F(Incoming, RefusedConnectionsAreClosedOnceAndForgottenInTheEnd) {
  for (int i = 0; i < 10; ++i) {
    const std::string id = std::to_string(i);
    links_.refuse(Lane::kControl, id, kPeer, {ErrorCode::kUnauthorized, "no"}, i);
    links_.refuse(Lane::kControl, id, kPeer, {ErrorCode::kUnauthorized, "no"}, i);
    const auto closings = links_.take_closings();
    ASSERT_EQ(closings.size(), 1U);
    EXPECT_EQ(closings[0].tag, i);
  }
  // 4 are remembered: the 6th is still silent, the first would be closed again.
  EXPECT_FALSE(message(Lane::kControl, "6", 1).violation);
  EXPECT_TRUE(message(Lane::kControl, "0", 1).violation);
}

}  // namespace
}  // namespace hearth::net
