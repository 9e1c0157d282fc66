// What the wire tests share: hexadecimal, error text, random legal messages and frames. For tests only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <rapidcheck.h>

#include "wire/codec.h"
#include "wire/limits.h"

namespace hearth::wire::test {

using Bytes = std::vector<std::uint8_t>;

// Bytes of two hexadecimal digits each, separated by blanks; from ';' to the end of a line is a comment.
inline Bytes from_hex(std::string_view text) {
  Bytes bytes;
  int high = -1;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == ';') {
      while (i + 1 < text.size() && text[i + 1] != '\n') ++i;
      continue;
    }
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) continue;
    if (high < 0) {
      high = digit;
    } else {
      bytes.push_back(static_cast<std::uint8_t>(high * 16 + digit));
      high = -1;
    }
  }
  return bytes;
}

inline std::string to_hex(std::span<const std::uint8_t> bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) text += std::format("{:02x} ", byte);
  return text;
}

inline DeviceKey key_of(std::uint8_t fill) {
  DeviceKey key;
  key.bytes.fill(fill);
  return key;
}

// --- Random legal values
// --------------------------------------------------------------------------------------------

template <class T>
T any(std::uint64_t low, std::uint64_t high) {  // both included
  return static_cast<T>(*rc::gen::inRange<std::uint64_t>(low, high + 1));
}

// Printable text of 1, 2, 3 and 4 byte characters.
inline std::string any_text(std::size_t max_characters) {
  static constexpr std::string_view kCharacters[] = {
      "a", "Z", "7", "-", "~", "\xc3\xbc", "\xc2\xa0", "\xe4\xb8\xad", "\xef\xbf\xbd", "\xf0\x9f\x94\xa5",
      "."};
  std::string text;
  for (std::size_t n = any<std::size_t>(0, max_characters); n > 0; --n)
    text += kCharacters[any<std::size_t>(0, std::size(kCharacters) - 1)];
  return text;
}

inline std::string any_name() {
  return "d" + any_text(15);
}

inline Address any_address() {
  static constexpr std::string_view kHosts[] = {"127.0.0.1", "fe80::1%eth0", "desk.local", "a", "my_host-2"};
  return {std::string(kHosts[any<std::size_t>(0, 4)]), any<std::uint16_t>(1, 65535),
          any<std::uint16_t>(1, 65535)};
}

template <std::size_t N>
std::array<std::uint8_t, N> any_bytes() {
  std::array<std::uint8_t, N> bytes{};
  for (auto& byte : bytes) byte = any<std::uint8_t>(0, 255);
  return bytes;
}

inline std::uint32_t any_epoch() {
  return any<std::uint32_t>(1, 0xffffffff);
}

inline std::vector<Member> any_members() {
  std::vector<Member> members;
  const auto n_members = any<std::uint16_t>(1, 9);
  for (std::uint16_t i = 0; i < n_members; ++i) {
    Member member{.name = any_name() + std::to_string(i), .key = {any_bytes<32>()}, .address = any_address()};
    member.key.bytes[0] = static_cast<std::uint8_t>(i + 1);
    members.push_back(std::move(member));
  }
  return members;
}

inline KvType any_kv_type() {
  return kKvTypes[any<std::size_t>(0, kKvTypes.size() - 1)].type;
}
inline HiddenEncoding any_encoding() {
  return static_cast<HiddenEncoding>(any<int>(1, kHiddenEncodings));
}

inline Prepare any_plan() {
  Prepare plan{.epoch = any_epoch(),
               .model = any_bytes<32>(),
               .n_layer = any<std::uint32_t>(1, 40),
               .n_ctx = any<std::uint32_t>(1, kMaxContext),
               .n_ubatch = any<std::uint32_t>(1, kMaxBatchTokens),
               .n_seq = any<std::uint16_t>(1, kMaxSequences),
               .kv_type = {any_kv_type(), any_kv_type()},
               .hidden = any_encoding(),
               .hidden_always = any<int>(0, 1) != 0,
               .repack = any<int>(0, 1) != 0,
               .flash_attention = any<int>(0, 1) != 0};
  plan.members = any_members();
  for (std::uint32_t layer = 0; layer < plan.n_layer;) {
    const auto end = any<std::uint32_t>(layer + 1, plan.n_layer);
    plan.steps.push_back({any<std::uint16_t>(0, plan.members.size() - 1), layer, end});
    layer = end;
  }
  return plan;
}

inline std::vector<PassRate> any_passes() {
  std::vector<PassRate> passes;
  std::uint32_t n_tokens = 0;
  for (std::size_t n = any<std::size_t>(0, kMaxPasses); n > 0; --n) {
    n_tokens = any<std::uint32_t>(n_tokens + 1, kMaxBatchTokens - n + 1);
    passes.push_back({n_tokens, any<std::uint64_t>(1, kMaxBytesPerS), any<std::uint32_t>(0, 0xffffffff)});
  }
  return passes;
}

inline ErrorCode any_code() {
  return static_cast<ErrorCode>(any<int>(0, static_cast<int>(ErrorCode::kCancelled)));
}

inline constexpr std::size_t kMessageKinds = std::variant_size_v<ControlMessage>;

