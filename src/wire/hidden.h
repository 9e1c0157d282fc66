// Hidden-state rows on a link: f32; f16; or 8 bits a value in blocks of 32 with an f16 scale each, as ggml's
// Q8_0.
//
// Residual streams carry outliers far beyond f16's 65504, so each row of f16 values or f16 scales is scaled
// by 2^-e with e chosen from the row's largest magnitude; scaling by a power of two is exact. Rows with NaN
// or Inf are refused by the encoder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace hearth::wire {

enum class HiddenEncoding : std::uint8_t { kF32 = 1, kF16Scaled = 2, kQ8Scaled = 3 };
inline constexpr std::uint8_t kHiddenEncodings = 3;

// Bytes of n_rows rows of n_embd values in `encoding`.
[[nodiscard]] std::size_t hidden_bytes(HiddenEncoding encoding, std::size_t n_rows, std::size_t n_embd);

// Index of the first row that holds a NaN or an Inf, or n_rows when all are finite.
[[nodiscard]] std::size_t first_non_finite_row(std::span<const float> rows, std::size_t n_embd);

// rows: [n_rows][n_embd]. Appends hidden_bytes() bytes to `out`. kNumeric names the row that is not finite;
// nothing is appended then.
[[nodiscard]] Result<> encode_hidden(HiddenEncoding encoding, std::span<const float> rows, std::size_t n_embd,
                                     std::vector<std::uint8_t>& out);

// payload must be exactly hidden_bytes(); rows: [n_rows][n_embd], written. kProtocol on a wrong size, scale
// or value, kNumeric on NaN or Inf.
[[nodiscard]] Result<> decode_hidden(HiddenEncoding encoding, std::span<const std::uint8_t> payload,
                                     std::size_t n_embd, std::span<float> rows);

}  // namespace hearth::wire
