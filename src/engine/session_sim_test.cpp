// The control side of a whole ring, simulated: one head and its workers on a network that delivers each
// link's messages in order and everything else in any order, with devices that die, stop, leave or cannot
// load at any moment.
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/head_session.h"
#include "engine/test_plan.h"
#include "engine/worker_session.h"

namespace hearth::engine {
namespace {

using namespace std::chrono_literals;

constexpr int kMaxDevices = 5;

enum class Fault {
  kNone,
  kKillWorker,
  kKillHead,
  kRestartHead,
  kFreezeWorker,
  kFreezeHead,
  kLeave,
  kLoadFails,
  kComputeFails,
  kPartition,
  kHostileMember,
  kHostileHead,
  kHostileWorker,
  kCount
};

int device_of(const DeviceKey& key) {
  for (int device = 0; device < kMaxDevices; ++device)
    if (test_key(device) == key) return device;
  return -1;
}

// Why the world must not go on: a rule of actions.h was broken.
void broken(const std::string& what) {
  ADD_FAILURE() << what;
}

struct OutLink {
  bool answered = false;  // the session was told that it is up
  bool open = false;      // messages pass
  bool resolved = false;  // the outcome of connect() is under way
  TimePoint gives_up{};
  std::deque<wire::ControlMessage> messages;
};

struct LinkEvent {
  int peer;
  std::shared_ptr<OutLink> link;
  bool up;
  Error error;
};

struct Device {
  std::unique_ptr<HeadSession> head;
  std::unique_ptr<WorkerSession> worker;
  bool dead = false, frozen = false, black_hole_sender = false;
  std::set<DeviceKey> allowed;
  std::map<int, std::shared_ptr<OutLink>> out;
  std::deque<LinkEvent> events;
  std::vector<std::uint32_t> loading;
  std::set<std::uint32_t> held, active, freed;
  std::vector<Error> session_errors, epoch_errors;
  bool load_fails = false;
  int plans_wanted = 0;
};

class World {
 public:
  explicit World(std::uint64_t seed) : random_(seed) {
    n_devices_ = pick(2, kMaxDevices);
    measures_ = chance(60);
    devices_.resize(static_cast<std::size_t>(n_devices_));
    for (int i = 1; i < n_devices_; ++i) {
      auto& device = at(i);
      device.worker = std::make_unique<WorkerSession>(WorkerOptions{.key = test_key(i),
                                                                    .name = test_name(i),
                                                                    .version = "0.1.0",
                                                                    .data_port = test_address(i).data_port,
                                                                    .model = test_model(),
                                                                    .memory_bytes = 1 << 20,
                                                                    .n_threads = 2,
                                                                    .heads = {test_key(0)}});
      perform(i, device.worker->start(now_));
    }
    for (int round = pick(1, 3); round > 0; --round)
      for (int i = 0; i < n_devices_; ++i)
        if (i > 0 || chance(70)) steps_.push_back(static_cast<std::uint16_t>(i));
    start_head();
  }

  void run(Fault fault) {
    victim_ = pick(1, n_devices_ - 1);
    if (fault == Fault::kLoadFails) at(pick(0, n_devices_ - 1)).load_fails = true;
    const int quiet = pick(0, measures_ ? 900 : 600);
    for (int i = 0; i < quiet && !failed(); ++i) event();
    if (failed()) return;
    const bool was_active = !at(0).active.empty();
    const TimePoint struck = now_;
    strike(fault);
    for (int i = 0; i < 300 && !failed(); ++i) event();
    settle(40s);
    if (failed()) return;
    judge(fault, was_active, struck);
    at(victim_).frozen = at(0).frozen = false;
    settle(20s);
    if (!at(0).dead) {
      perform(0, at(0).head->shutdown("finished", now_));
      closed_ = true;
    }
    settle(20s);
    for (int i = 0; i < n_devices_; ++i) {
      const Device& device = at(i);
      if (device.dead) continue;
      EXPECT_TRUE(device.held.empty()) << test_name(i) << " still holds an epoch";
      EXPECT_TRUE(device.out.empty()) << test_name(i) << " still has links";
      if (i == 0) continue;
      EXPECT_EQ(device.worker->state(), WorkerSession::State::kIdle) << test_name(i);
      EXPECT_EQ(device.allowed, std::set{test_key(0)}) << test_name(i);
    }
  }

