// The examples of docs/reference/wire.md, byte for byte. The page is written by hand and is the oracle here.
#include <fstream>
#include <map>
#include <sstream>

#include <gtest/gtest.h>

#include "wire/codec.h"
#include "wire/test_support.h"

namespace hearth::wire {
namespace {

using test::Bytes;
using test::key_of;

// Every "```hex NAME" block of the page.
std::map<std::string, Bytes> read_examples() {
  std::ifstream page(HEARTH_SOURCE_DIR "/docs/reference/wire.md");
  std::map<std::string, Bytes> examples;
  std::string line;
  while (std::getline(page, line)) {
    if (!line.starts_with("```hex ")) continue;
    const std::string name = line.substr(7);
    std::string block;
    while (std::getline(page, line) && line != "```") block += line + "\n";
    examples[name] = test::from_hex(block);
  }
  return examples;
}

ModelId model() {
  ModelId id{};
  for (std::size_t i = 0; i < id.size(); ++i) id[i] = static_cast<std::uint8_t>(i);
  return id;
}

std::map<std::string, ControlMessage> control_values() {
  const Address desk{"10.0.0.2", 7000, 7001};
  return {
      {"hello", Hello{.version = "0.1.0", .name = "desk", .address = desk, .model = model()}},
      {"welcome", Welcome{.version = "0.1.0",
                          .name = "pi",
                          .data_port = 7001,
                          .model = model(),
                          .memory_bytes = 4ull << 30,
                          .n_threads = 4,
                          .passes = {{1, 10'000'000'000, 250}, {64, 2'000'000'000, 100}},
                          .disk_bytes_per_s = 100'000'000,
                          .disk_spread_per_10k = 1200}},
      {"prepare",
       Prepare{.epoch = 1,
               .model = model(),
               .n_layer = 4,
               .n_ctx = 256,
               .n_ubatch = 64,
               .n_seq = 2,
               .kv_type = {KvType::kF16, KvType::kQ8_0},
               .hidden = HiddenEncoding::kF32,
               .repack = true,
               .flash_attention = true,
               .members = {{"desk", key_of(0xaa), desk}, {"pi", key_of(0xbb), {"fe80::2%eth0", 7000, 7001}}},
               .steps = {{1, 0, 3}, {0, 3, 4}}}},
      {"ready", Ready{1, 1 << 20, 1 << 16, 1 << 12, 5, 2, 3, 1 << 30}},
      {"activate", Activate{1, 5}},
      {"retire", Retire{1, "a new plan"}},
      {"cancel", Cancel{3, 10, 12}},
      {"heartbeat", Heartbeat{3, 300}},
      {"failed", Failed{3, ErrorCode::kNumeric, "NaN in layer 7"}},
      {"refuse", Refuse{ErrorCode::kModelMismatch, "another model"}},
      {"goodbye", Goodbye{"bye"}},
      {"measure",
       Measure{2, 3000, {{"desk", key_of(0xaa), desk}, {"pi", key_of(0xbb), {"fe80::2%eth0", 7000, 7001}}}}},
      {"link-report", LinkReport{2, {{0, 2'100'000, 38'750'000}, {2, 90'000, 0}}}},
      {"probe", Probe{8589934592, 6}},
      {"probe-reply", ProbeReply{8589934592}},
  };
}

std::map<std::string, BatchFrame> frame_values() {
  BatchFrame batch{.epoch = 3, .step = 1, .batch = {.id = 10}, .encoding = HiddenEncoding::kF32, .n_embd = 2};
  batch.batch.operations = {{.kind = KvOpKind::kShift, .seq = 0, .p0 = 4, .delta = -3}};
  SequenceSet both = SequenceSet::of(0);
  both.add(9);
  batch.batch.tokens = {{.position = 5, .cell = 6, .sequences = SequenceSet::of(0)},
                        {.position = 9, .cell = 7, .sequences = both, .output = true}};
  const float rows[] = {1.0f, -2.0f, 0.5f, 0.0f};
  EXPECT_TRUE(encode_hidden(HiddenEncoding::kF32, rows, 2, batch.hidden));

  BatchFrame cancelled{.epoch = 3,
                       .step = 4,
                       .batch = {.id = 11, .operations_only = true},
                       .encoding = HiddenEncoding::kF16Scaled,
                       .n_embd = 2};
  cancelled.batch.operations = {{.kind = KvOpKind::kRemove, .seq = 2, .p0 = 3}};
  cancelled.batch.tokens = {{.position = 3, .cell = 8, .sequences = SequenceSet::of(2)}};
  return {{"batch", batch}, {"cancelled", cancelled}};
}

TEST(Format, ThePageHasAnExampleOfEveryMessage) {
  EXPECT_EQ(control_values().size(), std::variant_size_v<ControlMessage>);
  EXPECT_EQ(read_examples().size(), control_values().size() + frame_values().size() + 2);
}

TEST(Format, ControlMessages) {
  const auto examples = read_examples();
  for (const auto& [name, value] : control_values()) {
    ASSERT_TRUE(examples.contains(name)) << name;
    const Bytes& expected = examples.at(name);
    EXPECT_EQ(test::to_hex(encode(value)), test::to_hex(expected)) << name;
    const auto decoded = decode_control(expected);
    ASSERT_TRUE(decoded) << name << ": " << decoded.error().message;
    EXPECT_TRUE(*decoded == value) << name;
  }
}

TEST(Format, BatchFrames) {
  const auto examples = read_examples();
  for (const auto& [name, value] : frame_values()) {
    ASSERT_TRUE(examples.contains(name)) << name;
    const Bytes& expected = examples.at(name);
    Bytes bytes;
    encode(value, bytes);
    EXPECT_EQ(test::to_hex(bytes), test::to_hex(expected)) << name;
    const auto decoded =
        decode_batch_frame(expected, {.n_ctx = 256, .n_ubatch = 64, .n_embd = 2, .n_steps = 5});
    ASSERT_TRUE(decoded) << name << ": " << decoded.error().message;
    EXPECT_TRUE(*decoded == value) << name;
  }
}

TEST(Format, ScaledF16Row) {
  const float row[] = {1e6f, -1.0f, 0.0f};
  Bytes bytes;
  ASSERT_TRUE(encode_hidden(HiddenEncoding::kF16Scaled, row, 3, bytes));
  EXPECT_EQ(test::to_hex(bytes), test::to_hex(read_examples().at("hidden-f16")));
}

TEST(Format, BlocksOfQ8) {
  std::vector<float> row(33);
  row[0] = 254;
  row[1] = -127;
  row[2] = 3;
  row[32] = 2;
  Bytes bytes;
  ASSERT_TRUE(encode_hidden(HiddenEncoding::kQ8Scaled, row, row.size(), bytes));
  EXPECT_EQ(test::to_hex(bytes), test::to_hex(read_examples().at("hidden-q8")));
}

}  // namespace
}  // namespace hearth::wire
