#include "engine/worker_session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
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

std::string log_of(const Actions& actions) {
  std::string text;
  for (const Log& line : all<Log>(actions)) text += line.text + "\n";
  return text;
}

wire::Hello hello(int head = 0) {
  return {.version = "0.1.0", .name = test_name(head), .address = test_address(head), .model = test_model()};
}

// worker1 of test_plan; heads are device 0 and device 9.
class Worker : public ::testing::Test {
 protected:
  Worker()
      : session({.key = test_key(1),
                 .name = test_name(1),
                 .version = "0.1.0",
                 .data_port = 8001,
                 .model = test_model(),
                 .memory_bytes = 1u << 30,
                 .n_threads = 4,
                 .heads = {test_key(0), test_key(9)},
                 .liveness = {}}) {
    actions = session.start(now);
  }

  void receive(int from, const wire::ControlMessage& message) {
    actions = session.on_control(test_key(from), message, now);
  }
  void up(int peer) { actions = session.on_peer_up(test_key(peer), now); }
  void gone(int peer, ErrorCode code = ErrorCode::kPeerGone) {
    actions = session.on_peer_gone(test_key(peer), Error{code, "closed by the test"}, now);
  }
  void join() {
    receive(0, hello());
    up(0);
    ASSERT_EQ(session.state(), WorkerSession::State::kJoined);
  }
  // Devices 0 1 2, two rounds: worker1 sends to worker2.
  void prepare(std::uint32_t epoch) { receive(0, test_plan(epoch, 3, {0, 1, 2, 0, 1, 2})); }
  void activate(std::uint32_t epoch) {
    prepare(epoch);
    if (!all<Connect>(actions).empty()) up(2);
    actions = session.on_loaded(epoch, LoadReport{1, 2, 3}, now);
    ASSERT_EQ(sent<wire::Ready>(actions).size(), 1u);
    receive(0, wire::Activate{epoch});
    ASSERT_EQ(all<ActivateEpoch>(actions).size(), 1u);
  }
  // Answers, each after 1 ms, what `peer` is asked now and next.
  void answer_probes(int peer) {
    for (auto probes = sent<wire::Probe>(actions); !probes.empty() && probes[0].first == test_key(peer);
         probes = sent<wire::Probe>(actions)) {
      now += 1ms;
      receive(peer, wire::ProbeReply{probes[0].second.id});
    }
  }
  // Ticks for `time`, the peers in `alive` speak all the while; collects all actions.
  void pass(Milliseconds time, const std::vector<int>& alive, Progress progress = {}) {
    actions.clear();
    for (Milliseconds t{0}; t < time; t += 100ms) {
      now += 100ms;
      for (const int peer : alive)
        for (Action& action : session.on_control(test_key(peer), wire::Heartbeat{}, now))
          actions.push_back(action);
      for (Action& action : session.tick(progress, now)) actions.push_back(action);
    }
  }

  TimePoint now = kStart;
  WorkerSession session;
  Actions actions;
};

TEST_F(Worker, WaitsForItsHeads) {
  ASSERT_EQ(all<Allow>(actions).size(), 1u);
  EXPECT_THAT(all<Allow>(actions)[0].keys, UnorderedElementsAre(test_key(0), test_key(9)));
  EXPECT_EQ(session.state(), WorkerSession::State::kIdle);
}

TEST_F(Worker, ConnectsBackAndSaysWelcome) {
  receive(0, hello());
  EXPECT_EQ(session.state(), WorkerSession::State::kGreeting);
  const auto connects = all<Connect>(actions);
  ASSERT_EQ(connects.size(), 1u);
  EXPECT_EQ(connects[0].peer, test_key(0));
  EXPECT_EQ(connects[0].address, test_address(0));
  up(0);
  const auto welcome = sent<wire::Welcome>(actions);
  ASSERT_EQ(welcome.size(), 1u);
  EXPECT_EQ(welcome[0].first, test_key(0));
  EXPECT_EQ(welcome[0].second.name, "worker1");
  EXPECT_EQ(welcome[0].second.data_port, 8001);
  EXPECT_EQ(welcome[0].second.memory_bytes, 1u << 30);
}

