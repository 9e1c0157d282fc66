// Hidden-state rows: hand-computed halves, outliers, errors, and every half against arithmetic in double.
#include "wire/hidden.h"

#include <bit>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "wire/bytes.h"
#include "wire/test_support.h"

namespace hearth::wire {
namespace {

using test::Bytes;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kMax = std::numeric_limits<float>::max();
constexpr float kDenormal = std::numeric_limits<float>::denorm_min();  // 2^-149
constexpr auto kF32 = HiddenEncoding::kF32;
constexpr auto kF16 = HiddenEncoding::kF16Scaled;
constexpr auto kQ8 = HiddenEncoding::kQ8Scaled;

Bytes encoded(HiddenEncoding encoding, const std::vector<float>& row) {
  Bytes bytes;
  const auto done = encode_hidden(encoding, row, row.size(), bytes);
  EXPECT_TRUE(done) << done.error().message;
  return bytes;
}

std::vector<float> decoded(HiddenEncoding encoding, const Bytes& bytes, std::size_t n) {
  std::vector<float> row(n);
  const auto done = decode_hidden(encoding, bytes, n, row);
  EXPECT_TRUE(done) << done.error().message;
  return row;
}

// Scale and halves of a row.
struct F16Row {
  int e;
  std::vector<std::uint16_t> halves;
};
F16Row f16(const std::vector<float>& row) {
  const Bytes bytes = encoded(kF16, row);
  F16Row out{static_cast<std::int16_t>(load_le<std::uint16_t>(bytes.data())), {}};
  for (std::size_t i = 2; i < bytes.size(); i += 2)
    out.halves.push_back(load_le<std::uint16_t>(bytes.data() + i));
  return out;
}

// A half's value by its definition (IEEE 754 binary16).
double value_of(std::uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Hidden, Bytes) {
  EXPECT_EQ(hidden_bytes(kF32, 3, 5), 60u);
  EXPECT_EQ(hidden_bytes(kF16, 3, 5), 36u);
  EXPECT_EQ(hidden_bytes(kF16, 0, 5), 0u);
  EXPECT_EQ(hidden_bytes(kQ8, 3, 5), 27u);  // a scale, a block's scale and 5 bytes
  EXPECT_EQ(hidden_bytes(kQ8, 1, 32), 36u);
  EXPECT_EQ(hidden_bytes(kQ8, 1, 33), 39u);
  EXPECT_EQ(hidden_bytes(kQ8, 1, 4096), 4354u);  // 2 + 128 * 34
}

TEST(Hidden, HandComputedHalves) {
  // 16384 = 2^14 makes the scale 2^0.
  const F16Row row =
      f16({16384.0f, 1.0f, -2.0f, 0.0f, -0.0f, 0.333333343f, 0x1p-14f, 0x1p-24f, 0x1.8p-24f, 0x1p-25f,
           0x1.000002p-25f, 0x1.ff8p-15f, 0x1.ffcp-15f, 1.00048828125f, 1.000488400f, 1.00146484375f});
  EXPECT_EQ(row.e, 0);
  EXPECT_EQ(row.halves[0], 0x7400);   // 2^14
  EXPECT_EQ(row.halves[1], 0x3c00);   // 1
  EXPECT_EQ(row.halves[2], 0xc000);   // -2
  EXPECT_EQ(row.halves[3], 0x0000);   // 0
  EXPECT_EQ(row.halves[4], 0x8000);   // -0
  EXPECT_EQ(row.halves[5], 0x3555);   // 1/3
  EXPECT_EQ(row.halves[6], 0x0400);   // the smallest normal
  EXPECT_EQ(row.halves[7], 0x0001);   // the smallest subnormal
  EXPECT_EQ(row.halves[8], 0x0002);   // 1.5 of it: a tie, to even
  EXPECT_EQ(row.halves[9], 0x0000);   // half of it: a tie, to even
  EXPECT_EQ(row.halves[10], 0x0001);  // just above the tie
  EXPECT_EQ(row.halves[11], 0x03ff);  // the largest subnormal
  EXPECT_EQ(row.halves[12], 0x0400);  // a tie between it and the smallest normal
  EXPECT_EQ(row.halves[13], 0x3c00);  // 1 + 2^-11: a tie, to even
  EXPECT_EQ(row.halves[14], 0x3c01);  // just above the tie
  EXPECT_EQ(row.halves[15], 0x3c02);  // 1 + 3 * 2^-11: a tie, to even
}

TEST(Hidden, ScaleFollowsTheLargestMagnitude) {
  EXPECT_EQ(f16({0.0f, -0.0f}).e, 0);
  EXPECT_EQ(f16({1.0f}).e, -14);
  EXPECT_EQ(f16({1.0f}).halves[0], 0x7400);
  EXPECT_EQ(f16({-32767.0f}).e, 0);
  EXPECT_EQ(f16({-32767.0f}).halves[0], 0xf800);  // rounds to -32768
  EXPECT_EQ(f16({1.0f, -32768.0f}).e, 1);
  EXPECT_EQ(f16({1e6f}).e, 5);
  EXPECT_EQ(f16({1e6f}).halves[0], 0x77a1);  // 31250 rounds to 1953 * 16
  EXPECT_EQ(f16({0x1p-112f}).e, -126);
  EXPECT_EQ(f16({0x1p-113f}).e, -126);
  EXPECT_EQ(f16({kDenormal}).e, -126);
  EXPECT_EQ(f16({kDenormal}).halves[0], 0x0002);  // 2^-23
  EXPECT_EQ(f16({kMax}).e, 113);
  EXPECT_EQ(f16({kMax, -kMax}).halves,
            (std::vector<std::uint16_t>{0x77ff, 0xf7ff}));  // 32752, never infinite
}

TEST(Hidden, EveryHalfDecodesToItsValue) {
  for (const int e : {0, 7, -100, -126, 100}) {
    for (std::uint32_t half = 0; half < 0x10000; ++half) {
      if ((half & 0x7c00) == 0x7c00) continue;
      Bytes bytes(4);
      store_le(static_cast<std::uint16_t>(static_cast<std::int16_t>(e)), bytes.data());
      store_le(static_cast<std::uint16_t>(half), bytes.data() + 2);
      float value = 0;
      const auto done = decode_hidden(kF16, bytes, 1, {&value, 1});
      ASSERT_TRUE(done) << done.error().message;
      const auto expected = static_cast<float>(std::ldexp(value_of(static_cast<std::uint16_t>(half)), e));
      ASSERT_EQ(std::bit_cast<std::uint32_t>(value), std::bit_cast<std::uint32_t>(expected))
          << half << " e " << e;
    }
  }
}

// The nearest half, found by looking at both neighbours in exact double arithmetic.
TEST(Hidden, EncodingIsToNearestTiesToEven) {
  EXPECT_TRUE(rc::check([] {
    std::vector<float> row(32);
    for (float& value : row) {  // magnitudes 2^-27 to 2^15
      const auto bits =
          (test::any<std::uint32_t>(100, 141) << 23) | test::any<std::uint32_t>(0, (1u << 23) - 1);
      value = std::bit_cast<float>(bits | (test::any<std::uint32_t>(0, 1) << 31));
      if (test::any<int>(0, 3) == 0)
        value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & 0xfffff000);  // ties
    }
    row[0] = 16384.0f;
    const F16Row got = f16(row);
    RC_ASSERT(got.e == 0);
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::uint16_t half = got.halves[i];
      RC_ASSERT((half >> 15) == static_cast<int>(std::signbit(row[i])));
      const double magnitude = std::fabs(static_cast<double>(row[i]));
      const std::uint16_t m = half & 0x7fff;
      const double error = std::fabs(value_of(m) - magnitude);
      const double error_above = std::fabs(value_of(static_cast<std::uint16_t>(m + 1)) - magnitude);
      RC_ASSERT(error <= error_above);
      if (error == error_above) RC_ASSERT(m % 2 == 0);
      if (m == 0) continue;
      const double error_below = std::fabs(value_of(static_cast<std::uint16_t>(m - 1)) - magnitude);
      RC_ASSERT(error <= error_below);
      if (error == error_below) RC_ASSERT(m % 2 == 0);
    }
  }));
}

