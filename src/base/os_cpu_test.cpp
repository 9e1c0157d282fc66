// Files in the shape that kernels write them, with numbers made up by hand.
#include "base/os_cpu.h"

#include <fstream>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "base/test_dir.h"

namespace hearth {
namespace {

class Recorded {
 public:
  void write(const std::string& path, std::string_view text) const {
    const auto file = dir_.path() / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << '\n';
  }
  void cache(int cpu, int index, std::string_view level, std::string_view type, std::string_view size,
             std::string_view shared) const {
    const std::string folder =
        "sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cache/index" + std::to_string(index) + "/";
    write(folder + "level", level);
    write(folder + "type", type);
    write(folder + "size", size);
    write(folder + "shared_cpu_list", shared);
  }
  [[nodiscard]] const std::filesystem::path& root() const { return dir_.path(); }

 private:
  TestDir dir_;
};

TEST(LastLevelCache, EachOnceThatProcessorsShare) {
  const Recorded files;
  for (int cpu = 0; cpu < 4; ++cpu) {
    files.cache(cpu, 0, "1", "Data", "32K", std::to_string(cpu));
    files.cache(cpu, 1, "1", "Instruction", "64K", std::to_string(cpu));
    files.cache(cpu, 2, "3", "Unified", "32768K", cpu < 2 ? "0-1" : "2-3");
  }
  files.write("sys/devices/system/cpu/cpufreq/policy", "x");
  files.write("sys/devices/system/cpu/online", "0-3");
  EXPECT_EQ(last_level_cache_bytes(files.root()), 2 * 32768U * 1024);
}

TEST(LastLevelCache, WhatIsNotThereOrNoNumberIsUnknown) {
  const Recorded files;
  EXPECT_EQ(last_level_cache_bytes(files.root()), 0U);
  files.cache(0, 0, "x", "Unified", "1024K", "0");
  files.cache(0, 1, "-1", "Unified", "1024K", "0");
  files.cache(0, 2, "2", "Unified", "-4K", "0");
  files.cache(0, 3, "2", "Unified", "99999999999999G", "0");
  files.cache(0, 4, "3", "Instruction", "4K", "0");
  EXPECT_EQ(last_level_cache_bytes(files.root()), 0U);
  files.cache(0, 5, "2", "Unified", "1M", "0");
  EXPECT_EQ(last_level_cache_bytes(files.root()), 1U << 20);
}

TEST(CpuQuota, OfVersion2IsTheLeastOfAllGroupsAbove) {
  const Recorded files;
  EXPECT_FALSE(cpu_quota(files.root()));
  files.write("proc/self/cgroup", "0::/home/device");
  files.write("proc/self/mountinfo", "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate");
  EXPECT_FALSE(cpu_quota(files.root()));
  files.write("sys/fs/cgroup/home/device/cpu.max", "max 100000");
  EXPECT_FALSE(cpu_quota(files.root()));
  files.write("sys/fs/cgroup/home/cpu.max", "150000 100000");
  EXPECT_EQ(cpu_quota(files.root()), 1.5);
  files.write("sys/fs/cgroup/home/device/cpu.max", "25000 50000");
  EXPECT_EQ(cpu_quota(files.root()), 0.5);
  files.write("sys/fs/cgroup/home/device/cpu.max", "100000 0");
  EXPECT_EQ(cpu_quota(files.root()), 1.5);
}

TEST(CpuQuota, OfVersion1) {
  const Recorded files;
  files.write("proc/self/cgroup", "4:memory:/other\n3:cpu,cpuacct:/device");
  files.write("proc/self/mountinfo",
              "33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
              "37 31 0:32 / /sys/fs/cgroup/memory rw,nosuid shared:16 - cgroup cgroup rw,memory");
  files.write("sys/fs/cgroup/cpu,cpuacct/device/cpu.cfs_period_us", "100000");
  files.write("sys/fs/cgroup/cpu,cpuacct/device/cpu.cfs_quota_us", "-1");
  EXPECT_FALSE(cpu_quota(files.root()));
  files.write("sys/fs/cgroup/cpu,cpuacct/device/cpu.cfs_quota_us", "75000");
  EXPECT_EQ(cpu_quota(files.root()), 0.75);
}

}  // namespace
}  // namespace hearth
