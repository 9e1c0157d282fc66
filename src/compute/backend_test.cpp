#include "compute/backend.h"

#include <gtest/gtest.h>

namespace hearth::compute {
namespace {

TEST(Backend, HasTheThreadsAskedFor) {
  for (const std::uint32_t n : {1U, 2U, 512U}) {
    const auto backend = Backend::cpu(n);
    ASSERT_TRUE(backend) << backend.error().message;
    EXPECT_EQ((*backend)->n_threads(), n);
    EXPECT_NE((*backend)->device(), nullptr);
    EXPECT_NE((*backend)->buffer_type(), nullptr);
    EXPECT_TRUE((*backend)->description().starts_with("CPU: ")) << (*backend)->description();
  }
}

TEST(Backend, RefusesNoThreadsAndTooMany) {
  for (const std::uint32_t n : {0U, 513U, 0xFFFFFFFFU}) {
    const auto backend = Backend::cpu(n);
    ASSERT_FALSE(backend);
    EXPECT_EQ(backend.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(backend.error().message.find("1 to 512"), std::string::npos) << backend.error().message;
  }
}

TEST(Backend, SeveralLiveSideBySide) {
  const auto a = Backend::cpu(1), b = Backend::cpu(2);
  ASSERT_TRUE(a && b);
  EXPECT_EQ((*a)->device(), (*b)->device());
  EXPECT_GE(default_threads(), 1U);
}

}  // namespace
}  // namespace hearth::compute
