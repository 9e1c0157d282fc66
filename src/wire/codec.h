// Messages <-> bytes: explicit little-endian, bounded, every length checked before anything is allocated.
//
// Pure functions, any thread. Format: docs/reference/wire.md.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "wire/messages.h"

namespace hearth::wire {

// What a receiver knows of an epoch and so may demand of its frames.
struct FrameLimits {
  std::uint32_t n_ctx = 0;
  std::uint32_t n_ubatch = 0;
  std::uint32_t n_embd = 0;
  std::uint16_t n_steps = 0;
};

// HEARTH_CHECKs that the message respects wire/limits.h (a longer reason, message or version is cut, and what
// cannot be printed in it replaced).
[[nodiscard]] std::vector<std::uint8_t> encode(const ControlMessage& message);
// kVersionMismatch, naming both versions, for any message of another one but Hello: that keeps its layout for
// ever and decodes with the sender's `major`, so that the receiver can answer with a Refuse (which every
// version can read).
[[nodiscard]] Result<ControlMessage> decode_control(std::span<const std::uint8_t> bytes);

// The name for logs, e.g. "Prepare".
[[nodiscard]] std::string_view message_name(const ControlMessage& message);

// HEARTH_CHECKs what does not need the plan: counts, ids, sequence sets, whole rows. The plan's limits are
// the caller's.
void encode(const BatchFrame& frame, std::vector<std::uint8_t>& out);  // replaces `out`, keeps its capacity

// Reads epoch and step only, so that a receiver can find the epoch's limits first.
struct FrameHead {
  std::uint32_t epoch;
  std::uint16_t step;
  std::uint64_t batch;
};
[[nodiscard]] Result<FrameHead> peek_batch_frame(std::span<const std::uint8_t> bytes);
// Full check against `limits`: step, counts, positions, cells (in range, distinct), sequence sets,
// operations, hidden size, n_embd, encoding.
[[nodiscard]] Result<BatchFrame> decode_batch_frame(std::span<const std::uint8_t> bytes,
                                                    const FrameLimits& limits);
// The same into `out`, whose vectors keep their capacity; after an error `out` holds nothing to rely on.
[[nodiscard]] Result<> decode_batch_frame(std::span<const std::uint8_t> bytes, const FrameLimits& limits,
                                          BatchFrame& out);

}  // namespace hearth::wire
