// WorkerSession: the control side of a worker, from waiting for a head to computing for it and back.
//
//   Idle --Hello--> Greeting --link up, Welcome--> Joined --Prepare--> epochs: Preparing -> Ready -> Active
//   -> freed
// A head is one of the configured keys. Joined holds up to two epochs. Whatever ends the head (Goodbye,
// closed connection, silence) frees every epoch and leads back to Idle, where the allow-list is the
// configured heads again. Joined without an epoch, a Measure makes it link to the other devices and measure
// its links; that ends with Prepare. What ends an epoch (Retire, a failed load or compute, a member that is
// gone, silent or breaks the rules) frees that epoch; the head learns of a failure by Failed. After FreeEpoch
// nothing more is said of that epoch. docs/reference/ring-protocol.md has the tables.
//
// Thread contract: none; one thread owns it. Inputs take the time and return what to do, in order.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "engine/actions.h"
#include "engine/handshake.h"
#include "engine/link_prober.h"
#include "engine/link_set.h"
#include "engine/liveness.h"
#include "wire/messages.h"

namespace hearth::engine {

struct WorkerOptions {
  DeviceKey key{};  // own
  std::string name{};
  std::string version{};        // of the program
  std::uint16_t data_port = 0;  // as bound
  wire::ModelId model{};
  std::uint64_t memory_bytes = 0;
  std::uint32_t n_threads = 0;
  DeviceSpeed speed{};
  std::vector<DeviceKey> heads{};  // who may lead this device
  LivenessOptions liveness{};
  Milliseconds connect_timeout{5000};  // of one attempt
  Milliseconds link_deadline{15'000};  // for all links of a plan to come up, from Prepare
};

class WorkerSession {
 public:
  explicit WorkerSession(const WorkerOptions& options);

  enum class State : std::uint8_t { kIdle, kGreeting, kJoined };

  // Allows the configured heads. Call once, before anything else.
  [[nodiscard]] Actions start(TimePoint now);
  // `from` is the key that the handshake proved.
  [[nodiscard]] Actions on_control(const DeviceKey& from, const wire::ControlMessage& message, TimePoint now);
  // A control message that decode_control refused, with its error: another version, or broken rules.
  [[nodiscard]] Actions on_unreadable(const DeviceKey& from, const Error& error, TimePoint now);
  [[nodiscard]] Actions on_peer_up(const DeviceKey& peer, TimePoint now);
  [[nodiscard]] Actions on_peer_gone(const DeviceKey& peer, const Error& error, TimePoint now);
  // Data frames count as a sign of life.
  void on_data(const DeviceKey& from, TimePoint now) { liveness_.heard(from, now); }
  // The answer to LoadEpoch; ignored when that epoch was freed meanwhile.
  [[nodiscard]] Actions on_loaded(std::uint32_t epoch, const Result<LoadReport>& report, TimePoint now);
  // Computing, or the data lane (MemberCore, the codec, a lost link), cannot go on with this epoch.
  [[nodiscard]] Actions on_failed(std::uint32_t epoch, const Error& error, TimePoint now);
  [[nodiscard]] Actions tick(const Progress& progress, TimePoint now);
  // The program ends.
  [[nodiscard]] Actions shutdown(const std::string& reason, TimePoint now);

  [[nodiscard]] State state() const { return state_; }
  // The plan of an epoch that this device has loaded, for frames of it; null otherwise: such frames are
  // dropped.
  [[nodiscard]] const wire::Prepare* loaded_plan(std::uint32_t epoch) const;
  [[nodiscard]] std::vector<std::uint32_t> epochs() const;  // held now, ascending
  [[nodiscard]] const std::optional<DeviceKey>& head() const { return head_; }

 private:
  struct Epoch {
    wire::Prepare plan{};
    std::uint16_t device = 0;
    std::optional<LoadReport> loaded{};
    bool ready = false;
    bool active = false;
  };

  // From a Measure to the next Prepare: the links to its members are kept, and their probes answered.
  struct Measuring {
    wire::Measure order{};
    TimePoint report_until{};
    std::optional<LinkProber> prober{};  // where more is asked for than to connect
    bool reported = false;
  };

