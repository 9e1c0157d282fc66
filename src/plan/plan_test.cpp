#include "plan/plan.h"

#include <algorithm>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace hearth::plan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> names(std::size_t count) {
  std::vector<std::string> result;
  for (std::size_t i = 0; i < count; ++i) result.push_back("device" + std::to_string(i));
  return result;
}

Plan plan_of(std::uint32_t n_layer, std::size_t n_devices, std::vector<Step> steps) {
  return {n_layer, names(n_devices), std::move(steps)};
}

std::string error_of(const auto& result) {
  return result ? "no error" : result.error().message;
}

// Every layer exactly once, in order: said without validate().
void expect_covers(const Plan& plan) {
  std::vector<std::uint32_t> seen;
  for (const Step& step : plan.steps) {
    RC_ASSERT(step.device < plan.devices.size());
    for (std::uint32_t il = step.layers.begin; il < step.layers.end; ++il) seen.push_back(il);
    RC_ASSERT(step.layers.size() > 0U);
  }
  std::vector<std::uint32_t> all(plan.n_layer);
  std::iota(all.begin(), all.end(), 0U);
  RC_ASSERT(seen == all);
}

TEST(Validate, AcceptsRounds) {
  EXPECT_TRUE(validate(plan_of(8, 2, {{0, {0, 3}}, {1, {3, 4}}, {0, {4, 7}}, {1, {7, 8}}})));
  EXPECT_TRUE(validate(plan_of(1, 1, {{0, {0, 1}}})));
  // A head may have no layers at all.
  EXPECT_TRUE(validate(plan_of(2, 2, {{1, {0, 2}}})));
}

TEST(Validate, NamesWhatIsWrong) {
  const std::pair<Plan, std::string> cases[] = {
      {plan_of(8, 2, {{0, {0, 3}}, {1, {4, 8}}}),
       "step 1 has the window [4, 8), which leaves a gap; expected it to begin at layer 3"},
      {plan_of(8, 2, {{0, {1, 8}}}), "step 0 has the window [1, 8), which leaves a gap"},
      {plan_of(8, 2, {{0, {0, 5}}, {1, {4, 8}}}),
       "step 1 has the window [4, 8), which overlaps the one before"},
      {plan_of(8, 2, {{0, {0, 8}}, {1, {8, 8}}}), "step 1 has the empty window [8, 8)"},
      {plan_of(8, 2, {{0, {5, 3}}}), "step 0 has the empty window [5, 3)"},
      {plan_of(8, 2, {{0, {0, 4}}, {2, {4, 8}}}), "step 1 names device 2, but the plan has 2 devices"},
      {plan_of(8, 2, {{0, {0, 4}}, {1, {4, 9}}}), "step 1 has the window [4, 9), but the model has 8 layers"},
      {plan_of(8, 2, {{0, {0, 4}}, {1, {4, 7}}}), "the last of 2 steps ends at layer 7, expected 8"},
      {plan_of(8, 2, {}), "the last of 0 steps ends at layer 0, expected 8"},
      {plan_of(8, 0, {}), "no device"},
      {plan_of(0, 1, {}), "no layers"},
  };
  for (const auto& [plan, message] : cases) {
    const auto result = validate(plan);
    ASSERT_FALSE(result) << message;
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(result.error().message, HasSubstr(message));
  }
}

TEST(Plan, CountsPerDevice) {
  const Plan plan = plan_of(9, 3, {{0, {0, 3}}, {2, {3, 5}}, {0, {5, 8}}, {2, {8, 9}}});
  EXPECT_THAT(plan.steps_of(0), ElementsAre(0, 2));
  EXPECT_THAT(plan.steps_of(1), ElementsAre());
  EXPECT_THAT(plan.steps_of(2), ElementsAre(1, 3));
  EXPECT_EQ(plan.layers_of(0), 6U);
  EXPECT_EQ(plan.layers_of(1), 0U);
  EXPECT_EQ(plan.layers_of(2), 3U);
}

