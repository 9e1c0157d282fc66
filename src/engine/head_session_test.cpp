#include "engine/head_session.h"

#include <array>
#include <chrono>
#include <format>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/test_plan.h"
#include "engine/test_session.h"

namespace hearth::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using namespace std::chrono_literals;

class Head : public ::testing::Test {
 protected:
  Head() : session(options(2)) {}

  static HeadOptions options(int n_workers) {
    HeadOptions options{.key = test_key(0), .name = "head", .version = "0.1.0", .model = test_model()};
    for (int i = 1; i <= n_workers; ++i) {
      auto address = test_address(i);
      address.data_port = 0;
      auto head_address = test_address(0);
      head_address.host = std::format("192.168.{}.1", i);
      options.workers.push_back({test_key(i), address, head_address});
    }
    return options;
  }
  static wire::Welcome welcome(int device) {
    return {.version = "0.1.0",
            .name = test_name(device),
            .data_port = test_address(device).data_port,
            .model = test_model(),
            .memory_bytes = static_cast<std::uint64_t>(device) << 30,
            .n_threads = 2};
  }
  void receive(int from, const wire::ControlMessage& message) {
    actions = session.on_control(test_key(from), message, now);
  }
  void up(int peer) { actions = session.on_peer_up(test_key(peer), now); }
  void gone(int peer) {
    actions = session.on_peer_gone(test_key(peer), Error{ErrorCode::kPeerGone, "closed by the test"}, now);
  }
  void meet(int device) {
    up(device);
    receive(device, welcome(device));
    up(device);
  }
  void meet_all() {
    actions = session.start(now).value();
    meet(1);
    meet(2);
    ASSERT_EQ(session.state(), HeadSession::State::kMet);
  }
  static plan::Plan plan() {
    return {.n_layer = 6,
            .devices = {"head", "worker1", "worker2"},
            .steps = {{0, {0, 2}}, {1, {2, 4}}, {2, {4, 6}}}};
  }
  void activate() {
    actions = session.prepare(plan(), {}, now).value();
    const auto epoch = session.last_epoch();
    receive(1, wire::Ready{epoch, 1, 1, 1});
    receive(2, wire::Ready{epoch, 1, 1, 1});
    actions = session.on_loaded(epoch, LoadReport{}, now);
    ASSERT_EQ(all<ActivateEpoch>(actions).size(), 1u);
  }
  // Answers what `peer` is asked now and next, each after `trip`.
  void answer_probes(int peer, Milliseconds trip) {
    for (auto probes = sent<wire::Probe>(actions); !probes.empty() && probes[0].first == test_key(peer);
         probes = sent<wire::Probe>(actions)) {
      now += trip;
      receive(peer, wire::ProbeReply{probes[0].second.id});
    }
  }
  void pass(Milliseconds time, const std::vector<int>& alive, Progress progress = {},
            std::uint32_t in_flight = 0) {
    actions.clear();
    for (Milliseconds t{0}; t < time; t += 100ms) {
      now += 100ms;
      for (const int peer : alive)
        for (Action& action : session.on_control(test_key(peer), wire::Heartbeat{}, now))
          actions.push_back(action);
      for (Action& action : session.tick(progress, in_flight, now)) actions.push_back(action);
    }
  }
  std::string failure() const {
    const auto failures = all<SessionFailed>(actions);
    return failures.size() == 1 ? failures[0].error.message : std::format("{} failures", failures.size());
  }

  TimePoint now = kStart;
  HeadSession session;
  Actions actions;
};

