// What must hold for any bytes from a peer; the fuzzers and the replay of their corpus share it. For tests
// only.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "wire/bytes.h"
#include "wire/codec.h"
#include "wire/limits.h"

namespace hearth::wire::test {

// True when the bytes were a legal message. What decodes must encode to the same bytes.
inline bool check_control_bytes(std::span<const std::uint8_t> bytes) {
  const auto message = decode_control(bytes);
  if (!message) {
    HEARTH_CHECK(!message.error().message.empty());
    return false;
  }
  // A Hello of another version may have more fields than this one writes.
  if (const auto* hello = std::get_if<Hello>(&*message); hello != nullptr && hello->major != kProtocolMajor)
    return true;
  HEARTH_CHECK(std::ranges::equal(encode(*message), bytes), "encoding is not canonical");
  return true;
}

// The limits of a small plan, which fuzzing reaches easily, and the widest ones.
inline constexpr FrameLimits kSmallLimits{.n_ctx = 64, .n_ubatch = 16, .n_embd = 4, .n_steps = 3};
inline constexpr FrameLimits kWideLimits{
    .n_ctx = kMaxContext, .n_ubatch = kMaxBatchTokens, .n_embd = 1, .n_steps = kMaxSteps};

// The same bytes with a header whose magic, version and length are right, so that fuzzing gets past it.
inline std::vector<std::uint8_t> repaired(std::span<const std::uint8_t> bytes) {
  std::vector<std::uint8_t> out(bytes.begin(), bytes.end());
  if (out.size() < kHeaderBytes) return out;
  std::ranges::copy(std::array<std::uint8_t, 6>{'H', 'R', 'T', 'H', kProtocolMajor, 0}, out.begin());
  store_le(static_cast<std::uint32_t>(out.size() - kHeaderBytes), out.data() + 24);
  return out;
}

inline void check_hidden(const BatchFrame& frame) {
  const std::size_t n_rows = frame.hidden.size() / hidden_bytes(frame.encoding, 1, frame.n_embd);
  std::vector<float> rows(n_rows * frame.n_embd);
  if (!decode_hidden(frame.encoding, frame.hidden, frame.n_embd, rows)) return;
  HEARTH_CHECK(first_non_finite_row(rows, frame.n_embd) == n_rows, "a decoded row is not finite");
  std::vector<std::uint8_t> again;
  HEARTH_CHECK(encode_hidden(frame.encoding, rows, frame.n_embd, again).has_value());
  if (frame.encoding == HiddenEncoding::kF32) HEARTH_CHECK(again == frame.hidden, "f32 rows changed");
}

inline bool check_frame_bytes(std::span<const std::uint8_t> bytes) {
  const bool has_head = peek_batch_frame(bytes).has_value();
  bool legal = false;
  for (const FrameLimits& limits : {kSmallLimits, kWideLimits}) {
    const auto frame = decode_batch_frame(bytes, limits);
    if (!frame) {
      HEARTH_CHECK(!frame.error().message.empty());
      continue;
    }
    legal = true;
    HEARTH_CHECK(has_head, "decoded, but the head cannot be read");
    std::vector<std::uint8_t> again;
    encode(*frame, again);
    HEARTH_CHECK(std::ranges::equal(again, bytes), "encoding is not canonical");
    check_hidden(*frame);
  }
  return legal;
}

}  // namespace hearth::wire::test