// Residual streams carry outliers beyond what a plain half can hold (65504).
TEST(Hidden, OutlierRowsSurvive) {
  for (const float outlier : {1e6f, -1e6f, 65504.0f, 65536.0f, 1e9f, 1e30f, kMax, -kMax, 1e-30f, 1e-38f}) {
    const std::vector<float> row = {outlier,          outlier * 0.7f, outlier * 1e-3f,
                                    -outlier * 1e-5f, 0.0f,           outlier * 3e-8f};
    const auto back = decoded(kF16, encoded(kF16, row), row.size());
    for (std::size_t i = 0; i < row.size(); ++i)
      EXPECT_LE(std::fabs(static_cast<double>(back[i]) - row[i]),
                std::fabs(static_cast<double>(row[i])) / 2048)
          << outlier << " " << i;
  }
}

TEST(Hidden, RelativeErrorIsAtMost2ToMinus11) {
  EXPECT_TRUE(rc::check([] {
    std::vector<float> row(64);
    const auto top = test::any<std::uint32_t>(30, 254);
    for (float& value : row) {
      const auto exponent = test::any<std::uint32_t>(top - 27, top);  // above 2^-28 of the largest
      value = std::bit_cast<float>((exponent << 23) | test::any<std::uint32_t>(0, (1u << 23) - 1) |
                                   (test::any<std::uint32_t>(0, 1) << 31));
    }
    row[0] = std::bit_cast<float>(top << 23);
    const auto back = decoded(kF16, encoded(kF16, row), row.size());
    for (std::size_t i = 0; i < row.size(); ++i)
      RC_ASSERT(std::fabs(static_cast<double>(back[i]) - row[i]) <=
                std::fabs(static_cast<double>(row[i])) / 2048);
  }));
}

