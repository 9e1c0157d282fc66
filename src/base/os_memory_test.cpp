// Parsing is tested on files in the shape that kernels write them, with numbers made up by hand; then on what
// this machine says, and in a real control group where that is possible.
#include "base/os_memory.h"

#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/os_pages.h"
#include "base/test_dir.h"
#include "base/test_group.h"
#include "base/test_sanitizer.h"

namespace hearth {
namespace {

constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr std::uint64_t kKB = 1'024'000;  // a thousand of the kernel's kB

// A folder that looks like the kernel's files.
class Recorded {
 public:
  Recorded() {
    write("proc/meminfo",
          "MemTotal:        8000000 kB\nMemFree:          100000 kB\nMemAvailable:    4000000 kB\n"
          "Buffers:           10000 kB\n");
  }
  void write(const std::string& path, std::string_view text) const {
    const auto file = dir_.path() / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  // One group of version 2.
  void group2(const std::string& path, std::string_view max, std::string_view high, std::uint64_t current,
              std::uint64_t inactive, std::uint64_t active) const {
    const std::string folder = "sys/fs/cgroup/" + path + "/";
    write(folder + "memory.max", std::string(max) + "\n");
    write(folder + "memory.high", std::string(high) + "\n");
    write(folder + "memory.current", std::to_string(current) + "\n");
    write(folder + "memory.stat",
          "anon 1048576\nfile 2097152\ninactive_anon 0\nactive_anon 1048576\ninactive_file " +
              std::to_string(inactive) + "\nactive_file " + std::to_string(active) + "\nunevictable 0\n");
  }
  // One group of version 1; its own file numbers are not those of the groups below it.
  void group1(const std::string& path, std::uint64_t limit, std::uint64_t hierarchical_limit,
              std::uint64_t usage, std::uint64_t total_inactive, std::uint64_t total_active) const {
    const std::string folder = "sys/fs/cgroup/memory/" + path + "/";
    write(folder + "memory.limit_in_bytes", std::to_string(limit) + "\n");
    write(folder + "memory.usage_in_bytes", std::to_string(usage) + "\n");
    write(folder + "memory.stat",
          "cache 4096\nrss 0\ninactive_file 1\nactive_file 2\nunevictable 0\nhierarchical_memory_limit " +
              std::to_string(hierarchical_limit) +
              "\nhierarchical_memsw_limit 9223372036854771712\ntotal_cache 4096\n" + "total_inactive_file " +
              std::to_string(total_inactive) + "\ntotal_active_file " + std::to_string(total_active) + "\n");
  }
  [[nodiscard]] MemoryStatus status() const { return memory_status(dir_.path()); }
  [[nodiscard]] std::string path(const std::string& below) const { return (dir_.path() / below).string(); }
  [[nodiscard]] const std::filesystem::path& root() const { return dir_.path(); }

 private:
  TestDir dir_;
};

constexpr const char* kMounts1 =
    "24 29 0:22 / /proc rw,nosuid shared:5 - proc proc rw\n"
    "31 29 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate\n"
    "36 31 0:31 / /sys/fs/cgroup/blkio rw,nosuid shared:15 - cgroup cgroup rw,blkio\n"
    "37 31 0:32 / /sys/fs/cgroup/memory rw,nosuid shared:16 - cgroup cgroup rw,memory\n";
constexpr const char* kMounts2 =
    "24 29 0:22 / /proc rw,nosuid shared:5 - proc proc rw\n"
    "35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev shared:9 - cgroup2 cgroup2 "
    "rw,nsdelegate,memory_recursiveprot\n";
constexpr std::uint64_t kUnlimited1 = 9223372036854771712U;

TEST(MemoryStatus, WithoutGroupsIsWhatTheKernelSays) {
  const Recorded files;
  const auto status = files.status();
  EXPECT_EQ(status.total, 8'000 * kKB);
  EXPECT_EQ(status.available, 4'000 * kKB);
  EXPECT_EQ(status.group, "");
  EXPECT_EQ(status.group_limit, kNoLimit);
  EXPECT_EQ(status.usable(), 4'000 * kKB);
}

TEST(MemoryStatus, NothingKnownIsNoLimit) {
  const TestDir empty;
  const auto status = memory_status(empty.path());
  EXPECT_EQ(status.total, 0U);
  EXPECT_EQ(status.usable(), kNoLimit);
}

TEST(MemoryStatus, CacheOfAGroupOfVersion2IsAvailable) {
  const Recorded files;
  files.write("proc/self/mountinfo", kMounts2);
  files.write("proc/self/cgroup", "0::/user.slice/app.scope\n");
  files.group2("user.slice/app.scope", "1073741824", "max", 900 * kMiB, 200 * kMiB, 400 * kMiB);
  files.group2("user.slice", "max", "max", 2'000 * kMiB, 0, 0);
  const auto status = files.status();
  EXPECT_EQ(status.group, files.path("sys/fs/cgroup/user.slice/app.scope"));
  EXPECT_EQ(status.group_limit, 1'024 * kMiB);
  EXPECT_EQ(status.group_used, 900 * kMiB);
  EXPECT_EQ(status.group_inactive_file, 200 * kMiB);
  EXPECT_EQ(status.group_active_file, 400 * kMiB);
  EXPECT_EQ(status.group_available, 724 * kMiB);  // 1024 - (900 - 600)
  EXPECT_EQ(status.usable(), 724 * kMiB);
}

TEST(MemoryStatus, ALimitAboveCountsWithWhatItsGroupUses) {
  const Recorded files;
  files.write("proc/self/mountinfo", kMounts2);
  files.write("proc/self/cgroup", "0::/a/b/c\n");
  files.group2("a/b/c", "max", "max", 100 * kMiB, 0, 0);
  files.group2("a/b", "3145728000", "max", 500 * kMiB, 0, 0);           // 3000 MiB: 2500 left
  files.group2("a", "4194304000", "max", 3'900 * kMiB, 100 * kMiB, 0);  // 4000 MiB: 200 left, others use it
  const auto status = files.status();
  EXPECT_EQ(status.group, files.path("sys/fs/cgroup/a"));
  EXPECT_EQ(status.group_available, 200 * kMiB);
}

TEST(MemoryStatus, HighIsALimitToo) {
  const Recorded files;
  files.write("proc/self/mountinfo", kMounts2);
  files.write("proc/self/cgroup", "0::/a\n");
  files.group2("a", "2147483648", "1073741824", 24 * kMiB, 0, 0);
  EXPECT_EQ(files.status().group_limit, 1'024 * kMiB);
  EXPECT_EQ(files.status().group_available, 1'000 * kMiB);
}

TEST(MemoryStatus, MaxEverywhereIsNoLimit) {
  const Recorded files;
  files.write("proc/self/mountinfo", kMounts2);
  files.write("proc/self/cgroup", "0::/a\n");
  files.group2("a", "max", "max", 24 * kMiB, 0, 0);
  EXPECT_EQ(files.status().group_limit, kNoLimit);
  EXPECT_EQ(files.status().usable(), 4'000 * kKB);
}

TEST(MemoryStatus, AGroupThatIsFullLeavesNothing) {
  const Recorded files;
  files.write("proc/self/mountinfo", kMounts2);
  files.write("proc/self/cgroup", "0::/a\n");
  files.group2("a", "104857600", "max", 101 * kMiB, 0, 0);
  EXPECT_EQ(files.status().usable(), 0U);
}

TEST(MemoryStatus, CacheOfAGroupOfVersion1IsAvailableWithThatOfGroupsBelow) {
  const Recorded files;
  files.write("proc/self/mountinfo", kMounts1);
  files.write("proc/self/cgroup", "7:blkio:/\n4:memory:/home/one\n0::/\n");
  files.group1("home/one", 512 * kMiB, 512 * kMiB, 500 * kMiB, 100 * kMiB, 300 * kMiB);
  files.group1("home", kUnlimited1, kUnlimited1, 3'000 * kMiB, 0, 0);
  files.group1("", kUnlimited1, kUnlimited1, 5'000 * kMiB, 0, 0);
  const auto status = files.status();
  EXPECT_EQ(status.group, files.path("sys/fs/cgroup/memory/home/one"));
  EXPECT_EQ(status.group_limit, 512 * kMiB);
  EXPECT_EQ(status.group_used, 500 * kMiB);
  EXPECT_EQ(status.group_available, 412 * kMiB);  // 512 - (500 - 400)
}

TEST(MemoryStatus, Version1WithoutALimitIsNoLimit) {
  const Recorded files;
  files.write("proc/self/mountinfo", kMounts1);
  files.write("proc/self/cgroup", "4:cpu,memory:/one\n0::/\n");
  files.group1("one", kUnlimited1, kUnlimited1, 500 * kMiB, 0, 0);
  EXPECT_EQ(files.status().group_limit, kNoLimit);
}

// In a container the group's path is the host's, and what is mounted is that group.
TEST(MemoryStatus, AContainerSeesItsOwnGroupAndInheritedLimits) {
  const Recorded files;
  files.write("proc/self/mountinfo",
              "37 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:16 - cgroup cgroup rw,memory\n");
  files.write("proc/self/cgroup", "4:memory:/docker/abc\n");
  files.group1("", kUnlimited1, 256 * kMiB, 56 * kMiB, 0, 0);  // /docker has the limit
  EXPECT_EQ(files.status().group, files.path("sys/fs/cgroup/memory"));
  EXPECT_EQ(files.status().group_available, 200 * kMiB);
  // A group below the mounted one, then one of a namespace that starts elsewhere.
  files.write("proc/self/cgroup", "4:memory:/docker/abc/job\n");
  files.group1("job", 100 * kMiB, 100 * kMiB, 40 * kMiB, 0, 0);
  EXPECT_EQ(files.status().group_available, 60 * kMiB);
  files.write("proc/self/cgroup", "4:memory:/../other\n");
  EXPECT_EQ(files.status().group_available, 200 * kMiB);
}

TEST(MemoryStatus, MountPointsMayHaveSpaces) {
  const Recorded files;
  files.write("proc/self/mountinfo", "35 24 0:30 / /sys/fs/c\\040g rw - cgroup2 cgroup2 rw\n");
  files.write("proc/self/cgroup", "0::/\n");
  files.write("sys/fs/c g/memory.max", "1048576\n");
  files.write("sys/fs/c g/memory.current", "48576\n");
  EXPECT_EQ(files.status().group_available, 1'000'000U);
}

TEST(MemoryStatus, ThisMachineHasMemory) {
  const auto status = memory_status();
  EXPECT_GT(status.total, 64 * kMiB);
  EXPECT_GT(status.usable(), 0U);
  EXPECT_LE(status.available, status.total);
  EXPECT_GE(memory_status().usable(), 1U);
  EXPECT_LE(memory_status().usable(), status.total);
}

TEST(MemoryStatusDeath, CacheThatFillsARealGroupIsAvailable) {
  auto group = TestGroup::make(128 * kMiB);
  if (!group) GTEST_SKIP() << group.error().message;
  const TestDir dir;
  const auto path = dir.write("file", std::string(100 * kMiB, 'x'));
  {
    const auto file = InputFile::open(path);
    ASSERT_EQ(fsync(file->descriptor()), 0);
    drop(MappedFile::map(*file)->bytes(), *file, 0);  // so that the group that reads it is charged
  }
  const auto in_the_group = [&] {
    group->enter();
    const auto file = *InputFile::open(path);
    const auto buffer = *AlignedBuffer::make(kMiB);
    for (std::uint64_t at = 0; at < file.size(); at += kMiB) {
      if (!file.read_at(at, buffer.bytes())) _exit(2);
    }
    const auto status = memory_status();
    std::fprintf(stderr, "limit %llu used %llu available %llu\n",
                 static_cast<unsigned long long>(status.group_limit / kMiB),
                 static_cast<unsigned long long>(status.group_used / kMiB),
                 static_cast<unsigned long long>(status.group_available / kMiB));
    _exit(status.group_limit == 128 * kMiB && status.group_used > 90 * kMiB &&
                  status.group_available > 110 * kMiB
              ? 0
              : 1);
  };
  EXPECT_EXIT(in_the_group(), testing::ExitedWithCode(0), "limit 128");
}

TEST(ProcessMemory, ReadsTheKernelsNumbers) {
  const Recorded files;
  files.write("proc/self/status",
              "Name:\thearth\nVmLck:\t    2048 kB\nVmRSS:\t   50000 kB\nRssAnon:\t   10000 kB\nRssFile:\t   "
              "39000 kB\n"
              "RssShmem:\t    1000 kB\nVmSwap:\t      12 kB\n");
  files.write("proc/self/io",
              "rchar: 999\nwchar: 5\nsyscr: 1\nsyscw: 1\nread_bytes: 123456789\nwrite_bytes: 4096\n");
  const auto memory = process_memory(files.root());
  EXPECT_EQ(memory.anonymous, 10'000U * 1024);
  EXPECT_EQ(memory.file, 39'000U * 1024);
  EXPECT_EQ(memory.shared, 1'000U * 1024);
  EXPECT_EQ(memory.locked, 2'048U * 1024);
  EXPECT_EQ(memory.swapped, 12U * 1024);
  EXPECT_EQ(memory.read_bytes, 123'456'789U);
}

TEST(ProcessMemory, MemoryThatIsTakenShows) {
  const auto before = process_memory();
  const auto buffer = AlignedBuffer::make(64 * kMiB, {.populate = true});
  const auto after = process_memory();
  // The kernel counts in batches of some pages per thread.
  EXPECT_GE(after.anonymous + 4 * kMiB, before.anonymous + 64 * kMiB);
  if (!kSanitized) {
    EXPECT_LE(after.anonymous, before.anonymous + 68 * kMiB);
  }
}

TEST(ProcessMemory, AReadOfAMissingPageIsAMajorFault) {
  const TestDir dir;
  const auto file = InputFile::open(dir.write("file", std::string(64 * page_bytes(), 'x')));
  ASSERT_EQ(fsync(file->descriptor()), 0);
  const auto mapped = MappedFile::map(*file);
  advise_random(mapped->bytes());
  drop(mapped->bytes(), *file, 0);
  if (*resident_pages(mapped->bytes()) != 0) GTEST_SKIP() << "the folder for temporary files is memory";
  const auto before = process_memory();
  const volatile std::uint8_t* bytes = mapped->bytes().data();
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(bytes[i * 8 * page_bytes()], 'x');
  const auto after = process_memory();
  EXPECT_GE(after.major_faults, before.major_faults + 8);
  // Not every kernel or container counts what storage reads.
  if (after.read_bytes != 0) {
    EXPECT_GE(after.read_bytes, before.read_bytes + 8 * page_bytes());
  }
}

}  // namespace
}  // namespace hearth
