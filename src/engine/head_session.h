// HeadSession: the control side of the head: meets all workers, gives out plans, watches, and ends everything
// cleanly.
//
//   Contacting --all Welcome--> Met --measure_links()--> Met
//     --prepare()--> (Preparing -> Active -> retired)* --shutdown()--> Closed
// A lost worker (closed connection, silence, Goodbye, Refuse of the Hello) ends the session with one
// SessionFailed; an epoch that a device cannot load or compute ends with one EpochFailed, and the session can
// prepare another. prepare() while an epoch is active makes a second one; once it is active the node lets the
// old one drain and calls retire(). The head is device 0 of each plan and loads its own windows by the same
// actions as a worker.
//
// Thread contract: none; one thread owns it. Inputs take the time and return what to do, in order.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "engine/actions.h"
#include "engine/handshake.h"
#include "engine/link_set.h"
#include "engine/link_survey.h"
#include "engine/liveness.h"
#include "engine/plan_rules.h"
#include "plan/plan.h"
#include "wire/messages.h"

namespace hearth::engine {

struct WorkerContact {
  DeviceKey key{};
  wire::Address address;       // data_port is learnt from its Welcome
  wire::Address head_address;  // where this worker reaches the head
};

struct HeadOptions {
  DeviceKey key{};  // own
  std::string name{};
  std::string version{};  // of the program
  wire::ModelId model{};
  // Of the first plan, later ones count up: a random number below 2^30, so that a frame that an earlier head
  // left in a queue cannot look like one of ours.
  std::uint32_t first_epoch = 1;
  std::vector<WorkerContact> workers{};  // may be empty: a ring of one
  LivenessOptions liveness{};
  Milliseconds contact_timeout{15'000};  // for every worker to answer
  Milliseconds connect_timeout{5000};    // of one attempt
};

// What a worker said in its Welcome.
struct WorkerInfo {
  DeviceKey key{};
  std::string name{};
  std::string version{};
  wire::Address address{};  // complete
  std::uint64_t memory_bytes = 0;
  std::uint32_t n_threads = 0;
  DeviceSpeed speed{};
  std::uint64_t work_done = 0;  // of its last Heartbeat
};

class HeadSession {
 public:
  explicit HeadSession(const HeadOptions& options);

  enum class State : std::uint8_t { kContacting, kMet, kFailed, kClosed };

  // Allows the workers and contacts all of them. Call once, first. kInvalidArgument when two workers share a
  // key, or it is ours.
  [[nodiscard]] Result<Actions> start(TimePoint now);
  [[nodiscard]] Actions on_control(const DeviceKey& from, const wire::ControlMessage& message, TimePoint now);
  // A control message that decode_control refused, with its error: another version, or broken rules.
  [[nodiscard]] Actions on_unreadable(const DeviceKey& from, const Error& error, TimePoint now);
  [[nodiscard]] Actions on_peer_up(const DeviceKey& peer, TimePoint now);
  [[nodiscard]] Actions on_peer_gone(const DeviceKey& peer, const Error& error, TimePoint now);
  void on_data(const DeviceKey& from, TimePoint now) { liveness_.heard(from, now); }
  // Own windows are loaded, or cannot be.
  [[nodiscard]] Actions on_loaded(std::uint32_t epoch, const Result<LoadReport>& report, TimePoint now);
  // Own compute or data lane cannot go on with this epoch.
  [[nodiscard]] Actions on_failed(std::uint32_t epoch, const Error& error, TimePoint now);
  // `batches_in_flight`: of all epochs; with some, standing still for the stuck limit is an error.
  [[nodiscard]] Actions tick(const Progress& own, std::uint32_t batches_in_flight, TimePoint now);

