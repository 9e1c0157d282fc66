#include "gguf/reader.h"

#include <algorithm>

#include "gguf/limits.h"

namespace hearth::gguf {
namespace {

constexpr std::uint64_t kFirstReadBytes = 256 * 1024;

}  // namespace

HeaderReader::HeaderReader(const InputFile& file, std::string label)
    : file_(&file),
      label_(std::move(label)),
      file_bytes_(file.size()),
      limit_(std::min(file.size(), kMaxHeaderBytes)) {}

HeaderReader::HeaderReader(std::span<const std::uint8_t> header, std::uint64_t file_bytes, std::string label)
    : label_(std::move(label)),
      view_(header.first(std::min<std::uint64_t>({header.size(), file_bytes, kMaxHeaderBytes}))),
      file_bytes_(file_bytes),
      limit_(std::min(file_bytes, kMaxHeaderBytes)) {}

Result<> HeaderReader::expect(std::uint64_t count, std::uint64_t item_bytes, std::string_view what) {
  if (count > remaining() / item_bytes) return too_short(count, item_bytes, what);
  return {};
}

Result<std::span<const std::uint8_t>> HeaderReader::take(std::uint64_t count, std::string_view what) {
  if (count > remaining()) return too_short(count, 1, what);
  if (position_ + count > view_.size()) HEARTH_TRY_VOID(fill(position_ + count));
  const auto bytes = view_.subspan(position_, count);
  position_ += count;
  return bytes;
}

Result<std::string_view> HeaderReader::string(std::uint64_t max_bytes, std::string_view what) {
  const std::uint64_t at = position_;
  HEARTH_TRY(const auto length, number<std::uint64_t>(what));
  if (length > max_bytes)
    return error(ErrorCode::kInvalidFile, at, "{} says it has {} bytes, expected at most {}", what, length,
                 max_bytes);
  HEARTH_TRY(const auto bytes, take(length, what));
  return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::unexpected<Error> HeaderReader::too_short(std::uint64_t count, std::uint64_t item_bytes,
                                               std::string_view what) const {
  const std::string need = item_bytes == 1 ? std::format("{} bytes", count)
                                           : std::format("{} items of at least {} bytes", count, item_bytes);
  if (limit_ < file_bytes_)
    return error(ErrorCode::kInvalidFile, position_, "{} needs {}, but a header may have {} bytes in all",
                 what, need, kMaxHeaderBytes);
  return error(ErrorCode::kInvalidFile, position_,
               "{} needs {}, but the file has {} more; it is damaged or incomplete, fetch it again", what,
               need, remaining());
}

Result<> HeaderReader::fill(std::uint64_t size) {
  if (file_ == nullptr)
    return error(ErrorCode::kInvalidFile, view_.size(),
                 "the header goes on, but only {} bytes of it were given", view_.size());
  // Doubling keeps the number of reads small; a header is rarely above 20 MB.
  const std::uint64_t target = std::min(limit_, std::max({size, 2 * view_.size(), kFirstReadBytes}));
  const std::uint64_t have = buffer_.size();
  buffer_.resize(target);
  HEARTH_TRY_VOID(file_->read_at(have, std::span(buffer_).subspan(have)));
  view_ = buffer_;
  return {};
}

}  // namespace hearth::gguf
