#include "base/os_pages.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/os_memory.h"

namespace hearth {
namespace {

// The smallest read-ahead window and largest request that Linux has by default on any device: a longer
// request is cut to the larger of the two.
constexpr std::size_t kReadAheadBytes = std::size_t{128} * 1024;
constexpr std::size_t kPopulateStep = std::size_t{2} * 1024 * 1024;
// How far the disk is asked ahead of what is waited for.
constexpr std::size_t kPopulateAhead = std::size_t{8} * 1024 * 1024;
// Pages asked for by one mincore, which answers with a byte for each.
constexpr std::size_t kMincoreStepPages = 4096;

std::string reason(int error) {
  return std::generic_category().message(error);
}

struct Pages {
  std::uint8_t* begin = nullptr;
  std::size_t size = 0;
};

Pages outward(std::span<const std::uint8_t> range) {
  if (range.empty()) return {};
  const std::uintptr_t page = page_bytes();
  const auto first = reinterpret_cast<std::uintptr_t>(range.data());
  const std::uintptr_t begin = first / page * page;
  const std::uintptr_t end = (first + range.size() + page - 1) / page * page;
  return {reinterpret_cast<std::uint8_t*>(begin), end - begin};
}

// Not every kernel can populate; reading one byte of each page works everywhere.
void touch(const Pages& pages) {
  const volatile std::uint8_t* bytes = pages.begin;
  for (std::size_t at = 0; at < pages.size; at += page_bytes()) static_cast<void>(bytes[at]);
}

Result<> populate_step(const Pages& pages) {
#ifdef MADV_POPULATE_READ
  while (true) {
    if (madvise(pages.begin, pages.size, MADV_POPULATE_READ) == 0) return {};
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == EINVAL) break;  // Linux before 5.14
    if (errno == ENOMEM)
      return fail(ErrorCode::kOutOfMemory, "no memory to map {} bytes of a file", pages.size);
    return fail(ErrorCode::kIo,
                "{} bytes of a mapped file cannot be read ({}): it became shorter or the disk fails",
                pages.size, reason(errno));
  }
#endif
  touch(pages);
  return {};
}

}  // namespace

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

Result<> populate(std::span<const std::uint8_t> range, std::stop_token stop) {
  const Pages pages = outward(range);
  std::size_t asked = 0;
  for (std::size_t at = 0; at < pages.size; at += kPopulateStep) {
    if (stop.stop_requested()) return fail(ErrorCode::kCancelled, "reading a file into memory was cancelled");
    const std::size_t step = std::min(kPopulateStep, pages.size - at);
    for (const std::size_t until = std::min(pages.size, at + step + kPopulateAhead); asked < until;) {
      const std::size_t size = std::min(kReadAheadBytes, until - asked);
      madvise(pages.begin + asked, size, MADV_WILLNEED);  // a refusal only makes it slower
      asked += size;
    }
    HEARTH_TRY_VOID(populate_step({pages.begin + at, step}));
  }
  return {};
}

Result<> mark_active(const InputFile& file, std::uint64_t offset, std::uint64_t n) {
  std::vector<std::uint8_t> piece(std::min<std::uint64_t>(n, kReadAheadBytes));
  for (std::uint64_t at = 0; at < n; at += piece.size()) {
    const auto bytes = std::span(piece).first(std::min<std::uint64_t>(piece.size(), n - at));
    for (int time = 0; time < 2; ++time) HEARTH_TRY_VOID(file.read_at(offset + at, bytes));
  }
  return {};
}

void advise_random(std::span<const std::uint8_t> range) {
  const Pages pages = outward(range);
  if (pages.size > 0) madvise(pages.begin, pages.size, MADV_RANDOM);
}

void drop(std::span<const std::uint8_t> range, const InputFile& file, std::uint64_t file_offset) {
  const std::uintptr_t page = page_bytes();
  const auto first = reinterpret_cast<std::uintptr_t>(range.data());
  const std::uintptr_t begin = (first + page - 1) / page * page;
  const std::uintptr_t end = (first + range.size()) / page * page;
  if (begin >= end) return;
  munlock(reinterpret_cast<void*>(begin), end - begin);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  posix_fadvise(file.descriptor(), static_cast<off_t>(file_offset + (begin - first)),
                static_cast<off_t>(end - begin), POSIX_FADV_DONTNEED);
}

std::size_t count_pages(std::span<const std::uint8_t> range) {
  return outward(range).size / page_bytes();
}

