#include "base/os_pages.h"

#include <cstdio>
#include <iostream>
#include <string>
#include <utility>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/test_dir.h"
#include "base/test_sanitizer.h"

namespace hearth {
namespace {

// A file of `n_pages` on the disk, mapped, with nothing of it in memory.
struct Mapped {
  explicit Mapped(std::size_t n_pages) {
    const auto path = dir.write("file", std::string(n_pages * page_bytes(), 'x'));
    file = *InputFile::open(path);
    HEARTH_CHECK(fsync(file->descriptor()) == 0);
    mapping = *MappedFile::map(*file);
    drop(bytes(), *file, 0);
  }
  [[nodiscard]] std::span<const std::uint8_t> bytes() const { return mapping->bytes(); }
  [[nodiscard]] std::span<const std::uint8_t> pages(std::size_t first, std::size_t count) const {
    return bytes().subspan(first * page_bytes(), count * page_bytes());
  }
  [[nodiscard]] std::size_t resident() const { return *resident_pages(bytes()); }
  [[nodiscard]] bool can_drop() const {
    struct statfs info{};
    constexpr long kTmpfs = 0x01021994;
    return fstatfs(file->descriptor(), &info) == 0 && info.f_type != kTmpfs;
  }

  TestDir dir;
  std::optional<InputFile> file;
  std::optional<MappedFile> mapping;
};

#define NEEDS_A_DISK(mapped) \
  if (!(mapped).can_drop()) GTEST_SKIP() << "the folder for temporary files is memory"

TEST(Pages, PopulateBringsInExactlyTheRange) {
  const Mapped file(4'000);  // more than one step of populate()
  NEEDS_A_DISK(file);
  advise_random(file.bytes());
  ASSERT_EQ(file.resident(), 0U);
  ASSERT_TRUE(populate(file.pages(100, 3'000)));
  EXPECT_EQ(file.resident(), 3'000U);
  EXPECT_EQ(*resident_pages(file.pages(100, 3'000)), 3'000U);
  EXPECT_EQ(file.bytes()[1'000 * page_bytes()], 'x');
}

TEST(Pages, MarkingPagesActiveReadsNoOthers) {
  const Mapped file(4'000);
  NEEDS_A_DISK(file);
  advise_random(file.bytes());
  ASSERT_TRUE(populate(file.pages(100, 3'000)));
  EXPECT_TRUE(mark_active(*file.file, 100 * page_bytes(), 3'000 * page_bytes()));
  EXPECT_EQ(file.resident(), 3'000U);
  EXPECT_TRUE(mark_active(*file.file, 0, 0));
  const auto past_the_end = mark_active(*file.file, 3'999 * page_bytes(), 2 * page_bytes());
  ASSERT_FALSE(past_the_end);
}

TEST(Pages, DropGivesBackExactlyTheRange) {
  const Mapped file(100);
  NEEDS_A_DISK(file);
  ASSERT_TRUE(populate(file.bytes()));
  ASSERT_EQ(file.resident(), 100U);
  drop(file.pages(10, 20), *file.file, 10 * page_bytes());
  EXPECT_EQ(file.resident(), 80U);
  EXPECT_EQ(*resident_pages(file.pages(10, 20)), 0U);
}

TEST(Pages, DropKeepsPagesSharedWithNeighbours) {
  const Mapped file(10);
  NEEDS_A_DISK(file);
  ASSERT_TRUE(populate(file.bytes()));
  // From the last byte of page 1 to the first of page 5: only pages 2, 3 and 4 are its own.
  const std::size_t from = 2 * page_bytes() - 1;
  drop(file.bytes().subspan(from, 3 * page_bytes() + 2), *file.file, from);
  EXPECT_EQ(file.resident(), 7U);
  EXPECT_EQ(*resident_pages(file.pages(2, 3)), 0U);
  drop(file.bytes().subspan(5 * page_bytes(), 10), *file.file, 5 * page_bytes());
  EXPECT_EQ(file.resident(), 7U);
}

TEST(Pages, WholePagesAreCounted) {
  const Mapped file(10);
  EXPECT_EQ(count_pages(file.pages(0, 10)), 10U);
  EXPECT_EQ(count_pages(file.bytes().subspan(page_bytes() - 1, 2)), 2U);
  EXPECT_EQ(count_pages({}), 0U);
  EXPECT_EQ(*resident_pages({}), 0U);
}

TEST(Pages, PopulateStopsWhenAsked) {
  const Mapped file(10);
  std::stop_source stop;
  stop.request_stop();
  const auto populated = populate(file.bytes(), stop.get_token());
  ASSERT_FALSE(populated);
  EXPECT_EQ(populated.error().code, ErrorCode::kCancelled);
}

TEST(Pages, PopulateOfATruncatedFileIsAnError) {
  const Mapped file(10);
  ASSERT_EQ(truncate(file.file->path().c_str(), static_cast<off_t>(page_bytes())), 0);
  const auto populated = populate(file.bytes());
  ASSERT_FALSE(populated);
  EXPECT_EQ(populated.error().code, ErrorCode::kIo);
  EXPECT_TRUE(populated.error().message.contains("became shorter")) << populated.error().message;
}

TEST(Pages, LockedPagesStayUntilTheyAreUnlocked) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make mlock do nothing";
  const Mapped file(10);
  NEEDS_A_DISK(file);
  const auto locked = lock(file.pages(0, 5));
  ASSERT_TRUE(locked) << locked.error().message;
  EXPECT_EQ(*resident_pages(file.pages(0, 5)), 5U);
  // The kernel's own way to empty the cache of this file does not touch them.
  posix_fadvise(file.file->descriptor(), 0, 0, POSIX_FADV_DONTNEED);
  EXPECT_EQ(*resident_pages(file.pages(0, 5)), 5U);
  unlock(file.pages(0, 5));
  drop(file.bytes(), *file.file, 0);
  EXPECT_EQ(file.resident(), 0U);
}

TEST(PagesDeath, ARefusedLockNamesTheLimit) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make mlock do nothing";
  const Mapped file(10);
  const auto try_it = [&] {
    const rlimit limit{.rlim_cur = page_bytes(), .rlim_max = page_bytes()};
    setrlimit(RLIMIT_MEMLOCK, &limit);
    if (getuid() == 0 && setuid(65534) != 0) _exit(1);  // root has no limit
    const auto locked = lock(file.bytes());
    std::fprintf(stderr, "%s\n", locked ? "locked" : locked.error().message.c_str());
    _exit(0);
  };
  EXPECT_EXIT(try_it(), testing::ExitedWithCode(0), "RLIMIT_MEMLOCK\\) is [0-9]+ bytes");
}

TEST(AlignedBuffer, IsAlignedAndZero) {
  for (const bool huge_pages : {false, true})
    for (const bool take_now : {false, true}) {
      const auto buffer = AlignedBuffer::make(10'000, {.huge_pages = huge_pages, .populate = take_now});
      ASSERT_TRUE(buffer) << buffer.error().message;
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->bytes().data()) % 4096, 0U);
      EXPECT_EQ(buffer->bytes().size() % 4096, 0U);
      EXPECT_GE(buffer->bytes().size(), 10'000U);
      for (const std::uint8_t byte : buffer->bytes()) ASSERT_EQ(byte, 0);
      EXPECT_EQ(*resident_pages(buffer->bytes()), count_pages(buffer->bytes()));
    }
}

TEST(AlignedBuffer, TakesItsMemoryWhenAsked) {
  const std::size_t bytes = 64 * page_bytes();
  EXPECT_EQ(*resident_pages(AlignedBuffer::make(bytes)->bytes()), 0U);
  EXPECT_EQ(*resident_pages(AlignedBuffer::make(bytes, {.populate = true})->bytes()), 64U);
}

TEST(AlignedBuffer, GivesPagesBack) {
  auto buffer = *AlignedBuffer::make(64 * page_bytes(), {.populate = true});
  buffer.bytes()[20 * page_bytes()] = 1;
  buffer.discard(20 * page_bytes(), 10 * page_bytes());
  EXPECT_EQ(*resident_pages(buffer.bytes()), 54U);
  EXPECT_EQ(buffer.bytes()[20 * page_bytes()], 0);
  buffer.discard(0, 0);
}

TEST(AlignedBuffer, HugePagesBeginOnOne) {
  for (int i = 0; i < 5; ++i) {
    const auto buffer = AlignedBuffer::make(100, {.huge_pages = true});
    ASSERT_TRUE(buffer);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->bytes().data()) % AlignedBuffer::kHugePage, 0U);
    buffer->bytes().back() = 1;
  }
}

TEST(AlignedBuffer, TooMuchIsAnError) {
  const auto buffer = AlignedBuffer::make(~std::size_t{0} / 4);
  ASSERT_FALSE(buffer);
  EXPECT_EQ(buffer.error().code, ErrorCode::kOutOfMemory);
  EXPECT_FALSE(AlignedBuffer::make(~std::size_t{0}));
}

TEST(AlignedBuffer, MovesItsMemory) {
  auto first = *AlignedBuffer::make(1);
  std::uint8_t* const place = first.bytes().data();
  AlignedBuffer second;
  EXPECT_TRUE(second.bytes().empty());
  second = std::move(first);
  const AlignedBuffer third = std::move(second);
  EXPECT_EQ(third.bytes().data(), place);
}

}  // namespace
}  // namespace hearth
