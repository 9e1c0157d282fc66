// Read-only access to regular files: positioned reads and memory mappings, with handles that close
// themselves; and small files that are replaced whole.
//
// InputFile never opens anything but a regular file: a directory, pipe, socket or device is refused before it
// can block or answer endlessly. Sizes are those at the time of open(). Both classes are immutable after
// creation; any thread may read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "base/result.h"

namespace hearth {

// Whether files in this folder take memory and no disk (tmpfs, ramfs); false where the system does not say.
[[nodiscard]] bool is_in_memory(const std::filesystem::path& folder);

// Where files of `path`, which must be there, are: two folders with equal ids are on the same file system.
// Not the same after the machine was started anew where the system numbers its disks as it finds them. kIo.
struct FileSystemId {
  std::uint64_t device = 0;  // st_dev
  std::uint64_t id = 0;      // f_fsid
  friend bool operator==(const FileSystemId&, const FileSystemId&) = default;
};
[[nodiscard]] Result<FileSystemId> file_system_of(const std::filesystem::path& path);

// Makes `path` a file of these bytes, or leaves what there was: they are written and synchronised under a
// temporary name in the same folder ("NAME.new-XXXXXX", mode 0600), which is then renamed. kIo.
[[nodiscard]] Result<> replace_file(const std::filesystem::path& path, std::span<const std::uint8_t> bytes);

// Adds bytes at the end of a private file: one that is made has mode 0600, its folder 0700. One write, so
// that those of several programs do not mix. kIo.
[[nodiscard]] Result<> append_to_private_file(const std::filesystem::path& path, std::string_view bytes);

// When a file's contents or size were last changed, and its size.
struct FileState {
  std::int64_t seconds = 0, nanoseconds = 0, size = 0;
  friend bool operator==(const FileState&, const FileState&) = default;
};

class InputFile {
 public:
  // Errors: kNotFound, kInvalidArgument (not a regular file), kIo (the system's reason, e.g. permission).
  [[nodiscard]] static Result<InputFile> open(const std::filesystem::path& path);

  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile();

  // Fills `bytes` completely from `offset`. Error kIo when the system fails or the file ends before that.
  [[nodiscard]] Result<> read_at(std::uint64_t offset, std::span<std::uint8_t> bytes) const;

  [[nodiscard]] std::uint64_t size() const { return size_; }
  // As it is now; what the system does not say is 0.
  [[nodiscard]] FileState state() const;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  // The POSIX descriptor, owned by this object.
  [[nodiscard]] int descriptor() const { return descriptor_; }

 private:
  InputFile(std::filesystem::path path, int descriptor, std::uint64_t size);

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

// A read-only mapping of a part of a file. It outlives the InputFile it was made from.
// Reading it after another program has shortened the file ends the process (SIGBUS): map only what
// InputFile::read_at is too slow for, and never headers that have not been validated.
class MappedFile {
 public:
  // Maps bytes [offset, offset + length); neither has to be page-aligned. An empty range gives an empty span.
  // Errors: kInvalidArgument (past the end of the file), kIo.
  [[nodiscard]] static Result<MappedFile> map(const InputFile& file, std::uint64_t offset,
                                              std::uint64_t length);
  // The whole file.
  [[nodiscard]] static Result<MappedFile> map(const InputFile& file);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::uint8_t> bytes() const { return bytes_; }

 private:
  MappedFile(void* base, std::uint64_t mapped_bytes, std::span<const std::uint8_t> bytes);

  void* base_ = nullptr;  // page-aligned start of the mapping, nullptr for an empty one
  std::uint64_t mapped_bytes_ = 0;
  std::span<const std::uint8_t> bytes_;
};

}  // namespace hearth
