// Pages behind memory: bringing the pages of a file mapping in, giving them back, locking and counting them,
// and buffers whose address and size suit direct reads.
//
// Ranges are bytes of a MappedFile. The system works in whole pages: populate, advise, resident_pages and
// lock include the pages at the edges, drop leaves out those that the range shares with its neighbours. All
// functions may be called by any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stop_token>

#include "base/os_file.h"
#include "base/result.h"

namespace hearth {

[[nodiscard]] std::size_t page_bytes();
// Of the huge pages that the system gives to memory that asks for them; 0: none.
[[nodiscard]] std::size_t huge_page_bytes();

// Reads the range into the page cache and maps it, exactly: nothing around it, also with advise_random(). It
// is read ahead in requests small enough for every device, because a single request is cut to the read-ahead
// window and the rest would then come page by page.
// Errors: kIo when the file cannot be read or has become shorter, kCancelled after `stop`.
[[nodiscard]] Result<> populate(std::span<const std::uint8_t> range, std::stop_token stop = {});

// Tells the system that bytes [offset, offset + n) of `file`, which are in the page cache, are used again and
// again, so that it takes pages first that were read once. Linux: a page is active when it was read twice.
// Errors: kIo.
[[nodiscard]] Result<> mark_active(const InputFile& file, std::uint64_t offset, std::uint64_t n);

// A page that is missing is read alone, without its neighbours.
void advise_random(std::span<const std::uint8_t> range);

// Gives the pages back to the system: unlocks and unmaps the range and drops its bytes [file_offset,
// file_offset + range.size()) of `file` from the page cache. Pages that somebody else maps stay in memory,
// and so do large folios that reach over the edge of the range (a file that was just written consists of
// them: drop all of it once). The range stays readable: it would be read again.
void drop(std::span<const std::uint8_t> range, const InputFile& file, std::uint64_t file_offset);

// How many pages of the range are in memory, mapped here or not. For a file of another user that we may not
// write, the system says that all are.
[[nodiscard]] Result<std::size_t> resident_pages(std::span<const std::uint8_t> range);
// Pages that resident_pages counts when all are.
[[nodiscard]] std::size_t count_pages(std::span<const std::uint8_t> range);

// Reads the range in and keeps it in memory. kOutOfMemory names the limit that forbids it; nothing is locked
// then.
[[nodiscard]] Result<> lock(std::span<const std::uint8_t> range);
// Keeps each page of the range in memory from when it is read in; reads nothing. As lock() otherwise.
[[nodiscard]] Result<> lock_when_read(std::span<const std::uint8_t> range);
void unlock(std::span<const std::uint8_t> range);

// Anonymous memory that starts and ends on a page, filled with zeros by the system. Movable; the bytes stay
// where they are.
class AlignedBuffer {
 public:
  static constexpr std::size_t kAlignment = 4096;  // at least; the page where that is larger
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  struct Options {
    // Ask for them; the system may ignore it. For slots of direct reads: the disk gets few long segments
    // instead of one for each page. The memory begins on a huge page then.
    bool huge_pages = false;
    // Never any, also where the system gives them unasked: so that discard() gives back what it is told to.
    bool small_pages = false;
    bool populate = false;  // take the memory now, so that it is accounted and no later write faults
  };
  // `bytes` is rounded up to whole pages. kOutOfMemory.
  [[nodiscard]] static Result<AlignedBuffer> make(std::size_t bytes, Options options);
  [[nodiscard]] static Result<AlignedBuffer> make(std::size_t bytes) { return make(bytes, {}); }

  AlignedBuffer() = default;
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer();

  [[nodiscard]] std::span<std::uint8_t> bytes() const { return bytes_; }

  // Gives bytes [offset, offset + n) back to the system; they are zeros afterwards, and take memory again
  // when they are written. Whole pages.
  void discard(std::size_t offset, std::size_t n);

 private:
  AlignedBuffer(std::span<std::uint8_t> mapping, std::span<std::uint8_t> bytes)
      : mapping_(mapping), bytes_(bytes) {}

  std::span<std::uint8_t> mapping_, bytes_;  // all of it; what is aligned
};

}  // namespace hearth