TEST_F(Worker, SaysAllThatItMeasured) {
  const auto said = [&](const DeviceSpeed& speed) {
    session = WorkerSession({.key = test_key(1),
                             .name = test_name(1),
                             .version = "0.1.0",
                             .data_port = 8001,
                             .model = test_model(),
                             .n_threads = 4,
                             .speed = speed,
                             .heads = {test_key(0)},
                             .liveness = {}});
    (void)session.start(now);
    receive(0, hello());
    up(0);
    return sent<wire::Welcome>(actions).at(0).second;
  };
  auto welcome = said(
      {.cpu = {.passes = {{1, 2e9, 0.025}, {64, 1.5e9, 0}}}, .disk_bytes_per_s = 1e8, .disk_spread = 0.12});
  EXPECT_THAT(welcome.passes,
              ElementsAre(wire::PassRate{1, 2'000'000'000, 250}, wire::PassRate{64, 1'500'000'000, 0}));
  EXPECT_EQ(welcome.disk_bytes_per_s, 100'000'000u);
  EXPECT_EQ(welcome.disk_spread_per_10k, 1200u);
  // Whatever was measured can be said.
  constexpr double kInfinite = std::numeric_limits<double>::infinity(), kNoNumber = std::nan("");
  DeviceSpeed strange = {.disk_bytes_per_s = kNoNumber, .disk_spread = kInfinite};
  strange.cpu.passes = {{0, 1e9, 0}, {2, 0, 0},     {3, kNoNumber, 0}, {4, kInfinite, kInfinite},
                        {4, 1e9, 0}, {9000, 1e9, 0}};
  welcome = said(strange);
  EXPECT_THAT(welcome.passes, ElementsAre(wire::PassRate{4, std::uint64_t{1} << 56, 0xffffffff}));
  EXPECT_EQ(welcome.disk_bytes_per_s, 0u);
  EXPECT_EQ(welcome.disk_spread_per_10k, 0u);
  strange.cpu.passes.clear();
  for (std::uint32_t i = 1; i <= 20; ++i) strange.cpu.passes.push_back({i, 1e9, 0});
  EXPECT_EQ(said(strange).passes.size(), 16u);
}

TEST_F(Worker, RefusesAnotherProtocolAndSaysBothVersions) {
  auto message = hello();
  message.major = 7;
  message.version = "9.9";
  receive(0, message);
  EXPECT_EQ(session.state(), WorkerSession::State::kIdle);
  ASSERT_EQ(all<Connect>(actions).size(), 1u);
  up(0);
  const auto refusals = sent<wire::Refuse>(actions);
  ASSERT_EQ(refusals.size(), 1u);
  EXPECT_EQ(refusals[0].second.code, ErrorCode::kVersionMismatch);
  EXPECT_THAT(refusals[0].second.message,
              HasSubstr("head speaks protocol 7.0 (hearth 9.9), worker1 speaks 1.0"));
  ASSERT_EQ(all<Disconnect>(actions).size(), 1u);
  EXPECT_TRUE(all<Disconnect>(actions)[0].flush);
  join();  // and is free for a proper one
}

TEST_F(Worker, RefusesAnotherModelAndSaysBoth) {
  auto message = hello();
  message.model.fill(0x12);
  receive(0, message);
  up(0);
  const auto refusals = sent<wire::Refuse>(actions);
  ASSERT_EQ(refusals.size(), 1u);
  EXPECT_EQ(refusals[0].second.code, ErrorCode::kModelMismatch);
  EXPECT_THAT(refusals[0].second.message, HasSubstr("head has the model 12121212, worker1 has abababab"));
}

TEST_F(Worker, RefusesASecondHead) {
  join();
  receive(9, hello(9));
  up(9);
  const auto refusals = sent<wire::Refuse>(actions);
  ASSERT_EQ(refusals.size(), 1u);
  EXPECT_EQ(refusals[0].first, test_key(9));
  EXPECT_THAT(refusals[0].second.message, HasSubstr("worker1 works for head already"));
  EXPECT_EQ(session.state(), WorkerSession::State::kJoined);
}

