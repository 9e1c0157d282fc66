#include "residency/disk_rate.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <format>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "base/direct_reader.h"
#include "base/os_pages.h"

namespace hearth::residency {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kReadBytes = std::uint64_t{8} << 20;
constexpr std::size_t kReadsInFlight = 2;
// Of writing and of reading each; what is done by then has to do.
constexpr std::chrono::milliseconds kEnough{500};

using Clock = std::chrono::steady_clock;

// A file whose bytes no file system can compress, on the disk and not in the page cache: so many, or what can
// be written in kEnough. It has no name, so nothing of it can stay behind.
class ProbeFile {
 public:
  static Result<std::unique_ptr<ProbeFile>> make(const fs::path& folder, std::uint64_t bytes) {
    const auto failed = [&] {
      return fail(
          ErrorCode::kIo,
          "cannot measure the disk of {}: {}; {} MiB have to be free there for a moment, or choose another "
          "folder (--cache-dir)",
          folder.string(), std::generic_category().message(errno), bytes >> 20);
    };
    std::string path = (folder / "speed-XXXXXX").string();
    const int fd = ::mkostemp(path.data(), O_CLOEXEC);
    if (fd < 0) return failed();
    std::unique_ptr<ProbeFile> file(new ProbeFile(fd));
    if (::unlink(path.c_str()) != 0) return failed();
    std::vector<std::uint64_t> block(kReadBytes / sizeof(std::uint64_t));
    std::mt19937_64 random(1);
    std::ranges::generate(block, random);
    const auto* data = reinterpret_cast<const char*>(block.data());
    const auto start = Clock::now();
    for (std::uint64_t done = 0; done < bytes && (done == 0 || Clock::now() - start < kEnough);) {
      for (std::uint64_t at = 0; at < kReadBytes;) {
        const ssize_t n = ::write(fd, data + at, kReadBytes - at);
        if (n < 0 && errno != EINTR) return failed();
        if (n > 0) at += static_cast<std::uint64_t>(n);
      }
      if (::fdatasync(fd) != 0) return failed();
      done += kReadBytes;
    }
    (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return file;
  }
  ProbeFile(const ProbeFile&) = delete;
  ProbeFile& operator=(const ProbeFile&) = delete;
  ~ProbeFile() { ::close(fd_); }
  [[nodiscard]] std::string path() const { return std::format("/proc/self/fd/{}", fd_); }

 private:
  explicit ProbeFile(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace

Result<std::uint64_t> measure_disk(const fs::path& folder, std::uint64_t bytes) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    return fail(ErrorCode::kIo, "cannot measure the disk of {}: {}", folder.string(), error.message());
  HEARTH_TRY(const auto probe,
             ProbeFile::make(folder, std::max<std::uint64_t>(bytes / kReadBytes, 1) * kReadBytes));
  // Buffers outlive the reader, whose destructor waits for what is in flight.
  std::vector<AlignedBuffer> buffers;
  for (std::size_t i = 0; i < kReadsInFlight; ++i) {
    HEARTH_TRY(auto buffer, AlignedBuffer::make(kReadBytes, {.huge_pages = true, .populate = true}));
    buffers.push_back(std::move(buffer));
  }
  HEARTH_TRY(DirectReader reader, DirectReader::open(probe->path()));
  const std::uint64_t n_reads = reader.file_size() / kReadBytes;
  std::vector<Clock::time_point> done = {Clock::now()};  // when so many reads had ended
  std::uint64_t asked = 0;
  while (done.size() <= n_reads && (done.size() == 1 || done.back() - done.front() < kEnough)) {
    for (; asked < n_reads && asked - (done.size() - 1) < kReadsInFlight; ++asked)
      reader.submit({.id = asked,
                     .offset = asked * kReadBytes,
                     .into = buffers[asked % kReadsInFlight].bytes().first(kReadBytes)});
    HEARTH_TRY(const auto completion, reader.wait(std::chrono::seconds(1)));
    if (!completion) continue;
    if (completion->error) return std::unexpected(*completion->error);
    done.push_back(Clock::now());
  }
  // The first quarter does not count: caches of the disk, and limits that let a while of rest be made up for.
  const std::size_t end = done.size() - 1, begin = end / 4;
  const double seconds = std::chrono::duration<double>(done[end] - done[begin]).count();
  return static_cast<std::uint64_t>(static_cast<double>((end - begin) * kReadBytes) / seconds);
}

}  // namespace hearth::residency