TEST_F(Head, MeetsAllWorkers) {
  actions = session.start(now).value();
  EXPECT_THAT(all<Allow>(actions)[0].keys, UnorderedElementsAre(test_key(1), test_key(2)));
  ASSERT_EQ(all<Connect>(actions).size(), 2u);
  EXPECT_EQ(all<Connect>(actions)[0].address.data_port, 0);
  up(1);
  const auto greeting = sent<wire::Hello>(actions);
  ASSERT_EQ(greeting.size(), 1u);
  EXPECT_EQ(greeting[0].second.address.host, "192.168.1.1");
  receive(1, welcome(1));
  ASSERT_EQ(all<Connect>(actions).size(), 1u);
  EXPECT_EQ(all<Connect>(actions)[0].address, test_address(1));
  up(1);
  EXPECT_EQ(session.state(), HeadSession::State::kContacting);
  EXPECT_FALSE(session.prepare(plan(), {}, now));
  meet(2);
  EXPECT_EQ(all<AllWelcome>(actions).size(), 1u);
  ASSERT_EQ(session.workers().size(), 2u);
  EXPECT_EQ(session.workers()[1].memory_bytes, 2u << 30);
  EXPECT_EQ(session.workers()[1].address, test_address(2));
}

TEST_F(Head, KnowsWhatAWorkerMeasured) {
  actions = session.start(now).value();
  auto measured = welcome(1);
  measured.passes = {{1, 2'000'000'000, 250}, {64, 1'500'000'000, 0}};
  measured.disk_bytes_per_s = 100'000'000;
  measured.disk_spread_per_10k = 1200;
  up(1);
  receive(1, measured);
  const DeviceSpeed expected = {
      .cpu = {.passes = {{1, 2e9, 0.025}, {64, 1.5e9, 0}}}, .disk_bytes_per_s = 1e8, .disk_spread = 0.12};
  ASSERT_EQ(session.workers().size(), 1u);
  EXPECT_EQ(session.workers()[0].speed, expected);
}

TEST_F(Head, AloneItIsARingOfOne) {
  HeadSession alone(options(0));
  EXPECT_EQ(all<AllWelcome>(alone.start(now).value()).size(), 1u);
  const plan::Plan one{.n_layer = 3, .devices = {"head"}, .steps = {{0, {0, 3}}}};
  ASSERT_TRUE(alone.prepare(one, {}, now));
  const auto loaded = alone.on_loaded(1, LoadReport{}, now);
  EXPECT_EQ(all<ActivateEpoch>(loaded).size(), 1u);
  EXPECT_TRUE(alone.is_active(1));
}

TEST_F(Head, RefusesOneIdentityTwice) {
  auto twice = options(2);
  twice.workers[1].key = test_key(1);
  const auto started = HeadSession(twice).start(now);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("two devices with one identity"));
  auto own = options(1);
  own.workers[0].key = test_key(0);
  EXPECT_FALSE(HeadSession(own).start(now));

  actions = session.start(now).value();
  meet(1);
  up(2);
  auto same_name = welcome(2);
  same_name.name = "worker1";
  receive(2, same_name);
  EXPECT_THAT(failure(),
              HasSubstr("two devices have the identity worker1 (10.0.0.2:7001) and worker1 (10.0.0.3:7002)"));
  EXPECT_EQ(session.state(), HeadSession::State::kFailed);
}

TEST_F(Head, RefusesAnotherVersionOrModel) {
  actions = session.start(now).value();
  up(1);
  auto other = welcome(1);
  other.major = 2;
  receive(1, other);
  EXPECT_THAT(failure(), HasSubstr("worker1 speaks protocol 2.0"));
}

TEST_F(Head, GreetsAgainWhenAWorkerRestartsBeforeItsWelcome) {
  actions = session.start(now).value();
  up(1);
  gone(1);
  EXPECT_THAT(all<SessionFailed>(actions), IsEmpty());
  pass(300ms, {});
  EXPECT_EQ(all<Connect>(actions).size(), 1u);
  up(1);
  EXPECT_EQ(sent<wire::Hello>(actions).size(), 1u);
}

TEST_F(Head, TellsWhoSentWhatCannotBeRead) {
  actions = session.start(now).value();
  up(1);
  actions = session.on_unreadable(test_key(1),
                                  Error{ErrorCode::kVersionMismatch, "the peer speaks version 2"}, now);
  EXPECT_THAT(failure(), HasSubstr("(10.0.0.2:7001): the peer speaks version 2"));
}