  std::size_t n_activations = 0, n_failures = 0, n_measured = 0;

 private:
  Device& at(int device) { return devices_[static_cast<std::size_t>(device)]; }
  int pick(int low, int high) { return std::uniform_int_distribution(low, high)(random_); }
  bool chance(int percent) { return pick(0, 99) < percent; }
  static bool failed() { return ::testing::Test::HasFailure(); }
  [[nodiscard]] bool runs(int device) { return !at(device).dead && !at(device).frozen; }

  void start_head() {
    HeadOptions options{.key = test_key(0),
                        .name = "head",
                        .version = "0.1.0",
                        .model = test_model(),
                        .first_epoch = first_epoch_ += 100};
    for (int i = 1; i < n_devices_; ++i)
      options.workers.push_back({test_key(i), test_address(i), test_address(0)});
    at(0) = Device{};
    at(0).head = std::make_unique<HeadSession>(options);
    at(0).plans_wanted = pick(1, 3);
    perform(0, at(0).head->start(now_).value());
  }

  void make_plan() {
    plan::Plan plan{.n_layer = static_cast<std::uint32_t>(steps_.size()), .devices = {}, .steps = {}};
    for (int i = 0; i < n_devices_; ++i) plan.devices.push_back(test_name(i));
    for (std::uint32_t i = 0; i < steps_.size(); ++i) plan.steps.push_back({steps_[i], {i, i + 1}});
    auto actions = at(0).head->prepare(plan, {}, now_);
    if (!actions) return broken("the head cannot prepare: " + actions.error().message);
    --at(0).plans_wanted;
    perform(0, *std::move(actions));
  }

  // The rules of actions.h, checked while the actions are carried out.
  void perform(int self, Actions actions) {
    Device& device = at(self);
    for (Action& action : actions) {
      if (auto* connect = std::get_if<Connect>(&action)) {
        auto link = std::make_shared<OutLink>();
        link->gives_up = now_ + connect->timeout;
        device.out[device_of(connect->peer)] = link;
      } else if (auto* closed = std::get_if<Disconnect>(&action)) {
        const int peer = device_of(closed->peer);
        if (!device.out.contains(peer)) broken("a Disconnect without a link");
        auto link = device.out[peer];
        device.out.erase(peer);
        if (closed->flush && link->open) leaving_.push_back({{self, peer}, link});
      } else if (auto* send = std::get_if<Send>(&action)) {
        const auto link = device.out.find(device_of(send->peer));
        if (link == device.out.end() || !link->second->answered)
          broken(std::format("{} sends to {} without a link", test_name(self),
                             test_name(device_of(send->peer))));
        else if (link->second->open)
          link->second->messages.push_back(std::move(send->message));
      } else if (auto* allow = std::get_if<Allow>(&action)) {
        device.allowed = {allow->keys.begin(), allow->keys.end()};
        for (int from = 0; from < n_devices_; ++from)
          if (!device.allowed.contains(test_key(from)) && at(from).out.contains(self))
            cut(from, self, ErrorCode::kUnauthorized);
      } else if (auto* load = std::get_if<LoadEpoch>(&action)) {
        const auto epoch = load->plan.epoch;
        if (load->plan.members[load->device].key != test_key(self))
          broken("loads the windows of another device");
        if (device.freed.contains(epoch) || !device.held.insert(epoch).second)
          broken(std::format("{} loads epoch {} twice", test_name(self), epoch));
        device.loading.push_back(epoch);
      } else if (auto* activate = std::get_if<ActivateEpoch>(&action)) {
        if (!device.held.contains(activate->epoch)) broken("an epoch is activated that is not held");
        if (std::ranges::count(device.loading, activate->epoch) > 0)
          broken("an epoch is activated before it is loaded");
        if (!device.active.insert(activate->epoch).second) broken("an epoch is activated twice");
        ++n_activations;
      } else if (auto* cancel = std::get_if<CancelBatches>(&action)) {
        if (!device.held.contains(cancel->epoch))
          broken("batches of an epoch that is not held are cancelled");
      } else if (auto* free = std::get_if<FreeEpoch>(&action)) {
        if (device.held.erase(free->epoch) == 0) broken("an epoch is freed that is not held");
        device.active.erase(free->epoch);
        device.freed.insert(free->epoch);
      } else if (std::holds_alternative<AllWelcome>(action)) {
        if (measures_ && chance(90))
          perform(self, device.head->measure_links(now_).value());
        else
          make_plan();
      } else if (std::holds_alternative<LinksMeasured>(action)) {
        ++n_measured;
        if (device.head->links().size() != static_cast<std::size_t>(n_devices_))
          broken("the links of other devices were measured");
        make_plan();
      } else if (auto* over = std::get_if<EpochFailed>(&action)) {
        if (device.held.contains(over->epoch)) broken("a failed epoch is not freed");
        device.epoch_errors.push_back(over->error);
        failed_at_ = failed_at_.value_or(now_);
        ++n_failures;
      } else if (auto* ended = std::get_if<SessionFailed>(&action)) {
        if (!device.session_errors.empty()) broken("the session failed twice");
        device.session_errors.push_back(ended->error);
        failed_at_ = failed_at_.value_or(now_);
        ++n_failures;
      }
    }
    // A worker that is idle starts anew with the epochs of the next head.
    if (device.worker && device.worker->state() == WorkerSession::State::kIdle) device.freed.clear();
  }