  enum class Farewell : std::uint8_t { kNone, kGoodbye };

  void on_hello(const DeviceKey& from, const wire::Hello& hello, TimePoint now, Actions& out);
  void on_head(const wire::Prepare& plan, TimePoint now, Actions& out);
  void on_head(const wire::Activate& activate, TimePoint now, Actions& out);
  void on_head(const wire::Retire& retire, TimePoint now, Actions& out);
  void on_head(const wire::Failed& failed, TimePoint now, Actions& out);
  void on_head(const wire::Cancel& cancel, TimePoint now, Actions& out);
  void on_head(const wire::Heartbeat&, TimePoint, Actions&) {}
  void on_head(const wire::Refuse& refuse, TimePoint now, Actions& out);
  void on_head(const wire::Goodbye& goodbye, TimePoint now, Actions& out);
  void on_head(const wire::Measure& measure, TimePoint now, Actions& out);
  void on_head(const wire::Probe& probe, TimePoint, Actions& out) { answer(*head_, probe, out); }
  void on_head(const wire::ProbeReply& reply, TimePoint now, Actions& out) {
    on_reply(*head_, reply, now, out);
  }
  template <class NotForWorkers>
  void on_head(const NotForWorkers& message, TimePoint, Actions& out) {
    break_rules(*head_, message, out);
  }

  void refuse(const DeviceKey& peer, const wire::Address& address, Error error, TimePoint now, Actions& out);
  void break_rules(const DeviceKey& from, const wire::ControlMessage& message, Actions& out);
  void on_member(const DeviceKey& from, const wire::ControlMessage& message, TimePoint now, Actions& out);
  void answer(const DeviceKey& from, const wire::Probe& probe, Actions& out);
  void on_reply(const DeviceKey& from, const wire::ProbeReply& reply, TimePoint now, Actions& out);
  [[nodiscard]] Result<std::uint16_t> accept(const wire::Prepare& plan) const;  // the own index in it
  [[nodiscard]] Result<> accept(const wire::Measure& measure) const;
  void leave_out(const DeviceKey& peer, TimePoint now, Actions& out);
  void check_report(TimePoint now, Actions& out);
  void end_measuring(Actions& out);
  void drop_unneeded(const std::vector<wire::Member>& members, Actions& out);
  void check_ready(Epoch& epoch, Actions& out);
  void lose(const DeviceKey& peer, const Error& error, Actions& out);
  void fail_epochs_with(const DeviceKey& member, const Error& error, Actions& out);
  void fail_epoch(std::uint32_t number, const Error& error, Actions& out);
  void free_epoch(std::uint32_t number, const std::string& reason, Actions& out);
  void leave_head(const Error& error, Farewell farewell, Actions& out);
  void narrow(TimePoint now, Actions& out);
  void allow_now(Actions& out) const;
  [[nodiscard]] bool is_member(const DeviceKey& key) const;     // of an epoch held
  [[nodiscard]] bool is_measured(const DeviceKey& key) const;   // a member of the Measure
  [[nodiscard]] bool has_receiver(const DeviceKey& key) const;  // this device sends frames to it
  [[nodiscard]] bool has_sender(const DeviceKey& key) const;    // it may send frames to this device now
  [[nodiscard]] std::string who(const DeviceKey& key) const;

  WorkerOptions options_;
  State state_ = State::kIdle;
  std::optional<DeviceKey> head_;
  std::string head_name_;
  wire::Address head_address_;
  std::uint32_t last_epoch_ = 0;  // of this head; epochs only grow
  std::map<std::uint32_t, Epoch> epochs_;
  ProbeAnswers answers_;
  std::optional<Measuring> measuring_;          // not beside an epoch
  std::map<DeviceKey, wire::Refuse> refusing_;  // links that exist only to say no
  LinkSet links_;
  Liveness liveness_;
  StuckWatch stuck_;
  TimePoint next_heartbeat_{};
  std::set<DeviceKey> lingering_;  // members of epochs that are over, allowed a little longer
  std::optional<TimePoint> narrow_at_;
};

}  // namespace hearth::engine