// A row as sent: its scale, and of each block the scale and the values.
struct Q8Row {
  int e;
  std::vector<std::uint16_t> scales;
  std::vector<int> values;
};
Q8Row q8(const std::vector<float>& row) {
  const Bytes bytes = encoded(kQ8, row);
  Q8Row out{static_cast<std::int16_t>(load_le<std::uint16_t>(bytes.data())), {}, {}};
  for (std::size_t i = 2; i < bytes.size(); i += 34) {
    out.scales.push_back(load_le<std::uint16_t>(bytes.data() + i));
    for (std::size_t j = i + 2; j < std::min(i + 34, bytes.size()); ++j)
      out.values.push_back(static_cast<std::int8_t>(bytes[j]));
  }
  return out;
}

TEST(HiddenQ8, HandComputedBlocks) {
  // 127 * 2^14 makes e = 20 - 21, and the block's scale 2^15.
  const Q8Row row = q8({127 * 16384.0f, -127 * 16384.0f, 16384.0f, 8192.0f, -8192.0f, 24576.0f, 8193.0f,
                        -8193.0f, 0.0f, -0.0f, 1.0f});
  EXPECT_EQ(row.e, -1);
  EXPECT_EQ(row.scales, (std::vector<std::uint16_t>{0x7800}));
  // Ties go to even: 0.5, -0.5 and 1.5; beside them 8193 / 16384.
  EXPECT_EQ(row.values, (std::vector<int>{127, -127, 1, 0, 0, 2, 1, -1, 0, 0, 0}));

  // Each block has a scale of its own; 1 / 127 * 2^21 = 16513.0 rounds to 16512, 1 / 16256 * 2^21 = 129.0.
  std::vector<float> two(64, 1.0f);
  for (std::size_t i = 32; i < 64; ++i) two[i] = -0x1p-7f;
  const Q8Row pair = q8(two);
  EXPECT_EQ(pair.e, -21);
  EXPECT_EQ(pair.scales, (std::vector<std::uint16_t>{0x7408, 0x5808}));
  EXPECT_EQ(pair.values[0], 127);
  EXPECT_EQ(pair.values[63], -127);
}