TEST(Plan, DescribesTheRing) {
  const Plan plan{9, {"laptop", "pi", "desktop"}, {{0, {0, 3}}, {2, {3, 5}}, {0, {5, 8}}, {2, {8, 9}}}};
  EXPECT_EQ(plan.describe(),
            "laptop   6/9 layers: 0-2, 5-7\n"
            "pi       0/9 layers\n"
            "desktop  3/9 layers: 3-4, 8\n");
}

TEST(Visits, StepsWithoutAHopBetweenThemAreOne) {
  using Devices = std::vector<std::uint16_t>;
  const auto numbers = [](const Devices& devices) {
    const Visits visits = visits_of(devices);
    EXPECT_EQ(visits.of_step.size(), devices.size());
    return std::pair(visits.of_step, visits.of_output);
  };
  using Numbers = std::pair<std::vector<std::uint32_t>, std::uint32_t>;
  EXPECT_EQ(numbers({0, 1, 0, 1}), Numbers({0, 0, 1, 1}, 0)) << "the output head comes before the next token";
  EXPECT_EQ(numbers({1, 0, 1}), Numbers({0, 0, 1}, 1)) << "a visit for the output head alone";
  EXPECT_EQ(numbers({1, 0, 1, 0}), Numbers({0, 0, 1, 1}, 1)) << "after the last layers";
  EXPECT_EQ(numbers({0, 0, 1, 2, 0, 0}), Numbers({0, 0, 0, 0, 0, 0}, 0)) << "around the end";
  EXPECT_EQ(numbers({0, 1, 1, 0, 2, 0}), Numbers({0, 0, 0, 1, 0, 0}, 0));
  EXPECT_EQ(numbers({1, 2}), Numbers({0, 0}, 0)) << "a head without layers";
  EXPECT_EQ(numbers({0, 0}), Numbers({0, 0}, 0)) << "alone";
}

TEST(SplitByWindows, RepeatsTheWindows) {
  const auto plan = split_by_windows(12, names(3), std::vector<std::uint32_t>{1, 2, 3}, 2);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 1}}, Step{1, {1, 3}}, Step{2, {3, 6}}, Step{0, {6, 7}},
                                       Step{1, {7, 9}}, Step{2, {9, 12}}));
  EXPECT_EQ(plan->devices, names(3));
}

TEST(SplitByWindows, CutsTheLastWindowsShort) {
  const auto plan = split_by_windows(8, names(2), std::vector<std::uint32_t>{3, 4}, 2);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 3}}, Step{1, {3, 7}}, Step{0, {7, 8}}));
}

TEST(SplitByWindows, ZeroMeansNoStep) {
  const auto plan = split_by_windows(8, names(3), std::vector<std::uint32_t>{0, 4, 0}, 2);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{1, {0, 4}}, Step{1, {4, 8}}));
}

TEST(SplitByWindows, TakesTheWindowsOfEachRound) {
  const auto plan = split_by_windows(8, names(3), std::vector<std::uint32_t>{2, 1, 0, 0, 1, 1, 1, 0, 2}, 3);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 2}}, Step{1, {2, 3}}, Step{1, {3, 4}}, Step{2, {4, 5}},
                                       Step{0, {5, 6}}, Step{2, {6, 8}}));
}

