// HeaderReader: walks forward through the bytes of a GGUF header, never past the end of the file and never
// allocating for bytes that are not there.
//
// Bytes come from memory or, in growing pieces, from a file (by reads, not by a mapping: a file that another
// program shortens must give an error, not a signal). One thread at a time.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/os_file.h"
#include "base/result.h"

namespace hearth::gguf {

class HeaderReader {
 public:
  // `file` must outlive the reader. `label` begins every message.
  HeaderReader(const InputFile& file, std::string label);
  // `header` holds the first bytes of a file of `file_bytes` bytes and must outlive the reader.
  HeaderReader(std::span<const std::uint8_t> header, std::uint64_t file_bytes, std::string label);
  HeaderReader(const HeaderReader&) = delete;
  HeaderReader& operator=(const HeaderReader&) = delete;

  [[nodiscard]] std::uint64_t position() const { return position_; }
  [[nodiscard]] std::uint64_t file_bytes() const { return file_bytes_; }
  // Bytes that a header can still have: up to the end of the file or of kMaxHeaderBytes.
  [[nodiscard]] std::uint64_t remaining() const { return limit_ - position_; }
  // What has been read so far.
  [[nodiscard]] std::span<const std::uint8_t> bytes_read() const { return view_.first(position_); }

  // Fails unless `count` more items of at least `item_bytes` bytes each (> 0) can follow here. Call it before
  // reserving memory for `count` items.
  [[nodiscard]] Result<> expect(std::uint64_t count, std::uint64_t item_bytes, std::string_view what);

  // The next `count` bytes; valid until the next read. `what` names them in the error.
  [[nodiscard]] Result<std::span<const std::uint8_t>> take(std::uint64_t count, std::string_view what);

  // A little-endian number.
  template <class T>
  [[nodiscard]] Result<T> number(std::string_view what) {
    HEARTH_TRY(const auto bytes, take(sizeof(T), what));
    return decode<T>(bytes.data());
  }

  // A length of 64 bits and that many bytes; valid until the next read.
  [[nodiscard]] Result<std::string_view> string(std::uint64_t max_bytes, std::string_view what);

  template <class T>
  [[nodiscard]] static T decode(const std::uint8_t* bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    if constexpr (std::endian::native == std::endian::big && sizeof(T) > 1) {
      std::uint8_t* raw = reinterpret_cast<std::uint8_t*>(&value);
      for (std::size_t i = 0; i < sizeof(T) / 2; ++i) std::swap(raw[i], raw[sizeof(T) - 1 - i]);
    }
    return value;
  }

  // An error about the bytes at `at`: "label: byte 24: ...".
  template <class... Args>
  [[nodiscard]] std::unexpected<Error> error(ErrorCode code, std::uint64_t at,
                                             std::format_string<Args...> format, Args&&... args) const {
    return fail(code, "{}: byte {}: {}", label_, at, std::format(format, std::forward<Args>(args)...));
  }

 private:
  [[nodiscard]] std::unexpected<Error> too_short(std::uint64_t count, std::uint64_t item_bytes,
                                                 std::string_view what) const;
  // Makes view_ at least `size` bytes long (size <= limit_).
  [[nodiscard]] Result<> fill(std::uint64_t size);

  const InputFile* file_ = nullptr;
  std::string label_;
  std::vector<std::uint8_t> buffer_;
  std::span<const std::uint8_t> view_;
  std::uint64_t file_bytes_;
  std::uint64_t limit_;  // min(file_bytes_, kMaxHeaderBytes)
  std::uint64_t position_ = 0;
};

}  // namespace hearth::gguf
