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

std::vector<std::uint64_t> even_layers(std::size_t count, std::uint64_t bytes) {
  return std::vector(count, bytes);
}

TEST(SplitByMemory, InProportion) {
  const DeviceMemory devices[] = {{"a", 4000, 0}, {"b", 2000, 0}, {"c", 2000, 0}};
  const auto plan = split_by_memory(even_layers(16, 100), devices, 1);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 8}}, Step{1, {8, 12}}, Step{2, {12, 16}}));
  EXPECT_THAT(plan->devices, ElementsAre("a", "b", "c"));
}

TEST(SplitByMemory, InRounds) {
  const DeviceMemory devices[] = {{"a", 4000, 0}, {"b", 2000, 0}, {"c", 2000, 0}};
  const auto plan = split_by_memory(even_layers(16, 100), devices, 2);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 4}}, Step{1, {4, 6}}, Step{2, {6, 8}}, Step{0, {8, 12}},
                                       Step{1, {12, 14}}, Step{2, {14, 16}}));
}

TEST(SplitByMemory, ChargesTheHeadFirst) {
  // The head's embedding and output head take half of what it has.
  const DeviceMemory devices[] = {{"head", 4000, 2000}, {"b", 4000, 0}};
  const auto plan = split_by_memory(even_layers(12, 100), devices, 1);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 4}}, Step{1, {4, 12}}));
}

TEST(SplitByMemory, AHeadFullOfItsOwnTensorsGetsNoLayer) {
  const DeviceMemory devices[] = {{"head", 2000, 2000}, {"b", 4000, 0}};
  const auto plan = split_by_memory(even_layers(12, 100), devices, 3);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{1, {0, 12}}));
}

TEST(SplitByMemory, AHeadTooSmallForItsOwnTensorsIsAnError) {
  const DeviceMemory devices[] = {{"head", 2000, 2001}, {"b", 4000, 0}};
  const auto plan = split_by_memory(even_layers(12, 100), devices, 1);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(
      plan.error().message,
      HasSubstr("head, the head, needs 2.0 kB for embedding, output head and buffers but may use 2.0 kB"));
}

TEST(SplitByMemory, AWorkerWithoutRoomGetsNoStep) {
  const DeviceMemory devices[] = {{"a", 4000, 0}, {"phone", 10, 500}, {"c", 4000, 0}};
  const auto plan = split_by_memory(even_layers(4, 100), devices, 1);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 2}}, Step{2, {2, 4}}));
}

TEST(SplitByMemory, SaysWhatIsMissing) {
  const DeviceMemory devices[] = {{"a", 1'500'000, 500'000}, {"b", 900'000, 0}};
  const auto plan = split_by_memory(even_layers(20, 100'000), devices, 1);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::kOutOfMemory);
  EXPECT_EQ(plan.error().message,
            "20 layers of 2.0 MB in all do not fit: a has 1.0 MB, b has 900.0 kB free for layers; add a "
            "device, free memory, or "
            "take a smaller model, quantization or context");
}

TEST(SplitByMemory, FillsDevicesToTheLastByteWhenItMust) {
  const DeviceMemory devices[] = {{"a", 300, 0}, {"b", 199, 0}, {"c", 500, 0}};
  const auto plan = split_by_memory(even_layers(9, 100), devices, 1);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 3}}, Step{1, {3, 4}}, Step{2, {4, 9}}));
}

TEST(SplitByMemory, LayersOfDifferentSizes) {
  // By number each device would get two, but b cannot hold two large ones.
  const DeviceMemory devices[] = {{"a", 250, 0}, {"b", 250, 0}};
  const auto plan = split_by_memory(std::vector<std::uint64_t>{50, 50, 150, 150}, devices, 1);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 3}}, Step{1, {3, 4}}));
}

TEST(SplitByMemory, MoreRoundsThanLayers) {
  const DeviceMemory devices[] = {{"a", 1000, 0}, {"b", 1000, 0}};
  const auto plan = split_by_memory(even_layers(3, 100), devices, 0xFFFFFFFF);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_TRUE(validate(*plan));
}

TEST(SplitByMemory, LayersWithoutBytesAndHugeDevices) {
  const std::uint64_t all = ~std::uint64_t{0};
  const DeviceMemory devices[] = {{"a", all, 0}, {"b", all, 0}};
  for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{1}, all / 2}) {
    const auto plan = split_by_memory(even_layers(4, bytes), devices, 2);
    ASSERT_TRUE(plan) << bytes << ": " << error_of(plan);
    EXPECT_EQ(plan->layers_of(0), 2U);
  }
  EXPECT_FALSE(split_by_memory(even_layers(4, all), devices, 1));
}

TEST(SplitByMemory, RefusesNonsense) {
  const DeviceMemory devices[] = {{"a", 1000, 0}};
  EXPECT_THAT(error_of(split_by_memory({}, devices, 1)), HasSubstr("no layers"));
  EXPECT_THAT(error_of(split_by_memory(even_layers(1, 1), {}, 1)), HasSubstr("no device"));
  EXPECT_THAT(error_of(split_by_memory(even_layers(1, 1), devices, 0)), HasSubstr("rounds is 0"));
}

