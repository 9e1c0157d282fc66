// Every message that may cross a link, as plain values; wire/codec.h turns them into bytes and back.
//
// docs/reference/wire.md is the format page. No message holds tensors, operations of ggml, pointers, paths or
// text of the user; prompts, tokens and logits never leave the head.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "wire/batch.h"
#include "wire/hidden.h"
#include "wire/kv_type.h"

namespace hearth::wire {

inline constexpr std::uint16_t kProtocolMajor = 1;  // differs: refused
inline constexpr std::uint16_t kProtocolMinor = 0;  // differs: works

using ModelId = std::array<std::uint8_t, 32>;  // gguf::File::fingerprint()

struct Address {
  std::string host{};              // numeric IP or host name, never empty on the wire; wire/text.h checks it
  std::uint16_t control_port = 0;  // > 0 on the wire, as data_port
  std::uint16_t data_port = 0;
  friend bool operator==(const Address&, const Address&) = default;
};

// head -> worker, first message; the head is reachable at `address` for answers.
struct Hello {
  std::uint16_t major = kProtocolMajor, minor = kProtocolMinor;
  std::string version{};  // of the program
  std::string name{};     // of the device; wire/text.h checks it
  Address address{};
  ModelId model{};
  friend bool operator==(const Hello&, const Hello&) = default;
};

// What a processor passes of a model's layers, as plan::PassRate.
struct PassRate {
  std::uint32_t n_tokens = 1;        // of the pass, 1 to kMaxBatchTokens
  std::uint64_t bytes_per_s = 0;     // of the layers' weights, 1 to kMaxBytesPerS
  std::uint32_t spread_per_10k = 0;  // half the distance of the quartiles, in 1/10000 of the rate
  friend bool operator==(const PassRate&, const PassRate&) = default;
};

// worker -> head.
struct Welcome {
  std::uint16_t major = kProtocolMajor, minor = kProtocolMinor;
  std::string version{};
  std::string name{};
  std::uint16_t data_port = 0;
  ModelId model{};
  std::uint64_t memory_bytes = 0;  // that this device lends
  std::uint32_t n_threads = 0;
  std::vector<PassRate> passes{};  // of its CPU, ascending by tokens, at most kMaxPasses; empty: not measured
  std::uint64_t disk_bytes_per_s = 0;     // of the disk of its packs; 0: not measured
  std::uint32_t disk_spread_per_10k = 0;  // 0 without a rate
  friend bool operator==(const Welcome&, const Welcome&) = default;
};

struct Member {
  std::string name{};
  DeviceKey key{};
  Address address{};
  friend bool operator==(const Member&, const Member&) = default;
};

struct StepSpec {
  std::uint16_t device = 0;       // index into Prepare::members
  std::uint32_t layer_begin = 0;  // [layer_begin, layer_end)
  std::uint32_t layer_end = 0;
  friend bool operator==(const StepSpec&, const StepSpec&) = default;
};

// head -> worker: the whole plan. members[0] is the head. The receiver's allow-list becomes exactly the
// members.
struct Prepare {
  std::uint32_t epoch = 0;  // > 0, grows with every plan of a head
  ModelId model{};
  std::uint32_t n_layer = 0;
  std::uint32_t n_ctx = 0;     // KV cells
  std::uint32_t n_ubatch = 0;  // most tokens in a batch
  std::uint16_t n_seq = 1;     // most sequences at a time
  KvTypes kv_type{};
  HiddenEncoding hidden = HiddenEncoding::kF32;
  bool hidden_always = false;  // also in frames so small that they would carry f32
  bool repack = true;
  bool flash_attention = true;
  std::vector<Member> members{};
  std::vector<StepSpec> steps{};  // cover 0..n_layer in order
  friend bool operator==(const Prepare&, const Prepare&) = default;
};

struct Ready {
  std::uint32_t epoch = 0;
  std::uint64_t weight_bytes = 0, kv_bytes = 0, compute_bytes = 0;
  std::uint32_t max_batches = 1;  // full ones that it has memory for at once
  std::uint32_t max_group = 1;    // of these, computed together with one reading of the weights
  std::uint32_t gpu_layers = 0;   // of a GPU, which has them in gpu_bytes of its memory, not counted above
  std::uint64_t gpu_bytes = 0;
  friend bool operator==(const Ready&, const Ready&) = default;
};
struct Activate {
  std::uint32_t epoch = 0;
  std::uint32_t max_in_flight = 1;  // the head never has more batches in the ring
  friend bool operator==(const Activate&, const Activate&) = default;
};
// The epoch is over; free it. `reason` is for the log.
struct Retire {
  std::uint32_t epoch = 0;
  std::string reason{};
  friend bool operator==(const Retire&, const Retire&) = default;
};
// Overtakes data: batches first_batch..last_batch need no compute any more (they still pass every step).
struct Cancel {
  std::uint32_t epoch = 0;
  std::uint64_t first_batch = 0, last_batch = 0;
  friend bool operator==(const Cancel&, const Cancel&) = default;
};
// Every second on each control link; `work_done`, which grows with every operation that is computed, proves
// that the compute thread lives.
struct Heartbeat {
  std::uint32_t epoch = 0;
  std::uint64_t work_done = 0;
  friend bool operator==(const Heartbeat&, const Heartbeat&) = default;
};
// member -> head: this epoch cannot go on. head -> worker: free it, a member failed.
struct Failed {
  std::uint32_t epoch = 0;
  ErrorCode code = ErrorCode::kIo;
  std::string message{};
  friend bool operator==(const Failed&, const Failed&) = default;
};
// Refuses a Hello or Prepare, with the reason.
struct Refuse {
  ErrorCode code = ErrorCode::kProtocol;
  std::string message{};
  friend bool operator==(const Refuse&, const Refuse&) = default;
};
// The sender leaves on purpose.
struct Goodbye {
  std::string reason{};
  friend bool operator==(const Goodbye&, const Goodbye&) = default;
};

// head -> worker: connect to these members and allow exactly them, for links to be measured before there is a
// plan. members[0] is the head. Replaces an earlier one. Answered by one LinkReport.
struct Measure {
  std::uint32_t id = 0;       // > 0, grows with every Measure of a head
  std::uint32_t time_ms = 0;  // > 0: measure the links to all members, for so long at most; 0: only connect
  std::vector<Member> members{};
  friend bool operator==(const Measure&, const Measure&) = default;
};
// From the sender of the report.
struct MeasuredLink {
  std::uint16_t member = 0;       // index into Measure::members, ascending
  std::uint64_t latency_ns = 0;   // of a small message, one way: half its round trip; at most kMaxLatencyNs
  std::uint64_t bytes_per_s = 0;  // of a large one; 0: too fast to tell
  friend bool operator==(const MeasuredLink&, const MeasuredLink&) = default;
};
// worker -> head: what was asked for by the Measure with this id. A member that could not be reached in time
// is left out.
struct LinkReport {
  std::uint32_t id = 0;
  std::vector<MeasuredLink> links{};
  friend bool operator==(const LinkReport&, const LinkReport&) = default;
};
// Any member -> member: to be answered at once.
struct Probe {
  std::uint64_t id = 0;
  std::uint32_t n_padding = 0;  // bytes of zeros behind it, at most kMaxProbePadding
  friend bool operator==(const Probe&, const Probe&) = default;
};
struct ProbeReply {
  std::uint64_t id = 0;
  friend bool operator==(const ProbeReply&, const ProbeReply&) = default;
};

using ControlMessage = std::variant<Hello, Welcome, Prepare, Ready, Activate, Retire, Cancel, Heartbeat,
                                    Failed, Refuse, Goodbye, Measure, LinkReport, Probe, ProbeReply>;

// The only message of the data lane: a batch on its way, addressed to plan step `step`
// (step == number of steps: the head's output stage).
struct BatchFrame {
  std::uint32_t epoch = 0;
  std::uint16_t step = 0;
  Batch batch{};
  HiddenEncoding encoding = HiddenEncoding::kF32;
  std::uint32_t n_embd = 0;
  // Encoded rows: one per token, on the frame to the output stage one per output token; empty when
  // operations_only.
  std::vector<std::uint8_t> hidden{};
  friend bool operator==(const BatchFrame&, const BatchFrame&) = default;
};

}  // namespace hearth::wire
