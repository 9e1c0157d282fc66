#include "base/give_back.h"

#include <vector>

#include <gtest/gtest.h>

namespace hearth {
namespace {

TEST(GiveBack, LeavesNoMemoryBehind) {
  std::vector<int> numbers(1000);
  give_back(numbers);
  EXPECT_TRUE(numbers.empty());
  EXPECT_EQ(numbers.capacity(), 0U);
}

}  // namespace
}  // namespace hearth
