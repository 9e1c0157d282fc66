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

TEST(DiskRate, TheFirstReadsDoNotCount) {
  // 2 of 8 reads at once, then one each tenth of a second.
  const double burst[] = {0.01, 0.02, 0.12, 0.22, 0.32, 0.42, 0.52, 0.62};
  EXPECT_NEAR(steady_rate(burst, 15), 150, 1e-6);
  const double three[] = {0.1, 0.4, 0.7};
  EXPECT_NEAR(steady_rate(three, 15), 50, 1e-6);
  const double two[] = {0.01, 0.11};
  EXPECT_NEAR(steady_rate(two, 15), 150, 1e-6);
  EXPECT_NEAR(steady_rate(std::span(two).first(1), 15), 1500, 1e-6);
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