  // The transport notices that the link is gone; what was under way may be lost.
  void cut(int from, int to, ErrorCode code) {
    const auto link = at(from).out[to];
    if (!link->open) return;
    link->open = false;
    if (chance(50)) link->messages.clear();
    at(from).events.push_back({to, link, false, Error{code, "the connection was closed"}});
  }

  void resolve(int from, int to) {
    const auto link = at(from).out[to];
    const bool blocked = at(to).frozen || at(from).black_hole_sender;
    const bool refused = at(to).dead || !at(to).allowed.contains(test_key(from));
    if (blocked && now_ < link->gives_up) return;
    link->resolved = true;
    link->open = !blocked && !refused;
    at(from).events.push_back(
        {to, link, link->open,
         Error{blocked ? ErrorCode::kTimeout : ErrorCode::kUnauthorized, "no connection"}});
  }

  struct Choice {
    enum Kind { kResolve, kLinkEvent, kMessage, kLeaving, kLoaded } kind;
    int device, peer;
  };

  std::vector<Choice> choices() {
    std::vector<Choice> all;
    for (int i = 0; i < n_devices_; ++i) {
      if (!runs(i)) continue;
      Device& device = at(i);
      for (const auto& [peer, link] : device.out) {
        const bool blocked = at(peer).frozen || device.black_hole_sender;
        if (!link->resolved && (!blocked || now_ >= link->gives_up))
          all.push_back({Choice::kResolve, i, peer});
      }
      if (!device.events.empty()) all.push_back({Choice::kLinkEvent, i, 0});
      if (!device.loading.empty()) all.push_back({Choice::kLoaded, i, 0});
    }
    // Messages travel while their sender is stopped, but not into a black hole.
    for (int i = 0; i < n_devices_; ++i)
      for (const auto& [peer, link] : at(i).out)
        if (!link->messages.empty() && runs(peer) && !(at(i).black_hole_sender && peer != 0))
          all.push_back({Choice::kMessage, i, peer});
    for (std::size_t i = 0; i < leaving_.size(); ++i)
      if (!at(leaving_[i].first.second).frozen) all.push_back({Choice::kLeaving, static_cast<int>(i), 0});
    return all;
  }

  void deliver(int from, int to, const wire::ControlMessage& message) {
    Device& device = at(to);
    if (!runs(to) || !device.allowed.contains(test_key(from))) return;
    perform(to, device.head ? device.head->on_control(test_key(from), message, now_)
                            : device.worker->on_control(test_key(from), message, now_));
  }

