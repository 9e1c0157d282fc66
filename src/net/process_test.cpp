// Peers in processes of their own: what a hub sees when one ends.
#include <gtest/gtest.h>

#include "net/testing/hub_helpers.h"
#include "net/testing/peer_process.h"

namespace hearth::net {
namespace {

using namespace testing;

void link_to(Hub& hub, const PeerProcess& peer) {
  const auto started = hub.connect(peer.key(), peer.address(), kPatience);
  ASSERT_TRUE(started) << started.error().message;
  EXPECT_EQ(wait_for<PeerUpEvent>(hub, {}).peer, peer.key());
}

TEST(Process, MessagesReachAnotherProcess) {
  auto hub = make_test_hub(new_keys());
  PeerProcess peer(hub->key());
  link_to(*hub, peer);
  Bytes message = text("hello over there");
  ASSERT_EQ(hub->send(peer.key(), Lane::kData, message), SendStatus::kSent);
  EXPECT_EQ(peer.read_line(), "hello over there");
}

TEST(Process, AKilledPeerIsGoneAtOnce) {
  auto hub = make_test_hub(new_keys());
  PeerProcess peer(hub->key());
  link_to(*hub, peer);
  peer.kill(SIGKILL);
  // The bound is what the cluster promises; on a closed connection it takes milliseconds.
  const auto gone = wait_for<PeerGoneEvent>(*hub, {}, std::chrono::seconds(5));
  EXPECT_EQ(gone.peer, peer.key());
  EXPECT_EQ(gone.reason.code, ErrorCode::kPeerGone);
}

TEST(Process, APeerKilledUnderLoadIsGoneAtOnce) {
  auto hub = make_test_hub(new_keys());
  PeerProcess peer(hub->key());
  link_to(*hub, peer);
  peer.kill(SIGSTOP);  // so that data piles up on the way
  SendStatus status = SendStatus::kSent;
  for (int i = 0; i < 5000 && status == SendStatus::kSent; ++i) {
    Bytes message(100'000, 'x');
    status = hub->send(peer.key(), Lane::kData, message);
  }
  EXPECT_EQ(status, SendStatus::kWouldBlock);
  peer.kill(SIGKILL);
  EXPECT_EQ(wait_for<PeerGoneEvent>(*hub, {}, std::chrono::seconds(5)).peer, peer.key());
}

TEST(Process, APeerThatEndsOnPurposeHasSentItsGoodbye) {
  // In the other direction: this process says goodbye and is destroyed right after.
  PeerProcess* started = nullptr;
  const KeyPair keys = new_keys();
  PeerProcess peer(keys.public_key());
  started = &peer;
  {
    auto hub = make_test_hub(keys);
    link_to(*hub, *started);
    Bytes goodbye = text("goodbye");
    ASSERT_EQ(hub->send(peer.key(), Lane::kControl, goodbye), SendStatus::kSent);
    hub->flush(peer.key(), kPatience);
  }
  EXPECT_EQ(peer.read_line(), "goodbye");
}

TEST(Process, ARestartedPeerIsANewLink) {
  auto hub = make_test_hub(new_keys());
  for (int i = 0; i < 3; ++i) {
    PeerProcess peer(hub->key());
    link_to(*hub, peer);
    peer.kill(SIGKILL);
    EXPECT_EQ(wait_for<PeerGoneEvent>(*hub, {}, std::chrono::seconds(5)).peer, peer.key());
  }
}

}  // namespace
}  // namespace hearth::net
