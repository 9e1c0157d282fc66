#include "base/os_fault_guard.h"

#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <signal.h>

#include "base/os_file.h"
#include "base/os_pages.h"
#include "base/test_dir.h"

namespace hearth {
namespace {

std::uint8_t byte_at(const MappedFile& mapping, std::size_t at) {
  const volatile std::uint8_t* bytes = mapping.bytes().data();
  return bytes[at];
}

struct Mapped {
  explicit Mapped(std::size_t n_pages) : path(dir.write("file", std::string(n_pages * page_bytes(), 'x'))) {
    mapping = *MappedFile::map(*InputFile::open(path));
  }
  void truncate_to(std::size_t n_pages) const { std::filesystem::resize_file(path, n_pages * page_bytes()); }

  TestDir dir;
  std::filesystem::path path;
  std::optional<MappedFile> mapping;
};

TEST(FaultGuard, ATruncatedPageReadsAsZeroAndIsRemembered) {
  const Mapped file(4);
  const auto guard = FaultGuard::watch(file.mapping->bytes());
  ASSERT_TRUE(guard) << guard.error().message;
  EXPECT_EQ(byte_at(*file.mapping, 0), 'x');
  file.truncate_to(1);
  EXPECT_FALSE(guard->damaged());
  EXPECT_EQ(guard->first_damage(), std::nullopt);
  EXPECT_EQ(byte_at(*file.mapping, 2 * page_bytes() + 17), 0);
  EXPECT_TRUE(guard->damaged());
  EXPECT_EQ(guard->first_damage(), 2 * page_bytes());
  EXPECT_EQ(byte_at(*file.mapping, page_bytes()), 0);
  EXPECT_EQ(guard->first_damage(), 2 * page_bytes());  // the first stays
  EXPECT_EQ(byte_at(*file.mapping, page_bytes() - 1), 'x');
}

TEST(FaultGuard, KnowsWhichOfSeveralRangesIsDamaged) {
  const Mapped good(4), bad(4);
  const auto good_guard = FaultGuard::watch(good.mapping->bytes());
  // Two guards over different parts of one mapping.
  const auto first = FaultGuard::watch(bad.mapping->bytes().first(2 * page_bytes()));
  const auto second = FaultGuard::watch(bad.mapping->bytes().subspan(2 * page_bytes()));
  bad.truncate_to(0);
  EXPECT_EQ(byte_at(*bad.mapping, 3 * page_bytes()), 0);
  EXPECT_FALSE(good_guard->damaged());
  EXPECT_FALSE(first->damaged());
  EXPECT_EQ(second->first_damage(), page_bytes());
}

TEST(FaultGuard, GuardsOfTheSamePagesAllKnow) {
  const Mapped file(2);
  const auto first = FaultGuard::watch(file.mapping->bytes());
  const auto second = FaultGuard::watch(file.mapping->bytes());
  file.truncate_to(0);
  EXPECT_EQ(byte_at(*file.mapping, page_bytes()), 0);
  EXPECT_EQ(first->first_damage(), page_bytes());
  EXPECT_EQ(second->first_damage(), page_bytes());
}

TEST(FaultGuard, ManyThreadsMayFaultAtOnce) {
  constexpr std::size_t kPages = 64;
  const Mapped file(kPages);
  const auto guard = FaultGuard::watch(file.mapping->bytes());
  file.truncate_to(0);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (std::size_t page = 0; page < kPages; ++page)
        EXPECT_EQ(byte_at(*file.mapping, page * page_bytes()), 0);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(guard->damaged());
}

TEST(FaultGuard, MovesAndFreesItsPlace) {
  const Mapped file(2);
  std::optional<FaultGuard> kept;
  // More than there are places, one after the other.
  for (std::size_t i = 0; i < 2 * FaultGuard::kMaxGuards; ++i) {
    auto guard = FaultGuard::watch(file.mapping->bytes());
    ASSERT_TRUE(guard) << guard.error().message;
    kept.emplace(*std::move(guard));
  }
  EXPECT_FALSE(kept->damaged());
  std::vector<FaultGuard> all;
  while (all.size() < FaultGuard::kMaxGuards - 1) all.push_back(*FaultGuard::watch(file.mapping->bytes()));
  const auto refused = FaultGuard::watch(file.mapping->bytes());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
}

// A place that is used again does not remember the damage of its last range.
TEST(FaultGuard, StartsUndamaged) {
  for (int i = 0; i < 2; ++i) {
    const Mapped file(1);
    const auto guard = FaultGuard::watch(file.mapping->bytes());
    EXPECT_FALSE(guard->damaged());
    file.truncate_to(0);
    EXPECT_EQ(byte_at(*file.mapping, 0), 0);
    EXPECT_TRUE(guard->damaged());
  }
}

TEST(FaultGuardDeath, OtherFaultsEndTheProcessAsBefore) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Mapped guarded(1), other(2);
  const auto guard = FaultGuard::watch(guarded.mapping->bytes());
  other.truncate_to(1);
  // Sanitizers have a handler of their own, which ends the process in their way.
  EXPECT_DEATH(static_cast<void>(byte_at(*other.mapping, page_bytes())), "");
  EXPECT_DEATH(raise(SIGBUS), "");
  const auto after_the_end = [&] {
    {
      const auto ended = FaultGuard::watch(other.mapping->bytes());
    }
    static_cast<void>(byte_at(*other.mapping, page_bytes()));
  };
  EXPECT_DEATH(after_the_end(), "");
}

}  // namespace
}  // namespace hearth
