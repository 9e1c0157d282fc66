// The bytes of a pack (docs/reference/pack.md): values <-> header and records. Pure; any thread.
//
// A pack is hostile input. decode_header() accepts exactly the canonical layout: every offset follows from
// the sizes before it, so that nothing can overlap, leave a gap or lie past the end; whatever else is wrong
// is an error that says what and at which byte. It never allocates more than a small multiple of the bytes
// given.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/model_file.h"
#include "residency/pack_hash.h"
#include "residency/weight_source.h"

namespace hearth::residency {

inline constexpr std::uint32_t kPackVersion = 2;
// Pages and the sectors of disks are at most this, and direct I/O needs their alignment.
inline constexpr std::uint64_t kPackBlock = 4096;
// 2 TB of weights in blocks of 8 MiB make 13 MB.
inline constexpr std::uint32_t kMaxPackHeaderBytes = 16U << 20;
inline constexpr std::uint32_t kMaxPackLayouts = 16;
inline constexpr std::size_t kMaxPackText = 2048;
// 64 TiB; sums of sizes below it cannot overflow.
inline constexpr std::uint64_t kMaxPackBytes = std::uint64_t{1} << 46;

// What a pack was made from and for: it is good for nothing else.
struct PackKey {
  Digest model{};      // gguf::File::fingerprint()
  std::string ggml;    // ggml_build()
  std::string cpu;     // cpu_features()
  bool repack = true;  // false: all tensors are plain
  friend bool operator==(const PackKey&, const PackKey&) = default;
};

struct PackTensor {
  model::Role role;
  std::uint32_t ggml_type = 0;
  std::string layout;        // "": plain, else the name of ggml's buffer type
  std::uint64_t offset = 0;  // in the file, a multiple of kPackBlock
  std::uint64_t bytes = 0;   // allocated size in that layout
  std::uint64_t row_values = 0;
  std::uint64_t row_begin = 0, row_end = 0;
  std::uint32_t n_matrices = 1;  // of equal numbers of rows: one for each expert
  // From the segment's record, 0 while it is absent.
  std::uint64_t xxh3 = 0;
  [[nodiscard]] MatrixShape shape() const {
    return {.row_values = row_values, .rows = row_end - row_begin, .n_matrices = n_matrices};
  }
  friend bool operator==(const PackTensor&, const PackTensor&) = default;
};

struct PackSegment {
  model::SegmentId id;                               // a layer or the output head
  std::uint64_t record_offset = 0;                   // of its record, a multiple of kPackBlock
  std::uint64_t offset = 0, bytes = 0;               // of its tensors, multiples of kPackBlock
  std::vector<PackTensor> tensors;                   // in the order of use
  bool present = false;                              // has a valid record
  Digest blake3{};                                   // of its bytes, from the record
  std::uint64_t source_sample = 0;                   // of the model file's tensors, from the record
  [[nodiscard]] std::uint64_t record_bytes() const;  // a multiple of kPackBlock
  friend bool operator==(const PackSegment&, const PackSegment&) = default;
};

struct PackHeader {
  PackKey key;
  std::string model_name;             // for people: general.name or the file's
  std::vector<PackSegment> segments;  // layers ascending, then the output head
  std::uint64_t file_bytes = 0;
  Digest identity{};  // the header's own hash: ties records to it
  [[nodiscard]] const PackSegment* find(model::SegmentId id) const;
  friend bool operator==(const PackHeader&, const PackHeader&) = default;
};

[[nodiscard]] constexpr std::uint64_t pack_padded(std::uint64_t bytes) {
  return (bytes + kPackBlock - 1) / kPackBlock * kPackBlock;
}

// Fills in all offsets, segment sizes, file_bytes and identity from the tensors' sizes. kUnsupported when the
// header or the pack would be larger than the limits.
[[nodiscard]] Result<> place_segments(PackHeader& header);

// The header's blocks, padded with zeros. `header` is placed.
[[nodiscard]] std::vector<std::uint8_t> encode_header(const PackHeader& header);

// How many bytes of a file's beginning decode_header() needs, from its first 16. Errors: kInvalidFile (no
// pack), kVersionMismatch.
[[nodiscard]] Result<std::uint32_t> header_bytes(std::span<const std::uint8_t> first,
                                                 std::uint64_t file_bytes);
// `bytes` are the first header_bytes() of a file of `file_bytes` bytes (more may follow). All segments come
// out absent. kInvalidFile, kVersionMismatch.
[[nodiscard]] Result<PackHeader> decode_header(std::span<const std::uint8_t> bytes, std::uint64_t file_bytes);

// The record of a segment whose blake3, source_sample and xxh3 are known. `index` is its place in the header.
[[nodiscard]] std::vector<std::uint8_t> encode_record(const PackHeader& header, std::size_t index);
// The record of a segment that was present and is being built again: absent, but not zeros.
[[nodiscard]] std::vector<std::uint8_t> open_record(const PackSegment& segment);
// Reads record_bytes() bytes into header.segments[index]; one of zeros means absent. kInvalidFile: damaged,
// or of another pack; the segment stays absent then.
[[nodiscard]] Result<> decode_record(PackHeader& header, std::size_t index,
                                     std::span<const std::uint8_t> bytes);

// "layer 7", "output head".
[[nodiscard]] std::string segment_text(model::SegmentId id);
// Why `found` is not what `wanted` asks for: "made with ggml 0.26 (…), this is 0.27 (…)"; "" when equal.
[[nodiscard]] std::string key_difference(const PackKey& found, const PackKey& wanted);

}  // namespace hearth::residency