TEST_F(Head, SaysWhatAWorkerRefused) {
  actions = session.start(now).value();
  up(1);
  receive(1, wire::Refuse{ErrorCode::kModelMismatch, "other model"});
  EXPECT_THAT(failure(), HasSubstr("(10.0.0.2:7001) refuses: other model"));
  EXPECT_EQ(all<SessionFailed>(actions)[0].error.code, ErrorCode::kModelMismatch);
}

TEST_F(Head, NamesThoseThatDoNotAnswer) {
  actions = session.start(now).value();
  up(2);
  gone(1);  // tried again
  pass(20s, {});
  EXPECT_THAT(failure(), HasSubstr("2 of 2 devices did not join within 15 s"));
  EXPECT_THAT(failure(), HasSubstr("(10.0.0.2:7001) cannot be reached: closed by the test"));
  EXPECT_THAT(failure(), HasSubstr("(10.0.0.3:7002) does not answer"));
  EXPECT_EQ(all<SessionFailed>(actions)[0].error.code, ErrorCode::kTimeout);
}

TEST_F(Head, KeepsAsManyBatchesInTheRingAsPayAndFit) {
  struct Case {
    std::array<LoadReport, 3> reports;
    std::uint32_t expected;
  };
  const auto report = [](std::uint32_t max_batches, std::uint32_t max_group) {
    return LoadReport{.max_batches = max_batches, .max_group = max_group};
  };
  const Case cases[] = {
      {{report(64, 1), report(64, 1), report(64, 1)}, 4},    // three steps, and one on the way back
      {{report(64, 1), report(2, 1), report(64, 1)}, 2},     // all that fits into one of them
      {{report(64, 1), report(64, 5), report(64, 3)}, 10},   // the largest group twice
      {{report(19, 8), report(64, 1), report(13, 5)}, 13},   // as much of it as fits
      {{report(9, 3), report(64, 1), report(64, 1024)}, 9},  // whatever is said
  };
  meet_all();
  for (const Case& c : cases) {
    actions = session.prepare(plan(), {}, now).value();
    const auto epoch = session.last_epoch();
    for (const int i : {1, 2})
      receive(i, wire::Ready{.epoch = epoch,
                             .max_batches = c.reports[static_cast<std::size_t>(i)].max_batches,
                             .max_group = c.reports[static_cast<std::size_t>(i)].max_group});
    actions = session.on_loaded(epoch, c.reports[0], now);
    ASSERT_EQ(all<ActivateEpoch>(actions).size(), 1u);
    EXPECT_EQ(all<ActivateEpoch>(actions)[0].max_in_flight, c.expected);
    actions = session.retire(epoch, "the next case", now);
  }
}

// What the workers 1, 2 measured, from each to the head and to the other one.
wire::LinkReport report_of(int worker, std::uint32_t id, std::uint64_t latency_ns) {
  return {id, {{0, latency_ns, 1000}, {static_cast<std::uint16_t>(3 - worker), latency_ns + 1, 2000}}};
}

plan::LinkProfile link(double latency_s, double bytes_per_s) {
  return {.latency_s = latency_s, .bytes_per_s = bytes_per_s};
}

