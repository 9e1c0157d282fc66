#include "base/os_file.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif
#include <unistd.h>

namespace hearth {
namespace {

std::string reason(int error) {
  return std::generic_category().message(error);
}

std::unexpected<Error> open_failed(const std::filesystem::path& path, int error) {
  if (error == ENOENT || error == ENOTDIR)
    return fail(ErrorCode::kNotFound, "{}: no such file; check the path", path.string());
  return fail(ErrorCode::kIo, "{}: cannot open for reading: {}", path.string(), reason(error));
}

Result<> check_regular(const std::filesystem::path& path, const struct stat& info) {
  if (S_ISREG(info.st_mode)) return {};
  const char* kind = S_ISDIR(info.st_mode)    ? "a directory"
                     : S_ISFIFO(info.st_mode) ? "a pipe"
                     : S_ISSOCK(info.st_mode) ? "a socket"
                                              : "a device";
  return fail(ErrorCode::kInvalidArgument, "{}: is {}, expected a regular file", path.string(), kind);
}

}  // namespace

Result<InputFile> InputFile::open(const std::filesystem::path& path) {
  // Looked at before it is opened because opening a device can have effects, and again after because the name
  // may have been given to something else in between. O_NONBLOCK: opening a pipe must not wait for its
  // writer.
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) return open_failed(path, errno);
  HEARTH_TRY_VOID(check_regular(path, info));
  int descriptor;
  do descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) return open_failed(path, errno);
  InputFile file(path, descriptor, 0);
  if (::fstat(descriptor, &info) != 0) return open_failed(path, errno);
  HEARTH_TRY_VOID(check_regular(path, info));
  file.size_ = static_cast<std::uint64_t>(info.st_size);
  return file;
}

InputFile::InputFile(std::filesystem::path path, int descriptor, std::uint64_t size)
    : path_(std::move(path)), descriptor_(descriptor), size_(size) {}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(std::exchange(other.size_, 0)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool is_in_memory(const std::filesystem::path& folder) {
#ifdef __linux__
  constexpr long kTmpfs = 0x01021994, kRamfs = 0x858458f6;  // statfs(2)
  struct statfs info{};
  return ::statfs(folder.c_str(), &info) == 0 && (info.f_type == kTmpfs || info.f_type == kRamfs);
#else
  (void)folder;
  return false;
#endif
}

Result<FileSystemId> file_system_of(const std::filesystem::path& path) {
  struct stat info{};
  struct statvfs system{};
  if (::stat(path.c_str(), &info) != 0 || ::statvfs(path.c_str(), &system) != 0)
    return fail(ErrorCode::kIo, "{}: cannot tell its file system: {}", path.string(), reason(errno));
  return FileSystemId{.device = info.st_dev, .id = system.f_fsid};
}

Result<> replace_file(const std::filesystem::path& path, std::span<const std::uint8_t> bytes) {
  std::string aside = path.string() + ".new-XXXXXX";
  const int descriptor = ::mkostemp(aside.data(), O_CLOEXEC);
  int error = descriptor < 0 ? errno : 0;
  for (auto left = bytes; error == 0 && !left.empty();) {
    const ssize_t n = ::write(descriptor, left.data(), left.size());
    if (n >= 0)
      left = left.subspan(static_cast<std::size_t>(n));
    else if (errno != EINTR)
      error = errno;
  }
  if (error == 0 && ::fsync(descriptor) != 0) error = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (error == 0 && ::rename(aside.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return {};
  if (descriptor >= 0) ::unlink(aside.c_str());
  return fail(ErrorCode::kIo, "{}: cannot write: {}", path.string(), reason(error));
}

Result<> append_to_private_file(const std::filesystem::path& path, std::string_view bytes) {
  const std::filesystem::path folder = path.parent_path();
  std::error_code ignored;
  if (!folder.empty() && !std::filesystem::exists(folder, ignored)) {
    std::filesystem::create_directories(folder.parent_path(), ignored);
    ::mkdir(folder.c_str(), 0700);  // what it cannot make, open() reports
  }
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  int error = descriptor < 0 ? errno : 0;
  if (error == 0) {
    const ssize_t n = ::write(descriptor, bytes.data(), bytes.size());
    if (std::cmp_not_equal(n, bytes.size())) error = n < 0 ? errno : ENOSPC;
  }
  if (descriptor >= 0) ::close(descriptor);
  if (error == 0) return {};
  return fail(ErrorCode::kIo, "{}: cannot write: {}", path.string(), reason(error));
}

FileState InputFile::state() const {
  struct stat info{};
  if (::fstat(descriptor_, &info) != 0) return {};
#ifdef __APPLE__
  const timespec& changed = info.st_mtimespec;
#else
  const timespec& changed = info.st_mtim;
#endif
  return {.seconds = changed.tv_sec, .nanoseconds = changed.tv_nsec, .size = info.st_size};
}

Result<> InputFile::read_at(std::uint64_t offset, std::span<std::uint8_t> bytes) const {
  if (offset > size_ || bytes.size() > size_ - offset)
    return fail(ErrorCode::kIo, "{}: byte {}: cannot read {} bytes, the file has {}", path_.string(), offset,
                bytes.size(), size_);
  // One call moves at most about 2 GiB on Linux and fails above that on macOS.
  constexpr std::size_t kMaxBytesPerCall = std::size_t{1} << 30;
  while (!bytes.empty()) {
    const ssize_t got = ::pread(descriptor_, bytes.data(), std::min(bytes.size(), kMaxBytesPerCall),
                                static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return fail(ErrorCode::kIo, "{}: byte {}: cannot read: {}", path_.string(), offset, reason(errno));
    if (got == 0)
      return fail(ErrorCode::kIo, "{}: byte {}: the file became shorter while it was read (it had {} bytes)",
                  path_.string(), offset, size_);
    offset += static_cast<std::uint64_t>(got);
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

Result<MappedFile> MappedFile::map(const InputFile& file, std::uint64_t offset, std::uint64_t length) {
  if (offset > file.size() || length > file.size() - offset)
    return fail(ErrorCode::kInvalidArgument, "{}: cannot map {} bytes from byte {}, the file has {}",
                file.path().string(), length, offset, file.size());
  if (length == 0) return MappedFile(nullptr, 0, {});
  const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t before = offset % page_bytes;
  if (length > std::numeric_limits<std::size_t>::max() - before)
    return fail(ErrorCode::kIo, "{}: cannot map {} bytes: more than this device can address",
                file.path().string(), length);
  const auto mapped_bytes = static_cast<std::size_t>(before + length);
  void* base = ::mmap(nullptr, mapped_bytes, PROT_READ, MAP_SHARED, file.descriptor(),
                      static_cast<off_t>(offset - before));
  if (base == MAP_FAILED)
    return fail(ErrorCode::kIo, "{}: cannot map {} bytes from byte {}: {}", file.path().string(), length,
                offset, reason(errno));
  return MappedFile(base, mapped_bytes,
                    {static_cast<const std::uint8_t*>(base) + before, static_cast<std::size_t>(length)});
}

Result<MappedFile> MappedFile::map(const InputFile& file) {
  return map(file, 0, file.size());
}

MappedFile::MappedFile(void* base, std::uint64_t mapped_bytes, std::span<const std::uint8_t> bytes)
    : base_(base), mapped_bytes_(mapped_bytes), bytes_(bytes) {}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      mapped_bytes_(std::exchange(other.mapped_bytes_, 0)),
      bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (base_ != nullptr) ::munmap(base_, static_cast<std::size_t>(mapped_bytes_));
}

}  // namespace hearth
