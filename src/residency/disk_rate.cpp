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
  std::vector<double> ended_s;
  std::uint64_t asked = 0;
  const auto start = Clock::now();
  const auto since_start = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  while (ended_s.size() < n_reads &&
         (ended_s.empty() || ended_s.back() < std::chrono::duration<double>(kEnough).count())) {
    for (; asked < n_reads && asked - ended_s.size() < kReadsInFlight; ++asked)
      reader.submit({.id = asked,
                     .offset = asked * kReadBytes,
                     .into = buffers[asked % kReadsInFlight].bytes().first(kReadBytes)});
    HEARTH_TRY(const auto completion, reader.wait(std::chrono::seconds(1)));
    if (!completion) continue;
    if (completion->error) return std::unexpected(*completion->error);
    ended_s.push_back(since_start());
  }
  return static_cast<std::uint64_t>(steady_rate(ended_s, kReadBytes));
}

double steady_rate(std::span<const double> ended_s, std::uint64_t read_bytes) {
  HEARTH_CHECK(!ended_s.empty());
  const std::size_t n = ended_s.size(), skip = n == 1 ? 0 : std::max<std::size_t>(n / 4, 1);
  const double seconds = ended_s.back() - (skip == 0 ? 0 : ended_s[skip - 1]);
  return static_cast<double>((n - skip) * read_bytes) / std::max(seconds, 1e-9);
}

}  // namespace hearth::residency