TEST(SplitByWindows, SaysWhatDoesNotFit) {
  const auto one = [](std::uint32_t n_layer, std::vector<std::uint32_t> windows, std::size_t devices,
                      std::uint32_t rounds) {
    const auto plan = split_by_windows(n_layer, names(devices), windows, rounds);
    return error_of(plan);
  };
  EXPECT_EQ(one(16, {3, 4}, 2, 2),
            "windows of 7 layers in 2 rounds cover 14 of the model's 16 layers; widen the windows or use at "
            "least 3 rounds");
  EXPECT_EQ(one(8, {3, 4}, 2, 1),
            "windows of 7 layers in 1 round cover 7 of the model's 8 layers; widen the windows or use at "
            "least 2 rounds");
  EXPECT_THAT(one(8, {0, 0}, 2, 2), HasSubstr("all layer windows are 0"));
  EXPECT_EQ(
      one(8, {1, 2, 3}, 2, 2),
      "3 layer windows are given for 2 devices, expected one for each, or one for each in each of 2 rounds");
  EXPECT_EQ(one(8, {1, 2, 3, 1}, 2, 2),
            "the windows of 2 rounds have 3 + 4 = 7 layers, expected the model's 8");
  EXPECT_EQ(one(8, {5, 0, 0, 0, 1, 2}, 2, 3), "round 2 of 3 has no layers; leave it out");
  EXPECT_THAT(one(8, {4}, 2, 2), HasSubstr("1 layer windows are given for 2 devices"));
  EXPECT_THAT(one(8, {4, 4}, 2, 0), HasSubstr("rounds is 0"));
  EXPECT_THAT(one(8, {}, 0, 1), HasSubstr("no device"));
  EXPECT_THAT(one(0, {1}, 1, 1), HasSubstr("no layers"));
  EXPECT_THAT(one(70'000, {1}, 1, 70'000), HasSubstr("70000 layers are too many"));
}

TEST(SplitByWindows, HugeNumbersDoNotOverflow) {
  const std::vector<std::uint32_t> windows = {0, 0, 0xFFFFFFFF};
  const auto plan = split_by_windows(10, names(3), windows, 1);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{2, {0, 10}}));
  EXPECT_THAT(error_of(split_by_windows(10, names(3), windows, 0xFFFFFFFF)),
              HasSubstr("in 1 round, asked for were 4294967295"));
}

TEST(SplitByWindows, ARoundWithoutLayersIsAnError) {
  EXPECT_EQ(
      error_of(split_by_windows(8, names(2), std::vector<std::uint32_t>{4, 4}, 2)),
      "windows of 8 layers take the model's 8 layers in 1 round, asked for were 2; narrow the windows or ask "
      "for fewer rounds");
  EXPECT_TRUE(split_by_windows(9, names(2), std::vector<std::uint32_t>{4, 4}, 2));
}

TEST(SplitByWindows, ADeviceThatWouldGetNothingIsAnError) {
  const auto plan = split_by_windows(10, names(3), std::vector<std::uint32_t>{8, 2, 0xFFFFFFFF}, 1);
  EXPECT_EQ(error_of(plan),
            "the 10 layers of the model are used up before " + names(3)[2] +
                " gets any of its window of 4294967295; narrow the windows before it, or give it 0");
}

RC_GTEST_PROP(SplitByWindowsProperty, CoversAllLayersOrSaysWhy, ()) {
  const auto n_layer = *rc::gen::inRange<std::uint32_t>(1, 200);
  const auto n_devices = *rc::gen::inRange<std::size_t>(1, 9);
  const auto windows =
      *rc::gen::container<std::vector<std::uint32_t>>(n_devices, rc::gen::inRange<std::uint32_t>(0, 40));
  const auto rounds = *rc::gen::inRange<std::uint32_t>(1, 12);
  const auto plan = split_by_windows(n_layer, names(n_devices), windows, rounds);
  const std::uint64_t reach = std::uint64_t{rounds} * std::accumulate(windows.begin(), windows.end(), 0U);
  // Everybody who asks gets something when the windows before the last such device leave a layer.
  std::uint64_t before_last = 0, sum = 0;
  for (const std::uint32_t window : windows) {
    if (window > 0) before_last = sum;
    sum += window;
  }
  const bool possible = reach >= n_layer && reach - sum < n_layer && before_last < n_layer;
  RC_ASSERT(plan.has_value() == possible);
  if (!plan) return;
  RC_ASSERT(validate(*plan).has_value());
  expect_covers(*plan);
  // All windows but the very last are as wide as asked.
  for (std::size_t i = 0; i + 1 < plan->steps.size(); ++i)
    RC_ASSERT(plan->steps[i].layers.size() == windows[plan->steps[i].device]);
  RC_ASSERT(plan->steps.back().layers.size() <= windows[plan->steps.back().device]);
}

}  // namespace
}  // namespace hearth::plan
