// Control messages: round trips, truncation, hostile bytes, what an encoder does to text.
#include "wire/codec.h"

#include <memory>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "wire/bytes.h"
#include "wire/test_support.h"

namespace hearth::wire {
namespace {

using test::Bytes;
using test::key_of;
using ::testing::HasSubstr;

// A copy on the heap of exactly the right size, so that AddressSanitizer sees any read beyond it.
Result<ControlMessage> decode_exact(std::span<const std::uint8_t> bytes) {
  const auto copy = std::make_unique<std::uint8_t[]>(bytes.size());
  std::ranges::copy(bytes, copy.get());
  return decode_control({copy.get(), bytes.size()});
}

void expect_refused(const Bytes& bytes, std::string_view text, ErrorCode code = ErrorCode::kProtocol) {
  const auto decoded = decode_exact(bytes);
  ASSERT_FALSE(decoded) << "accepted, expected: " << text;
  EXPECT_EQ(decoded.error().code, code);
  EXPECT_THAT(decoded.error().message, HasSubstr(text));
}

struct Patch {
  std::size_t at;
  Bytes bytes;
};

Bytes patched(Bytes bytes, std::initializer_list<Patch> patches) {
  for (const Patch& patch : patches)
    std::ranges::copy(patch.bytes, bytes.begin() + static_cast<std::ptrdiff_t>(patch.at));
  return bytes;
}

Bytes le32(std::size_t value) {
  Bytes bytes(4);
  store_le(static_cast<std::uint32_t>(value), bytes.data());
  return bytes;
}

void expect_accepted(const Bytes& bytes, const ControlMessage& expected) {
  const auto decoded = decode_exact(bytes);
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_TRUE(*decoded == expected);
}

// --- Round trips
// ----------------------------------------------------------------------------------------------------

class EveryMessage : public ::testing::TestWithParam<std::size_t> {};
INSTANTIATE_TEST_SUITE_P(Codec, EveryMessage, ::testing::Range<std::size_t>(0, test::kMessageKinds));

TEST_P(EveryMessage, RoundTripGivesTheSameMessageAndBytes) {
  EXPECT_TRUE(rc::check([&] {
    const ControlMessage message = test::any_control_message(GetParam());
    RC_ASSERT(message.index() == GetParam());
    const Bytes bytes = encode(message);
    RC_ASSERT(bytes.size() <= kMaxControlBytes);
    const auto decoded = decode_exact(bytes);
    RC_ASSERT(decoded.has_value());
    RC_ASSERT(*decoded == message);
    RC_ASSERT(encode(*decoded) == bytes);
  }));
}

TEST_P(EveryMessage, TruncationAnywhereIsAnError) {
  EXPECT_TRUE(rc::check([&] {
    Bytes bytes = encode(test::any_control_message(GetParam()));
    for (std::size_t n = 0; n < bytes.size(); ++n) {
      RC_ASSERT(!decode_exact(std::span(bytes).first(n)).has_value());
      if (n < kHeaderBytes) continue;
      // The same with a length field that owns up to it, so that the fields are what notices.
      Bytes shorter(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));
      store_le(static_cast<std::uint32_t>(n - kHeaderBytes), shorter.data() + 24);
      RC_ASSERT(!decode_exact(shorter).has_value());
    }
  }));
}

TEST_P(EveryMessage, TrailingBytesAreAnError) {
  EXPECT_TRUE(rc::check([&] {
    Bytes bytes = encode(test::any_control_message(GetParam()));
    bytes.push_back(0);
    expect_refused(bytes, " follow");
    expect_refused(patched(bytes, {{24, le32(bytes.size() - kHeaderBytes)}}), "1 bytes too many at the end");
  }));
}

TEST_P(EveryMessage, AnyChangedByteIsRefusedOrMeansSomethingElse) {
  EXPECT_TRUE(rc::check([&] {
    const ControlMessage message = test::any_control_message(GetParam());
    Bytes bytes = encode(message);
    const auto at = test::any<std::size_t>(0, bytes.size() - 1);
    bytes[at] = static_cast<std::uint8_t>(bytes[at] ^ test::any<std::uint8_t>(1, 255));
    const auto decoded = decode_exact(bytes);
    if (decoded) {
      RC_ASSERT(*decoded != message);
      RC_ASSERT(encode(*decoded) == bytes);
    }
  }));
}

TEST(Codec, TheLargestPrepareHasTheDocumentedSize) {
  Prepare plan{.epoch = 1, .n_layer = kMaxLayers, .n_ctx = kMaxContext, .n_ubatch = kMaxBatchTokens};
  for (std::uint32_t i = 0; i < kMaxMembers; ++i) {
    std::string name = std::to_string(i);
    name.resize(kMaxNameBytes, 'x');
    plan.members.push_back(
        {name, key_of(static_cast<std::uint8_t>(i + 1)), {std::string(kMaxHostBytes, 'h'), 1, 2}});
  }
  for (std::uint32_t i = 0; i < kMaxSteps; ++i)
    plan.steps.push_back({static_cast<std::uint16_t>(i % kMaxMembers), i, i + 1});
  const Bytes bytes = encode(plan);
  EXPECT_EQ(bytes.size(), 33170u);  // docs/reference/wire.md
  expect_accepted(bytes, plan);
}

// --- What encoders do
// -----------------------------------------------------------------------------------------------

TEST(Codec, ReasonsAreMadePrintableAndCut) {
  const std::string long_text = std::string(kMaxTextBytes - 1, 'x') + "\xc3\xbc and more";
  const auto decoded = decode_exact(encode(Failed{1, ErrorCode::kIo, "bad\nfile \x1b[31m \xff"}));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(std::get<Failed>(*decoded).message, "bad file ?[31m ?");
  const auto cut = decode_exact(encode(Goodbye{long_text}));
  ASSERT_TRUE(cut);
  EXPECT_EQ(std::get<Goodbye>(*cut).reason, std::string(kMaxTextBytes - 1, 'x'));  // never half a character
}

TEST(Codec, EveryErrorCodeHasANumber) {
  for (int i = 0; i <= static_cast<int>(ErrorCode::kCancelled); ++i) {
    const Refuse refuse{static_cast<ErrorCode>(i), "x"};
    expect_accepted(encode(refuse), refuse);
  }
}

TEST(CodecDeathTest, IllegalMessagesDoNotLeave) {
  EXPECT_DEATH((void)encode(Activate{0}), "epoch");
  EXPECT_DEATH((void)encode(Hello{.name = "", .address = {"a", 1, 1}}), "name");
  EXPECT_DEATH((void)encode(Hello{.name = "a", .address = {"tcp://a", 1, 1}}), "host");
  EXPECT_DEATH((void)encode(Prepare{.epoch = 1}), "n_layer");
  EXPECT_DEATH((void)encode(Probe{1, 65497}), "65537 bytes is larger");
}

// --- Versions
// -------------------------------------------------------------------------------------------------------

TEST(Codec, AnotherVersionIsRefusedWithBothNamed) {
  Bytes bytes = encode(Prepare{.epoch = 1,
                               .n_layer = 1,
                               .n_ctx = 1,
                               .n_ubatch = 1,
                               .members = {{"a", key_of(1), {"a", 1, 1}}},
                               .steps = {{0, 0, 1}}});
  bytes[4] = 7;
  expect_refused(bytes, "version 7 of the protocol, this device version 1", ErrorCode::kVersionMismatch);
  bytes.resize(kHeaderBytes);  // whatever else that version changed
  bytes[6] = 200;
  expect_refused(bytes, "version 7", ErrorCode::kVersionMismatch);
  bytes[5] = 1;
  expect_refused(bytes, "version 263", ErrorCode::kVersionMismatch);
  expect_refused(encode(Welcome{.major = 2, .name = "a", .data_port = 1, .n_threads = 1}), "version 2",
                 ErrorCode::kVersionMismatch);
}

// So that the worker can answer with a Refuse that names both versions.
TEST(Codec, AHelloOfAnotherVersionIsRead) {
  const Hello hello{.major = 7, .name = "a", .address = {"a", 1, 1}};
  Bytes bytes = encode(hello);
  EXPECT_EQ(bytes[4], 7);
  expect_accepted(bytes, hello);
  bytes.push_back(42);  // a field that version 7 appended
  store_le(static_cast<std::uint32_t>(bytes.size() - kHeaderBytes), bytes.data() + 24);
  expect_accepted(bytes, hello);
  Bytes broken = bytes;
  broken.resize(kHeaderBytes + 20);
  expect_refused(broken, "version 7", ErrorCode::kVersionMismatch);  // the length does not fit
  store_le(std::uint32_t{20}, broken.data() + 24);
  expect_refused(broken, "version 7", ErrorCode::kVersionMismatch);  // nor do the fields
}

TEST(Codec, AnotherMinorVersionWorks) {
  const Hello hello{.minor = 9, .name = "a", .address = {"a", 1, 1}};
  expect_accepted(encode(hello), hello);
}

// --- Hostile headers
// ------------------------------------------------------------------------------------------------

TEST(CodecHostile, Headers) {
  const Bytes retire = encode(Retire{5, "why"});
  const Bytes goodbye = encode(Goodbye{"why"});
  expect_refused({}, "0 bytes is shorter than a header");
  expect_refused(Bytes(27, 'H'), "27 bytes is shorter than a header");
  expect_refused(Bytes(28, 0), "does not begin with 'HRTH'");
  const std::string_view http = "GET / HTTP/1.1\r\nHost: example\r\n\r\n";
  expect_refused(Bytes(http.begin(), http.end()), "not a hearth device");
  expect_refused(patched(retire, {{4, {0, 0}}}), "version 0", ErrorCode::kVersionMismatch);
  expect_refused(patched(retire, {{6, {0}}}), "unknown message type 0");
  expect_refused(patched(retire, {{6, {17}}}), "unknown message type 17");
  expect_refused(patched(retire, {{6, {255}}}), "unknown message type 255");
  expect_refused(patched(retire, {{6, {16}}}), "a batch frame arrived on the control lane");
  expect_refused(patched(retire, {{7, {1}}}), "Retire: flags are 0x01, must be 0");
  expect_refused(patched(retire, {{7, {0x80}}}), "Retire: flags are 0x80, must be 0");
  expect_refused(patched(retire, {{8, {0, 0, 0, 0}}}), "Retire: epoch is 0");
  expect_refused(patched(goodbye, {{8, {1}}}), "Goodbye: epoch is 1, must be 0");
  expect_refused(patched(retire, {{12, {1}}}), "Retire: batch is 1, must be 0");
  expect_refused(patched(retire, {{20, {0, 1}}}), "Retire: step is 256, must be 0");
  expect_refused(patched(retire, {{22, {1}}}), "Retire: the reserved field of the header is 1");
  expect_refused(patched(retire, {{24, {0, 0, 0, 0}}}), "Retire: the header announces 0 bytes, 5 follow");
  expect_refused(patched(retire, {{24, {255, 255, 255, 255}}}), "announces 4294967295 bytes, 5 follow");
  expect_refused(patched(retire, {{24, {4}}}), "announces 4 bytes, 5 follow");
  Bytes large = retire;
  large.resize(kMaxControlBytes + 1);
  expect_refused(large, "65537 bytes is larger than the 65536 bytes allowed");
}

// --- Hostile bodies: each a legal message with some bytes replaced
// ----------------------------------------------------

TEST(CodecHostile, Texts) {
  const Bytes retire = encode(Retire{5, "why"});  // text length at 28, text at 30
  expect_refused(patched(retire, {{28, {0xff, 0xff}}}),
                 "Retire: reason length is 65535, allowed are 0 to 2048");
  expect_refused(patched(retire, {{28, {1, 8}}}), "Retire: reason length is 2049");
  expect_refused(patched(retire, {{28, {4, 0}}}), "Retire: reason is cut off: 4 bytes needed, 3 left");
  expect_refused(patched(retire, {{28, {2, 0}}}), "Retire: 1 bytes too many at the end");
  expect_refused(patched(retire, {{30, {'a', 0, 'b'}}}), "Retire: reason is not printable UTF-8");
  expect_refused(patched(retire, {{30, {0x1b, '[', 'm'}}}), "not printable");
  expect_refused(patched(retire, {{30, {0xff}}}), "not printable");
  expect_refused(patched(retire, {{30, {'a', 0xc3, 'b'}}}), "not printable");
  expect_refused(patched(retire, {{30, {0xe2, 0x80, 0xae}}}), "not printable");  // right-to-left override
}

TEST(CodecHostile, Hello) {
  // minor 28, version length 30 "1" 32, name length 33 "ab" 35, host length 37 "ho" 39, ports 41 and 43,
  // model 45
  const Bytes hello = encode(Hello{.version = "1", .name = "ab", .address = {"ho", 1, 1}});
  ASSERT_EQ(hello.size(), 77u);
  expect_refused(patched(hello, {{30, {65, 0}}}), "Hello: program version length is 65, allowed are 0 to 64");
  expect_refused(patched(hello, {{33, {65, 0}}}), "Hello: name length is 65");
  expect_refused(patched(hello, {{33, {0, 0}}}),
                 "Hello: name cannot be used: a device name must not be empty");
  expect_refused(patched(hello, {{35, {' '}}}), "Hello: name cannot be used");
  expect_refused(patched(hello, {{37, {254, 0}}}), "Hello: host length is 254, allowed are 0 to 253");
  expect_refused(patched(hello, {{39, {'/'}}}), "Hello: host cannot be used");
  expect_refused(patched(hello, {{39, {';'}}}), "neither an address nor a host name");
  expect_refused(patched(hello, {{41, {0, 0}}}), "Hello: control port is 0, allowed are 1 to 65535");
  expect_refused(patched(hello, {{43, {0, 0}}}), "Hello: data port is 0, allowed are 1 to 65535");
}

TEST(CodecHostile, Welcome) {
  // minor 28, version 30, name 32 "a" 34, data port 35, model 37, memory 69, threads 77, passes 81, pass 0 at
  // 83: tokens, rate 87, spread 95; pass 1 at 99; disk rate 115, disk spread 123
  const Bytes welcome = encode(Welcome{.name = "a",
                                       .data_port = 1,
                                       .n_threads = 1,
                                       .passes = {{1, 5, 0}, {4, 6, 0}},
                                       .disk_bytes_per_s = 7,
                                       .disk_spread_per_10k = 8});
  ASSERT_EQ(welcome.size(), 127u);
  expect_refused(patched(welcome, {{35, {0, 0}}}), "Welcome: data port is 0");
  expect_refused(patched(welcome, {{69, {1, 0, 0, 0, 0, 0, 0, 1}}}), "Welcome: memory is 72057594037927937");
  expect_refused(patched(welcome, {{69, Bytes(8, 0xff)}}), "Welcome: memory is 18446744073709551615");
  expect_refused(patched(welcome, {{77, {0}}}), "Welcome: thread count is 0, allowed are 1 to 4096");
  expect_refused(patched(welcome, {{77, {1, 16}}}), "Welcome: thread count is 4097");
  expect_refused(patched(welcome, {{81, {17, 0}}}), "Welcome: pass count is 17, allowed are 0 to 16");
  expect_refused(patched(welcome, {{81, {255, 255}}}), "Welcome: pass count is 65535");
  expect_refused(patched(welcome, {{81, {16, 0}}}), "Welcome: pass 2 spread is cut off");
  expect_refused(patched(welcome, {{83, {0}}}), "Welcome: pass 0 tokens is 0, allowed are 1 to 8192");
  expect_refused(patched(welcome, {{83, {1, 32}}}), "Welcome: pass 0 tokens is 8193");
  expect_refused(patched(welcome, {{83, {0, 32}}}), "Welcome: pass 1 tokens is 4, must be more than 8192");
  expect_refused(patched(welcome, {{99, {1}}}), "Welcome: pass 1 tokens is 1, must be more than 1 of");
  expect_refused(patched(welcome, {{87, {0}}}), "Welcome: pass 0 rate is 0, allowed are 1 to");
  expect_refused(patched(welcome, {{103, Bytes(8, 0xff)}}), "Welcome: pass 1 rate is 18446744073709551615");
  expect_refused(patched(welcome, {{115, {1, 0, 0, 0, 0, 0, 0, 1}}}),
                 "Welcome: disk rate is 72057594037927937");
  expect_refused(patched(welcome, {{115, {0}}}), "Welcome: disk spread is 8, must be 0 without a rate");
}

class HostilePlan : public ::testing::Test {
 protected:
  // model 28, n_layer 60, n_ctx 64, n_ubatch 68, n_seq 72, kv 74, 75, hidden 76, flags 77, members 78, member
  // 0 at 80: name length, "a" 82, key 83, host length 115, "h" 117, ports 118 and 120; member 1 at 122: "b"
  // 124, key 125; steps 164, step 0 at 166, step 1 at 176: device, begin, end
  const Bytes plan = encode(Prepare{.epoch = 1,
                                    .n_layer = 5,
                                    .n_ctx = 64,
                                    .n_ubatch = 8,
                                    .members = {{"a", key_of(1), {"h", 1, 1}}, {"b", key_of(2), {"h", 1, 1}}},
                                    .steps = {{0, 0, 2}, {1, 2, 5}}});
};

TEST_F(HostilePlan, Numbers) {
  ASSERT_EQ(plan.size(), 186u);
  expect_refused(patched(plan, {{60, {0}}}), "Prepare: n_layer is 0, allowed are 1 to 1024");
  expect_refused(patched(plan, {{60, {1, 4}}}), "Prepare: n_layer is 1025");
  expect_refused(patched(plan, {{64, {0}}}), "Prepare: n_ctx is 0");
  expect_refused(patched(plan, {{64, {1, 0, 0, 1}}}),
                 "Prepare: n_ctx is 16777217, allowed are 1 to 16777216");
  expect_refused(patched(plan, {{68, {0}}}), "Prepare: n_ubatch is 0");
  expect_refused(patched(plan, {{68, {1, 32}}}), "Prepare: n_ubatch is 8193");
  expect_refused(patched(plan, {{72, {0}}}), "Prepare: n_seq is 0, allowed are 1 to 256");
  expect_refused(patched(plan, {{72, {1, 1}}}), "Prepare: n_seq is 257");
  expect_refused(patched(plan, {{74, {0}}}), "Prepare: type of keys is 0, allowed are 1 to 7");
  expect_refused(patched(plan, {{74, {8}}}), "Prepare: type of keys is 8");
  expect_refused(patched(plan, {{75, {0}}}), "Prepare: type of values is 0");
  expect_refused(patched(plan, {{75, {8}}}), "Prepare: type of values is 8, allowed are 1 to 7");
  expect_refused(patched(plan, {{76, {0}}}), "Prepare: hidden encoding is 0");
  expect_refused(patched(plan, {{76, {4}}}), "Prepare: hidden encoding is 4, allowed are 1 to 3");
  expect_refused(patched(plan, {{77, {8}}}), "Prepare: flags 0x08 hold bits");
  expect_refused(patched(plan, {{77, {0xff}}}), "Prepare: flags 0xff hold bits");
}

TEST_F(HostilePlan, Members) {
  expect_refused(patched(plan, {{78, {0, 0}}}), "Prepare: member count is 0, allowed are 1 to 64");
  expect_refused(patched(plan, {{78, {65, 0}}}), "Prepare: member count is 65");
  expect_refused(patched(plan, {{78, {0xff, 0xff}}}), "Prepare: member count is 65535");
  expect_refused(patched(plan, {{78, {64, 0}}}), "Prepare: member 2");  // as many as allowed, but not there
  expect_refused(patched(plan, {{80, {0, 0}}}), "Prepare: member 0 name cannot be used");
  expect_refused(patched(plan, {{124, {'a'}}}), "Prepare: member 1 name 'a' is there twice");
  expect_refused(patched(plan, {{125, Bytes(32, 1)}}),
                 "Prepare: member 1 key 01010101 is there twice: two devices with one identity");
  expect_refused(patched(plan, {{125, Bytes(32, 0)}}), "Prepare: member 1 key is all zero");
  expect_refused(patched(plan, {{117, {' '}}}), "Prepare: member 0 host cannot be used");
  expect_refused(patched(plan, {{118, {0, 0}}}), "Prepare: member 0 control port is 0");
  expect_refused(patched(plan, {{120, {0, 0}}}), "Prepare: member 0 data port is 0");
}

TEST_F(HostilePlan, Steps) {
  expect_refused(patched(plan, {{164, {0, 0}}}), "Prepare: step count is 0, allowed are 1 to 1024");
  expect_refused(patched(plan, {{164, {1, 4}}}), "Prepare: step count is 1025");
  expect_refused(patched(plan, {{164, {3, 0}}}), "Prepare: step 2 device is cut off");
  expect_refused(patched(plan, {{164, {1, 0}}}), "Prepare: steps end at layer 2, the model has 5");
  expect_refused(patched(plan, {{176, {2, 0}}}), "Prepare: step 1 is for device 2, there are 2 members");
  expect_refused(patched(plan, {{176, {0xff, 0xff}}}), "Prepare: step 1 is for device 65535");
  expect_refused(patched(plan, {{178, {3}}}), "Prepare: step 1 begins at layer 3, must begin at 2");
  expect_refused(patched(plan, {{178, {1}}}), "Prepare: step 1 begins at layer 1, must begin at 2");
  expect_refused(patched(plan, {{168, {1}}}), "Prepare: step 0 begins at layer 1, must begin at 0");
  expect_refused(patched(plan, {{182, {6}}}), "Prepare: step 1 is layers [2, 6), the model has 5");
  expect_refused(patched(plan, {{182, {2}}}), "Prepare: step 1 is layers [2, 2)");
  expect_refused(patched(plan, {{182, {1}}}), "Prepare: step 1 is layers [2, 1)");
  expect_refused(patched(plan, {{182, {0xff, 0xff, 0xff, 0xff}}}),
                 "Prepare: step 1 is layers [2, 4294967295)");
  expect_refused(patched(plan, {{182, {4}}}), "Prepare: steps end at layer 4, the model has 5");
}

TEST(CodecHostile, OtherMessages) {
  const Bytes ready = encode(Ready{1, 0, 0, 0});
  expect_refused(patched(ready, {{28, Bytes(8, 0xff)}}), "Ready: weight bytes is 18446744073709551615");
  expect_refused(patched(ready, {{36, Bytes(8, 0xff)}}), "Ready: KV bytes is");
  expect_refused(patched(ready, {{44, Bytes(8, 0xff)}}), "Ready: compute bytes is");
  expect_refused(patched(ready, {{52, {0, 0, 0, 0}}}), "Ready: batches at once is 0");
  expect_refused(patched(ready, {{52, {1, 4, 0, 0}}}), "Ready: batches at once is 1025");
  expect_refused(patched(ready, {{60, {1, 4, 0, 0}}}), "Ready: layers of a GPU is 1025");
  expect_refused(patched(ready, {{64, Bytes(8, 0xff)}}), "Ready: bytes of a GPU is");
  const Bytes cancel = encode(Cancel{1, 5, 6});
  expect_refused(patched(cancel, {{28, {0}}}), "Cancel: first batch is 0");
  expect_refused(patched(cancel, {{36, {4}}}), "Cancel: last batch is 4, allowed are 5 to");
  const Bytes failed = encode(Failed{1, ErrorCode::kIo, ""});
  expect_refused(patched(failed, {{28, {0}}}), "Failed: error code 0 is unknown");
  expect_refused(patched(failed, {{28, {15}}}), "Failed: error code 15 is unknown");
  const Bytes refuse = encode(Refuse{ErrorCode::kIo, ""});
  expect_refused(patched(refuse, {{28, {255}}}), "Refuse: error code 255 is unknown");
}

TEST(CodecHostile, Measure) {
  // id 28, time 32, members 36, member 0 at 38: name length, "a" 40, key 41, host length 73, "h" 75, ports 76
  // and 78; member 1 at 80: "b" 82, key 83
  const Bytes measure = encode(Measure{
      .id = 7, .time_ms = 9, .members = {{"a", key_of(1), {"h", 1, 1}}, {"b", key_of(2), {"h", 1, 1}}}});
  ASSERT_EQ(measure.size(), 122u);
  expect_refused(patched(measure, {{8, {1}}}), "Measure: epoch is 1, must be 0");
  expect_refused(patched(measure, {{28, {0}}}), "Measure: id is 0");
  expect_refused(patched(measure, {{32, {0x11, 0x27}}}), "Measure: time is 10001, allowed are 0 to 10000");
  expect_refused(patched(measure, {{36, {0, 0}}}), "Measure: member count is 0, allowed are 1 to 64");
  expect_refused(patched(measure, {{36, {65, 0}}}), "Measure: member count is 65");
  expect_refused(patched(measure, {{36, {3, 0}}}), "Measure: member 2 name length is cut off");
  expect_refused(patched(measure, {{82, {'a'}}}), "Measure: member 1 name 'a' is there twice");
  expect_refused(patched(measure, {{83, Bytes(32, 1)}}), "Measure: member 1 key 01010101 is there twice");
  expect_refused(patched(measure, {{76, {0, 0}}}), "Measure: member 0 control port is 0");
}

TEST(CodecHostile, LinkReport) {
  // id 28, links 32, link 0 at 34: member, latency 36, rate 44; link 1 at 52
  const Bytes report = encode(LinkReport{7, {{1, 5, 6}, {2, 7, 8}}});
  ASSERT_EQ(report.size(), 70u);
  expect_refused(patched(report, {{28, {0}}}), "LinkReport: id is 0");
  expect_refused(patched(report, {{32, {65, 0}}}), "LinkReport: link count is 65, allowed are 0 to 64");
  expect_refused(patched(report, {{32, {3, 0}}}), "LinkReport: link 2 member is cut off");
  expect_refused(patched(report, {{32, {1, 0}}}), "LinkReport: 18 bytes too many at the end");
  expect_refused(patched(report, {{34, {64, 0}}}), "LinkReport: link 0 member is 64, allowed are 0 to 63");
  expect_refused(patched(report, {{52, {1, 0}}}), "LinkReport: link 1 member is 1, must be more than 1");
  expect_refused(patched(report, {{52, {0, 0}}}), "LinkReport: link 1 member is 0, must be more than 1");
  expect_refused(patched(report, {{36, {1, 0xe4, 0x0b, 0x54, 2}}}),
                 "LinkReport: link 0 latency is 10000000001, allowed are 0 to 10000000000");
  expect_refused(patched(report, {{44, Bytes(8, 0xff)}}), "LinkReport: link 0 rate is 18446744073709551615");
}

TEST(CodecHostile, Probe) {
  // id 28, padding length 36, padding 40
  const Bytes probe = encode(Probe{7, 3});
  ASSERT_EQ(probe.size(), 43u);
  expect_refused(patched(probe, {{36, {4}}}), "Probe: padding is cut off: 4 bytes needed, 3 left");
  expect_refused(patched(probe, {{36, {2}}}), "Probe: 1 bytes too many at the end");
  expect_refused(patched(probe, {{36, {0xff, 0xff, 0xff, 0xff}}}), "Probe: padding length is 4294967295");
  expect_refused(patched(probe, {{42, {1}}}), "Probe: padding is not zero");
  const Probe largest{1, 65496};  // 65,536 bytes in all
  EXPECT_EQ(encode(largest).size(), kMaxControlBytes);
  expect_accepted(encode(largest), largest);
}

TEST(CodecHostile, RandomBytesNeverCrash) {
  EXPECT_TRUE(rc::check([] {
    Bytes bytes = *rc::gen::arbitrary<Bytes>();
    (void)decode_exact(bytes);
    const Bytes start = encode(Activate{1});
    bytes.insert(bytes.begin(), start.begin(), start.end());  // past the magic
    bytes[6] = test::any<std::uint8_t>(0, 17);
    bytes[8] = test::any<std::uint8_t>(0, 1);
    store_le(static_cast<std::uint32_t>(bytes.size() - kHeaderBytes), bytes.data() + 24);
    (void)decode_exact(bytes);
  }));
}

}  // namespace
}  // namespace hearth::wire