TEST(HiddenQ8, ExtremesStayFinite) {
  EXPECT_EQ(q8({0.0f, -0.0f}).e, 0);
  EXPECT_EQ(q8({0.0f, -0.0f}).scales[0], 0);
  EXPECT_EQ(q8({kMax}).e, 106);
  EXPECT_EQ(q8({kMax}).scales[0], 0x7808);  // 2^22 / 127 rounds down to 33024
  EXPECT_EQ(q8({kMax, -kMax, kMax / 2}).values, (std::vector<int>{127, -127, 64}));
  EXPECT_EQ(decoded(kQ8, encoded(kQ8, {kMax, -kMax}), 2)[1], -127 * 33024.0f * 0x1p106f);
  // So small that no scale is left: 0 again, within 2^-36 of the row's largest.
  EXPECT_EQ(q8({kDenormal}).values[0], 0);
  EXPECT_EQ(q8({0x1p-126f}).e, -126);
  const auto outlier = [] {
    std::vector<float> row(64, 0.01f);
    row[3] = 1e6f;
    return row;
  }();
  const auto back = decoded(kQ8, encoded(kQ8, outlier), outlier.size());
  EXPECT_NEAR(back[3], 1e6, 1e6 / 253.8);
  EXPECT_NEAR(back[60], 0.01, 0.01 / 253.8);
  EXPECT_EQ(back[5], 0) << "beside the outlier nothing is left";
}

// The bounds of docs/reference/wire.md, in double arithmetic.
TEST(HiddenQ8, ErrorsStayWithinTheBound) {
  EXPECT_TRUE(rc::check([] {
    const auto n = test::any<std::size_t>(1, 100);
    std::vector<float> row(n);
    const auto top = test::any<std::uint32_t>(60, 254);
    for (float& value : row) {
      const auto exponent = test::any<std::uint32_t>(top - 50, top);
      value = std::bit_cast<float>((exponent << 23) | test::any<std::uint32_t>(0, (1u << 23) - 1) |
                                   (test::any<std::uint32_t>(0, 1) << 31));
      if (test::any<int>(0, 5) == 0) value = 0;
    }
    const auto largest = [](std::span<const float> of) {
      double most = 0;
      for (const float value : of) most = std::max(most, std::fabs(static_cast<double>(value)));
      return most;
    };
    const double row_most = largest(row);
    const auto back = decoded(kQ8, encoded(kQ8, row), n);
    for (std::size_t begin = 0; begin < n; begin += 32) {
      const std::size_t count = std::min<std::size_t>(32, n - begin);
      const double most = largest(std::span(row).subspan(begin, count));
      const double bound = most > std::ldexp(row_most, -28) ? most / 253.8 : std::ldexp(row_most, -36);
      for (std::size_t i = begin; i < begin + count; ++i)
        RC_ASSERT(std::fabs(static_cast<double>(back[i]) - row[i]) <= bound);
    }
  }));
}

// What was sent once is sent again without further loss.
TEST(HiddenQ8, IsStable) {
  EXPECT_TRUE(rc::check([] {
    std::vector<float> row(test::any<std::size_t>(1, 70));
    for (float& value : row)
      value = std::bit_cast<float>((test::any<std::uint32_t>(115, 140) << 23) |
                                   test::any<std::uint32_t>(0, (1u << 23) - 1) |
                                   (test::any<std::uint32_t>(0, 1) << 31));
    const auto once = decoded(kQ8, encoded(kQ8, row), row.size());
    const auto twice = decoded(kQ8, encoded(kQ8, once), row.size());
    RC_ASSERT(once == twice);
  }));
}