TEST_F(Head, MeasuresAllLinksOneDeviceAfterTheOther) {
  EXPECT_FALSE(session.measure_links(now));  // nobody is met
  meet_all();
  EXPECT_THAT(session.links(), IsEmpty());
  actions = session.measure_links(now).value();
  EXPECT_THAT(sent<wire::Measure>(actions), IsEmpty());
  answer_probes(1, 2ms);
  EXPECT_THAT(sent<wire::Measure>(actions), IsEmpty());
  answer_probes(2, 4ms);
  auto measures = sent<wire::Measure>(actions);  // to connect
  ASSERT_EQ(measures.size(), 2u);
  for (const std::size_t i : {0u, 1u}) {
    EXPECT_EQ(measures[i].first, test_key(static_cast<int>(i) + 1));
    EXPECT_EQ(measures[i].second.time_ms, 0u);
    ASSERT_EQ(measures[i].second.members.size(), 3u);
    EXPECT_EQ(measures[i].second.members[0].key, test_key(0));
    EXPECT_EQ(measures[i].second.members[0].address.host, std::format("192.168.{}.1", i + 1));
    EXPECT_EQ(measures[i].second.members[2].address, test_address(2));
  }
  receive(2, wire::LinkReport{measures[1].second.id, {}});
  EXPECT_THAT(actions, IsEmpty());
  receive(1, wire::LinkReport{measures[0].second.id, {}});
  measures = sent<wire::Measure>(actions);
  ASSERT_EQ(measures.size(), 1u);
  EXPECT_EQ(measures[0].first, test_key(1));
  EXPECT_GT(measures[0].second.time_ms, 3000u);  // half of what is left, and some of it for the way
  EXPECT_FALSE(session.prepare(plan(), {}, now));
  receive(1, report_of(1, measures[0].second.id, 3'000'000));
  measures = sent<wire::Measure>(actions);
  ASSERT_EQ(measures.size(), 1u);
  EXPECT_EQ(measures[0].first, test_key(2));
  EXPECT_THAT(session.links(), IsEmpty());
  receive(2, report_of(2, measures[0].second.id, 5'000'000));
  EXPECT_EQ(all<LinksMeasured>(actions).size(), 1u);
  const LinkMatrix expected = {{std::nullopt, link(0.001, 0), link(0.002, 0)},
                               {link(0.003, 1000), std::nullopt, link(0.003000001, 2000)},
                               {link(0.005, 1000), link(0.005000001, 2000), std::nullopt}};
  EXPECT_EQ(session.links(), expected);
  EXPECT_EQ(all<Log>(actions).size(), 6u);
  EXPECT_EQ(all<Log>(actions)[0].text, "head -> worker1: 1.0 ms, too fast to tell its rate");
  EXPECT_EQ(all<Log>(actions)[2].text, "worker1 -> head: 3.0 ms, 0.0 Mbit/s");
  for (const Log& line : all<Log>(actions)) EXPECT_EQ(line.level, LogLevel::kDebug);
  activate();
  EXPECT_FALSE(session.measure_links(now));  // beside a plan
}

TEST_F(Head, LeavesOutLinksThatAreNotMeasuredInTime) {
  meet_all();
  actions = session.measure_links(now).value();
  Actions everything;
  answer_probes(1, 2ms);
  for (int i = 0; i < 100 && all<LinksMeasured>(everything).empty(); ++i) {
    pass(100ms, {1, 2});
    everything.insert(everything.end(), actions.begin(), actions.end());
  }
  EXPECT_EQ(all<LinksMeasured>(everything).size(), 1u);
  EXPECT_LE(now - kStart, 10s);
  EXPECT_EQ(sent<wire::Measure>(everything).size(), 4u);
  const LinkMatrix none(3, std::vector<std::optional<plan::LinkProfile>>(3));
  LinkMatrix expected = none;
  expected[0][1] = link(0.001, 0);
  EXPECT_EQ(session.links(), expected);
  std::vector<std::string> warnings;
  for (const Log& line : all<Log>(everything))
    if (line.level == LogLevel::kWarning) warnings.push_back(line.text);
  EXPECT_THAT(
      warnings,
      ElementsAre("not measured in time: the links head -> worker2, worker1 -> head, worker1 -> worker2, "
                  "worker2 -> head and 1 more; a plan assumes 3.0 ms, 160 Mbit/s"));
  // What comes now changes nothing.
  const auto last = sent<wire::Measure>(everything)[3].second.id;
  receive(2, report_of(2, last, 5));
  EXPECT_THAT(actions, IsEmpty());
  EXPECT_EQ(session.links(), expected);
  activate();
}

