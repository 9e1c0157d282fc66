// Control: the thread of a node that owns its links. It feeds what happens (messages, links, time, answers of
// the engine thread) to a session state machine and carries out the actions that come back.
//
// Session is engine::WorkerSession or engine::HeadSession. All public functions may be called from any
// thread; the session itself is touched on the control thread only.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/channel.h"
#include "engine/actions.h"
#include "engine/head_session.h"
#include "engine/worker_session.h"
#include "net/hub.h"
#include "node/engine_inbox.h"
#include "node/executor.h"
#include "node/recalls.h"
#include "wire/codec.h"

namespace hearth::node {

// What other threads ask of the control thread.
struct SendFrame {
  DeviceKey to;
  std::vector<std::uint8_t> frame;
};
struct EpochLoaded {
  std::uint32_t epoch;
  Result<engine::LoadReport> report;
};
struct EpochBroken {
  std::uint32_t epoch;
  Error error;
};
struct AnnounceCancel {
  std::uint32_t epoch;
  std::uint64_t first_batch, last_batch;
};
struct MeasureLinks {};
struct UsePlan {
  plan::Plan plan;
  engine::EpochOptions options;
};
struct Shutdown {
  std::string reason;
};
using ControlInput =
    std::variant<SendFrame, EpochLoaded, EpochBroken, AnnounceCancel, MeasureLinks, UsePlan, Shutdown>;

// What the owner of a head wants to know; called on the control thread.
struct ControlObserver {
  std::function<void(const std::vector<engine::WorkerInfo>&)> all_welcome;
  std::function<void(const engine::LinkMatrix&)> links_measured;
  std::function<void(std::uint32_t epoch, const std::vector<std::optional<engine::LoadReport>>&)> active;
  std::function<void(const Error&)> failed;  // of an epoch or the whole session
  std::function<void(engine::LogLevel, const std::string&)> log;
};

template <class Session>
class Control {
 public:
  // `engine` and what follows outlive this object. `in_flight` counts batches on their way (head).
  Control(Session session, std::unique_ptr<net::Hub> hub, EngineInbox& engine, Recalls& recalls,
          const ExecutorCounters& counters, const std::atomic<std::uint32_t>& in_flight,
          ControlObserver observer)
      : session_(std::move(session)),
        hub_(std::move(hub)),
        engine_(engine),
        recalls_(recalls),
        counters_(counters),
        in_flight_(in_flight),
        observer_(std::move(observer)) {
    engine_.listen_to(*hub_);
    thread_ = std::thread([this] { run(); });
  }
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;
  ~Control() { stop(); }

  // Says goodbye and ends the thread. What is posted later is ignored, so whoever posts may outlive the
  // thread, not this object.
  void stop() {
    post(Shutdown{"the program ends"});
    if (thread_.joinable()) thread_.join();
  }

  // Engine thread: sends a frame at once, or leaves it to the control thread where that would block.
  void send_frame(const DeviceKey& to, std::vector<std::uint8_t> frame);

  // Waits while the control thread is behind by a great many messages. Ignored after shutdown.
  void post(ControlInput input) {
    if (inputs_.send(std::move(input))) hub_->wake();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void run();
  void take(ControlInput& input);
  void take(net::Event& event);
  void carry_out(const engine::Actions& actions);
  void act(const engine::Action& action);
  void send_control(const DeviceKey& to, net::Bytes bytes);
  void send_queued();
  void drop_queued(const DeviceKey& to);
  [[nodiscard]] engine::Actions tick();

  Session session_;
  std::unique_ptr<net::Hub> hub_;
  EngineInbox& engine_;
  Recalls& recalls_;
  const ExecutorCounters& counters_;
  const std::atomic<std::uint32_t>& in_flight_;
  ControlObserver observer_;
  Channel<ControlInput> inputs_{4096};
  struct Queue {
    std::deque<net::Bytes> control, data;
  };
  std::map<DeviceKey, Queue> waiting_;       // messages that the hub would not take yet
  std::atomic<std::size_t> frames_left_{0};  // to the control thread: later ones must not overtake them
  bool ended_ = false;
  std::thread thread_;
};

extern template class Control<engine::WorkerSession>;
extern template class Control<engine::HeadSession>;

}  // namespace hearth::node
