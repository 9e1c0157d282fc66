#include "residency/pin_registry.h"

#include <cstdlib>
#include <fstream>
#include <memory>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/test_dir.h"

namespace hearth::residency {
namespace {

TEST(PinRegistry, OthersHearWhatIsTold) {
  const TestDir dir;
  const auto folder = dir.path() / "hearth";
  PinRegistry a(folder, "/group"), b(folder, "/group"), c(folder, "/other");
  EXPECT_EQ(a.others().all_bytes, 0U);
  EXPECT_FALSE(std::filesystem::exists(folder)) << "who pins nothing tells nothing";
  a.tell(100);
  b.tell(20);
  c.tell(3);
  EXPECT_EQ(a.others().all_bytes, 23U);
  EXPECT_EQ(a.others().group_bytes, 20U);
  EXPECT_EQ(c.others().all_bytes, 120U);
  EXPECT_EQ(c.others().group_bytes, 0U);
  a.tell(70);
  EXPECT_EQ(b.others().all_bytes, 73U);
  {
    PinRegistry d(folder, "");
    d.tell(1000);
    EXPECT_EQ(b.others().all_bytes, 1073U);
  }
  EXPECT_EQ(b.others().all_bytes, 73U);
}

TEST(PinRegistry, WhatOthersPinnedIsNotFree) {
  const TestDir dir;
  const auto folder = dir.path() / "hearth";
  PinRegistry a(folder, "/group"), b(folder, "/group"), c(folder, "/other");
  b.tell(20);
  c.tell(3);
  MemoryStatus status;
  status.available = 1000;
  status.group_available = 500;
  EXPECT_EQ(a.without_others(status).available, 977U);
  EXPECT_EQ(a.without_others(status).group_available, 480U);
  status.available = 10;
  status.group_available = kNoLimit;
  EXPECT_EQ(a.without_others(status).available, 0U);
  EXPECT_EQ(a.without_others(status).group_available, kNoLimit);
}

TEST(PinRegistry, ADeadProcessHasNoPins) {
  const TestDir dir;
  const auto folder = dir.path() / "hearth";
  PinRegistry mine(folder, "");
  mine.tell(1);
  const pid_t child = fork();
  if (child == 0) {
    auto* left = new PinRegistry(folder, "");
    left->tell(500);
    _exit(mine.others().all_bytes == 500 ? 0 : 1);  // without undoing anything
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "its own process is another one to mine";
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 2);
  EXPECT_EQ(mine.others().all_bytes, 0U);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1) << "what it left is removed";
}

// Whoever else could make the folder could tell anything.
TEST(PinRegistry, AFolderThatOthersMayWriteToIsNotUsed) {
  const TestDir dir;
  const auto folder = dir.path() / "hearth";
  std::filesystem::create_directory(folder);
  ASSERT_EQ(::chmod(folder.c_str(), 0777), 0);
  PinRegistry mine(folder, ""), another(folder, "");
  mine.tell(1);
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  ASSERT_EQ(::chmod(folder.c_str(), 0700), 0);
  another.tell(1);
  EXPECT_EQ(mine.others().all_bytes, 1U);
  ASSERT_EQ(::chmod(folder.c_str(), 0755), 0);
  EXPECT_EQ(mine.others().all_bytes, 0U);
}

}  // namespace
}  // namespace hearth::residency
