// Round trips of every message.
#include "wire/codec.h"

#include <gtest/gtest.h>

#include "wire/limits.h"

namespace hearth::wire {
namespace {

DeviceKey key(std::uint8_t fill) {
  DeviceKey k;
  k.bytes.fill(fill);
  return k;
}

Prepare example_plan() {
  return {.epoch = 7,
          .model = {1, 2, 3},
          .n_layer = 4,
          .n_ctx = 4096,
          .n_ubatch = 512,
          .members = {{"head", key(1), {"192.168.1.2", 7000, 7001}},
                      {"küche", key(2), {"fe80::1%eth0", 7000, 7001}}},
          .steps = {{1, 0, 1}, {0, 1, 2}, {1, 2, 4}}};
}

TEST(Codec, RoundTripOfEveryMessage) {
  const ControlMessage messages[] = {
      Hello{.version = "0.1.0", .name = "laptop", .address = {"10.0.0.1", 1, 65535}, .model = {9}},
      Welcome{.version = "0.1.0",
              .name = "desk",
              .data_port = 5,
              .model = {9},
              .memory_bytes = 1ull << 34,
              .n_threads = 8},
      example_plan(),
      Ready{.epoch = 1, .weight_bytes = 2, .kv_bytes = 3, .compute_bytes = 4},
      Activate{.epoch = 4294967295u},
      Retire{.epoch = 1, .reason = "a new plan"},
      Cancel{.epoch = 1, .first_batch = 1, .last_batch = ~0ull},
      Heartbeat{.epoch = 0, .steps_done = 12345678901234ull},
      Failed{.epoch = 1, .code = ErrorCode::kNumeric, .message = "NaN"},
      Refuse{.code = ErrorCode::kModelMismatch, .message = "another model"},
      Goodbye{.reason = ""}};
  for (const ControlMessage& message : messages) {
    const auto bytes = encode(message);
    const auto decoded = decode_control(bytes);
    ASSERT_TRUE(decoded) << decoded.error().message;
    EXPECT_EQ(*decoded, message) << message_name(message);
  }
}

TEST(Codec, RoundTripOfABatchFrame) {
  BatchFrame frame{
      .epoch = 3, .step = 1, .batch = {.id = 9}, .n_embd = 2, .hidden = std::vector<std::uint8_t>(16, 7)};
  frame.batch.operations = {{.kind = KvOpKind::kShift, .seq = 255, .p0 = 3, .p1 = 9, .delta = -2}};
  frame.batch.tokens = {{.position = 5, .cell = 6, .sequences = SequenceSet::of(0), .output = true},
                        {.position = 5, .cell = 4, .sequences = SequenceSet::of(200)}};
  std::vector<std::uint8_t> bytes;
  encode(frame, bytes);
  const FrameLimits limits{.n_ctx = 10, .n_ubatch = 4, .n_embd = 2, .n_steps = 2};
  const auto decoded = decode_batch_frame(bytes, limits);
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(*decoded, frame);
}

TEST(Hidden, RoundTrip) {
  const std::vector<float> rows = {1e6f, -2.5f, 0.0f, 3.4e38f, -1e-3f, 1e30f};
  for (const auto encoding : {HiddenEncoding::kF32, HiddenEncoding::kF16Scaled}) {
    std::vector<std::uint8_t> bytes;
    ASSERT_TRUE(encode_hidden(encoding, rows, 3, bytes));
    std::vector<float> back(rows.size());
    ASSERT_TRUE(decode_hidden(encoding, bytes, 3, back));
    EXPECT_NEAR(back[0], 1e6f, 1e6 / 2048);
    EXPECT_NEAR(back[3], 3.4e38f, 3.4e38 / 2048);
  }
}

}  // namespace
}  // namespace hearth::wire
