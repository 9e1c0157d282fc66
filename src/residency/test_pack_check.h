// What must hold of any bytes that decode_header() accepts. For the fuzzer and the test of its corpus only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "residency/pack_format.h"

namespace hearth::residency::test {

inline std::uint64_t number_at(std::span<const std::uint8_t> bytes, std::size_t at, std::size_t n) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < n; ++i) value |= std::uint64_t{bytes[at + i]} << (8 * i);
  return value;
}

// Decodes `bytes` as the beginning of a file of `file_bytes`, and what follows the header as the first
// segment's record. Returns whether the header was accepted.
inline bool check_pack_bytes(std::span<const std::uint8_t> bytes, std::uint64_t file_bytes) {
  auto header = decode_header(bytes, file_bytes);
  if (!header) {
    HEARTH_CHECK(!header.error().message.empty());
    return false;
  }
  HEARTH_CHECK(!header->segments.empty() && header->file_bytes == file_bytes);
  // No two places overlap: each begins where the last one ended or later.
  const std::uint64_t size = number_at(bytes, 12, 4);
  std::uint64_t end = size;
  for (const PackSegment& segment : header->segments) {
    HEARTH_CHECK(segment.record_offset >= end && segment.record_offset % kPackBlock == 0);
    end = segment.record_offset + segment.record_bytes();
  }
  for (const PackSegment& segment : header->segments) {
    HEARTH_CHECK(!segment.present && segment.offset >= end);
    for (const PackTensor& tensor : segment.tensors) {
      HEARTH_CHECK(tensor.offset >= end && tensor.offset % kPackBlock == 0 && tensor.bytes > 0);
      end = tensor.offset + tensor.bytes;
    }
    HEARTH_CHECK(end <= segment.offset + segment.bytes);
    end = segment.offset + segment.bytes;
  }
  HEARTH_CHECK(end == file_bytes);
  // There is one way to write a header.
  const auto again = encode_header(*header);
  HEARTH_CHECK(std::ranges::equal(std::span(again).first(size), bytes.first(size)));
  HEARTH_CHECK(decode_header(again, file_bytes) == *header);

  const std::uint64_t record_bytes = header->segments[0].record_bytes();
  std::vector<std::uint8_t> record(bytes.begin() + static_cast<std::ptrdiff_t>(size), bytes.end());
  record.resize(record_bytes);
  const bool is_zero = std::ranges::all_of(record, [](std::uint8_t byte) { return byte == 0; });
  if (decode_record(*header, 0, record))
    HEARTH_CHECK(is_zero ? !header->segments[0].present : encode_record(*header, 0) == record);
  else
    HEARTH_CHECK(!header->segments[0].present);
  return true;
}

// The same bytes with magic, version, size and checksum as they should be, so that what lies behind them is
// reached. The header takes all but the last `record` bytes.
inline std::vector<std::uint8_t> repaired(std::span<const std::uint8_t> bytes, std::size_t record) {
  std::vector<std::uint8_t> out(bytes.begin(), bytes.end());
  constexpr std::size_t kDigest = 32, kLeast = 24 + kDigest;
  if (out.size() < kLeast + record) return out;
  const std::size_t size = out.size() - record;
  std::ranges::copy(std::string_view("HEARTHPK\x01\0\0\0", 12), out.begin());
  for (std::size_t i = 0; i < 4; ++i) out[12 + i] = static_cast<std::uint8_t>(size >> (8 * i));
  std::ranges::copy(blake3(std::span(out).first(size - kDigest)),
                    out.begin() + static_cast<std::ptrdiff_t>(size - kDigest));
  return out;
}

}  // namespace hearth::residency::test
