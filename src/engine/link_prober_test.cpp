#include "engine/link_prober.h"

#include <chrono>
#include <map>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/test_plan.h"
#include "engine/test_session.h"

namespace hearth::engine {
namespace {

using ::testing::IsEmpty;
using namespace std::chrono_literals;
using std::chrono::microseconds;

constexpr std::uint64_t kFirst = 100;

class Prober : public ::testing::Test {
 protected:
  static LinkProber probe(const std::vector<int>& devices, Actions& out) {
    std::vector<DeviceKey> peers;
    for (const int device : devices) peers.push_back(test_key(device));
    return {peers, kFirst, kStart, out};
  }
  void reply(LinkProber& prober, int from, std::uint64_t id) {
    actions.clear();
    prober.on_reply(test_key(from), wire::ProbeReply{id}, now, actions);
  }
  // The one probe that was sent.
  std::pair<DeviceKey, wire::Probe> asked() const {
    const auto probes = sent<wire::Probe>(actions);
    EXPECT_EQ(probes.size(), 1u);
    return probes.empty() ? std::pair<DeviceKey, wire::Probe>{} : probes.front();
  }
  // Answers what was asked, each after its time.
  void play(LinkProber& prober, const std::vector<microseconds>& trips) {
    for (const microseconds trip : trips) {
      const auto [peer, probe] = asked();
      now += trip;
      actions.clear();
      prober.on_reply(peer, wire::ProbeReply{probe.id}, now, actions);
    }
  }
  void play_steadily(LinkProber& prober) { play(prober, std::vector<microseconds>(9, 1000us)); }

  TimePoint now = kStart;
  Actions actions;
};

TEST_F(Prober, TakesHalfTheMedianOfSmallOnesAndTheRateOfLargeOnes) {
  LinkProber prober = probe({1, 2}, actions);
  EXPECT_EQ(asked().first, test_key(1));
  EXPECT_EQ(asked().second, (wire::Probe{kFirst, 32768}));  // warms up
  play(prober, {90ms});
  EXPECT_EQ(asked().second, (wire::Probe{kFirst + 1, 0}));
  play(prober, {4ms, 900ms, 3ms, 5ms, 2ms});
  EXPECT_EQ(asked().second, (wire::Probe{kFirst + 6, 32768}));
  EXPECT_THAT(prober.links(), IsEmpty());
  play(prober, {300ms, 10ms, 20ms});
  EXPECT_EQ(asked().first, test_key(2));
  ASSERT_EQ(prober.links().size(), 1u);
  // Medians of 2 3 4 5 900 and of 10 20 300: 32 KiB take 16 ms longer.
  EXPECT_DOUBLE_EQ(prober.links().at(test_key(1)).latency_s, 0.002);
  EXPECT_DOUBLE_EQ(prober.links().at(test_key(1)).bytes_per_s, 2048000);
  EXPECT_FALSE(prober.done());
  play_steadily(prober);
  EXPECT_TRUE(prober.done());
  EXPECT_THAT(actions, IsEmpty());
  // As fast as small ones: without limit.
  EXPECT_EQ(prober.links().at(test_key(2)), (plan::LinkProfile{.latency_s = 0.0005, .bytes_per_s = 0}));
}

TEST_F(Prober, IgnoresWhatItDidNotAskFor) {
  LinkProber prober = probe({1, 2}, actions);
  for (const std::uint64_t id : {kFirst - 1, kFirst + 1, std::uint64_t{0}, ~std::uint64_t{0}}) {
    reply(prober, 1, id);
    EXPECT_THAT(actions, IsEmpty()) << id;
  }
  reply(prober, 2, kFirst);  // another device's
  EXPECT_THAT(actions, IsEmpty());
  reply(prober, 1, kFirst);
  EXPECT_EQ(asked().second.id, kFirst + 1);
  reply(prober, 1, kFirst);  // again
  EXPECT_THAT(actions, IsEmpty());
}

TEST_F(Prober, LeavesOutWhoDoesNotAnswerInTime) {
  LinkProber prober = probe({1, 2, 3}, actions);
  now += 1400ms;
  actions.clear();
  prober.tick(now, actions);
  EXPECT_THAT(actions, IsEmpty());
  now += 100ms;
  prober.tick(now, actions);
  EXPECT_EQ(asked(), (std::pair{test_key(2), wire::Probe{kFirst + 1, 32768}}));
  const Actions to_second = actions;
  reply(prober, 1, kFirst);  // late
  EXPECT_THAT(actions, IsEmpty());
  // Half of the answers, then silence; the answer comes before the tick that would have seen it.
  actions = to_second;
  play(prober, {1ms, 1ms, 1ms, 1ms, 2000ms});
  EXPECT_EQ(asked().first, test_key(3));
  play_steadily(prober);
  EXPECT_TRUE(prober.done());
  ASSERT_EQ(prober.links().size(), 1u);
  EXPECT_TRUE(prober.links().contains(test_key(3)));
  now += 10s;
  prober.tick(now, actions);
  reply(prober, 3, prober.next_id() - 1);
  EXPECT_THAT(actions, IsEmpty());
}

TEST_F(Prober, GoesOnWithoutThoseWhoseLinkIsDown) {
  LinkProber prober = probe({1, 2, 3, 4}, actions);
  actions.clear();
  prober.on_gone(test_key(3), now, actions);  // later in the list
  prober.on_gone(test_key(7), now, actions);  // nobody's
  EXPECT_THAT(actions, IsEmpty());
  prober.on_gone(test_key(1), now, actions);  // now
  EXPECT_EQ(asked().first, test_key(2));
  play_steadily(prober);
  EXPECT_EQ(asked().first, test_key(4));
  const Actions to_last = actions;
  actions.clear();
  prober.on_gone(test_key(2), now, actions);  // it was measured
  EXPECT_THAT(actions, IsEmpty());
  EXPECT_EQ(prober.links().size(), 1u);
  prober.on_gone(test_key(4), now, actions);
  EXPECT_TRUE(prober.done());
  EXPECT_THAT(actions, IsEmpty());
}

TEST_F(Prober, HasNothingToDoWithoutPeers) {
  const LinkProber prober = probe({}, actions);
  EXPECT_TRUE(prober.done());
  EXPECT_THAT(actions, IsEmpty());
}

TEST(LinkReports, KeepNanosecondsAndBytes) {
  EXPECT_EQ(to_wire(3, {.latency_s = 0.0021, .bytes_per_s = 38'750'000.4}),
            (wire::MeasuredLink{3, 2'100'000, 38'750'000}));
  EXPECT_EQ(to_wire(0, {.latency_s = 60, .bytes_per_s = 1e30}),
            (wire::MeasuredLink{0, 10'000'000'000, std::uint64_t{1} << 56}));
  EXPECT_EQ(link_of(wire::MeasuredLink{3, 2'100'000, 0}),
            (plan::LinkProfile{.latency_s = 0.0021, .bytes_per_s = 0}));
}

}  // namespace
}  // namespace hearth::engine
