#include "residency/pack_file.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <fcntl.h>

namespace hearth::residency {
namespace {

constexpr std::size_t kReadBytes = 4U << 20;

Result<PackHeader> read_header(const InputFile& file) {
  std::vector<std::uint8_t> bytes(std::min<std::uint64_t>(file.size(), kPackBlock));
  HEARTH_TRY_VOID(file.read_at(0, bytes));
  HEARTH_TRY(const std::uint32_t size, header_bytes(bytes, file.size()));
  bytes.resize(size);
  HEARTH_TRY_VOID(file.read_at(0, bytes));
  return decode_header(bytes, file.size());
}

}  // namespace

template <class Judge>
Result<PackFile> PackFile::open_if(const std::filesystem::path& path, Judge judge) {
  HEARTH_TRY(InputFile file, InputFile::open(path));
  auto header = read_header(file);
  if (!header && header.error().code == ErrorCode::kIo) return pass(std::move(header));
  if (!header)
    return fail(header.error().code, "{}: {}; it will be made anew", path.string(), header.error().message);
  if (const std::string why = judge(*header); !why.empty())
    return fail(ErrorCode::kVersionMismatch, "{}: {}; it will be made anew", path.string(), why);
  std::vector<std::uint8_t> record;
  for (std::size_t i = 0; i < header->segments.size(); ++i) {
    record.resize(header->segments[i].record_bytes());
    HEARTH_TRY_VOID(file.read_at(header->segments[i].record_offset, record));
    // Damaged, or being written by another process just now: the segment counts as absent.
    (void)decode_record(*header, i, record);
  }
  HEARTH_TRY(MappedFile map, MappedFile::map(file));
  return PackFile(std::move(file), std::move(map), *std::move(header));
}

Result<PackFile> PackFile::open(const std::filesystem::path& path, const PackKey& expected) {
  return open_if(path, [&](const PackHeader& found) { return key_difference(found.key, expected); });
}

Result<PackFile> PackFile::open(const std::filesystem::path& path, const PackHeader& expected) {
  return open_if(path, [&](const PackHeader& found) -> std::string {
    std::string why = key_difference(found.key, expected.key);
    if (why.empty() && found.identity != expected.identity)
      why = "its tensors lie elsewhere than they should";
    return why;
  });
}

Result<PackFile> PackFile::open(const std::filesystem::path& path) {
  return open_if(path, [](const PackHeader&) { return std::string(); });
}

const PackSegment& PackFile::segment(model::SegmentId id) const {
  const PackSegment* found = header_.find(id);
  HEARTH_CHECK(found != nullptr, "a segment that packs do not have");
  return *found;
}

Result<> PackFile::verify(model::SegmentId id, const std::function<bool(std::uint64_t)>& progress) const {
  const PackSegment& s = segment(id);
  if (!s.present)
    return fail(ErrorCode::kInvalidFile, "{}: {} is not in it", path().string(), segment_text(id));
  Blake3 hash;
  std::vector<std::uint8_t> bytes(std::min<std::uint64_t>(kReadBytes, s.bytes));
  for (std::uint64_t done = 0; done < s.bytes;) {
    const std::uint64_t n = std::min<std::uint64_t>(bytes.size(), s.bytes - done);
    HEARTH_TRY_VOID(file_.read_at(s.offset + done, std::span(bytes).first(n)));
    hash.add(std::span(bytes).first(n));
    // A check must not push what other programs use out of the page cache; pages that are mapped stay.
    (void)::posix_fadvise(descriptor(), static_cast<off_t>(s.offset + done), static_cast<off_t>(n),
                          POSIX_FADV_DONTNEED);
    done += n;
    if (progress && !progress(n))
      return fail(ErrorCode::kCancelled, "checking {} was ended", path().string());
  }
  if (hash.digest() != s.blake3)
    return fail(ErrorCode::kInvalidFile, "{}: {} does not have its checksum: the file is damaged",
                path().string(), segment_text(id));
  return {};
}

}  // namespace hearth::residency
