#include "base/os_process.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <thread>

#include <gtest/gtest.h>

namespace hearth {
namespace {

TEST(GiveWay, IsOfTheThreadAndNeverLess) {
  const int before = niceness();
  std::thread([&] {
    give_way(7);
    EXPECT_EQ(niceness(), std::max(before, 7));
    give_way(3);
    EXPECT_EQ(niceness(), std::max(before, 7)) << "less";
    std::thread([&] { EXPECT_EQ(niceness(), std::max(before, 7)) << "inherited"; }).join();
  }).join();
  EXPECT_EQ(niceness(), before);
}

TEST(ScopedVariable, LeavesWhatWasThere) {
  constexpr const char* kName = "HEARTH_TEST_VARIABLE";
  ASSERT_EQ(std::getenv(kName), nullptr);
  {
    const ScopedVariable set(kName, "one");
    EXPECT_STREQ(std::getenv(kName), "one");
    const ScopedVariable again(kName, "two");
    EXPECT_STREQ(std::getenv(kName), "one");
  }
  EXPECT_EQ(std::getenv(kName), nullptr);
}

TEST(LibraryOf, IsWhereAFunctionCameFrom) {
  EXPECT_EQ(library_of(reinterpret_cast<const void*>(&niceness)).filename(), own_program().filename());
  EXPECT_NE(library_of(reinterpret_cast<const void*>(&std::getenv)).string().find("libc"), std::string::npos);
  EXPECT_EQ(library_of(nullptr), "");
}

}  // namespace
}  // namespace hearth
