// Batch frames: round trips, truncation, hostile bytes.
#include <memory>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "wire/bytes.h"
#include "wire/codec.h"
#include "wire/test_support.h"

namespace hearth::wire {
namespace {

using test::Bytes;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// A copy on the heap of exactly the right size, so that AddressSanitizer sees any read beyond it.
Result<BatchFrame> decode_exact(std::span<const std::uint8_t> bytes, const FrameLimits& limits) {
  const auto copy = std::make_unique<std::uint8_t[]>(bytes.size());
  std::ranges::copy(bytes, copy.get());
  (void)peek_batch_frame({copy.get(), bytes.size()});
  return decode_batch_frame({copy.get(), bytes.size()}, limits);
}

Bytes encoded(const BatchFrame& frame) {
  Bytes bytes;
  encode(frame, bytes);
  return bytes;
}

Bytes encoded_rows(HiddenEncoding encoding, const std::vector<float>& rows, std::size_t n_embd) {
  Bytes bytes;
  const auto done = encode_hidden(encoding, rows, n_embd, bytes);
  EXPECT_TRUE(done.has_value());
  return bytes;
}

// --- Round trips
// ----------------------------------------------------------------------------------------------------

TEST(Frame, RoundTripGivesTheSameFrameAndBytes) {
  EXPECT_TRUE(rc::check([] {
    const auto [frame, limits] = test::any_frame();
    const Bytes bytes = encoded(frame);
    const auto decoded = decode_exact(bytes, limits);
    RC_ASSERT(decoded.has_value());
    RC_ASSERT(*decoded == frame);
    RC_ASSERT(encoded(*decoded) == bytes);
    const auto head = peek_batch_frame(bytes);
    RC_ASSERT(head.has_value());
    RC_ASSERT(head->epoch == frame.epoch);
    RC_ASSERT(head->step == frame.step);
    RC_ASSERT(head->batch == frame.batch.id);
  }));
}

TEST(Frame, DecodingIntoAUsedFrameLeavesNothingOfIt) {
  EXPECT_TRUE(rc::check([] {
    const auto [first, first_limits] = test::any_frame();
    const auto [second, second_limits] = test::any_frame();
    BatchFrame frame;
    RC_ASSERT(decode_batch_frame(encoded(first), first_limits, frame).has_value());
    RC_ASSERT(decode_batch_frame(encoded(second), second_limits, frame).has_value());
    RC_ASSERT(frame == second);
  }));
}

TEST(Frame, TruncationAnywhereIsAnError) {
  EXPECT_TRUE(rc::check([] {
    const auto [frame, limits] = test::any_frame();
    const Bytes bytes = encoded(frame);
    for (std::size_t n = 0; n < bytes.size(); ++n) {
      RC_ASSERT(!decode_exact(std::span(bytes).first(n), limits).has_value());
      if (n < kHeaderBytes) continue;
      Bytes shorter(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));
      store_le(static_cast<std::uint32_t>(n - kHeaderBytes), shorter.data() + 24);
      RC_ASSERT(!decode_exact(shorter, limits).has_value());
    }
  }));
}

TEST(Frame, AnyChangedByteIsRefusedOrMeansSomethingElse) {
  EXPECT_TRUE(rc::check([] {
    const auto [frame, limits] = test::any_frame();
    Bytes bytes = encoded(frame);
    const auto at = test::any<std::size_t>(0, bytes.size() - 1);
    bytes[at] = static_cast<std::uint8_t>(bytes[at] ^ test::any<std::uint8_t>(1, 255));
    const auto decoded = decode_exact(bytes, limits);
    if (decoded) {
      RC_ASSERT(!(*decoded == frame));
      RC_ASSERT(encoded(*decoded) == bytes);
    }
  }));
}

TEST(Frame, RandomBytesNeverCrash) {
  EXPECT_TRUE(rc::check([] {
    auto [frame, limits] = test::any_frame();
    Bytes bytes = encoded(frame);
    const Bytes noise = *rc::gen::arbitrary<Bytes>();
    bytes.resize(kHeaderBytes + test::any<std::size_t>(0, 24));
    bytes.insert(bytes.end(), noise.begin(), noise.end());
    store_le(static_cast<std::uint32_t>(bytes.size() - kHeaderBytes), bytes.data() + 24);
    (void)decode_exact(bytes, limits);
    (void)decode_exact(noise, limits);
  }));
}

// Sequence sets take only the bytes that they need: 9 + 1 bytes a token where every id is below 8.
TEST(Frame, SequenceSetsAreAsWideAsNeeded) {
  const std::pair<std::uint32_t, std::size_t> widths[] = {{0, 1},  {7, 1},  {8, 2},    {15, 2},   {16, 3},
                                                          {63, 8}, {64, 9}, {127, 16}, {128, 17}, {255, 32}};
  for (const auto& [seq, width] : widths) {
    BatchFrame frame{.epoch = 1, .batch = {.id = 1, .operations_only = true}, .n_embd = 1};
    frame.batch.tokens = {{.cell = 0, .sequences = SequenceSet::of(seq)},
                          {.cell = 1, .sequences = SequenceSet::of(0)}};
    const Bytes bytes = encoded(frame);
    EXPECT_EQ(bytes.size(), 28 + 20 + 2 * (9 + width)) << seq;
    const auto decoded = decode_exact(bytes, {.n_ctx = 2, .n_ubatch = 2, .n_embd = 1, .n_steps = 1});
    ASSERT_TRUE(decoded) << decoded.error().message;
    EXPECT_TRUE(*decoded == frame);
  }
}

TEST(Frame, TheLargestBatchFits) {
  BatchFrame frame{.epoch = 1, .batch = {.id = 1, .operations_only = true}, .n_embd = kMaxEmbd};
  frame.batch.operations.resize(kMaxBatchOperations, {.kind = KvOpKind::kKeep, .seq = 255});
  for (std::uint32_t i = 0; i < kMaxBatchTokens; ++i)  // descending cells take the sorting path
    frame.batch.tokens.push_back(
        {.cell = kMaxBatchTokens - i, .sequences = SequenceSet::of(i % kMaxSequences)});
  const Bytes bytes = encoded(frame);
  EXPECT_LT(bytes.size(), kMaxFrameBytes - kMaxHiddenBytes);
  const auto decoded = decode_exact(
      bytes, {.n_ctx = kMaxContext, .n_ubatch = kMaxBatchTokens, .n_embd = kMaxEmbd, .n_steps = 1});
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_TRUE(*decoded == frame);
}

TEST(FrameDeathTest, IllegalFramesDoNotLeave) {
  const BatchFrame good{.epoch = 1,
                        .batch = {.id = 1, .tokens = {{.sequences = SequenceSet::of(0)}}},
                        .n_embd = 1,
                        .hidden = Bytes(4)};
  (void)encoded(good);
  const auto dies = [&](auto change, const char* text) {
    BatchFrame frame = good;
    change(frame);
    EXPECT_DEATH((void)encoded(frame), text);
  };
  dies([](BatchFrame& f) { f.epoch = 0; }, "begin at 1");
  dies([](BatchFrame& f) { f.hidden.push_back(0); }, "whole number of rows");
  dies([](BatchFrame& f) { f.hidden.resize(8); }, "more hidden rows than tokens");
  dies([](BatchFrame& f) { f.batch.operations_only = true; }, "operations-only");
  dies([](BatchFrame& f) { f.batch.tokens[0].sequences.remove(0); }, "without position or sequence");
  dies([](BatchFrame& f) { f.batch.tokens[0].position = -1; }, "without position or sequence");
  dies([](BatchFrame& f) { f.batch.operations = {{.kind = KvOpKind::kRemove, .delta = 1}}; }, "does not use");
  dies([](BatchFrame& f) { f.batch.operations = {{.kind = KvOpKind::kRemove, .seq = 256}}; }, "beyond 255");
}

// --- Hostile frames: one legal frame with some bytes replaced
// ---------------------------------------------------------

struct Patch {
  std::size_t at;
  Bytes bytes;
};

class HostileFrame : public ::testing::Test {
 protected:
  // header 0, counts: operations 28, tokens 32, rows 36, n_embd 40, encoding 44, width 45, reserved 46;
  // operations at 48 (remove) and 65 (shift): kind, seq +1, seq_to +3, p0 +5, p1 +9, delta +13; tokens at 82,
  // 93, 104: position, cell +4, flags +8, sequences +9; hidden state at 115: 3 rows of 2 f32
  static BatchFrame frame() {
    BatchFrame f{.epoch = 3, .step = 1, .batch = {.id = 10}, .n_embd = 2};
    f.batch.operations = {{.kind = KvOpKind::kRemove, .seq = 1, .p0 = 2, .p1 = 5},
                          {.kind = KvOpKind::kShift, .seq = 0, .p0 = 4, .delta = -3}};
    f.batch.tokens = {{.position = 5, .cell = 6, .sequences = SequenceSet::of(0)},
                      {.position = 6, .cell = 7, .sequences = SequenceSet::of(9)},
                      {.position = 7, .cell = 2, .sequences = SequenceSet::of(0), .output = true}};
    f.hidden = encoded_rows(HiddenEncoding::kF32, {1, 2, 3, 4, 5, 6}, 2);
    return f;
  }
  static constexpr FrameLimits kLimits{.n_ctx = 16, .n_ubatch = 4, .n_embd = 2, .n_steps = 2};

