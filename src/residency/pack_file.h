// PackFile: an open pack whose header and records have been read and judged.
//
// The weights themselves are not read when it is opened: whoever reads a tensor compares its XXH3-64 with
// PackTensor::xxh3 (matches()), verify() compares a segment's BLAKE3. A pack that is replaced or removed
// while it is open stays what it was: the file lives until its last descriptor is closed.
// Immutable after open(); any thread may read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/os_file.h"
#include "base/result.h"
#include "residency/pack_format.h"

namespace hearth::residency {

class PackFile {
 public:
  // kNotFound; kVersionMismatch (another version of the format, or a pack for another model, ggml, CPU or
  // layout); kInvalidFile (damaged); kIo. A damaged record is no error: its segment is absent.
  [[nodiscard]] static Result<PackFile> open(const std::filesystem::path& path, const PackKey& expected);
  // Exactly this layout, as pack_layout() made it.
  [[nodiscard]] static Result<PackFile> open(const std::filesystem::path& path, const PackHeader& expected);
  // Whatever it was made for.
  [[nodiscard]] static Result<PackFile> open(const std::filesystem::path& path);

  [[nodiscard]] const PackHeader& header() const { return header_; }
  [[nodiscard]] std::span<const PackSegment> segments() const { return header_.segments; }
  // The pack must have a place for it (HEARTH_CHECK); it may be absent.
  [[nodiscard]] const PackSegment& segment(model::SegmentId id) const;
  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }
  // For reading at the offsets of segments and tensors; owned by this object.
  [[nodiscard]] int descriptor() const { return file_.descriptor(); }
  [[nodiscard]] const InputFile& file() const { return file_; }
  // A mapping of the whole file from offset 0. Absent segments are holes of zeros.
  [[nodiscard]] std::span<const std::uint8_t> bytes() const { return map_.bytes(); }

  // Reads the whole segment, past the page cache's use, and compares its BLAKE3. kInvalidFile (absent, or
  // other bytes), kIo, kCancelled. `progress` gets the bytes read since its last call and says whether to go
  // on.
  [[nodiscard]] Result<> verify(model::SegmentId id,
                                const std::function<bool(std::uint64_t bytes)>& progress = {}) const;

 private:
  PackFile(InputFile file, MappedFile map, PackHeader header)
      : file_(std::move(file)), map_(std::move(map)), header_(std::move(header)) {}
  template <class Judge>
  [[nodiscard]] static Result<PackFile> open_if(const std::filesystem::path& path, Judge judge);

  InputFile file_;
  MappedFile map_;
  PackHeader header_;
};

// Whether `bytes`, as long as the tensor, are the tensor's. About the speed of memory.
[[nodiscard]] inline bool matches(const PackTensor& tensor, std::span<const std::uint8_t> bytes) {
  return bytes.size() == tensor.bytes && xxh3(bytes) == tensor.xxh3;
}

}  // namespace hearth::residency
