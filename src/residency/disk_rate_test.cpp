#include "residency/disk_rate.h"

#include <fstream>

#include <gtest/gtest.h>

#include "base/test_dir.h"

namespace hearth::residency {
namespace {

TEST(DiskRate, OfANewFolderOfWhichNothingStaysBehind) {
  const TestDir dir;
  const auto folder = dir.path() / "new";
  const auto rate = measure_disk(folder, 16 << 20);
  ASSERT_TRUE(rate) << rate.error().message;
  EXPECT_GT(*rate, 1'000'000U);
  EXPECT_TRUE(std::filesystem::is_directory(folder));
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(DiskRate, AFolderThatCannotBeIsAnError) {
  const TestDir dir;
  std::ofstream(dir.path() / "file") << "x";
  const auto rate = measure_disk(dir.path() / "file" / "packs");
  ASSERT_FALSE(rate);
  EXPECT_EQ(rate.error().code, ErrorCode::kIo);
  EXPECT_NE(rate.error().message.find("cannot measure the disk of"), std::string::npos)
      << rate.error().message;
}

}  // namespace
}  // namespace hearth::residency
