#include "residency/pack_writer.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/units.h"
#include "residency/pack_file.h"

namespace hearth::residency {
namespace {

constexpr std::size_t kWriteBytes = 4U << 20;
// So many bytes at most wait in the page cache to be written.
constexpr std::uint64_t kDirtyBytes = 64U << 20;
// Every attempt after the first means that another process made or removed the file in between.
constexpr int kAttempts = 100;
// Between two looks at a pack that another process builds, which takes seconds to minutes.
constexpr std::chrono::milliseconds kLockLook{50};

std::string reason(int error) {
  return std::generic_category().message(error);
}

std::unexpected<Error> file_failed(const std::filesystem::path& path, const char* what, int error) {
  if (error == ENOSPC || error == EDQUOT)
    return fail(
        ErrorCode::kIo,
        "{}: the disk is full ({}); the layers it has so far are kept: free some space, or remove packs "
        "(hearth cache), and start again",
        path.string(), reason(error));
  return fail(ErrorCode::kIo, "{}: {}: {}", path.string(), what, reason(error));
}

Result<> write_fully(int fd, const std::filesystem::path& path, std::uint64_t offset,
                     std::span<const std::uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t n =
        ::pwrite(fd, bytes.data(), std::min(bytes.size(), kWriteBytes), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return file_failed(path, "cannot write", errno);
    offset += static_cast<std::uint64_t>(n);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

Result<> sync_folder(const std::filesystem::path& file) {
  const Descriptor folder(::open(file.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some file systems cannot sync a folder (EINVAL); then a new name may be lost by a crash, nothing else.
  if (!folder || (::fsync(folder.get()) != 0 && errno != EINVAL))
    return file_failed(file.parent_path(), "cannot sync the folder", errno);
  return {};
}

// A process that died while it made a pack left its half-made one, which nobody holds the lock of.
void remove_leftovers(const std::filesystem::path& path) {
  std::error_code ignored;
  const std::string prefix = path.filename().string() + ".new-";
  for (const auto& entry : std::filesystem::directory_iterator(path.parent_path(), ignored)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    const Descriptor file(::open(entry.path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (file && try_lock_pack(file.get())) ::unlink(entry.path().c_str());
  }
}

// Whether `path` still names the open file.
bool is_named(int fd, const std::filesystem::path& path) {
  struct stat open_one{}, named{};
  return ::fstat(fd, &open_one) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

bool try_lock_pack(int descriptor) {
  return ::flock(descriptor, LOCK_EX | LOCK_NB) == 0;
}

bool is_being_built(int descriptor) {
  if (::flock(descriptor, LOCK_SH | LOCK_NB) != 0) return errno == EWOULDBLOCK;
  ::flock(descriptor, LOCK_UN);
  return false;
}

Result<Descriptor> PackWriter::create(const std::filesystem::path& path, const PackHeader& layout) {
  remove_leftovers(path);
  std::string aside = path.string() + ".new-XXXXXX";
  Descriptor file(::mkostemp(aside.data(), O_CLOEXEC));
  if (!file) return file_failed(path, "cannot make a pack there", errno);
  struct Remove {
    const std::string& name;
    ~Remove() { ::unlink(name.c_str()); }
  } const remove{aside};
  // Locked before it gets its name, so that nobody sees it unlocked before its maker has built a layer.
  if (!try_lock_pack(file.get())) return Descriptor();
  if (::ftruncate(file.get(), static_cast<off_t>(layout.file_bytes)) != 0) {
    if (errno == EFBIG)
      return fail(ErrorCode::kIo,
                  "{}: the file system there cannot hold a file of {}; choose another folder "
                  "(--cache-dir)",
                  path.string(), format_bytes(layout.file_bytes));
    return file_failed(path, "cannot set its size", errno);
  }
  HEARTH_TRY_VOID(write_fully(file.get(), path, 0, encode_header(layout)));
  if (::fsync(file.get()) != 0) return file_failed(path, "cannot write", errno);
  if (::link(aside.c_str(), path.c_str()) != 0) {
    if (errno == EEXIST || errno == ENOENT) return Descriptor();
    // No hard links there. Two makers at once would replace each other's file, which costs one its work only.
    if (::rename(aside.c_str(), path.c_str()) != 0) return file_failed(path, "cannot name the pack", errno);
  }
  HEARTH_TRY_VOID(sync_folder(path));
  return file;
}

Result<PackWriter> PackWriter::open(const std::filesystem::path& path, const PackHeader& layout,
                                    const Options& options) {
  bool told = false;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    // O_NONBLOCK: whatever has this name, opening it must not wait.
    Descriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!file && errno == ENOENT) {
      HEARTH_TRY(Descriptor fresh, create(path, layout));
      if (!fresh) continue;
      return PackWriter(path, std::move(fresh));
    }
    if (!file) return file_failed(path, "cannot open for writing", errno);
    if (!try_lock_pack(file.get())) {
      if (errno != EWOULDBLOCK) return file_failed(path, "cannot lock", errno);
      if (options.waiting && !std::exchange(told, true)) options.waiting(path);
      while (!try_lock_pack(file.get())) {
        if (errno != EWOULDBLOCK && errno != EINTR) return file_failed(path, "cannot lock", errno);
        if (options.cancelled && options.cancelled())
          return fail(ErrorCode::kCancelled, "{}: waiting for another process was ended", path.string());
        // flock() cannot wait with an end, and nobody else could end it.
        std::this_thread::sleep_for(kLockLook);
      }
    }
    if (!is_named(file.get(), path)) continue;
    auto judged = PackFile::open(path, layout);
    if (judged) return PackWriter(path, std::move(file));
    const bool is_wrong =
        judged.error().code == ErrorCode::kInvalidFile || judged.error().code == ErrorCode::kVersionMismatch;
    if (!is_wrong) return pass(std::move(judged));
    if (options.notice) options.notice(judged.error().message);
    if (::unlink(path.c_str()) != 0) return file_failed(path, "cannot remove the unusable pack", errno);
  }
  return fail(ErrorCode::kIo, "{}: other processes keep replacing this file", path.string());
}

std::unexpected<Error> PackWriter::failed(const char* what, int error) const {
  return file_failed(path_, what, error);
}

Result<> PackWriter::discard() {
  if (::unlink(path_.c_str()) != 0 && errno != ENOENT)
    return failed("cannot remove the unusable pack", errno);
  return {};
}

Result<std::uint64_t> PackWriter::clear(const PackSegment& segment) {
  std::vector<std::uint8_t> record(segment.record_bytes());
  for (std::size_t done = 0; done < record.size();) {
    const ssize_t n = ::pread(file_.get(), record.data() + done, record.size() - done,
                              static_cast<off_t>(segment.record_offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return failed("cannot read a record", n < 0 ? errno : EIO);
    done += static_cast<std::size_t>(n);
  }
  if (std::ranges::all_of(record, [](std::uint8_t byte) { return byte == 0; })) {
#ifdef FALLOC_FL_PUNCH_HOLE
    // What a dead process wrote of it. Where holes cannot be made, it is overwritten.
    (void)::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      static_cast<off_t>(segment.offset), static_cast<off_t>(segment.bytes));
#endif
    return segment.bytes;
  }
  // The record goes first: it must never vouch for bytes that are being replaced.
  HEARTH_TRY_VOID(write_fully(file_.get(), path_, segment.record_offset, open_record(segment)));
  if (::fdatasync(file_.get()) != 0) return failed("cannot write", errno);
  return 0;
}

Result<std::uint64_t> PackWriter::free_bytes() const {
  struct statvfs info{};
  if (::fstatvfs(file_.get(), &info) != 0) return failed("cannot tell the free space", errno);
  return std::uint64_t{info.f_bavail} * info.f_frsize;
}

Result<> PackWriter::reserve(const PackSegment& segment) {
#ifdef FALLOC_FL_KEEP_SIZE
  while (::fallocate(file_.get(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(segment.offset),
                     static_cast<off_t>(segment.bytes)) != 0) {
    if (errno == EINTR) continue;
    if (errno == ENOSPC || errno == EDQUOT) return failed("cannot reserve space", errno);
    break;  // not known to this file system: write() will find out
  }
#endif
  return {};
}

Result<> PackWriter::write(std::uint64_t offset, std::span<const std::uint8_t> bytes) {
  while (!bytes.empty()) {
    const std::size_t n = std::min<std::size_t>(bytes.size(), kDirtyBytes);
    HEARTH_TRY_VOID(write_fully(file_.get(), path_, offset, bytes.first(n)));
    if (dirty_end_ == 0) dirty_begin_ = offset;
    dirty_begin_ = std::min(dirty_begin_, offset);
    dirty_end_ = std::max(dirty_end_, offset + n);
    if (dirty_end_ - dirty_begin_ >= kDirtyBytes) HEARTH_TRY_VOID(flush());
    offset += n;
    bytes = bytes.subspan(n);
  }
  return {};
}

Result<> PackWriter::flush() {
  if (dirty_end_ == 0) return {};
  if (::fdatasync(file_.get()) != 0) return failed("cannot write", errno);
  (void)::posix_fadvise(file_.get(), static_cast<off_t>(dirty_begin_),
                        static_cast<off_t>(dirty_end_ - dirty_begin_), POSIX_FADV_DONTNEED);
  dirty_begin_ = dirty_end_ = 0;
  return {};
}

Result<> PackWriter::commit(const PackHeader& header, std::size_t index) {
  HEARTH_TRY_VOID(flush());
  HEARTH_TRY_VOID(
      write_fully(file_.get(), path_, header.segments[index].record_offset, encode_record(header, index)));
  if (::fdatasync(file_.get()) != 0) return failed("cannot write", errno);
  return {};
}

}  // namespace hearth::residency