  // State kMet, no epoch held: measures the links between all devices. LinksMeasured follows within 10 s, at
  // once without workers, unless SessionFailed does. kInvalidArgument otherwise. A measurement that runs
  // begins anew.
  [[nodiscard]] Result<Actions> measure_links(TimePoint now);
  // State kMet, no measurement runs. devices[0] of the plan is the head, the others are names of workers(),
  // each once, in any order. kInvalidArgument otherwise, or when two epochs are held already. The new epoch
  // is last_epoch().
  [[nodiscard]] Result<Actions> prepare(const plan::Plan& plan, const EpochOptions& options, TimePoint now);
  // No batch of this epoch is in flight and none will be: everybody frees it.
  [[nodiscard]] Actions retire(std::uint32_t epoch, const std::string& reason, TimePoint now);
  // Batches first..last need no compute.
  [[nodiscard]] Actions cancel(std::uint32_t epoch, std::uint64_t first_batch, std::uint64_t last_batch);
  [[nodiscard]] Actions shutdown(const std::string& reason, TimePoint now);

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] std::vector<WorkerInfo> workers()
      const;  // that said Welcome, in the order of HeadOptions::workers
  // What measure_links() found, in the order head, workers(); empty before the first LinksMeasured.
  [[nodiscard]] LinkMatrix links() const;
  // The plan of an epoch whose own part is loaded, for frames of it; null otherwise: such frames are dropped.
  [[nodiscard]] const wire::Prepare* loaded_plan(std::uint32_t epoch) const;
  [[nodiscard]] std::uint32_t last_epoch() const { return last_epoch_; }  // 0: none yet
  [[nodiscard]] bool is_active(std::uint32_t epoch) const;
  // Sums of all Ready of an epoch, by member index; empty where not ready yet.
  [[nodiscard]] std::vector<std::optional<LoadReport>> reports(std::uint32_t epoch) const;

 private:
  // Connecting: the control link is not up. Greeted: Hello is sent. Linking: Welcome is here, the data port
  // is being connected.
  enum class Meeting : std::uint8_t { kConnecting, kGreeted, kLinking, kMet };
  struct Worker {
    WorkerContact contact;
    Meeting meeting = Meeting::kConnecting;
    WorkerInfo info{};
    std::string last_error{};  // why it could not be reached so far
  };
  struct Epoch {
    wire::Prepare plan{};
    std::vector<std::optional<LoadReport>> reports{};  // by member
    bool active = false;
  };

  void on(Worker& from, const wire::Welcome& welcome, TimePoint now, Actions& out);
  void on(Worker& from, const wire::Ready& ready, TimePoint now, Actions& out);
  void on(Worker& from, const wire::Failed& failed, TimePoint now, Actions& out);
  void on(Worker& from, const wire::Refuse& refuse, TimePoint now, Actions& out);
  void on(Worker& from, const wire::Goodbye& goodbye, TimePoint now, Actions& out);
  void on(Worker& from, const wire::Heartbeat& heartbeat, TimePoint now, Actions& out);
  void on(Worker& from, const wire::LinkReport& report, TimePoint now, Actions& out);
  void on(Worker& from, const wire::Probe& probe, TimePoint now, Actions& out);
  void on(Worker& from, const wire::ProbeReply& reply, TimePoint now, Actions& out);
  template <class NotForHeads>
  void on(Worker& from, const NotForHeads& message, TimePoint, Actions& out) {
    break_rules(from, message, out);
  }

  [[nodiscard]] bool is_running() const { return state_ == State::kContacting || state_ == State::kMet; }
  [[nodiscard]] Worker* find(const DeviceKey& key);
  [[nodiscard]] std::string who(const Worker& worker) const;
  [[nodiscard]] Result<> check_name(const Worker& worker) const;
  void break_rules(const Worker& from, const wire::ControlMessage& message, Actions& out);
  void check_met(Actions& out);
  void check_links(Actions& out);
  [[nodiscard]] static std::uint32_t batches_in_flight(const Epoch& epoch);
  void check_active(Epoch& epoch, Actions& out);
  void report_missing(Actions& out);
  [[nodiscard]] std::uint64_t total_done(const Progress& own) const;
  [[nodiscard]] Error ring_error(const Progress& own, std::uint32_t batches_in_flight) const;
  void end_epoch(std::uint32_t number, const wire::ControlMessage& last_word, const std::string& reason,
                 Actions& out);
  void break_epoch(std::uint32_t number, const Error& error, Actions& out);
  void fail_epoch(std::uint32_t number, const Error& error, Actions& out);
  void fail_all_epochs(const Error& error, Actions& out);
  void fail_session(const Error& error, Actions& out);
  void send_to_members(const Epoch& epoch, const wire::ControlMessage& message, Actions& out) const;

  HeadOptions options_;
  State state_ = State::kContacting;
  std::vector<Worker> workers_;
  std::map<std::uint32_t, Epoch> epochs_;
  std::uint32_t last_epoch_ = 0;  // 0: none yet
  ProbeAnswers answers_;
  std::optional<LinkSurvey> survey_;  // the last one
  bool links_wanted_ = false;         // LinksMeasured is owed
  LinkSet links_;
  Liveness liveness_;
  StuckWatch own_stuck_;
  StuckWatch ring_stuck_;
  TimePoint contact_until_{};
  TimePoint next_heartbeat_{};
};

}  // namespace hearth::engine
