#include "profile/memory_rate.h"

#include <gtest/gtest.h>

#include "support/value_of.h"

namespace hearth::profile {
namespace {

using testing::value_of;

constexpr MemoryOptions kSmall = {.bytes = 8 << 20, .duration = std::chrono::milliseconds(0)};

TEST(MemoryRate, OfOneThreadAndOfSeveral) {
  for (const std::uint32_t n_threads : {1U, 2U, 5U}) {
    const MemoryRate rate = value_of(measure_memory(n_threads, kSmall));
    EXPECT_GT(rate.bytes_per_s, 1'000'000U);
    EXPECT_GE(rate.best_bytes_per_s, rate.bytes_per_s);
    EXPECT_GE(rate.spread, 0);
  }
}

TEST(MemoryRate, WithoutThreadsOrBytesForEachIsAnError) {
  for (const auto& rate : {measure_memory(0, kSmall), measure_memory(4, {.bytes = 4096})}) {
    ASSERT_FALSE(rate);
    EXPECT_EQ(rate.error().code, ErrorCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace hearth::profile
