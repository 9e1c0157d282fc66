// Actions: what a session state machine wants its node to do, as values; the node carries them out in order.
//
// Sessions (worker_session.h, head_session.h) never touch sockets, clocks, threads or ggml themselves: each
// input returns actions, and what the world answers comes back as the next input. Keys name devices, as
// everywhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "wire/messages.h"

namespace hearth::engine {

// Handed in with every input; only differences count.
using TimePoint = std::chrono::steady_clock::time_point;
using Milliseconds = std::chrono::milliseconds;

// Hub::connect. on_peer_up or on_peer_gone must follow (also when connect() itself fails), unless a
// Disconnect comes first. An address with data_port 0 asks for the control lane only; a later Connect to the
// same peer with a data port replaces it (again one answer).
struct Connect {
  DeviceKey peer;
  wire::Address address;
  Milliseconds timeout;
};

// Hub::disconnect; `flush`: let the messages sent before leave first, at most kFlushTimeout.
struct Disconnect {
  DeviceKey peer;
  bool flush = false;
};
inline constexpr Milliseconds kFlushTimeout{500};

// One control message. When the lane would block the node keeps it, in order, and tries again.
struct Send {
  DeviceKey peer;
  wire::ControlMessage message;
};

// Hub::allow with exactly these keys.
struct Allow {
  std::vector<DeviceKey> keys;
};

// Load the windows of plan.members[device] and answer with on_loaded(plan.epoch, …). From now on frames of
// that epoch may arrive as soon as on_loaded was told of success: an Activate can be overtaken by the first
// frame, which comes on another link.
struct LoadEpoch {
  wire::Prepare plan;
  std::uint16_t device = 0;
};

// Every member is ready: batches may start on the head, never more at once than max_in_flight.
struct ActivateEpoch {
  std::uint32_t epoch = 0;
  std::uint32_t max_in_flight = 1;
};

// Stop computing and free everything of this epoch, also a load that still runs. The last action of an epoch.
struct FreeEpoch {
  std::uint32_t epoch = 0;
  std::string reason;
};

// Batches first..last of the epoch need no compute any more: MemberCore::cancel.
struct CancelBatches {
  std::uint32_t epoch = 0;
  std::uint64_t first_batch = 0;
  std::uint64_t last_batch = 0;
};

// Head only: all workers are welcome; their offers are in HeadSession::workers(), a plan can be made.
struct AllWelcome {};

// Head only: the answer to HeadSession::measure_links(); what could be measured is in HeadSession::links().
struct LinksMeasured {};

// Head only: this epoch ended by an error, FreeEpoch came before. The session itself goes on (see
// HeadSession::state()).
struct EpochFailed {
  std::uint32_t epoch = 0;
  Error error;
};

// Head only, at most once: the session is over, `error` says which device and why. Only shutdown() is left to
// do.
struct SessionFailed {
  Error error;
};

enum class LogLevel : std::uint8_t { kDebug, kInfo, kWarning, kError };
struct Log {
  LogLevel level;
  std::string text;
};

using Action = std::variant<Connect, Disconnect, Send, Allow, LoadEpoch, ActivateEpoch, FreeEpoch,
                            CancelBatches, AllWelcome, LinksMeasured, EpochFailed, SessionFailed, Log>;
using Actions = std::vector<Action>;

// What on_loaded reports; sent to the head in Ready.
struct LoadReport {
  std::uint64_t weight_bytes = 0;
  std::uint64_t kv_bytes = 0;
  std::uint64_t compute_bytes = 0;
  std::uint32_t max_batches = 1;  // full ones that there is memory for at once
  std::uint32_t max_group = 1;    // of these, computed together with one reading of the weights
  std::uint32_t gpu_layers =
      0;  // of a GPU, which has them in gpu_bytes of its memory; the rest does not count them
  std::uint64_t gpu_bytes = 0;
  bool gpu_output = false;  // it computes the output head; of the head's report only
  friend bool operator==(const LoadReport&, const LoadReport&) = default;
};

// How far the compute thread of this device is, over all epochs. All only grow; accepted >= done.
struct Progress {
  std::uint64_t steps_accepted = 0;  // frames handed to compute
  std::uint64_t steps_done = 0;      // of these, finished or thrown away with their epoch
  std::uint64_t work_done = 0;       // grows with every operation of a graph: one step may take minutes
};

// Sessions want tick() at least this often.
inline constexpr Milliseconds kTickInterval{500};

}  // namespace hearth::engine