TEST_F(Head, MeasuresNothingWithoutWorkers) {
  HeadSession alone(options(0));
  (void)alone.start(now).value();
  EXPECT_EQ(all<LinksMeasured>(alone.measure_links(now).value()).size(), 1u);
  EXPECT_EQ(alone.links(), LinkMatrix{{std::nullopt}});
}

TEST_F(Head, MeasuresAnewOnDemand) {
  meet_all();
  actions = session.measure_links(now).value();
  answer_probes(1, 2ms);
  answer_probes(2, 2ms);
  const auto old = sent<wire::Measure>(actions)[0].second.id;
  actions = session.measure_links(now).value();
  EXPECT_EQ(sent<wire::Probe>(actions).size(), 1u);
  const Actions asked = actions;
  receive(1, wire::LinkReport{old, {}});
  EXPECT_THAT(actions, IsEmpty());
  actions = asked;
  answer_probes(1, 2ms);
  answer_probes(2, 2ms);
  ASSERT_EQ(sent<wire::Measure>(actions).size(), 2u);
  EXPECT_GT(sent<wire::Measure>(actions)[0].second.id, old + 1);
}

TEST_F(Head, AWorkerThatIsLostOrBreaksTheRulesWhileMeasuringEndsTheSession) {
  for (int how = 0; how < 6; ++how) {
    session = HeadSession(options(2));
    meet_all();
    if (how < 5) {
      actions = session.measure_links(now).value();
      answer_probes(1, 2ms);
      answer_probes(2, 2ms);
    }
    const auto id = how == 5 ? 1 : sent<wire::Measure>(actions)[1].second.id;
    if (how == 0) gone(2);
    if (how == 1) receive(2, wire::Goodbye{"stopped by the user"});
    if (how == 2) receive(2, wire::LinkReport{id + 1, {}});       // of what was not asked
    if (how == 3) receive(2, wire::LinkReport{id, {{2, 1, 1}}});  // to itself
    if (how == 4) receive(2, wire::LinkReport{id, {{3, 1, 1}}});  // to nobody
    if (how == 5) receive(2, wire::LinkReport{id, {}});           // without any Measure
    EXPECT_THAT(failure(), HasSubstr("worker2 (10.0.0.3:7002)")) << how;
    EXPECT_EQ(session.state(), HeadSession::State::kFailed);
    pass(11s, {1});
    EXPECT_THAT(all<LinksMeasured>(actions), IsEmpty());
    EXPECT_FALSE(session.measure_links(now));
  }
}

TEST_F(Head, AnswersProbesOfItsWorkers) {
  actions = session.start(now).value();
  up(1);
  receive(1, wire::Probe{5, 0});
  EXPECT_THAT(all<Send>(actions), IsEmpty());  // before its Welcome
  meet(2);
  receive(2, wire::Probe{1ull << 40, 0});
  ASSERT_EQ(sent<wire::ProbeReply>(actions).size(), 1u);
  EXPECT_EQ(sent<wire::ProbeReply>(actions)[0], (std::pair{test_key(2), wire::ProbeReply{1ull << 40}}));
  receive(7, wire::Probe{5, 0});
  EXPECT_THAT(actions, IsEmpty());
  receive(2, wire::ProbeReply{5});  // nobody asked
  EXPECT_THAT(actions, IsEmpty());
}

TEST_F(Head, AnswersAFloodOfProbesInPart) {
  meet_all();
  const auto answers = [&](int worker, int n_probes) {
    std::size_t n = 0;
    for (int i = 0; i < n_probes; ++i) {
      receive(worker, wire::Probe{5, 0});
      n += sent<wire::ProbeReply>(actions).size();
    }
    return n;
  };
  EXPECT_EQ(answers(2, 1000), 64u);
  EXPECT_EQ(answers(1, 9), 9u);
  pass(100ms, {1, 2});
  EXPECT_EQ(answers(2, 1000), 64u);
}