TEST_F(Worker, IgnoresStrangersAndHellosThatCannotBeAnswered) {
  receive(5, hello(5));
  EXPECT_THAT(all<Connect>(actions), IsEmpty());
  auto message = hello();
  message.address.data_port = 0;
  receive(0, message);
  EXPECT_THAT(all<Connect>(actions), IsEmpty());
  receive(0, wire::Activate{1});  // not greeted
  EXPECT_THAT(all<Send>(actions), IsEmpty());
  EXPECT_EQ(session.state(), WorkerSession::State::kIdle);
}

TEST_F(Worker, PreparesLoadsLinksAndIsReadyThen) {
  join();
  prepare(1);
  // The plan's members, and who may ask to lead.
  EXPECT_THAT(all<Allow>(actions)[0].keys, UnorderedElementsAre(test_key(0), test_key(2), test_key(9)));
  ASSERT_EQ(all<Connect>(actions).size(), 1u);
  EXPECT_EQ(all<Connect>(actions)[0].peer, test_key(2));
  ASSERT_EQ(all<LoadEpoch>(actions).size(), 1u);
  EXPECT_EQ(all<LoadEpoch>(actions)[0].device, 1);
  EXPECT_EQ(session.loaded_plan(1), nullptr);
  actions = session.on_loaded(1, LoadReport{10, 20, 30, 40, 5}, now);
  EXPECT_THAT(sent<wire::Ready>(actions), IsEmpty());  // the link is missing
  EXPECT_NE(session.loaded_plan(1), nullptr);
  gone(2, ErrorCode::kUnauthorized);  // worker2 has not got the plan yet
  EXPECT_THAT(actions, IsEmpty());
  pass(300ms, {0});
  ASSERT_EQ(all<Connect>(actions).size(), 1u);
  up(2);
  const auto ready = sent<wire::Ready>(actions);
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(ready[0].first, test_key(0));
  EXPECT_EQ(ready[0].second, (wire::Ready{1, 10, 20, 30, 40, 5}));
  receive(0, wire::Activate{1, 9});
  ASSERT_EQ(all<ActivateEpoch>(actions).size(), 1u);
  EXPECT_EQ(all<ActivateEpoch>(actions)[0].max_in_flight, 9u);
  receive(0, wire::Cancel{1, 3, 5});
  ASSERT_EQ(all<CancelBatches>(actions).size(), 1u);
  EXPECT_EQ(all<CancelBatches>(actions)[0].last_batch, 5u);
}

wire::Measure measure(std::uint32_t id, std::uint32_t time_ms, int n_devices) {
  return {.id = id, .time_ms = time_ms, .members = test_plan(1, n_devices, {0}).members};
}

TEST_F(Worker, ConnectsToAllThatAreMeasured) {
  join();
  receive(0, measure(1, 0, 4));
  EXPECT_THAT(all<Allow>(actions)[0].keys,
              UnorderedElementsAre(test_key(0), test_key(2), test_key(3), test_key(9)));
  const auto connects = all<Connect>(actions);
  ASSERT_EQ(connects.size(), 2u);
  EXPECT_EQ(connects[0].peer, test_key(2));
  EXPECT_EQ(connects[0].address, test_address(2));
  EXPECT_EQ(connects[1].peer, test_key(3));
  up(2);
  EXPECT_THAT(actions, IsEmpty());
  gone(3, ErrorCode::kUnauthorized);  // it has not got its Measure yet
  EXPECT_THAT(actions, IsEmpty());
  pass(300ms, {0});
  ASSERT_EQ(all<Connect>(actions).size(), 1u);
  up(3);
  const auto reports = sent<wire::LinkReport>(actions);
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0], (std::pair{test_key(0), wire::LinkReport{1, {}}}));
}