TEST(Hidden, F32IsBitExact) {
  const std::vector<float> row = {0.0f, -0.0f, kDenormal, -kDenormal, kMax, 1.0f, -1e-20f};
  const Bytes bytes = encoded(kF32, row);
  EXPECT_EQ(bytes[8], 1);  // kDenormal, least significant byte first
  EXPECT_EQ(bytes[16], 0xff);
  EXPECT_EQ(bytes[19], 0x7f);
  const auto back = decoded(kF32, bytes, row.size());
  for (std::size_t i = 0; i < row.size(); ++i)
    EXPECT_EQ(std::bit_cast<std::uint32_t>(back[i]), std::bit_cast<std::uint32_t>(row[i]));
}

TEST(Hidden, DenormalsAndSignedZerosSurviveF16) {
  const std::vector<float> row = {kDenormal, -3 * kDenormal, -0.0f, 0.0f};
  const auto back = decoded(kF16, encoded(kF16, row), row.size());
  for (std::size_t i = 0; i < row.size(); ++i)
    EXPECT_EQ(std::bit_cast<std::uint32_t>(back[i]), std::bit_cast<std::uint32_t>(row[i]));
}

// Lengths that are no multiple of a vector register, and several rows with scales of their own.
TEST(Hidden, RowsAreIndependent) {
  for (std::size_t n_embd : {1u, 3u, 4u, 7u, 8u, 31u, 64u, 1000u}) {
    std::vector<float> rows(n_embd * 3);
    for (std::size_t i = 0; i < rows.size(); ++i)
      rows[i] = static_cast<float>(i % 17 + 1) * (i / n_embd == 1 ? 1e20f : 0.25f);
    for (const auto encoding : {kF32, kF16, kQ8}) {
      Bytes bytes = {1, 2, 3};  // appends
      ASSERT_TRUE(encode_hidden(encoding, rows, n_embd, bytes));
      ASSERT_EQ(bytes.size(), 3 + hidden_bytes(encoding, 3, n_embd));
      EXPECT_THAT(std::span(bytes).first(3), ::testing::ElementsAre(1, 2, 3));
      std::vector<float> back(rows.size());
      ASSERT_TRUE(decode_hidden(encoding, std::span(bytes).subspan(3), n_embd, back));
      for (std::size_t i = 0; i < rows.size(); ++i)
        // In a block of 1 to 17 times a unit, whose largest is at most 17 times the least.
        ASSERT_LE(std::fabs(back[i] - rows[i]), encoding == kQ8 ? rows[i] * 17 / 253.8f : rows[i] / 2048)
            << i;
    }
  }
}

TEST(Hidden, NoRows) {
  Bytes bytes;
  ASSERT_TRUE(encode_hidden(kF16, {}, 8, bytes));
  EXPECT_TRUE(bytes.empty());
  EXPECT_TRUE(decode_hidden(kF16, bytes, 8, {}));
  ASSERT_TRUE(encode_hidden(kQ8, {}, 8, bytes));
  EXPECT_TRUE(bytes.empty());
}

// --- Errors
// ---------------------------------------------------------------------------------------------------------

TEST(Hidden, NonFiniteRowsAreNotSent) {
  for (const auto encoding : {kF32, kF16, kQ8}) {
    for (const float bad : {kNan, -kNan, kInf, -kInf}) {
      for (const std::size_t at : {0u, 9u, 14u}) {
        std::vector<float> rows(15, 1.0f);
        rows[at] = bad;
        EXPECT_EQ(first_non_finite_row(rows, 5), at / 5);
        Bytes bytes = {42};
        const auto done = encode_hidden(encoding, rows, 5, bytes);
        ASSERT_FALSE(done);
        EXPECT_EQ(done.error().code, ErrorCode::kNumeric);
        EXPECT_EQ(done.error().message,
                  std::format("hidden row {} of 3 holds a value that is NaN or infinite", at / 5));
        EXPECT_EQ(bytes, Bytes{42});
      }
    }
  }
  EXPECT_EQ(first_non_finite_row(std::vector<float>(15, kMax), 5), 3u);
}