  void happen(const Choice& choice) {
    Device& device = at(choice.kind == Choice::kLeaving ? 0 : choice.device);
    switch (choice.kind) {
      case Choice::kResolve:
        return resolve(choice.device, choice.peer);
      case Choice::kLinkEvent: {
        const LinkEvent event = device.events.front();
        device.events.pop_front();
        const auto current = device.out.find(event.peer);
        if (current == device.out.end() || current->second != event.link)
          return;  // closed by the session meanwhile
        event.link->answered = event.up;
        if (!event.up) device.out.erase(event.peer);
        const DeviceKey key = test_key(event.peer);
        if (event.up)
          perform(choice.device,
                  device.head ? device.head->on_peer_up(key, now_) : device.worker->on_peer_up(key, now_));
        else
          perform(choice.device, device.head ? device.head->on_peer_gone(key, event.error, now_)
                                             : device.worker->on_peer_gone(key, event.error, now_));
        return;
      }
      case Choice::kMessage: {
        auto& messages = device.out[choice.peer]->messages;
        const wire::ControlMessage message = messages.front();
        messages.pop_front();
        return deliver(choice.device, choice.peer, message);
      }
      case Choice::kLeaving: {
        const auto [ends, link] = leaving_[static_cast<std::size_t>(choice.device)];
        if (link->messages.empty()) {
          leaving_.erase(leaving_.begin() + choice.device);
          return;
        }
        const wire::ControlMessage message = link->messages.front();
        link->messages.pop_front();
        return deliver(ends.first, ends.second, message);
      }
      case Choice::kLoaded: {
        const std::uint32_t epoch = device.loading.front();
        device.loading.erase(device.loading.begin());
        Result<LoadReport> report = LoadReport{1, 2, 3};
        if (device.load_fails) report = fail(ErrorCode::kOutOfMemory, "no memory in the test");
        const bool held = device.held.contains(epoch);
        Actions actions = device.head ? device.head->on_loaded(epoch, report, now_)
                                      : device.worker->on_loaded(epoch, report, now_);
        if (!held && !actions.empty()) broken("a load that came too late has consequences");
        return perform(choice.device, std::move(actions));
      }
    }
  }

  void tick(Milliseconds time) {
    now_ += time;
    for (int i = 0; i < n_devices_; ++i) {
      if (!runs(i)) continue;
      perform(i, at(i).head ? at(i).head->tick({}, 0, now_) : at(i).worker->tick({}, now_));
    }
    // The node's part: a next plan now and then, the old one retired when the new one is active.
    Device& head = at(0);
    if (!runs(0) || closed_ || head.head->state() != HeadSession::State::kMet) return;
    if (head.active.size() == 2) perform(0, head.head->retire(*head.active.begin(), "replaced", now_));
    if (head.plans_wanted > 0 && head.held.size() == 1 && head.active.size() == 1 && chance(5)) make_plan();
  }

  void event() {
    const auto all = choices();
    if (all.empty() || chance(10))
      tick(20ms);
    else
      happen(all[static_cast<std::size_t>(pick(0, static_cast<int>(all.size()) - 1))]);
  }

  // Time passes, and whatever can happen does.
  void settle(Milliseconds time) {
    for (Milliseconds t{0}; t < time && !failed(); t += 100ms) {
      tick(100ms);
      for (int i = 0; i < 2000; ++i) {
        const auto all = choices();
        if (all.empty()) break;
        happen(all[static_cast<std::size_t>(pick(0, static_cast<int>(all.size()) - 1))]);
      }
    }
  }

  void die(int device) {
    at(device).dead = true;
    for (int from = 0; from < n_devices_; ++from)
      if (from != device && at(from).out.contains(device)) cut(from, device, ErrorCode::kPeerGone);
    for (const auto& [peer, link] : at(device).out)
      if (chance(50)) link->messages.clear();
  }

