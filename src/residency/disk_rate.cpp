#include "residency/disk_rate.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <format>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "base/direct_reader.h"

namespace hearth::residency {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kReadBytes = std::uint64_t{8} << 20;
constexpr std::size_t kReadsInFlight = 2;

// A file of that size whose bytes no file system can compress, on the disk and not in the page cache. It has
// no name, so nothing of it can stay behind.
class ProbeFile {
 public:
  static Result<std::unique_ptr<ProbeFile>> make(const fs::path& folder, std::uint64_t bytes) {
    const auto failed = [&] {
      return fail(ErrorCode::kIo, "cannot measure the disk of {}: {}", folder.string(),
                  std::generic_category().message(errno));
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
    for (std::uint64_t done = 0; done < bytes;) {
      const std::uint64_t at = done % kReadBytes;
      const ssize_t n = ::write(fd, data + at, std::min(kReadBytes - at, bytes - done));
      if (n < 0 && errno != EINTR) return failed();
      if (n > 0) done += static_cast<std::uint64_t>(n);
    }
    if (::fdatasync(fd) != 0) return failed();
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

struct FreeAligned {
  std::size_t alignment;
  void operator()(std::uint8_t* bytes) const { ::operator delete(bytes, std::align_val_t{alignment}); }
};

}  // namespace

Result<std::uint64_t> measure_disk(const fs::path& folder, std::uint64_t bytes) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    return fail(ErrorCode::kIo, "cannot measure the disk of {}: {}", folder.string(), error.message());
  const std::uint64_t n_reads = std::max<std::uint64_t>(bytes / kReadBytes, 1);
  HEARTH_TRY(const auto probe, ProbeFile::make(folder, n_reads * kReadBytes));
  HEARTH_TRY(DirectReader reader, DirectReader::open(probe->path()));
  const std::size_t alignment = reader.alignment();
  const std::unique_ptr<std::uint8_t, FreeAligned> buffers(
      static_cast<std::uint8_t*>(::operator new(kReadsInFlight * kReadBytes, std::align_val_t{alignment})),
      FreeAligned{alignment});
  std::memset(buffers.get(), 0, kReadsInFlight * kReadBytes);  // pages are made before the clock runs
  const auto start = std::chrono::steady_clock::now();
  std::uint64_t asked = 0, done = 0;
  while (done < n_reads) {
    for (; asked < n_reads && asked - done < kReadsInFlight; ++asked)
      reader.submit({.id = asked,
                     .offset = asked * kReadBytes,
                     .into = {buffers.get() + asked % kReadsInFlight * kReadBytes, kReadBytes}});
    HEARTH_TRY(const auto completion, reader.wait(std::chrono::seconds(1)));
    if (!completion) continue;
    if (completion->error) return std::unexpected(*completion->error);
    ++done;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return static_cast<std::uint64_t>(static_cast<double>(n_reads * kReadBytes) / seconds);
}

}  // namespace hearth::residency