TEST_F(Head, ActivatesWhenEverybodyIsReady) {
  meet_all();
  actions = session.prepare(plan(), {.n_ctx = 77}, now).value();
  const auto plans = sent<wire::Prepare>(actions);
  ASSERT_EQ(plans.size(), 2u);
  EXPECT_EQ(plans[0].second.members[0].address.host, "192.168.1.1");
  EXPECT_EQ(plans[1].second.members[0].address.host, "192.168.2.1");
  EXPECT_EQ(plans[1].second.n_ctx, 77u);
  EXPECT_EQ(all<LoadEpoch>(actions).size(), 1u);
  EXPECT_EQ(session.loaded_plan(1), nullptr);
  receive(2, wire::Ready{1, 5, 6, 7, 3});
  actions = session.on_loaded(1, LoadReport{.max_batches = 9}, now);
  EXPECT_THAT(all<ActivateEpoch>(actions), IsEmpty());
  receive(1, wire::Ready{1, 1, 1, 1, 4});
  EXPECT_EQ(sent<wire::Activate>(actions).size(), 2u);
  ASSERT_EQ(all<ActivateEpoch>(actions).size(), 1u);
  EXPECT_EQ(all<ActivateEpoch>(actions)[0].max_in_flight, 3u) << "the least of 9, 4 and 3";
  for (const auto& [to, activate] : sent<wire::Activate>(actions)) EXPECT_EQ(activate.max_in_flight, 3u);
  EXPECT_TRUE(session.is_active(1));
  EXPECT_EQ(session.reports(1)[2], (LoadReport{5, 6, 7, 3}));
  actions = session.cancel(1, 4, 6);
  EXPECT_EQ(sent<wire::Cancel>(actions).size(), 2u);
  EXPECT_EQ(all<CancelBatches>(actions).size(), 1u);
}

TEST_F(Head, RefusesPlansOfOtherDevices) {
  meet_all();
  auto other = plan();
  other.devices[2] = "garage";
  EXPECT_THAT(session.prepare(other, {}, now).error().message, HasSubstr("garage, which did not join"));
  other = plan();
  other.devices[0] = "worker1";
  EXPECT_FALSE(session.prepare(other, {}, now));
  other = plan();
  other.devices[2] = "worker1";
  EXPECT_FALSE(session.prepare(other, {}, now));
  other = plan();
  other.n_layer = 9;
  EXPECT_EQ(session.prepare(other, {}, now).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(session.last_epoch(), 0u);
}

TEST_F(Head, ReplacesAPlanWhileTheOldOneDrains) {
  meet_all();
  activate();
  activate();
  EXPECT_TRUE(session.is_active(1));
  EXPECT_TRUE(session.is_active(2));
  EXPECT_FALSE(session.prepare(plan(), {}, now));  // a third
  actions = session.retire(1, "replaced", now);
  EXPECT_EQ(sent<wire::Retire>(actions).size(), 2u);
  ASSERT_EQ(all<FreeEpoch>(actions).size(), 1u);
  EXPECT_EQ(all<FreeEpoch>(actions)[0].epoch, 1u);
  EXPECT_THAT(session.retire(1, "replaced", now), IsEmpty());
  activate();
  EXPECT_EQ(session.last_epoch(), 3u);
}

TEST_F(Head, AFailedEpochEndsEverywhereAndIsReportedOnce) {
  meet_all();
  activate();
  receive(2, wire::Failed{1, ErrorCode::kNumeric, "NaN in layer 4"});
  const auto failed = all<EpochFailed>(actions);
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].error.code, ErrorCode::kNumeric);
  EXPECT_EQ(failed[0].error.message, "worker2 (10.0.0.3:7002): NaN in layer 4");
  ASSERT_EQ(sent<wire::Failed>(actions).size(), 2u);
  EXPECT_EQ(sent<wire::Failed>(actions)[0].second.message, "worker2 (10.0.0.3:7002): NaN in layer 4");
  EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
  receive(1, wire::Failed{1, ErrorCode::kPeerGone, "the same from another side"});
  EXPECT_THAT(actions, IsEmpty());
  receive(1, wire::Ready{1, 1, 1, 1});
  EXPECT_THAT(actions, IsEmpty());
  EXPECT_EQ(session.state(), HeadSession::State::kMet);
  actions = session.prepare(plan(), {}, now).value();
  receive(1, wire::Refuse{ErrorCode::kProtocol, "no"});
  ASSERT_EQ(all<EpochFailed>(actions).size(), 1u);
  EXPECT_EQ(all<EpochFailed>(actions)[0].epoch, 2u);
  actions = session.prepare(plan(), {}, now).value();
  actions = session.on_loaded(3, fail(ErrorCode::kOutOfMemory, "too big"), now);
  EXPECT_EQ(all<EpochFailed>(actions)[0].error.message, "too big");
}