struct Ring {
  std::vector<std::uint64_t> layer_bytes;
  std::vector<DeviceMemory> devices;
  std::uint32_t rounds;
};

Ring any_ring(std::uint64_t min_layer, std::uint64_t max_layer) {
  Ring ring;
  ring.layer_bytes = *rc::gen::nonEmpty(
      rc::gen::container<std::vector<std::uint64_t>>(rc::gen::inRange<std::uint64_t>(min_layer, max_layer)));
  const auto n_devices = *rc::gen::inRange<std::size_t>(1, 7);
  const auto span =
      *rc::gen::inRange<std::uint64_t>(1, 2 + 2 * max_layer * ring.layer_bytes.size() / n_devices);
  for (const std::string& name : names(n_devices)) {
    const auto bytes = *rc::gen::inRange<std::uint64_t>(0, 2 * span);
    ring.devices.push_back({name, bytes, *rc::gen::inRange<std::uint64_t>(0, bytes + 1)});
  }
  ring.rounds = *rc::gen::inRange<std::uint32_t>(1, 6);
  return ring;
}

std::uint64_t free_of(const DeviceMemory& device) {
  return device.bytes - std::min(device.bytes, device.reserved);
}

RC_GTEST_PROP(SplitByMemoryProperty, NeverMoreThanADeviceHas, ()) {
  const Ring ring = any_ring(1, 100);
  const auto plan = split_by_memory(ring.layer_bytes, ring.devices, ring.rounds);
  RC_CLASSIFY(plan.has_value(), "fits");
  if (!plan) {
    RC_ASSERT(plan.error().code == ErrorCode::kOutOfMemory);
    return;
  }
  RC_ASSERT(validate(*plan).has_value());
  expect_covers(*plan);
  std::vector<std::uint64_t> used(ring.devices.size(), 0);
  for (const Step& step : plan->steps)
    for (std::uint32_t il = step.layers.begin; il < step.layers.end; ++il)
      used[step.device] += ring.layer_bytes[il];
  for (std::size_t m = 0; m < used.size(); ++m)
    RC_ASSERT(used[m] + ring.devices[m].reserved <= ring.devices[m].bytes || used[m] == 0U);
  for (std::uint16_t m = 0; m < ring.devices.size(); ++m) RC_ASSERT(plan->steps_of(m).size() <= ring.rounds);
}

// Equal layers fit exactly when the devices hold enough of them one by one.
RC_GTEST_PROP(SplitByMemoryProperty, EqualLayersFitWheneverTheyCan, ()) {
  const auto bytes = *rc::gen::inRange<std::uint64_t>(1, 100);
  Ring ring = any_ring(bytes, bytes + 1);
  const auto plan = split_by_memory(ring.layer_bytes, ring.devices, ring.rounds);
  std::uint64_t room = 0;
  for (const DeviceMemory& device : ring.devices) room += free_of(device) / bytes;
  RC_ASSERT(plan.has_value() == (room >= ring.layer_bytes.size()));
}

// One round of unequal layers fits exactly when filling the devices in order does.
RC_GTEST_PROP(SplitByMemoryProperty, OneRoundFitsWheneverItCan, ()) {
  const Ring ring = any_ring(1, 100);
  std::size_t il = 0;
  for (const DeviceMemory& device : ring.devices) {
    std::uint64_t left = free_of(device);
    while (il < ring.layer_bytes.size() && ring.layer_bytes[il] <= left) left -= ring.layer_bytes[il++];
  }
  RC_ASSERT(split_by_memory(ring.layer_bytes, ring.devices, 1).has_value() ==
            (il == ring.layer_bytes.size()));
}

// With room to spare, every window is within one layer of the device's share of a round.
RC_GTEST_PROP(SplitByMemoryProperty, ProportionalWithinOneLayerPerRound, ()) {
  const auto n_layer = *rc::gen::inRange<std::uint32_t>(1, 130);
  const auto n_devices = *rc::gen::inRange<std::size_t>(1, 7);
  const auto rounds = *rc::gen::inRange<std::uint32_t>(1, 5);
  RC_PRE(rounds <= n_layer);
  constexpr std::uint64_t kLayer = 1000;
  std::vector<DeviceMemory> devices;
  std::uint64_t total = 0;
  for (const std::string& name : names(n_devices)) {
    const auto reserved = *rc::gen::inRange<std::uint64_t>(0, 5000);
    const auto free = *rc::gen::inRange<std::uint64_t>(1, 100) * n_layer * kLayer;
    devices.push_back({name, reserved + free, reserved});
    total += free;
  }
  const auto plan = split_by_memory(even_layers(n_layer, kLayer), devices, rounds);
  RC_ASSERT(plan.has_value());
  for (std::uint16_t m = 0; m < n_devices; ++m) {
    const double share = static_cast<double>(free_of(devices[m])) * n_layer / static_cast<double>(total);
    RC_ASSERT(std::abs(plan->layers_of(m) - share) < 1.0);
    // A device with fewer layers than rounds sits some rounds out.
    if (n_devices == 1 || std::ranges::any_of(devices, [&](const DeviceMemory& device) {
          return free_of(device) * n_layer / total <= rounds;
        }))
      continue;
    RC_ASSERT(plan->steps_of(m).size() == rounds);
    for (const std::uint16_t i : plan->steps_of(m))
      RC_ASSERT(std::abs(plan->steps[i].layers.size() - share / rounds) < 1.0 + 1.0 / rounds);
  }
}