  void strike(Fault fault) {
    Device& victim = at(victim_);
    switch (fault) {
      case Fault::kNone:
      case Fault::kLoadFails:
      case Fault::kCount:
        break;
      case Fault::kKillWorker:
        die(victim_);
        break;
      case Fault::kKillHead:
        die(0);
        break;
      case Fault::kRestartHead:
        die(0);
        for (int i = pick(0, 60); i > 0 && !failed(); --i) event();
        failed_at_.reset();
        start_head();
        break;
      case Fault::kFreezeWorker:
        victim.frozen = true;
        break;
      case Fault::kFreezeHead:
        at(0).frozen = true;
        break;
      case Fault::kLeave:
        perform(victim_, victim.worker->shutdown("stopped by the user", now_));
        victim.dead = true;
        for (int from = 0; from < n_devices_; ++from)
          if (at(from).out.contains(victim_)) cut(from, victim_, ErrorCode::kPeerGone);
        break;
      case Fault::kComputeFails:
        for (const std::uint32_t epoch : std::set(victim.active))
          perform(victim_,
                  victim.worker->on_failed(epoch, Error{ErrorCode::kNumeric, "NaN in layer 3"}, now_));
        break;
      case Fault::kPartition:
        victim.black_hole_sender = true;
        break;
      case Fault::kHostileMember: {
        const int target = pick(1, n_devices_ - 1);
        const std::vector<wire::ControlMessage> forbidden{
            wire::Activate{1},
            wire::Retire{1, "no"},
            wire::Goodbye{"no"},
            wire::Welcome{},
            wire::Cancel{1, 1, 9},
            wire::Hello{},
            wire::Measure{1, 0, test_plan(9, n_devices_, steps_).members},
            wire::LinkReport{1, {}},
            wire::Probe{1, 8},
            wire::ProbeReply{std::uint64_t{1} << 32},
            test_plan(9, n_devices_, steps_)};
        deliver(victim_, target,
                forbidden[static_cast<std::size_t>(pick(0, static_cast<int>(forbidden.size()) - 1))]);
        break;
      }
      case Fault::kHostileWorker:
        return strike_head();
      case Fault::kHostileHead: {
        const std::vector<wire::ControlMessage> forbidden{
            wire::Activate{99},      wire::Ready{1},    wire::Welcome{},
            wire::Cancel{99, 1, 9},  wire::Failed{99},  wire::Measure{1, 0, {}},
            wire::LinkReport{1, {}}, wire::Probe{1, 8}, wire::ProbeReply{1}};
        deliver(0, victim_,
                forbidden[static_cast<std::size_t>(pick(0, static_cast<int>(forbidden.size()) - 1))]);
        break;
      }
    }
  }

  // Messages to the head that are out of place now and then.
  void strike_head() {
    const std::uint16_t other = pick(0, 1) == 0 ? 0 : 60;
    const std::vector<wire::ControlMessage> out_of_place{
        wire::Measure{1, 0, {}},  wire::LinkReport{1, {}}, wire::LinkReport{2, {{other, 5, 5}}},
        wire::LinkReport{99, {}}, wire::Probe{7, 0},       wire::ProbeReply{7},
        wire::Prepare{},          wire::Ready{9}};
    deliver(victim_, 0,
            out_of_place[static_cast<std::size_t>(pick(0, static_cast<int>(out_of_place.size()) - 1))]);
  }

