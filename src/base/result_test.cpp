#include "base/result.h"

#include <array>
#include <set>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace hearth {
namespace {

Result<int> half(int number) {
  if (number % 2 != 0) return fail(ErrorCode::kInvalidArgument, "{} is odd", number);
  return number / 2;
}

Result<int> quarter(int number) {
  HEARTH_TRY(const int once, half(number));
  HEARTH_TRY(const int twice, half(once));
  return twice;
}

Result<> check_even(int number) {
  HEARTH_TRY_VOID(half(number));
  return {};
}

TEST(Result, TryGivesTheValueOrReturnsTheError) {
  EXPECT_EQ(quarter(12).value(), 3);
  EXPECT_EQ(quarter(6).error().message, "3 is odd");
  EXPECT_EQ(quarter(5).error().message, "5 is odd");
  EXPECT_EQ(quarter(5).error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(check_even(2).has_value());
  EXPECT_EQ(check_even(3).error().message, "3 is odd");
}

TEST(Result, PassKeepsTheError) {
  const auto outer = [](int number) -> Result<std::string> {
    auto inner = half(number);
    if (!inner) return pass(std::move(inner));
    return "fine";
  };
  EXPECT_EQ(outer(1).error().message, "1 is odd");
  EXPECT_EQ(outer(2).value(), "fine");
}

TEST(ErrorCode, EachHasItsOwnName) {
  std::set<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(ErrorCode::kCancelled); ++code)
    EXPECT_TRUE(names.insert(name(static_cast<ErrorCode>(code))).second) << code;
  EXPECT_FALSE(names.contains("unknown"));
  EXPECT_EQ(name(ErrorCode::kInvalidFile), "invalid_file");
}

TEST(CheckDeathTest, AbortsWithPlaceConditionAndDetail) {
  EXPECT_DEATH(HEARTH_CHECK(1 + 1 == 3, "arithmetic"),
               "hearth: bug at .*result_test.cpp:.*1 \\+ 1 == 3.*arithmetic");
  HEARTH_CHECK(true);
}

}  // namespace
}  // namespace hearth
