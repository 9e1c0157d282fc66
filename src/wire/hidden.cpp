#include "wire/hidden.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "wire/bytes.h"

namespace hearth::wire {
namespace {

// Everything below works on the bits, without branches in the inner loops, so that compilers vectorize it for
// any CPU: the conversion must not depend on which half-precision instructions a device has, or links would
// not be equal.

constexpr std::uint32_t kMagnitude = 0x7fffffff;  // a float without its sign
constexpr std::uint32_t kFloatInf = 0x7f800000;
constexpr std::uint16_t kHalfMagnitude = 0x7fff;
constexpr std::uint16_t kHalfInf = 0x7c00;
constexpr std::uint32_t kRebias = (127 - 15) << 23;          // between the exponents of float and half
constexpr std::uint32_t kSmallestNormal = (127 - 14) << 23;  // 2^-14, the smallest normal half, as a float
constexpr std::size_t kScaleBytes = 2;

// Scales 2^e with a normal 2^e and 2^-e. The largest magnitude of a row lands in [2^14, 2^15), or below where
// the row's largest is under 2^-112. In blocks of 8 bits it lands in [2^21, 2^22): their scales, a 127th of
// it, are halves with the widest range then.
constexpr int kF16Exponent = 14;
constexpr int kQ8Exponent = 21;
constexpr int kMinScale = -126;
constexpr int kMaxScale = 127 - kF16Exponent;
constexpr int kMaxQ8Scale = 127 - kQ8Exponent;
constexpr std::uint16_t kLargestHalfAtMaxScale = 0x77ff;  // 32752: 2^15 * 2^113 is not a float

float power_of_two(int e) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(e + 127) << 23);
}

// Largest magnitude as bits; >= kFloatInf when the row holds NaN or Inf.
std::uint32_t largest_bits(const float* row, std::size_t n) {
  std::int32_t most = 0;  // magnitudes are not negative, and SSE2 has no unsigned comparison
  for (std::size_t i = 0; i < n; ++i)
    most = std::max(most, static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(row[i]) & kMagnitude));
  return static_cast<std::uint32_t>(most);
}

// e for a row whose largest magnitude has these bits and becomes one of `to_exponent`; 0 for a row of zeros.
int choose_scale(std::uint32_t largest, int to_exponent) {
  if (largest == 0) return 0;
  const int exponent = static_cast<int>(largest >> 23) - 127;  // floor(log2), too high only for denormals
  return std::max(exponent - to_exponent, kMinScale);
}

// `yes` where value < bound, else `no`; differences must fit an int32. By a mask from the sign, since
// compilers branch around floating-point operations instead of vectorizing, and widen and narrow a bool.
std::uint32_t select_below(std::uint32_t value, std::uint32_t bound, std::uint32_t yes, std::uint32_t no) {
  const auto mask = static_cast<std::uint32_t>(static_cast<std::int32_t>(value - bound) >> 31);
  return (yes & mask) | (no & ~mask);
}

// |x * inverse_scale| < 2^15; to nearest, ties to even.
std::uint16_t half_of(float x, float inverse_scale) {
  const std::uint32_t sign = (std::bit_cast<std::uint32_t>(x) >> 16) & 0x8000;
  const float magnitude = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & kMagnitude) * inverse_scale;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(magnitude);
  const std::uint32_t normal = (bits - kRebias + 0xfff + ((bits >> 13) & 1)) >> 13;
  // 0.5f has a unit in the last place of 2^-24, the smallest half: the addition rounds for us.
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(magnitude + 0.5f) - std::bit_cast<std::uint32_t>(0.5f);
  return static_cast<std::uint16_t>(select_below(bits, kSmallestNormal, subnormal, normal) | sign);
}

// Not for halves that are NaN or Inf.
float float_of(std::uint16_t half, float scale) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  const std::uint32_t magnitude = half & kHalfMagnitude;
  const std::uint32_t normal = (magnitude << 13) + kRebias;
  const float small = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(small);
  const float value = std::bit_cast<float>(select_below(magnitude, 0x400, subnormal, normal)) * scale;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

// Little-endian copies; a plain one where the machine is little-endian itself.
template <class T, class Bits>
void copy_out(const T* values, std::size_t n, std::uint8_t* to) {
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(to, values, n * sizeof(T));
  } else {
    for (std::size_t i = 0; i < n; ++i) store_le(std::bit_cast<Bits>(values[i]), to + sizeof(T) * i);
  }
}

template <class T, class Bits>
void copy_in(const std::uint8_t* from, std::size_t n, T* values) {
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(values, from, n * sizeof(T));
  } else {
    for (std::size_t i = 0; i < n; ++i) values[i] = std::bit_cast<T>(load_le<Bits>(from + sizeof(T) * i));
  }
}

// Halves pass through a small buffer: payload bytes have no alignment and may alias anything, which stops
// vectorizing.
constexpr std::size_t kBlock = 256;
using Halves = std::array<std::uint16_t, kBlock>;