TEST_F(Worker, ReportsWhenAnotherCannotBeReached) {
  join();
  receive(0, measure(1, 0, 4));
  up(2);
  pass(1900ms, {0});
  EXPECT_THAT(sent<wire::LinkReport>(actions), IsEmpty());
  pass(200ms, {0});
  EXPECT_EQ(sent<wire::LinkReport>(actions).size(), 1u);
  // Without 3.
  receive(0, measure(2, 3000, 4));
  answer_probes(0);
  answer_probes(2);
  const auto reports = sent<wire::LinkReport>(actions);
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0].second, (wire::LinkReport{2, {{0, 500'000, 0}, {2, 500'000, 0}}}));  // half of 1 ms
  gone(3);
  pass(5s, {0, 2});
  EXPECT_THAT(sent<wire::LinkReport>(actions), IsEmpty());
  EXPECT_EQ(session.state(), WorkerSession::State::kJoined);
}

TEST_F(Worker, ReportsWhatItHasWhenItsTimeIsOver) {
  join();
  receive(0, measure(1, 0, 3));
  up(2);
  receive(0, measure(2, 1000, 3));
  EXPECT_THAT(all<Connect>(actions), IsEmpty());
  EXPECT_THAT(all<Disconnect>(actions), IsEmpty());  // the links are there
  answer_probes(0);
  ASSERT_EQ(sent<wire::Probe>(actions).size(), 1u);
  const auto late = sent<wire::Probe>(actions)[0].second.id;
  pass(1100ms, {0, 2});
  const auto reports = sent<wire::LinkReport>(actions);
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0].second, (wire::LinkReport{2, {{0, 500'000, 0}}}));
  receive(2, wire::ProbeReply{late});
  EXPECT_THAT(actions, IsEmpty());
}

TEST_F(Worker, AnswersProbesOfMembersOnly) {
  const auto answers = [&](int from) {
    receive(from, wire::Probe{77, 5});
    const auto replies = sent<wire::ProbeReply>(actions);
    EXPECT_EQ(all<Send>(actions).size(), replies.size());
    return replies.size() == 1 && replies[0] == std::pair{test_key(from), wire::ProbeReply{77}};
  };
  EXPECT_FALSE(answers(0));  // not joined
  join();
  EXPECT_TRUE(answers(0));
  EXPECT_FALSE(answers(2));
  receive(0, measure(1, 0, 3));
  EXPECT_FALSE(answers(2));  // there is no link to answer on
  up(2);
  EXPECT_TRUE(answers(2));
  for (int i = 1; i < 64; ++i) EXPECT_TRUE(answers(2));
  EXPECT_FALSE(answers(2));  // more than anybody needs
  pass(100ms, {0, 2});
  EXPECT_FALSE(answers(3));
  EXPECT_FALSE(answers(9));  // another head
  activate(1);
  EXPECT_TRUE(answers(2));  // a member of the plan
  receive(0, wire::Goodbye{"done"});
  EXPECT_FALSE(answers(2));
}

TEST_F(Worker, AMeasureIsReplacedByTheNext) {
  join();
  receive(0, measure(1, 0, 4));
  up(2);
  up(3);
  auto fewer = measure(2, 0, 3);
  receive(0, fewer);
  EXPECT_THAT(all<Allow>(actions)[0].keys, UnorderedElementsAre(test_key(0), test_key(2), test_key(9)));
  ASSERT_EQ(all<Disconnect>(actions).size(), 1u);
  EXPECT_EQ(all<Disconnect>(actions)[0].peer, test_key(3));
  EXPECT_EQ(sent<wire::LinkReport>(actions).size(), 1u);  // connected to all already
}

TEST_F(Worker, APlanKeepsTheLinksThatItNeeds) {
  join();
  receive(0, measure(1, 0, 4));
  up(2);
  up(3);
  prepare(1);  // sends to worker2 only
  EXPECT_THAT(all<Connect>(actions), IsEmpty());
  ASSERT_EQ(all<Disconnect>(actions).size(), 1u);
  EXPECT_EQ(all<Disconnect>(actions)[0].peer, test_key(3));
  EXPECT_THAT(all<Allow>(actions)[0].keys, UnorderedElementsAre(test_key(0), test_key(2), test_key(9)));
  actions = session.on_loaded(1, LoadReport{}, now);
  EXPECT_EQ(sent<wire::Ready>(actions).size(), 1u);
}

TEST_F(Worker, ALostMemberIsLeftOutAndALostHeadEndsTheMeasuring) {
  join();
  receive(0, measure(1, 0, 3));
  up(2);
  receive(0, measure(2, 5000, 3));
  const Actions asked = actions;
  gone(2);
  EXPECT_THAT(actions, IsEmpty());
  actions = asked;
  answer_probes(0);
  EXPECT_EQ(sent<wire::LinkReport>(actions).at(0).second, (wire::LinkReport{2, {{0, 500'000, 0}}}));
  EXPECT_EQ(session.state(), WorkerSession::State::kJoined);
  receive(0, wire::Goodbye{"done"});
  EXPECT_EQ(session.state(), WorkerSession::State::kIdle);
  pass(1500ms, {});
  ASSERT_EQ(all<Allow>(actions).size(), 1u);
  EXPECT_THAT(all<Allow>(actions)[0].keys, UnorderedElementsAre(test_key(0), test_key(9)));
  EXPECT_THAT(all<Send>(actions), IsEmpty());
}

TEST_F(Worker, MeasuresThatCannotBeAreViolations) {
  auto other_head = measure(1, 0, 3), without_us = measure(1, 0, 3);
  std::swap(other_head.members[0], other_head.members[2]);
  without_us.members[1] = {test_name(3), test_key(3), test_address(3)};
  for (const auto& [message, text] : {std::pair{other_head, "the first member of a Measure is not the head"},
                                      std::pair{without_us, "worker1 is no member of a Measure"}}) {
    join();
    receive(0, message);
    EXPECT_EQ(session.state(), WorkerSession::State::kIdle);
    EXPECT_THAT(log_of(actions), HasSubstr(text));
  }
  join();
  receive(0, measure(3, 0, 3));
  receive(0, measure(3, 0, 3));
  EXPECT_THAT(log_of(actions), HasSubstr("a Measure has the id 3, but 3 was here before"));
  join();
  activate(1);
  receive(0, measure(4, 0, 3));
  EXPECT_THAT(log_of(actions), HasSubstr("links are to be measured beside epoch 1"));
  EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
}

TEST_F(Worker, GivesUpOnALinkAfterItsDeadline) {
  join();
  prepare(1);
  Actions everything;
  for (int i = 0; i < 100 && session.epochs().size() == 1; ++i) {
    gone(2, ErrorCode::kUnauthorized);
    everything.insert(everything.end(), actions.begin(), actions.end());
    pass(300ms, {0});
  }
  EXPECT_THAT(session.epochs(), IsEmpty());
  const auto failed = sent<wire::Failed>(everything);
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].second.code, ErrorCode::kUnauthorized);
  EXPECT_THAT(failed[0].second.message,
              HasSubstr("worker2 (10.0.0.3:7002) cannot be reached: closed by the test"));
  EXPECT_EQ(session.state(), WorkerSession::State::kJoined);
}

TEST_F(Worker, ALinkThatBreaksBeforeItIsNeededIsTriedAgain) {
  join();
  prepare(1);
  up(2);
  actions = session.on_loaded(1, LoadReport{}, now);
  EXPECT_EQ(sent<wire::Ready>(actions).size(), 1u);
  gone(2);
  pass(300ms, {0});
  EXPECT_EQ(all<Connect>(actions).size(), 1u);
  up(2);
  EXPECT_THAT(sent<wire::Ready>(actions), IsEmpty());  // said already
  gone(2);
  receive(0, wire::Activate{1});
  ASSERT_EQ(sent<wire::Failed>(actions).size(), 1u);
  EXPECT_THAT(sent<wire::Failed>(actions)[0].second.message,
              HasSubstr("the link to worker2 (10.0.0.3:7002) is lost"));
  EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
}

TEST_F(Worker, RefusesPlansThatCannotBe) {
  join();
  const auto refusal = [&](const wire::Prepare& plan) {
    receive(0, plan);
    EXPECT_THAT(all<LoadEpoch>(actions), IsEmpty());
    const auto refusals = sent<wire::Refuse>(actions);
    return refusals.size() == 1 ? refusals[0].second.message : "";
  };
  EXPECT_THAT(refusal(test_plan(1, 1, {0})), HasSubstr("worker1 is no member"));
  auto plan = test_plan(2, 3, {0, 1});
  std::swap(plan.members[0], plan.members[2]);
  EXPECT_THAT(refusal(plan), HasSubstr("the first member of the plan is worker2"));
  plan = test_plan(3, 3, {0, 1});
  plan.model.fill(1);
  EXPECT_THAT(refusal(plan), HasSubstr("has the model 01010101"));
  plan = test_plan(4, 3, {0, 1});
  plan.steps[1].layer_end = 7;
  EXPECT_THAT(refusal(plan), HasSubstr("layers [1, 7)"));
  EXPECT_THAT(refusal(test_plan(4, 3, {0, 1})), HasSubstr("epoch 4 was here before"));
  prepare(5);
  prepare(6);
  EXPECT_EQ(session.epochs().size(), 2u);
  EXPECT_THAT(refusal(test_plan(7, 3, {0, 1})), HasSubstr("2 epochs are held already"));
}

TEST_F(Worker, HoldsTwoEpochsUntilTheFirstIsRetired) {
  join();
  activate(1);
  activate(2);
  EXPECT_NE(session.loaded_plan(1), nullptr);
  EXPECT_NE(session.loaded_plan(2), nullptr);
  receive(0, wire::Retire{1, "replaced"});
  ASSERT_EQ(all<FreeEpoch>(actions).size(), 1u);
  EXPECT_EQ(all<FreeEpoch>(actions)[0].epoch, 1u);
  EXPECT_THAT(all<Disconnect>(actions), IsEmpty());  // epoch 2 needs the link too
  EXPECT_EQ(session.loaded_plan(1), nullptr);
  EXPECT_NE(session.loaded_plan(2), nullptr);
  receive(0, wire::Retire{2, "replaced"});
  ASSERT_EQ(all<Disconnect>(actions).size(), 1u);
  EXPECT_EQ(all<Disconnect>(actions)[0].peer, test_key(2));
  EXPECT_EQ(session.state(), WorkerSession::State::kJoined);
  receive(0, wire::Retire{2, "again"});
  EXPECT_THAT(actions, IsEmpty());
  // Members that have not heard of the end stay until this head has another plan or is gone.
  pass(3s, {0});
  EXPECT_THAT(all<Allow>(actions), IsEmpty());
  receive(0, wire::Goodbye{"done"});
  pass(1500ms, {0});
  ASSERT_EQ(all<Allow>(actions).size(), 1u);
  EXPECT_THAT(all<Allow>(actions)[0].keys, UnorderedElementsAre(test_key(0), test_key(9)));
}

TEST_F(Worker, IsIdleAgainWhenTheHeadIsLost) {
  for (int how = 0; how < 3; ++how) {
    join();
    activate(1);
    if (how == 0) gone(0);
    if (how == 1) receive(0, wire::Goodbye{"done"});
    if (how == 2) pass(8s, {2});
    ASSERT_EQ(all<FreeEpoch>(actions).size(), 1u) << how;
    EXPECT_EQ(session.state(), WorkerSession::State::kIdle);
    EXPECT_FALSE(session.head());
    EXPECT_THAT(session.epochs(), IsEmpty());
    if (how == 2) {
      EXPECT_THAT(log_of(actions), HasSubstr("head (10.0.0.1:7000) is silent for 6."));
    }
    pass(2s, {});
    EXPECT_THAT(sent<wire::Heartbeat>(actions), IsEmpty());
  }
  join();
  activate(1);  // epochs begin anew with a new head
}

TEST_F(Worker, AHeadThatStartsAnewIsGreetedAnew) {
  join();
  activate(1);
  receive(0, hello());
  EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
  EXPECT_EQ(session.state(), WorkerSession::State::kGreeting);
  EXPECT_EQ(all<Disconnect>(actions).size(), 2u);
  EXPECT_EQ(all<Connect>(actions).size(), 1u);
  up(0);
  EXPECT_EQ(sent<wire::Welcome>(actions).size(), 1u);
  activate(1);
}

TEST_F(Worker, AMemberThatIsLostEndsTheEpochOnly) {
  for (int how = 0; how < 4; ++how) {
    join();
    activate(1);
    if (how == 0) gone(2);
    if (how == 1) receive(2, wire::Goodbye{"user"});
    if (how == 2) receive(2, wire::Activate{1});  // only the head may
    if (how == 3) receive(2, hello(2));
    const auto failed = sent<wire::Failed>(actions);
    ASSERT_EQ(failed.size(), 1u) << how;
    EXPECT_EQ(failed[0].second.epoch, 1u);
    EXPECT_EQ(failed[0].second.code, how < 2 ? ErrorCode::kPeerGone : ErrorCode::kProtocol);
    EXPECT_THAT(failed[0].second.message, HasSubstr("worker2 (10.0.0.3:7002)"));
    EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
    EXPECT_EQ(session.state(), WorkerSession::State::kJoined);
    // What the head sent before it knew is ignored.
    receive(0, wire::Activate{1});
    EXPECT_THAT(actions, IsEmpty());
    receive(0, wire::Cancel{1, 1, 2});
    EXPECT_THAT(actions, IsEmpty());
    receive(0, wire::Retire{1, "failed"});
    EXPECT_THAT(actions, IsEmpty());
    receive(0, wire::Goodbye{"next"});
  }
}

TEST_F(Worker, ASenderThatIsSilentEndsTheEpoch) {
  join();
  receive(0, test_plan(1, 4, {0, 3, 1, 2}));  // worker3 sends to worker1
  up(2);
  (void)session.on_loaded(1, LoadReport{}, now);
  receive(0, wire::Activate{1});
  pass(5s, {0, 3});
  EXPECT_THAT(all<FreeEpoch>(actions), IsEmpty());
  pass(8s, {0});
  const auto failed = sent<wire::Failed>(actions);
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].second.code, ErrorCode::kTimeout);
  EXPECT_THAT(failed[0].second.message, HasSubstr("worker3 (10.0.0.4:7003) is silent"));
}

TEST_F(Worker, TellsTheHeadWhatFailed) {
  join();
  prepare(1);
  actions = session.on_loaded(1, fail(ErrorCode::kOutOfMemory, "needs 9 GiB, 1 GiB is free"), now);
  ASSERT_EQ(sent<wire::Failed>(actions).size(), 1u);
  EXPECT_EQ(sent<wire::Failed>(actions)[0].second.code, ErrorCode::kOutOfMemory);
  EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
  prepare(2);
  up(2);
  (void)session.on_loaded(2, LoadReport{}, now);
  receive(0, wire::Activate{2});
  actions = session.on_failed(2, Error{ErrorCode::kNumeric, "NaN in layer 3"}, now);
  EXPECT_THAT(sent<wire::Failed>(actions)[0].second.message, HasSubstr("NaN in layer 3"));
  EXPECT_THAT(session.on_failed(2, Error{ErrorCode::kIo, "late"}, now), IsEmpty());
  EXPECT_THAT(session.on_loaded(2, LoadReport{}, now), IsEmpty());
}

TEST_F(Worker, SaysAloudWhatFailedElsewhere) {
  join();
  prepare(1);
  receive(0, wire::Failed{1, ErrorCode::kPeerGone, "worker2 is lost"});
  EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
  ASSERT_EQ(all<Log>(actions).size(), 1u);
  EXPECT_EQ(all<Log>(actions)[0].level, LogLevel::kError);
  EXPECT_THAT(all<Log>(actions)[0].text, HasSubstr("worker2 is lost"));
  EXPECT_THAT(sent<wire::Failed>(actions), IsEmpty()) << "the head knows";
  receive(0, wire::Failed{1, ErrorCode::kPeerGone, "again"});
  EXPECT_THAT(actions, IsEmpty());
}

TEST_F(Worker, LeavesAHeadThatBreaksTheRules) {
  const std::vector<wire::ControlMessage> forbidden{
      wire::Activate{1}, wire::Activate{7}, wire::Retire{7, ""}, wire::Cancel{7, 1, 1},
      wire::Ready{},     wire::Welcome{},   wire::Failed{7},     wire::LinkReport{}};
  for (const auto& message : forbidden) {
    join();
    prepare(1);
    receive(0, message);
    EXPECT_EQ(session.state(), WorkerSession::State::kIdle) << message.index();
    EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
    EXPECT_EQ(sent<wire::Goodbye>(actions).size(), 1u);
  }
}

TEST_F(Worker, TellsWhoSentWhatCannotBeRead) {
  const Error unreadable{ErrorCode::kVersionMismatch, "the peer speaks version 2 of the protocol"};
  actions = session.on_unreadable(test_key(0), unreadable, now);
  EXPECT_THAT(log_of(actions), HasSubstr("10101010: the peer speaks version 2"));
  EXPECT_THAT(all<Send>(actions), IsEmpty());
  join();
  activate(1);
  actions = session.on_unreadable(test_key(2), unreadable, now);
  EXPECT_THAT(sent<wire::Failed>(actions)[0].second.message,
              HasSubstr("worker2 (10.0.0.3:7002): the peer speaks"));
  actions = session.on_unreadable(test_key(0), unreadable, now);
  EXPECT_EQ(session.state(), WorkerSession::State::kIdle);
}

TEST_F(Worker, BeatsAndReportsProgressToAllItSendsTo) {
  join();
  pass(10s, {0});
  EXPECT_EQ(sent<wire::Heartbeat>(actions).size(), 10u);
  activate(1);
  pass(10s, {0}, {.steps_accepted = 7, .steps_done = 7, .work_done = 70});
  const auto beats = sent<wire::Heartbeat>(actions);
  const auto to_head = std::ranges::count(beats, test_key(0), [](const auto& beat) { return beat.first; });
  EXPECT_EQ(to_head, 10);
  EXPECT_EQ(std::ssize(beats), 2 * to_head);  // and to the device it sends frames to
  EXPECT_EQ(beats.back().second.work_done, 70u);
  EXPECT_EQ(beats.back().second.epoch, 1u);
}

TEST_F(Worker, AStuckComputationIsAnError) {
  join();
  activate(1);
  pass(110s, {0}, {.steps_accepted = 3, .steps_done = 2, .work_done = 20});
  EXPECT_THAT(all<FreeEpoch>(actions), IsEmpty());
  pass(20s, {0}, {.steps_accepted = 4, .steps_done = 2, .work_done = 20});
  const auto failed = sent<wire::Failed>(actions);
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].second.code, ErrorCode::kTimeout);
  EXPECT_THAT(failed[0].second.message, HasSubstr("the computation on worker1 stands still: 2 of 4"));
}

TEST_F(Worker, AStepMayTakeMinutes) {
  join();
  activate(1);
  for (std::uint64_t work = 1; work <= 6; ++work) {
    pass(100s, {0}, {.steps_accepted = 3, .steps_done = 2, .work_done = work});
    EXPECT_THAT(all<FreeEpoch>(actions), IsEmpty()) << work;
  }
}

TEST_F(Worker, SaysGoodbyeWhenItEnds) {
  join();
  activate(1);
  actions = session.shutdown("stopped by the user", now);
  EXPECT_EQ(all<FreeEpoch>(actions).size(), 1u);
  EXPECT_EQ(sent<wire::Goodbye>(actions).size(), 2u);
  for (const Disconnect& closed : all<Disconnect>(actions)) EXPECT_TRUE(closed.flush);
  EXPECT_EQ(all<Disconnect>(actions).size(), 2u);
}

}  // namespace
}  // namespace hearth::engine