Result<std::size_t> resident_pages(std::span<const std::uint8_t> range) {
  const Pages pages = outward(range);
  const std::size_t n_pages = pages.size / page_bytes();
  std::array<unsigned char, kMincoreStepPages> present;
  std::size_t resident = 0;
  for (std::size_t at = 0; at < n_pages; at += present.size()) {
    const std::size_t step = std::min(present.size(), n_pages - at);
    if (mincore(pages.begin + at * page_bytes(), step * page_bytes(), present.data()) != 0)
      return fail(ErrorCode::kIo, "cannot ask which pages of a file are in memory: {}", reason(errno));
    resident += static_cast<std::size_t>(std::count_if(present.begin(),
                                                       present.begin() + static_cast<std::ptrdiff_t>(step),
                                                       [](auto page) { return page & 1; }));
  }
  return resident;
}

namespace {

// After the lock of `pages` was refused.
std::unexpected<Error> lock_failed(const Pages& pages, int error) {
  munlock(pages.begin, pages.size);
  if (error == ENOMEM || error == EPERM || error == EAGAIN) {
    rlimit limit{};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    const bool limited = limit.rlim_cur != RLIM_INFINITY;
    return fail(
        ErrorCode::kOutOfMemory,
        "cannot lock {} bytes in memory: {}; the limit of locked memory (RLIMIT_MEMLOCK) is {}, raise it "
        "(ulimit -l, or LimitMEMLOCK= of a service) or pin without locking",
        pages.size, reason(error), limited ? std::to_string(limit.rlim_cur) + " bytes" : "none");
  }
  return fail(ErrorCode::kIo, "cannot lock {} bytes in memory: {}", pages.size, reason(error));
}

}  // namespace

Result<> lock(std::span<const std::uint8_t> range) {
  const Pages pages = outward(range);
  if (pages.size == 0 || mlock(pages.begin, pages.size) == 0) return {};
  return lock_failed(pages, errno);
}

Result<> lock_when_read(std::span<const std::uint8_t> range) {
  const Pages pages = outward(range);
#ifdef MLOCK_ONFAULT
  if (pages.size == 0 || mlock2(pages.begin, pages.size, MLOCK_ONFAULT) == 0) return {};
  if (errno != ENOSYS && errno != EINVAL) return lock_failed(pages, errno);
#endif
  return {};  // lock() will find out
}

void unlock(std::span<const std::uint8_t> range) {
  const Pages pages = outward(range);
  if (pages.size > 0) munlock(pages.begin, pages.size);
}

std::size_t huge_page_bytes() {
  const std::filesystem::path folder = "/sys/kernel/mm/transparent_hugepage";
  std::string policy;
  std::size_t bytes = 0;
  if (!std::getline(std::ifstream(folder / "enabled"), policy) || policy.contains("[never]")) return 0;
  return std::ifstream(folder / "hpage_pmd_size") >> bytes ? bytes : 0;
}

Result<AlignedBuffer> AlignedBuffer::make(std::size_t bytes, Options options) {
  if (bytes == 0) return AlignedBuffer();
  const std::size_t unit = std::max(page_bytes(), kAlignment);
  if (bytes > std::numeric_limits<std::size_t>::max() / 2)
    return fail(ErrorCode::kOutOfMemory, "a buffer of {} bytes is more than this device can address", bytes);
  const std::size_t size = (bytes + unit - 1) / unit * unit;
  // Addresses cost nothing.
  const std::size_t mapped = size + (options.huge_pages ? kHugePage : 0);
  // Not reserved: memory is taken when it is written, and who takes it accounts for it.
  void* mapping =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED)
    return fail(ErrorCode::kOutOfMemory, "no memory for a buffer of {} bytes: {}", size, reason(errno));
  auto* begin = static_cast<std::uint8_t*>(mapping);
  const std::size_t past = reinterpret_cast<std::uintptr_t>(begin) % kHugePage;
  if (options.huge_pages && past != 0) begin += kHugePage - past;
  AlignedBuffer buffer({static_cast<std::uint8_t*>(mapping), mapped}, {begin, size});
  if (options.huge_pages) prefer_huge_pages(begin, size);
  if (options.small_pages) madvise(begin, size, MADV_NOHUGEPAGE);
  if (options.populate)
    for (std::size_t at = 0; at < size; at += page_bytes()) {
      // A write, because reading gives every page the same shared zeros.
      const_cast<volatile std::uint8_t*>(begin)[at] = 0;
    }
  return buffer;
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : mapping_(std::exchange(other.mapping_, {})), bytes_(std::exchange(other.bytes_, {})) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

AlignedBuffer::~AlignedBuffer() {
  if (!mapping_.empty()) munmap(mapping_.data(), mapping_.size());
}

void AlignedBuffer::discard(std::size_t offset, std::size_t n) {
  HEARTH_CHECK(offset <= bytes_.size() && n <= bytes_.size() - offset);
  if (n > 0) madvise(bytes_.data() + offset, n, MADV_DONTNEED);
}

}  // namespace hearth