void expect_refused(HiddenEncoding encoding, std::string_view hex, std::size_t n, ErrorCode code,
                    std::string_view text) {
  std::vector<float> row(n);
  const auto done = decode_hidden(encoding, test::from_hex(hex), n, row);
  ASSERT_FALSE(done) << hex;
  EXPECT_EQ(done.error().code, code) << hex;
  EXPECT_THAT(done.error().message, HasSubstr(text));
}

TEST(Hidden, HostilePayloads) {
  expect_refused(kF32, "00 00 80 3f 00 00 80", 2, ErrorCode::kProtocol,
                 "has 7 bytes, 1 rows of 2 values take 8");
  expect_refused(kF32, "", 1, ErrorCode::kProtocol, "has 0 bytes");
  expect_refused(kF16, "00 00 00 3c 00", 1, ErrorCode::kProtocol, "has 5 bytes, 1 rows of 1 values take 4");
  expect_refused(kF16, "00 00", 1, ErrorCode::kProtocol, "has 2 bytes");
  expect_refused(kF16, "72 00 00 00", 1, ErrorCode::kProtocol, "scale 2^114, allowed are 2^-126 to 2^113");
  expect_refused(kF16, "81 ff 00 00", 1, ErrorCode::kProtocol, "scale 2^-127");
  expect_refused(kF16, "ff 7f 00 00", 1, ErrorCode::kProtocol, "scale 2^32767");
  expect_refused(kF16, "00 80 00 00", 1, ErrorCode::kProtocol, "scale 2^-32768");
  expect_refused(kF16, "00 00 00 7c", 1, ErrorCode::kNumeric, "row 0");            // +Inf
  expect_refused(kF16, "00 00 00 fc", 1, ErrorCode::kNumeric, "NaN or infinite");  // -Inf
  expect_refused(kF16, "00 00 00 00 01 fe", 2, ErrorCode::kNumeric, "NaN or");     // NaN
  expect_refused(kF16, "00 00 ff ff", 1, ErrorCode::kNumeric, "NaN or");           // NaN
  expect_refused(kF16, "71 00 00 78", 1, ErrorCode::kNumeric, "NaN or");           // 2^15 * 2^113
  expect_refused(kF16, "71 00 ff fb", 1, ErrorCode::kNumeric, "NaN or");           // -65504 * 2^113
  expect_refused(kQ8, "00 00 00 3c", 1, ErrorCode::kProtocol, "has 4 bytes, 1 rows of 1 values take 5");
  expect_refused(kQ8, "6b 00 00 3c 01", 1, ErrorCode::kProtocol, "scale 2^107, allowed are 2^-126 to 2^106");
  expect_refused(kQ8, "81 ff 00 3c 01", 1, ErrorCode::kProtocol, "scale 2^-127");
  expect_refused(kQ8, "00 00 00 bc 01", 1, ErrorCode::kProtocol, "a negative scale at value 0");
  expect_refused(kQ8, "00 00 00 80 01", 1, ErrorCode::kProtocol, "a negative scale");
  expect_refused(kQ8, "00 00 00 3c 80", 1, ErrorCode::kProtocol, "-128 in the block at value 0");
  expect_refused(kQ8, "00 00 00 7c 00", 1, ErrorCode::kNumeric, "row 0 holds a value that is NaN or inf");
  expect_refused(kQ8, "00 00 01 7e 01", 1, ErrorCode::kNumeric, "NaN or infinite");
  expect_refused(kQ8, "00 00 00 fc 01", 1, ErrorCode::kNumeric, "NaN or infinite");  // -Inf
  expect_refused(kQ8, "6a 00 ff 7b 7f", 1, ErrorCode::kNumeric, "NaN or infinite");  // 127 * 65504 * 2^106
  expect_refused(kF32, "00 00 80 7f", 1, ErrorCode::kNumeric, "NaN or");
  expect_refused(kF32, "01 00 80 ff", 1, ErrorCode::kNumeric, "NaN or");  // a signalling NaN
}

}  // namespace
}  // namespace hearth::wire