constexpr std::uint64_t kEqualDisks[] = {7, 7, 7, 7};

TEST(SplitToStream, TheDiskWithMostToReadHasAsLittleAsItCan) {
  // The output head takes as much as 3.3 layers. 5 layers and it are 8.3 on the head, each other one has 9;
  // with 6 the head would have most.
  const DeviceMemory devices[] = {{"head", 450, 50}, {"b", 400, 0}, {"c", 400, 0}, {"d", 400, 0}};
  const auto plan =
      split_to_stream({.layer_bytes = even_layers(32, 100), .output_bytes = 330}, devices, kEqualDisks);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps,
              ElementsAre(Step{0, {0, 5}}, Step{1, {5, 14}}, Step{2, {14, 23}}, Step{3, {23, 32}}));
  EXPECT_THAT(plan->devices, ElementsAre("head", "b", "c", "d"));
}

TEST(SplitToStream, WhatIsBeyondMemoryIsShared) {
  // Memory for 6 layers and for 1, 6 others: 3 each, whoever has the memory.
  const DeviceMemory devices[] = {{"a", 600, 0}, {"b", 100, 0}};
  const auto plan =
      split_to_stream({.layer_bytes = even_layers(13, 100)}, devices, std::span(kEqualDisks).first(2));
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 9}}, Step{1, {9, 13}}));
}

TEST(SplitToStream, AFastDiskReadsMore) {
  // A layer in memory on each, 6 others: 1 and 5 of them take the disks 100 and 167, 2 and 4 would take 200
  // and 133.
  const DeviceMemory devices[] = {{"a", 100, 0}, {"b", 100, 0}};
  const std::uint64_t disks[] = {1, 3};
  const auto plan = split_to_stream({.layer_bytes = even_layers(8, 100)}, devices, disks);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 2}}, Step{1, {2, 8}}));
}

TEST(SplitToStream, InRoundsAndWithoutDevicesThatHaveNoMemory) {
  const DeviceMemory devices[] = {{"a", 200, 0}, {"phone", 10, 20}, {"c", 100, 0}};
  const auto plan = split_to_stream({.layer_bytes = even_layers(7, 100), .rounds = 2}, devices,
                                    std::span(kEqualDisks).first(3));
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 2}}, Step{2, {2, 3}}, Step{0, {3, 5}}, Step{2, {5, 7}}));
}

TEST(SplitToStream, WithoutAnyMemorySaysWhatIsMissing) {
  const DeviceMemory devices[] = {{"a", 1'000'000, 1'000'000}, {"b", 2'000'000, 3'000'000}};
  const auto disks = std::span(kEqualDisks).first(2);
  const auto plan =
      split_to_stream({.layer_bytes = even_layers(6, 100), .output_bytes = 10, .rounds = 2}, devices, disks);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(plan.error().message, HasSubstr("a lends 1.0 MB and needs 1.0 MB for buffers, b lends 2.0 MB"));
  EXPECT_THAT(error_of(split_to_stream({}, devices, disks)), HasSubstr("no layers"));
  EXPECT_THAT(error_of(split_to_stream({.layer_bytes = even_layers(1, 1), .rounds = 0}, devices, disks)),
              HasSubstr("rounds is 0"));
}

TEST(SplitToStream, NoDeviceHasMoreLayersThanRoomForTheirKv) {
  // By their disks each would get half; b has room for the KV of two layers.
  const DeviceMemory devices[] = {{"a", 1000, 0}, {"b", 50, 0}};
  const auto disks = std::span(kEqualDisks).first(2);
  const std::vector<std::uint64_t> layers = even_layers(32, 100);
  const auto plan = split_to_stream({.layer_bytes = layers, .kv_bytes = 20}, devices, disks);
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{0, {0, 30}}, Step{1, {30, 32}}));
  // 500 holds 24 of 20 with something more, 50 two.
  const DeviceMemory less[] = {{"a", 500, 0}, {"b", 50, 0}};
  const auto none = split_to_stream({.layer_bytes = layers, .kv_bytes = 20}, less, disks);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(none.error().message,
              HasSubstr("the KV cache of 26 of 32 layers, which takes 20 B a layer: a"));
}

TEST(SplitToStream, AHeadWithALargeOutputGetsNoLayerAndRoundsAreAtMostLayers) {
  const DeviceMemory devices[] = {{"head", 100, 0}, {"b", 100, 0}};
  const auto plan = split_to_stream({.layer_bytes = even_layers(4, 100), .output_bytes = 900, .rounds = 9},
                                    devices, std::span(kEqualDisks).first(2));
  ASSERT_TRUE(plan) << error_of(plan);
  EXPECT_THAT(plan->steps, ElementsAre(Step{1, {0, 4}}));
}

}  // namespace
}  // namespace hearth::plan
