#include "base/os_process.h"

#include <thread>

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace hearth {
namespace {

// Of the calling thread.
int nice_value() {
  return getpriority(PRIO_PROCESS, 0);
}

TEST(Process, YieldsToOthersAndToNobodyTwice) {
  if (nice_value() > 10) GTEST_SKIP() << "this test was started with a nice value of " << nice_value();
  yield_to_others();
  EXPECT_EQ(nice_value(), 10);
  std::thread([] { EXPECT_EQ(nice_value(), 10) << "threads that come later"; }).join();
  ASSERT_EQ(setpriority(PRIO_PROCESS, 0, 15), 0);
  yield_to_others();
  EXPECT_EQ(nice_value(), 15) << "what the user asked for";
}

}  // namespace
}  // namespace hearth