// What rounded up to 2^15 would be infinite at the highest scale.
void cap(Halves& halves, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    if ((halves[i] & kHalfMagnitude) > kLargestHalfAtMaxScale)
      halves[i] = static_cast<std::uint16_t>((halves[i] & ~kHalfMagnitude) | kLargestHalfAtMaxScale);
}

void encode_f16_row(const float* row, std::size_t n, std::uint32_t largest, std::uint8_t* to) {
  const int e = choose_scale(largest, kF16Exponent);
  store_le(static_cast<std::uint16_t>(static_cast<std::int16_t>(e)), to);
  to += kScaleBytes;
  const float inverse_scale = power_of_two(-e);
  Halves halves;
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t count = std::min(kBlock, n - begin);
    for (std::size_t i = 0; i < count; ++i) halves[i] = half_of(row[begin + i], inverse_scale);
    if (e == kMaxScale) cap(halves, count);
    copy_out<std::uint16_t, std::uint16_t>(halves.data(), count, to + 2 * begin);
  }
}

constexpr std::size_t kQ8Block = 32;
constexpr std::size_t kQ8BlockBytes = kScaleBytes + kQ8Block;
constexpr std::int32_t kQ8Most = 127;

void encode_q8_row(const float* row, std::size_t n, std::uint32_t largest, std::uint8_t* to) {
  const int e = choose_scale(largest, kQ8Exponent);
  store_le(static_cast<std::uint16_t>(static_cast<std::int16_t>(e)), to);
  to += kScaleBytes;
  const float inverse_scale = power_of_two(-e);
  std::array<float, kQ8Block> block{};
  std::array<std::uint8_t, kQ8Block> bytes;
  for (std::size_t begin = 0; begin < n; begin += kQ8Block, to += kQ8BlockBytes) {
    const std::size_t count = std::min(kQ8Block, n - begin);
    block.fill(0);
    for (std::size_t i = 0; i < count; ++i) block[i] = row[begin + i] * inverse_scale;
    const float most = std::bit_cast<float>(largest_bits(block.data(), kQ8Block));
    const std::uint16_t half = half_of(most, 1.0f / kQ8Most);
    const float scale = float_of(half, 1.0f);
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (float& value : block) value *= inverse;
    // To nearest, ties to even: where 2^23 is added, bits below 1 fall off. Beyond 127 only where the half is
    // subnormal, and so not exact.
    constexpr float kRound = 0x1.8p23f;
    for (std::size_t i = 0; i < kQ8Block; ++i) {
      const auto rounded =
          std::bit_cast<std::int32_t>(block[i] + kRound) - std::bit_cast<std::int32_t>(kRound);
      bytes[i] = static_cast<std::uint8_t>(std::max(-kQ8Most, std::min(kQ8Most, rounded)));
    }
    store_le(half, to);
    std::memcpy(to + kScaleBytes, bytes.data(), count);
  }
}

Result<> decode_q8_row(const std::uint8_t* from, std::size_t n, std::size_t index, float* row) {
  const auto e = static_cast<std::int16_t>(load_le<std::uint16_t>(from));
  if (e < kMinScale || e > kMaxQ8Scale)
    return fail(ErrorCode::kProtocol, "hidden row {} has the scale 2^{}, allowed are 2^{} to 2^{}", index, e,
                kMinScale, kMaxQ8Scale);
  from += kScaleBytes;
  const float row_scale = power_of_two(e);
  std::array<std::int8_t, kQ8Block> values;
  for (std::size_t begin = 0; begin < n; begin += kQ8Block, from += kQ8BlockBytes) {
    const std::size_t count = std::min(kQ8Block, n - begin);
    const auto half = load_le<std::uint16_t>(from);
    if ((half & kHalfMagnitude) >= kHalfInf)
      return fail(ErrorCode::kNumeric, "hidden row {} holds a value that is NaN or infinite", index);
    if (half > kHalfMagnitude)
      return fail(ErrorCode::kProtocol, "hidden row {} has a negative scale at value {}", index, begin);
    std::memcpy(values.data(), from + kScaleBytes, count);
    const float scale = float_of(half, 1.0f);
    bool in_range = true;
    for (std::size_t i = 0; i < count; ++i) in_range = in_range && values[i] >= -kQ8Most;
    if (!in_range)
      return fail(ErrorCode::kProtocol, "hidden row {} holds -128 in the block at value {}, the least is {}",
                  index, begin, -kQ8Most);
    for (std::size_t i = 0; i < count; ++i)
      row[begin + i] = static_cast<float>(values[i]) * scale * row_scale;
  }
  if (largest_bits(row, n) < kFloatInf) return {};
  return fail(ErrorCode::kNumeric, "hidden row {} holds a value that is NaN or infinite", index);
}

