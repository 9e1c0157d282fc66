#include "base/os_pressure.h"

#include <cstdio>
#include <iostream>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/os_file.h"
#include "base/os_pages.h"
#include "base/test_dir.h"
#include "base/test_group.h"
#include "base/test_sanitizer.h"

namespace hearth {
namespace {

using namespace std::chrono_literals;
using Level = Pressure::Level;
using Source = Pressure::Source;

constexpr std::uint64_t kMiB = 1024 * 1024;

// Listens to nothing but numbers of the test's.
PressureWatch::Options polling(std::function<std::uint64_t()> available) {
  return {.stalls = false,
          .groups = false,
          .short_bytes = 100 * kMiB,
          .critical_bytes = 10 * kMiB,
          .poll_interval = 1ms,
          .status = [available = std::move(available)] {
            MemoryStatus status;
            status.available = available();
            return status;
          }};
}

TEST(PressureWatch, PollingTellsWhenLittleIsLeft) {
  int asked = 0;
  auto watch = PressureWatch::open(polling([&] {
    return ++asked < 3 ? 100 * kMiB : asked < 5 ? 99 * kMiB : 9 * kMiB;
  }));
  ASSERT_TRUE(watch) << watch.error().message;
  EXPECT_EQ(watch->describe(), "polling");
  const auto first = watch->next(1h);
  ASSERT_TRUE(first);
  EXPECT_EQ(asked, 3);
  EXPECT_EQ(first->level, Level::kShort);
  EXPECT_EQ(first->source, Source::kPoll);
  EXPECT_EQ(first->available, 99 * kMiB);
  EXPECT_EQ(watch->next(1h)->level, Level::kShort);
  EXPECT_EQ(watch->next(1h)->level, Level::kCritical);
}

TEST(PressureWatch, NothingHappensWhileThereIsEnough) {
  auto watch = PressureWatch::open(polling([] { return 100 * kMiB; }));
  EXPECT_FALSE(watch->next(0ms));
  EXPECT_FALSE(watch->next(20ms));
}

TEST(PressureWatch, WakeEndsAWaitBeforeOrWhileItWaits) {
  auto watch = PressureWatch::open(polling([] { return 100 * kMiB; }));
  watch->wake();
  EXPECT_FALSE(watch->next(1h));
  std::thread other([&] { watch->wake(); });
  EXPECT_FALSE(watch->next(1h));
  other.join();
}

TEST(PressureWatch, OpensWithWhatThisMachineHas) {
  auto watch = PressureWatch::open();
  ASSERT_TRUE(watch) << watch.error().message;
  std::cout << "sources: " << watch->describe() << '\n';
  EXPECT_TRUE(watch->describe().ends_with("polling"));
  watch->wake();
  static_cast<void>(watch->next(1h));  // this machine may be short of memory
}

// In a child that may use little memory: most of it is taken for good, and a file that does not fit the rest
// is read through a mapping again and again until `watch` tells of it. Exits with 0 then, with 3 when nothing
// came in a minute.
[[noreturn]] void thrash_until_told(const TestGroup& group, const std::filesystem::path& path,
                                    PressureWatch::Options options, Source expected) {
  group.enter();
  options.short_bytes = options.critical_bytes = 0;
  auto watch = PressureWatch::open(std::move(options));
  if (!watch) _exit(4);
  const auto taken = AlignedBuffer::make(40 * kMiB, {.populate = true});
  std::thread([&] {
    const auto mapped = MappedFile::map(*InputFile::open(path));
    const volatile std::uint8_t* bytes = mapped->bytes().data();
    while (true)
      for (std::size_t at = 0; at < mapped->bytes().size(); at += page_bytes()) static_cast<void>(bytes[at]);
  }).detach();
  const auto pressure = watch->next(60s);
  std::fprintf(stderr, "%s\n", watch->describe().c_str());
  _exit(pressure && pressure->source == expected ? 0 : 3);
}

class PressureWatchDeath : public testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer's own memory does not fit the control group of the test";
    if (!group) GTEST_SKIP() << group.error().message;
    // Out of the cache, so that the group that reads it is charged for it.
    const auto file = InputFile::open(path);
    ASSERT_EQ(fsync(file->descriptor()), 0);
    drop(MappedFile::map(*file)->bytes(), *file, 0);
  }
  Result<TestGroup> group = TestGroup::make(64 * kMiB);
  TestDir dir;
  std::filesystem::path path = dir.write("file", std::string(48 * kMiB, 'x'));
};

TEST_F(PressureWatchDeath, AGroupThatIsFullIsTold) {
  EXPECT_EXIT(thrash_until_told(*group, path, {.stalls = false}, Source::kGroup), testing::ExitedWithCode(0),
              "groups");
}

TEST_F(PressureWatchDeath, StallsAreTold) {
  {
    const auto watch = PressureWatch::open({.groups = false});
    if (!watch->describe().contains("stalls of the machine"))
      GTEST_SKIP() << "no pressure stall information for this user on this machine: " << watch->describe();
  }
  EXPECT_EXIT(thrash_until_told(*group, path, {.groups = false}, Source::kStall), testing::ExitedWithCode(0),
              "stalls");
}

}  // namespace
}  // namespace hearth