TEST_F(Head, ALostWorkerEndsTheSessionWithOneError) {
  for (int how = 0; how < 4; ++how) {
    session = HeadSession(options(2));
    meet_all();
    activate();
    if (how == 0) gone(2);
    if (how == 1) receive(2, wire::Goodbye{"stopped by the user"});
    if (how == 2) pass(8s, {1});
    if (how == 3) receive(2, wire::Activate{1});
    EXPECT_THAT(failure(), HasSubstr("worker2 (10.0.0.3:7002)")) << how;
    EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
    EXPECT_EQ(sent<wire::Failed>(actions).size(), how == 0 ? 1u : 2u);
    EXPECT_EQ(session.state(), HeadSession::State::kFailed);
    gone(1);
    EXPECT_THAT(actions, IsEmpty());
    actions = session.shutdown("over", now);
    EXPECT_EQ(sent<wire::Goodbye>(actions).size(), how == 0 ? 0u : 1u);
    EXPECT_THAT(all<FreeEpoch>(actions), IsEmpty());
    EXPECT_EQ(session.state(), HeadSession::State::kClosed);
  }
}

TEST_F(Head, SilenceIsFoundBetweenFiveAndTenSeconds) {
  meet_all();
  activate();
  pass(5s, {1, 2});
  EXPECT_THAT(all<SessionFailed>(actions), IsEmpty());
  pass(5s, {1});
  EXPECT_THAT(all<SessionFailed>(actions), IsEmpty());
  pass(4s, {1});
  EXPECT_THAT(failure(), HasSubstr("worker2 (10.0.0.3:7002) is silent for 6."));
}

TEST_F(Head, ARingThatStandsStillIsAnError) {
  meet_all();
  activate();
  pass(140s, {1, 2}, {}, 1);
  EXPECT_THAT(all<EpochFailed>(actions), IsEmpty());
  pass(20s, {1, 2}, {}, 1);
  ASSERT_EQ(all<EpochFailed>(actions).size(), 1u);
  EXPECT_THAT(all<EpochFailed>(actions)[0].error.message, HasSubstr("head 0; worker1 0; worker2 0"));
}

TEST_F(Head, ItsOwnStuckComputationIsAnErrorToo) {
  meet_all();
  activate();
  pass(130s, {1, 2}, {.steps_accepted = 2, .steps_done = 1}, 1);
  ASSERT_EQ(all<EpochFailed>(actions).size(), 1u);
  EXPECT_THAT(all<EpochFailed>(actions)[0].error.message, HasSubstr("the computation on head stands still"));
}

TEST_F(Head, ShutdownFreesAndSaysGoodbye) {
  meet_all();
  activate();
  actions = session.shutdown("finished", now);
  EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
  const auto goodbyes = sent<wire::Goodbye>(actions);
  ASSERT_EQ(goodbyes.size(), 2u);
  EXPECT_EQ(goodbyes[0].second.reason, "finished");
  EXPECT_EQ(all<Disconnect>(actions).size(), 2u);
  EXPECT_THAT(session.tick({}, 0, now), IsEmpty());
  EXPECT_THAT(session.on_control(test_key(1), wire::Goodbye{}, now), IsEmpty());
}

}  // namespace
}  // namespace hearth::engine