Result<> decode_f16_row(const std::uint8_t* from, std::size_t n, std::size_t index, float* row) {
  const auto e = static_cast<std::int16_t>(load_le<std::uint16_t>(from));
  if (e < kMinScale || e > kMaxScale)
    return fail(ErrorCode::kProtocol, "hidden row {} has the scale 2^{}, allowed are 2^{} to 2^{}", index, e,
                kMinScale, kMaxScale);
  from += kScaleBytes;
  const float scale = power_of_two(e);
  std::int16_t largest = 0;
  Halves halves;
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t count = std::min(kBlock, n - begin);
    copy_in<std::uint16_t, std::uint16_t>(from + 2 * begin, count, halves.data());
    for (std::size_t i = 0; i < count; ++i)
      largest = std::max(largest, static_cast<std::int16_t>(halves[i] & kHalfMagnitude));
    for (std::size_t i = 0; i < count; ++i) row[begin + i] = float_of(halves[i], scale);
  }
  // The conversion is monotonic: when the largest is finite, all are.
  if (largest < kHalfInf &&
      std::bit_cast<std::uint32_t>(float_of(static_cast<std::uint16_t>(largest), scale)) < kFloatInf)
    return {};
  return fail(ErrorCode::kNumeric, "hidden row {} holds a value that is NaN or infinite", index);
}

}  // namespace

std::size_t hidden_bytes(HiddenEncoding encoding, std::size_t n_rows, std::size_t n_embd) {
  switch (encoding) {
    case HiddenEncoding::kF32:
      return n_rows * n_embd * sizeof(float);
    case HiddenEncoding::kF16Scaled:
      return n_rows * (kScaleBytes + n_embd * 2);
    case HiddenEncoding::kQ8Scaled:
      return n_rows * (kScaleBytes + (n_embd + kQ8Block - 1) / kQ8Block * kScaleBytes + n_embd);
  }
  return 0;
}

std::size_t first_non_finite_row(std::span<const float> rows, std::size_t n_embd) {
  HEARTH_CHECK(n_embd > 0 && rows.size() % n_embd == 0, "rows of another width");
  const std::size_t n_rows = rows.size() / n_embd;
  for (std::size_t row = 0; row < n_rows; ++row)
    if (largest_bits(rows.data() + row * n_embd, n_embd) >= kFloatInf) return row;
  return n_rows;
}

Result<> encode_hidden(HiddenEncoding encoding, std::span<const float> rows, std::size_t n_embd,
                       std::vector<std::uint8_t>& out) {
  HEARTH_CHECK(n_embd > 0 && rows.size() % n_embd == 0, "rows of another width");
  const std::size_t n_rows = rows.size() / n_embd;
  const std::size_t row_bytes = hidden_bytes(encoding, 1, n_embd);
  const std::size_t begin = out.size();
  out.resize(begin + n_rows * row_bytes);
  std::uint8_t* to = out.data() + begin;
  for (std::size_t index = 0; index < n_rows; ++index, to += row_bytes) {
    const float* row = rows.data() + index * n_embd;
    const std::uint32_t largest = largest_bits(row, n_embd);
    if (largest >= kFloatInf) {
      out.resize(begin);
      return fail(ErrorCode::kNumeric, "hidden row {} of {} holds a value that is NaN or infinite", index,
                  n_rows);
    }
    if (encoding == HiddenEncoding::kF32)
      copy_out<float, std::uint32_t>(row, n_embd, to);
    else if (encoding == HiddenEncoding::kF16Scaled)
      encode_f16_row(row, n_embd, largest, to);
    else
      encode_q8_row(row, n_embd, largest, to);
  }
  return {};
}

Result<> decode_hidden(HiddenEncoding encoding, std::span<const std::uint8_t> payload, std::size_t n_embd,
                       std::span<float> rows) {
  HEARTH_CHECK(n_embd > 0 && rows.size() % n_embd == 0, "rows of another width");
  const std::size_t n_rows = rows.size() / n_embd;
  const std::size_t row_bytes = hidden_bytes(encoding, 1, n_embd);
  if (payload.size() != n_rows * row_bytes)
    return fail(ErrorCode::kProtocol, "the hidden state has {} bytes, {} rows of {} values take {}",
                payload.size(), n_rows, n_embd, n_rows * row_bytes);
  const std::uint8_t* from = payload.data();
  for (std::size_t index = 0; index < n_rows; ++index, from += row_bytes) {
    float* row = rows.data() + index * n_embd;
    if (encoding != HiddenEncoding::kF32) {
      HEARTH_TRY_VOID(encoding == HiddenEncoding::kF16Scaled ? decode_f16_row(from, n_embd, index, row)
                                                             : decode_q8_row(from, n_embd, index, row));
      continue;
    }
    copy_in<float, std::uint32_t>(from, n_embd, row);
    if (largest_bits(row, n_embd) >= kFloatInf)
      return fail(ErrorCode::kNumeric, "hidden row {} holds a value that is NaN or infinite", index);
  }
  return {};
}

}  // namespace hearth::wire