  void judge(Fault fault, bool was_active, TimePoint struck) {
    Device& head = at(0);
    const auto errors = [&] {
      std::string text;
      for (const Error& error : head.epoch_errors) text += error.message + "\n";
      for (const Error& error : head.session_errors) text += error.message + "\n";
      return text;
    }();
    const auto expect_failure = [&](std::string_view says) {
      ASSERT_FALSE(errors.empty()) << "the head noticed nothing";
      EXPECT_THAT(errors, ::testing::HasSubstr(says));
      // A device that is silent from the first hello is found by the contact timeout, one that cannot be
      // reached by others when their links to it were to be measured and then to be used.
      EXPECT_LE(*failed_at_ - struck, was_active ? 10s : measures_ ? 35s : 25s);
    };
    switch (fault) {
      case Fault::kNone:
      case Fault::kRestartHead:
        EXPECT_EQ(errors, "");
        for (std::size_t from = 0; from < head.head->links().size(); ++from)
          for (std::size_t to = 0; to < head.head->links().size(); ++to)
            EXPECT_EQ(head.head->links()[from][to].has_value(), from != to) << from << " -> " << to;
        EXPECT_EQ(head.active.size(), 1u);
        for (int i = 1; i < n_devices_; ++i) EXPECT_EQ(at(i).active, head.active) << test_name(i);
        break;
      case Fault::kKillWorker:
      case Fault::kLeave:
      case Fault::kFreezeWorker: {
        // One that was not met yet is known by its address only.
        const bool met = errors.contains(test_name(victim_));
        expect_failure(met ? test_name(victim_) : test_address(victim_).host);
        EXPECT_EQ(head.head->state(), HeadSession::State::kFailed);
        break;
      }
      case Fault::kPartition:
        // The black hole swallows what the victim sends to other workers only; without such a link nothing
        // happens.
        if (!errors.empty())
          expect_failure(errors.contains(test_name(victim_)) ? test_name(victim_)
                                                             : test_address(victim_).host);
        break;
      case Fault::kLoadFails:
        expect_failure("no memory in the test");
        break;
      case Fault::kComputeFails:
        if (was_active && !errors.empty()) expect_failure("NaN in layer 3");
        break;
      case Fault::kKillHead:
      case Fault::kFreezeHead:
        for (int i = 1; i < n_devices_; ++i) {
          EXPECT_EQ(at(i).worker->state(), WorkerSession::State::kIdle) << test_name(i);
          EXPECT_TRUE(at(i).held.empty());
        }
        break;
      case Fault::kHostileMember:
      case Fault::kHostileHead:
      case Fault::kHostileWorker:
      case Fault::kCount:
        break;  // whatever it leads to, it must end cleanly
    }
  }

  std::mt19937_64 random_;
  TimePoint now_{1000h};
  int n_devices_ = 2;
  int victim_ = 1;
  bool closed_ = false;
  bool measures_ = false;  // links, before the plan
  std::uint32_t first_epoch_ = 0;
  std::vector<std::uint16_t> steps_;
  std::vector<Device> devices_;
  std::vector<std::pair<std::pair<int, int>, std::shared_ptr<OutLink>>> leaving_;
  std::optional<TimePoint> failed_at_;
};

class SessionSimulation : public ::testing::TestWithParam<Fault> {};

TEST_P(SessionSimulation, AlwaysEndsCleanly) {
  const std::uint64_t n_schedules = schedules(300);
  std::size_t activations = 0, failures = 0, measured = 0;
  for (std::uint64_t seed = 1; seed <= n_schedules; ++seed) {
    SCOPED_TRACE(std::format("seed {}", seed));
    World world(seed * 1000 + static_cast<std::uint64_t>(GetParam()));
    world.run(GetParam());
    if (HasFailure()) return;
    activations += world.n_activations;
    failures += world.n_failures;
    measured += world.n_measured;
  }
  std::printf("%llu schedules: %zu activations, %zu failures, links measured %zu times\n",
              static_cast<unsigned long long>(n_schedules), activations, failures, measured);
  EXPECT_GT(measured, n_schedules / 10);
  if (GetParam() != Fault::kLoadFails) {
    EXPECT_GT(activations, n_schedules / 2);
  }
}

std::string fault_name(const ::testing::TestParamInfo<Fault>& info) {
  constexpr std::array kNames{"None",          "KillWorker",  "KillHead",     "RestartHead",  "FreezeWorker",
                              "FreezeHead",    "Leave",       "LoadFails",    "ComputeFails", "Partition",
                              "HostileMember", "HostileHead", "HostileWorker"};
  return kNames[static_cast<std::size_t>(info.param)];
}

std::vector<Fault> all_faults() {
  std::vector<Fault> faults;
  for (int i = 0; i < static_cast<int>(Fault::kCount); ++i) faults.push_back(static_cast<Fault>(i));
  return faults;
}

INSTANTIATE_TEST_SUITE_P(Faults, SessionSimulation, ::testing::ValuesIn(all_faults()), fault_name);

}  // namespace
}  // namespace hearth::engine