  void refused(std::initializer_list<Patch> patches, std::string_view text) {
    refused(bytes_, patches, text);
  }
  void refused(Bytes bytes, std::initializer_list<Patch> patches, std::string_view text) {
    for (const Patch& patch : patches)
      std::ranges::copy(patch.bytes, bytes.begin() + static_cast<std::ptrdiff_t>(patch.at));
    const auto decoded = decode_exact(bytes, kLimits);
    ASSERT_FALSE(decoded) << "accepted, expected: " << text;
    EXPECT_EQ(decoded.error().code, ErrorCode::kProtocol);
    EXPECT_THAT(decoded.error().message, HasSubstr(text));
  }

  const Bytes bytes_ = encoded(frame());
  const Bytes ones_ = Bytes(4, 0xff);  // 2^32 - 1, or -1
};

TEST_F(HostileFrame, TheFrameItselfIsFine) {
  ASSERT_EQ(bytes_.size(), 139u);
  const auto decoded = decode_exact(bytes_, kLimits);
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_TRUE(*decoded == frame());
}

TEST_F(HostileFrame, Header) {
  refused({{0, {'h'}}}, "does not begin with 'HRTH'");
  refused({{6, {5}}}, "Activate arrived on the data lane");
  refused({{6, {17}}}, "unknown message type 17");
  refused({{7, {2}}}, "an ancestor mask is announced");
  refused({{7, {4}}}, "flags 0x04 hold bits");
  refused({{7, {0x81}}}, "flags 0x81 hold bits");
  refused({{8, {0}}}, "epoch is 0");
  refused({{12, {0}}}, "batch is 0");
  refused({{20, {3}}}, "step is 3, the plan has 2 and the output stage");
  refused({{20, {0xff, 0xff}}}, "step is 65535");
  refused({{22, {1}}}, "reserved field of the header is 1");
  refused({{24, Bytes(4, 0)}}, "announces 0 bytes, 111 follow");
  refused({{24, ones_}}, "announces 4294967295 bytes, 111 follow");
  refused(Bytes(bytes_.begin(), bytes_.begin() + 28), {{24, Bytes(4, 0)}}, "operation count is cut off");
}

TEST_F(HostileFrame, AnotherVersion) {
  Bytes bytes = bytes_;
  bytes[4] = 2;
  const auto decoded = decode_exact(bytes, kLimits);
  ASSERT_FALSE(decoded);
  EXPECT_EQ(decoded.error().code, ErrorCode::kVersionMismatch);
  EXPECT_THAT(decoded.error().message, HasSubstr("version 2 of the protocol, this device version 1"));
}

TEST_F(HostileFrame, Counts) {
  refused({{28, ones_}}, "operation count is 4294967295, allowed are 0 to 4096");
  refused({{28, {1, 16}}}, "operation count is 4097");
  refused({{28, {3}}}, "3 operations, 3 tokens and 3 rows need 108 bytes, 91 are there");
  refused({{28, {0}}}, "need 57 bytes, 91 are there");
  refused({{32, ones_}}, "token count is 4294967295, allowed are 0 to 4");
  refused({{32, {5}}}, "token count is 5, allowed are 0 to 4");
  refused({{32, {0}}}, "need 58 bytes, 91 are there");
  refused({{36, ones_}}, "row count is 4294967295, allowed are 0 to 4");
  refused({{36, {2}}}, "need 83 bytes, 91 are there");
  refused({{36, {4}}}, "need 99 bytes, 91 are there");
  refused({{45, {1}}}, "need 88 bytes, 91 are there");
  refused({{45, {33}}}, "sequence set width is 33, allowed are 0 to 32");
  refused({{45, {255}}}, "sequence set width is 255");
}

TEST_F(HostileFrame, Shape) {
  refused({{40, {3}}}, "rows have 3 values, the model has 2");
  refused({{40, {0}}}, "rows have 0 values, the model has 2");
  refused({{40, ones_}}, "rows have 4294967295 values, the model has 2");
  refused({{44, {0}}}, "hidden encoding is 0, allowed are 1 to 3");
  refused({{44, {4}}}, "hidden encoding is 4");
  refused({{44, {2}}}, "need 85 bytes, 91 are there");
  refused({{46, {1}}}, "reserved field is 1, allowed are 0 to 0");
  // Three rows, one token with the output flag.
  refused({{20, {2}}}, "3 hidden rows at step 2 of 2, expected 1");
  refused({{7, {1}}}, "3 hidden rows at step 1 of 2, expected 0");
  // One row less than tokens, with a length that agrees.
  Bytes short_rows = bytes_;
  short_rows.resize(short_rows.size() - 8);
  refused(short_rows, {{24, {103}}, {36, {2}}}, "2 hidden rows at step 1 of 2, expected 3");
  Bytes longer = bytes_;
  longer.push_back(0);
  refused(longer, {}, "announces 111 bytes, 112 follow");
  refused(longer, {{24, {112}}}, "need 91 bytes, 92 are there");
}

TEST_F(HostileFrame, Operations) {
  refused({{48, {0}}}, "operation 0 has the unknown kind 0");
  refused({{48, {5}}}, "operation 0 has the unknown kind 5");
  refused({{48, {255}}}, "operation 0 has the unknown kind 255");
  refused({{49, {0, 1}}}, "operation 0 names sequence 256, the last one is 255");
  refused({{49, {0xff, 0xff}}}, "operation 0 names sequence 65535");
  refused({{48, {2}}, {51, {0, 1}}}, "operation 0 names sequence 256");  // copy to
  refused({{53, ones_}}, "operation 0 has the positions [-1, 5)");
  refused({{53, {5}}}, "operation 0 has the positions [5, 5)");
  refused({{57, {0}}}, "operation 0 has the positions [2, 0)");
  refused({{57, ones_}}, "operation 0 has the positions [2, -1)");
  refused({{51, {1}}}, "operation 0 sets a field that its kind does not use");  // seq_to of a remove
  refused({{61, {1}}}, "operation 0 sets a field that its kind does not use");  // delta of a remove
  refused({{48, {3}}}, "operation 0 sets a field that its kind does not use");  // positions of a keep
  refused({{78, {0xef, 0xff, 0xff, 0xff}}}, "operation 1 shifts by -17, the context has 16 positions");
  refused({{78, {17, 0, 0, 0}}}, "operation 1 shifts by 17");
  refused({{78, {0, 0, 0, 0x80}}}, "operation 1 shifts by -2147483648");
}

TEST_F(HostileFrame, Tokens) {
  refused({{82, ones_}}, "token 0 has position -1, the context has 16");
  refused({{82, {0, 0, 0, 0x80}}}, "token 0 has position -2147483648");
  refused({{93, {16}}}, "token 1 has position 16, the context has 16");
  refused({{86, {16}}}, "token 0 has cell 16, there are 16");
  refused({{86, ones_}}, "token 0 has cell 4294967295");
  refused({{108, {6}}}, "cell 6 is given to two tokens");  // tokens 0 and 2, not neighbours
  refused({{97, {6}}}, "cell 6 is given to two tokens");
  refused({{90, {2}}}, "token 0 has the unknown flags 0x02");
  refused({{90, {0xff}}}, "token 0 has the unknown flags 0xff");
  refused({{91, {0, 0}}}, "token 0 belongs to no sequence");
  refused({{102, {1, 0}}},
          "sequence sets are 2 bytes wide, 1 are needed");  // no set uses the second byte any more
}

TEST_F(HostileFrame, AWidthWithoutTokens) {
  BatchFrame f{.epoch = 1, .step = 0, .batch = {.id = 1}, .n_embd = 2};
  f.batch.operations = {{.kind = KvOpKind::kKeep, .seq = 3}};
  refused(encoded(f), {{45, {1}}}, "sequence sets are 1 bytes wide, 0 are needed");
}

// The payload is decoded by its own function, into the buffer of the computation.
TEST_F(HostileFrame, NonFinitePayload) {
  for (const float bad : {kNan, -kNan, kInf, -kInf}) {
    Bytes bytes = bytes_;
    store_le(std::bit_cast<std::uint32_t>(bad), bytes.data() + 115 + 12);  // row 1, value 1
    const auto decoded = decode_exact(bytes, kLimits);
    ASSERT_TRUE(decoded) << decoded.error().message;
    std::vector<float> rows(6);
    const auto values = decode_hidden(decoded->encoding, decoded->hidden, 2, rows);
    ASSERT_FALSE(values);
    EXPECT_EQ(values.error().code, ErrorCode::kNumeric);
    EXPECT_EQ(values.error().message, "hidden row 1 holds a value that is NaN or infinite");
  }
}

}  // namespace
}  // namespace hearth::wire
