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
#include "base/median.h"
#include "base/os_pages.h"

namespace hearth::residency {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kReadBytes = std::uint64_t{8} << 20;
constexpr std::size_t kReadsInFlight = 2;
constexpr double kMostWriting_s = 1;
// Reading ends after the first of these when windows agree, and after the second anyway.
constexpr double kLeastReading_s = 0.5, kMostReading_s = 3;
constexpr double kSmallSpread = 0.02;
// Each is several times as long as what throttles divide time into (0.1 s) where reading takes long.
constexpr std::size_t kWindows = 6;
// Windows that take longer than so many usual ones stalled.
constexpr double kStalled = 2;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A file whose bytes no file system can compress, on the disk and not in the page cache: so many, or what can
// be written in kMostWriting_s. It has no name, so nothing of it can stay behind.
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
    for (std::uint64_t done = 0; done < bytes && (done == 0 || seconds_since(start) < kMostWriting_s);) {
      for (std::uint64_t at = 0; at < kReadBytes;) {
        const ssize_t n = ::write(fd, data + at, kReadBytes - at);
        if (n < 0 && errno != EINTR) return failed();
        if (n > 0) at += static_cast<std::uint64_t>(n);
      }
      if (::fdatasync(fd) != 0) return failed();
      (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      done += kReadBytes;
    }
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

Result<DiskRate> measure_disk(const fs::path& folder, std::uint64_t bytes) {
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
  const std::uint64_t n_in_file = reader.file_size() / kReadBytes;
  std::vector<double> ended_s;
  const auto is_enough = [&] {
    if (ended_s.empty() || ended_s.back() < kLeastReading_s) return false;
    return ended_s.back() >= kMostReading_s ||
           (ended_s.size() >= 2 * kWindows && steady_rate(ended_s, kReadBytes).spread <= kSmallSpread);
  };
  const auto start = Clock::now();
  for (std::uint64_t asked = 0; !is_enough();) {
    for (; asked - ended_s.size() < kReadsInFlight; ++asked)
      reader.submit({.id = asked,
                     .offset = asked % n_in_file * kReadBytes,
                     .into = buffers[asked % kReadsInFlight].bytes().first(kReadBytes)});
    HEARTH_TRY(const auto completion, reader.wait(std::chrono::seconds(1)));
    if (!completion) continue;
    if (completion->error) return std::unexpected(*completion->error);
    ended_s.push_back(seconds_since(start));
  }
  return steady_rate(ended_s, kReadBytes);
}

DiskRate steady_rate(std::span<const double> ended_s, std::uint64_t read_bytes) {
  HEARTH_CHECK(!ended_s.empty());
  const std::size_t n = ended_s.size(), skip = n == 1 ? 0 : std::max<std::size_t>(n / 4, 1);
  const std::size_t n_windows = std::min(n - skip, kWindows);
  struct Window {
    std::uint64_t bytes = 0;
    double seconds = 0;
  };
  std::vector<Window> windows;
  std::vector<double> seconds, rates;
  for (std::size_t i = 0, first = skip; i < n_windows; ++i) {
    const std::size_t end = skip + (n - skip) * (i + 1) / n_windows;
    const double took = std::max(ended_s[end - 1] - (first == 0 ? 0 : ended_s[first - 1]), 1e-9);
    windows.push_back({.bytes = (end - first) * read_bytes, .seconds = took});
    seconds.push_back(took);
    rates.push_back(static_cast<double>(windows.back().bytes) / took);
    first = end;
  }
  const double usual_s = median_of(std::move(seconds)).value;
  Window all;
  for (const Window& window : windows) {
    if (window.seconds > kStalled * usual_s) continue;
    all.bytes += window.bytes;
    all.seconds += window.seconds;
  }
  return {.bytes_per_s = static_cast<std::uint64_t>(static_cast<double>(all.bytes) / all.seconds),
          .spread = median_of(std::move(rates)).spread};
}

}  // namespace hearth::residency
