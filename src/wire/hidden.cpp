#include "wire/hidden.h"

#include <algorithm>
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
constexpr std::uint32_t kRebias = (127 - 15) << 23;  // between the exponents of float and half
constexpr std::size_t kScaleBytes = 2;

// Scales 2^e with a normal 2^e and 2^-e. The largest magnitude of a row lands in [2^14, 2^15), or below where
// the row's largest is under 2^-112.
constexpr int kMinScale = -126;
constexpr int kMaxScale = 113;
constexpr float kLargestAtMaxScale = 32752.0f;  // the largest half under 2^15; 2^15 * 2^113 is not a float

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

// e for a row whose largest magnitude has these bits; 0 for a row of zeros.
int choose_scale(std::uint32_t largest) {
  if (largest == 0) return 0;
  const int exponent = static_cast<int>(largest >> 23) - 127;  // floor(log2), too high only for denormals
  return std::max(exponent - 14, kMinScale);
}

// |x| < 2^16 - 16 after scaling; to nearest, ties to even.
std::uint16_t half_of(float x, float inverse_scale, float most) {
  const std::uint32_t sign = (std::bit_cast<std::uint32_t>(x) >> 16) & 0x8000;
  const float magnitude =
      std::min(std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & kMagnitude) * inverse_scale, most);
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(magnitude);
  const std::uint32_t normal = (bits - kRebias + 0xfff + ((bits >> 13) & 1)) >> 13;
  // 0.5f has a unit in the last place of 2^-24, the smallest half: the addition rounds for us.
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(magnitude + 0.5f) - std::bit_cast<std::uint32_t>(0.5f);
  const std::uint32_t half = static_cast<std::int32_t>(bits) < (113 << 23) ? subnormal : normal;  // 2^-14
  return static_cast<std::uint16_t>(half | sign);
}

// Not for halves that are NaN or Inf.
float float_of(std::uint16_t half, float scale) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  const std::uint32_t magnitude = half & kHalfMagnitude;
  const float normal = std::bit_cast<float>((magnitude << 13) + kRebias);
  const float subnormal = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
  const float value = (static_cast<std::int32_t>(magnitude) < 0x400 ? subnormal : normal) * scale;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

void encode_f16_row(const float* row, std::size_t n, std::uint32_t largest, std::uint8_t* to) {
  const int e = choose_scale(largest);
  store_le(static_cast<std::uint16_t>(static_cast<std::int16_t>(e)), to);
  to += kScaleBytes;
  const float inverse_scale = power_of_two(-e);
  const float most = e == kMaxScale ? kLargestAtMaxScale : 65504.0f;
  for (std::size_t i = 0; i < n; ++i) store_le(half_of(row[i], inverse_scale, most), to + 2 * i);
}

Result<> decode_f16_row(const std::uint8_t* from, std::size_t n, std::size_t index, float* row) {
  const auto e = static_cast<std::int16_t>(load_le<std::uint16_t>(from));
  if (e < kMinScale || e > kMaxScale)
    return fail(ErrorCode::kProtocol, "hidden row {} has the scale 2^{}, allowed are 2^{} to 2^{}", index, e,
                kMinScale, kMaxScale);
  from += kScaleBytes;
  std::int16_t largest = 0;
  for (std::size_t i = 0; i < n; ++i)
    largest =
        std::max(largest, static_cast<std::int16_t>(load_le<std::uint16_t>(from + 2 * i) & kHalfMagnitude));
  const float scale = power_of_two(e);
  // The conversion is monotonic: when the largest stays finite, all do.
  const bool finite = largest < kHalfInf && std::bit_cast<std::uint32_t>(float_of(
                                                static_cast<std::uint16_t>(largest), scale)) < kFloatInf;
  if (!finite) return fail(ErrorCode::kNumeric, "hidden row {} holds a value that is NaN or infinite", index);
  for (std::size_t i = 0; i < n; ++i) row[i] = float_of(load_le<std::uint16_t>(from + 2 * i), scale);
  return {};
}

void copy_f32(const float* row, std::size_t n, std::uint8_t* to) {
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(to, row, n * sizeof(float));
  } else {
    for (std::size_t i = 0; i < n; ++i) store_le(std::bit_cast<std::uint32_t>(row[i]), to + 4 * i);
  }
}

void copy_f32(const std::uint8_t* from, std::size_t n, float* row) {
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(row, from, n * sizeof(float));
  } else {
    for (std::size_t i = 0; i < n; ++i) row[i] = std::bit_cast<float>(load_le<std::uint32_t>(from + 4 * i));
  }
}

}  // namespace

std::size_t hidden_bytes(HiddenEncoding encoding, std::size_t n_rows, std::size_t n_embd) {
  return encoding == HiddenEncoding::kF32 ? n_rows * n_embd * 4 : n_rows * (kScaleBytes + n_embd * 2);
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
      copy_f32(row, n_embd, to);
    else
      encode_f16_row(row, n_embd, largest, to);
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
    if (encoding == HiddenEncoding::kF16Scaled) {
      HEARTH_TRY_VOID(decode_f16_row(from, n_embd, index, row));
      continue;
    }
    copy_f32(from, n_embd, row);
    if (largest_bits(row, n_embd) >= kFloatInf)
      return fail(ErrorCode::kNumeric, "hidden row {} holds a value that is NaN or infinite", index);
  }
  return {};
}

}  // namespace hearth::wire