inline ControlMessage any_control_message(std::size_t kind) {
  switch (kind) {
    case 0:
      return Hello{.minor = any<std::uint16_t>(0, 65535),
                   .version = any_text(16),
                   .name = any_name(),
                   .address = any_address(),
                   .model = any_bytes<32>()};
    case 1:
      return Welcome{.minor = any<std::uint16_t>(0, 65535),
                     .version = any_text(16),
                     .name = any_name(),
                     .data_port = any<std::uint16_t>(1, 65535),
                     .model = any_bytes<32>(),
                     .memory_bytes = any<std::uint64_t>(0, kMaxMemoryBytes),
                     .n_threads = any<std::uint32_t>(1, kMaxThreads),
                     .passes = any_passes(),
                     .disk_bytes_per_s = any<std::uint64_t>(1, kMaxBytesPerS),
                     .disk_spread_per_10k = any<std::uint32_t>(0, 0xffffffff)};
    case 2:
      return any_plan();
    case 3:
      return Ready{any_epoch(),
                   any<std::uint64_t>(0, kMaxMemoryBytes),
                   any<std::uint64_t>(0, kMaxMemoryBytes),
                   any<std::uint64_t>(0, kMaxMemoryBytes),
                   any<std::uint32_t>(1, kMaxBatchesAtOnce),
                   any<std::uint32_t>(1, kMaxBatchesAtOnce),
                   any<std::uint32_t>(0, kMaxLayers),
                   any<std::uint64_t>(0, kMaxMemoryBytes)};
    case 4:
      return Activate{any_epoch(), any<std::uint32_t>(1, kMaxBatchesAtOnce)};
    case 5:
      return Retire{any_epoch(), any_text(200)};
    case 6: {
      const auto first = any<std::uint64_t>(1, 1ull << 40);
      return Cancel{any_epoch(), first, any<std::uint64_t>(first, 1ull << 41)};
    }
    case 7:
      return Heartbeat{any<std::uint32_t>(0, 3), any<std::uint64_t>(0, 1ull << 60)};
    case 8:
      return Failed{any_epoch(), any_code(), any_text(200)};
    case 9:
      return Refuse{any_code(), any_text(200)};
    case 10:
      return Goodbye{any_text(200)};
    case 11:
      return Measure{any<std::uint32_t>(1, 0xffffffff), any<std::uint32_t>(0, kMaxMeasureMs), any_members()};
    case 12: {
      LinkReport report{.id = any<std::uint32_t>(1, 0xffffffff)};
      for (std::uint16_t i = 0; i < kMaxMembers; ++i)
        if (any<int>(0, 3) == 0)
          report.links.push_back(
              {i, any<std::uint64_t>(0, kMaxLatencyNs), any<std::uint64_t>(0, kMaxBytesPerS)});
      return report;
    }
    case 13:
      return Probe{any<std::uint64_t>(0, 1ull << 60), any<std::uint32_t>(0, 40)};
    default:
      return ProbeReply{any<std::uint64_t>(0, 1ull << 60)};
  }
}

struct RandomFrame {
  BatchFrame frame;
  FrameLimits limits;
};

inline RandomFrame any_frame() {
  RandomFrame out;
  out.limits = {.n_ctx = any<std::uint32_t>(1, 3) == 1 ? kMaxContext : any<std::uint32_t>(8, 300),
                .n_ubatch = any<std::uint32_t>(1, 40),
                .n_embd = any<std::uint32_t>(1, 9),
                .n_steps = any<std::uint16_t>(1, 6)};
  BatchFrame& frame = out.frame;
  frame.epoch = any_epoch();
  frame.step = any<std::uint16_t>(0, out.limits.n_steps);
  frame.batch.id = any<std::uint64_t>(1, 1ull << 50);
  frame.batch.operations_only = any<int>(0, 4) == 0;
  frame.encoding = any_encoding();
  frame.n_embd = out.limits.n_embd;
  const std::uint16_t last_seq = any<int>(0, 1) != 0 ? 255 : any<std::uint16_t>(0, 20);
  for (std::size_t n = any<std::size_t>(0, 5); n > 0; --n) {
    KvOp op{.kind = static_cast<KvOpKind>(any<int>(1, 4)), .seq = any<std::uint16_t>(0, last_seq)};
    if (op.kind == KvOpKind::kCopy) op.seq_to = any<std::uint16_t>(0, last_seq);
    if (op.kind == KvOpKind::kShift)
      op.delta = static_cast<std::int32_t>(any<std::uint32_t>(0, 2 * out.limits.n_ctx)) -
                 static_cast<std::int32_t>(out.limits.n_ctx);
    if (op.kind != KvOpKind::kKeep) {
      op.p0 = any<std::int32_t>(0, KvOp::kToTheEnd - 1);
      op.p1 = any<std::int32_t>(op.p0 + 1, KvOp::kToTheEnd);
    }
    frame.batch.operations.push_back(op);
  }
  std::set<std::uint32_t> used;
  const auto n_tokens = any<std::size_t>(0, std::min(out.limits.n_ubatch, out.limits.n_ctx));
  while (used.size() < n_tokens) {
    const auto cell = any<std::uint32_t>(0, out.limits.n_ctx - 1);
    if (!used.insert(cell).second) continue;
    BatchToken token{.position = any<std::int32_t>(0, static_cast<std::int32_t>(out.limits.n_ctx - 1)),
                     .cell = cell,
                     .output = any<int>(0, 1) != 0};
    for (std::size_t n = any<std::size_t>(1, 3); n > 0; --n)
      token.sequences.add(any<std::uint16_t>(0, last_seq));
    frame.batch.tokens.push_back(token);
  }
  const std::size_t n_rows = frame.batch.operations_only        ? 0
                             : frame.step == out.limits.n_steps ? frame.batch.n_outputs()
                                                                : n_tokens;
  frame.hidden.resize(hidden_bytes(frame.encoding, n_rows, frame.n_embd));
  for (auto& byte : frame.hidden) byte = any<std::uint8_t>(0, 255);
  return out;
}

}  // namespace hearth::wire::test
