// Halda as a baseline: its objective against a sum written from the model of one device, its solver against
// trying everything, and what it cannot do: prefer more than one round, leave a device out, change its sets.
#include "plan/testing/halda.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <format>
#include <iostream>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace hearth::plan {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::Ge;
using testing::HasSubstr;

constexpr std::uint64_t kMiB = 1024 * 1024, kGiB = 1024 * kMiB;

std::uint64_t gib(double n) {
  return static_cast<std::uint64_t>(n * static_cast<double>(kGiB));
}

double between(std::mt19937& draw, double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(draw);
}
std::uint32_t up_to(std::mt19937& draw, std::uint32_t most) {
  return std::uniform_int_distribution<std::uint32_t>(0, most)(draw);
}

// Devices of all systems, with and without GPUs, some with slow disks; memory from very little to more than
// all.
HaldaDevice random_device(std::mt19937& draw, std::uint64_t all_bytes) {
  const auto memory = [&](double low, double high) {
    return static_cast<std::uint64_t>(between(draw, low, high) * static_cast<double>(all_bytes));
  };
  HaldaDevice device = {.name = "device",
                        .os = HaldaOs{static_cast<std::uint8_t>(up_to(draw, 2))},
                        .cpu_flops = between(draw, 1e10, 5e11),
                        .gpu_flops = between(draw, 1e11, 1e13),
                        .ram_bytes_per_s = between(draw, 1e10, 1e11),
                        .vram_bytes_per_s = between(draw, 1e11, 1e12),
                        .kv_append_cpu_s = between(draw, 0, 1e-4),
                        .kv_append_gpu_s = between(draw, 0, 1e-4),
                        .copy_s = between(draw, 0, 1e-3),
                        .unified = up_to(draw, 1) == 0,
                        .hop_s = between(draw, 0, 0.01),
                        .disk_bytes_per_s = up_to(draw, 5) == 0 ? 5e7 : between(draw, 2e8, 4e9),
                        .ram_bytes = memory(0.05, 0.8),
                        .swap_bytes = memory(0, 0.1),
                        .cuda_bytes = 0,
                        .metal_bytes = 0,
                        .cpu_buffer_bytes = memory(0, 0.02),
                        .gpu_buffer_bytes = memory(0, 0.02)};
  if (device.os == HaldaOs::kMacos && up_to(draw, 1) == 0) device.metal_bytes = memory(0.05, 0.8);
  if (device.os == HaldaOs::kLinux && up_to(draw, 1) == 0) device.cuda_bytes = memory(0.05, 0.5);
  return device;
}

HaldaCluster random_cluster(std::mt19937& draw, std::size_t n_devices, std::uint32_t n_layer) {
  HaldaCluster cluster = {.model = {.n_layer = n_layer,
                                    .layer_bytes = 500 * kMiB,
                                    .kv_bytes = up_to(draw, 20) * kMiB,
                                    .embedding_bytes = 500 * kMiB,
                                    .output_bytes = up_to(draw, 800) * kMiB,
                                    .n_vocab = 128'000,
                                    .layer_flop = 1.7e9,
                                    .output_flop = 2e9},
                          .devices = {}};
  for (std::size_t m = 0; m < n_devices; ++m)
    cluster.devices.push_back(random_device(draw, n_layer * cluster.model.layer_bytes));
  return cluster;
}

// Seconds of one token as 1.2 describes them: computing, memory, disk and links of all devices, one after the
// other. Of layers owned, not of sets.
double serial_sum_s(const HaldaCluster& cluster, std::uint32_t rounds,
                    const std::vector<HaldaWindow>& windows) {
  const HaldaModel& model = cluster.model;
  const double kept = static_cast<double>(model.layer_bytes + model.kv_bytes);
  const double row = static_cast<double>(model.embedding_bytes / model.n_vocab);
  double sum_s = 0;
  for (std::size_t m = 0; m < windows.size(); ++m) {
    const HaldaDevice& d = cluster.devices[m];
    const double on_gpu = rounds * windows[m].gpu_layers, on_cpu = rounds * windows[m].layers - on_gpu;
    const double head_bytes = m == 0 ? row + static_cast<double>(model.output_bytes) : 0;
    const double computing_s = on_cpu * model.layer_flop / d.cpu_flops +
                               (on_gpu > 0 ? on_gpu * model.layer_flop / d.gpu_flops : 0) +
                               (m == 0 ? model.output_flop / d.cpu_flops : 0);
    const double memory_s = on_cpu * d.kv_append_cpu_s + on_gpu * d.kv_append_gpu_s +
                            rounds * (d.unified ? 0 : d.copy_s) + on_cpu * kept / d.ram_bytes_per_s +
                            (on_gpu > 0 ? on_gpu * kept / d.vram_bytes_per_s : 0) +
                            head_bytes / d.ram_bytes_per_s;
    double read = m == 0 ? row : 0;
    if (d.disk_bytes_per_s >= 100e6) {
      const double buffer = static_cast<double>(d.cpu_buffer_bytes), ram = static_cast<double>(d.ram_bytes);
      const double swap = d.os == HaldaOs::kAndroid ? static_cast<double>(d.swap_bytes) : 0;
      if (d.os == HaldaOs::kMacos && d.metal_bytes > 0) {
        const double need =
            (on_cpu + on_gpu) * kept + head_bytes + buffer + static_cast<double>(d.gpu_buffer_bytes);
        if (need > static_cast<double>(d.metal_bytes))
          read = (on_cpu + on_gpu) * static_cast<double>(model.layer_bytes) + head_bytes;
      } else if (const double over = on_cpu * kept + head_bytes + buffer - ram - swap; over > 0) {
        read = over;
      }
    }
    sum_s += computing_s + memory_s + read / d.disk_bytes_per_s + rounds * d.hop_s;
  }
  return sum_s;
}

// n_layer / rounds layers over the devices, each at least one, any part of them on GPUs.
std::vector<HaldaWindow> random_windows(std::mt19937& draw, const HaldaCluster& cluster,
                                        std::uint32_t rounds) {
  std::vector<HaldaWindow> windows(cluster.devices.size(), {.layers = 1});
  for (auto left = cluster.model.n_layer / rounds - windows.size(); left > 0; --left)
    ++windows[up_to(draw, static_cast<std::uint32_t>(windows.size()) - 1)].layers;
  for (std::size_t m = 0; m < windows.size(); ++m)
    if (cluster.devices[m].has_gpu()) windows[m].gpu_layers = up_to(draw, windows[m].layers);
  return windows;
}

std::vector<HaldaSet> sets_of(const HaldaCluster& cluster, std::uint32_t rounds,
                              const std::vector<HaldaWindow>& windows, HaldaTerms terms) {
  std::vector<HaldaSet> sets;
  for (std::size_t m = 0; m < windows.size(); ++m)
    sets.push_back(halda_set(cluster, m, rounds, windows[m], terms));
  return sets;
}

bool all_allowed(const HaldaCluster& cluster, const std::vector<HaldaSet>& sets, std::uint32_t rounds,
                 const std::vector<HaldaWindow>& windows, HaldaTerms terms) {
  for (std::size_t m = 0; m < windows.size(); ++m)
    if (!halda_allows(cluster, m, sets[m], rounds, windows[m], terms)) return false;
  return true;
}

// All windows of so many layers; `visit` is called with each.
void each_windows(const HaldaCluster& cluster, std::uint32_t left, std::vector<HaldaWindow>& windows,
                  const auto& visit) {
  if (windows.size() == cluster.devices.size()) {
    if (left == 0) visit(windows);
    return;
  }
  for (std::uint32_t w = 1; w <= left; ++w) {
    for (std::uint32_t n = 0; n <= w; ++n) {
      windows.push_back({.layers = w, .gpu_layers = n});
      each_windows(cluster, left - w, windows, visit);
      windows.pop_back();
    }
  }
}

// --- splits -----------------------------------------------------------------------------------------------

TEST(EvenSplit, FirstDevicesHaveOneMore) {
  EXPECT_THAT(even_split(80, 4), ElementsAre(20, 20, 20, 20));
  EXPECT_THAT(even_split(10, 4), ElementsAre(3, 3, 2, 2));
  EXPECT_THAT(even_split(2, 3), ElementsAre(1, 1, 0));
  EXPECT_THAT(even_split(7, 1), ElementsAre(7));
}

TEST(MemorySplit, InProportionAtLeastOne) {
  const auto split = [](std::uint32_t n_layer, std::vector<std::uint64_t> memory) {
    return memory_split(n_layer, memory).value();
  };
  EXPECT_THAT(split(80, {kGiB, 3 * kGiB}), ElementsAre(20, 60));
  EXPECT_THAT(split(7, {5}), ElementsAre(7));
  // 3.33 each: what rounding leaves goes to the first of the largest.
  EXPECT_THAT(split(10, {1, 1, 1}), ElementsAre(4, 3, 3));
  // 0.1 rounds to none, and one it is; the largest has the rest.
  EXPECT_THAT(split(10, {1, 99}), ElementsAre(1, 9));
  // 2.5, 2.5, 5 round to 3, 3, 5: the smallest gives one back.
  EXPECT_THAT(split(10, {25, 25, 50}), ElementsAre(2, 3, 5));
  EXPECT_THAT(split(4, {0, 0, 0, 1}), ElementsAre(1, 1, 1, 1));
}

TEST(MemorySplit, SaysWhatCannotBeSplit) {
  for (const auto& [n_layer, memory, message] :
       {std::tuple{2U, std::vector<std::uint64_t>{1, 1, 1}, "2 layers cannot be split over 3 devices"},
        std::tuple{2U, std::vector<std::uint64_t>{}, "2 layers cannot be split over 0 devices"},
        std::tuple{2U, std::vector<std::uint64_t>{0, 0}, "2 devices have no memory"}}) {
    const auto split = memory_split(n_layer, memory);
    ASSERT_FALSE(split);
    EXPECT_EQ(split.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(split.error().message, HasSubstr(message));
  }
}

RC_GTEST_PROP(SplitProperty, EveryLayerOnce, ()) {
  const auto memory = *rc::gen::nonEmpty(
      rc::gen::container<std::vector<std::uint64_t>>(rc::gen::inRange<std::uint64_t>(1, 64 * kGiB)));
  const auto n_layer = static_cast<std::uint32_t>(memory.size()) + *rc::gen::inRange<std::uint32_t>(0, 130);
  const auto by_memory = memory_split(n_layer, memory).value();
  const auto even = even_split(n_layer, memory.size());
  RC_ASSERT(std::accumulate(by_memory.begin(), by_memory.end(), 0U) == n_layer);
  RC_ASSERT(std::accumulate(even.begin(), even.end(), 0U) == n_layer);
  RC_ASSERT(std::ranges::min(by_memory) >= 1U);
  RC_ASSERT(std::ranges::max(even) - std::ranges::min(even) <= 1U);
}

// --- objective and solver ---------------------------------------------------------------------------------

// 1.4 is 1.2 rearranged, where a device's set is the one its window leads to.
TEST(HaldaObjective, IsTheSerialSumOfTheModel) {
  std::mt19937 draw(1);
  std::array<int, 4> seen{};
  for (int i = 0; i < 2000; ++i) {
    const HaldaCluster cluster = random_cluster(draw, 1 + up_to(draw, 4), 24);
    const std::uint32_t rounds = std::array{1U, 2U, 3U, 4U}[up_to(draw, 3)];
    const auto windows = random_windows(draw, cluster, rounds);
    const auto sets = sets_of(cluster, rounds, windows, HaldaTerms::kPaper);
    for (const HaldaSet set : sets) ++seen[static_cast<std::size_t>(set)];
    // What an overloaded head reads contains its row of the embedding; a reload of less than that is one row.
    const double row_s = static_cast<double>(cluster.model.embedding_bytes / cluster.model.n_vocab) /
                         cluster.devices[0].disk_bytes_per_s;
    EXPECT_NEAR(halda_objective_s(cluster, sets, rounds, windows, HaldaTerms::kPaper),
                serial_sum_s(cluster, rounds, windows), row_s + 1e-9);
  }
  EXPECT_THAT(seen, Each(Ge(100)));
}

// As coded neither memory bandwidth nor links count, whatever they are.
TEST(HaldaObjective, AsCodedIgnoresMemoryAndLinks) {
  std::mt19937 draw(2);
  HaldaCluster cluster = random_cluster(draw, 4, 24);
  const auto windows = random_windows(draw, cluster, 2);
  const auto sets = sets_of(cluster, 2, windows, HaldaTerms::kAsCoded);
  const auto both = [&] {
    return std::pair(halda_objective_s(cluster, sets, 2, windows, HaldaTerms::kPaper),
                     halda_objective_s(cluster, sets, 2, windows, HaldaTerms::kAsCoded));
  };
  const auto [paper, coded] = both();
  for (HaldaDevice& device : cluster.devices) {
    device.ram_bytes_per_s /= 10;
    device.vram_bytes_per_s /= 10;
    device.hop_s += 1;
  }
  const auto [slow_paper, slow_coded] = both();
  EXPECT_EQ(slow_coded, coded);
  EXPECT_GT(slow_paper, paper + 8);
  EXPECT_LT(coded, paper);
}

// (w, n) in k rounds and (k w, k n) in one: the same sets and bounds, the same seconds but for the hops and
// copies of the other rounds. So k > 1 is never better, and not worse only where those are free.
RC_GTEST_PROP(HaldaProperty, OneRoundIsNeverWorse, ()) {
  std::mt19937 draw(*rc::gen::arbitrary<std::uint32_t>());
  const HaldaCluster cluster = random_cluster(draw, 1 + up_to(draw, 3), 48);
  const std::uint32_t rounds = std::array{2U, 3U, 4U, 6U, 8U, 12U}[up_to(draw, 5)];
  const auto windows = random_windows(draw, cluster, rounds);
  auto in_one = windows;
  for (HaldaWindow& window : in_one) window = {rounds * window.layers, rounds * window.gpu_layers};
  double extra_s = 0;
  for (const HaldaDevice& device : cluster.devices)
    extra_s += (rounds - 1) * (device.hop_s + (device.unified ? 0 : device.copy_s));
  for (const HaldaTerms terms : {HaldaTerms::kPaper, HaldaTerms::kAsCoded}) {
    const auto sets = sets_of(cluster, rounds, windows, terms);
    RC_ASSERT(sets == sets_of(cluster, 1, in_one, terms));
    RC_ASSERT(all_allowed(cluster, sets, rounds, windows, terms) ==
              all_allowed(cluster, sets, 1, in_one, terms));
    const double many_s = halda_objective_s(cluster, sets, rounds, windows, terms);
    const double one_s = halda_objective_s(cluster, sets, 1, in_one, terms);
    const double expected_s = terms == HaldaTerms::kPaper ? extra_s : 0;
    RC_ASSERT(std::abs(many_s - one_s - expected_s) <= 1e-9 * std::abs(many_s) + 1e-12);
  }
}

TEST(HaldaWindows, AreTheBestOfAll) {
  std::mt19937 draw(3);
  int feasible = 0;
  for (int i = 0; i < 400; ++i) {
    const HaldaCluster cluster = random_cluster(draw, 1 + up_to(draw, 2), 8);
    const std::uint32_t rounds = cluster.devices.size() > 2 ? 1 + up_to(draw, 1) : 1 << up_to(draw, 2);
    const HaldaOptions options = {.terms = i % 2 == 0 ? HaldaTerms::kPaper : HaldaTerms::kAsCoded};
    const auto sets = sets_of(cluster, rounds, random_windows(draw, cluster, rounds), options.terms);
    std::optional<double> least;
    std::vector<HaldaWindow> tried;
    each_windows(cluster, 8 / rounds, tried, [&](const std::vector<HaldaWindow>& windows) {
      if (!all_allowed(cluster, sets, rounds, windows, options.terms)) return;
      const double found_s = halda_objective_s(cluster, sets, rounds, windows, options.terms);
      if (!least || found_s < *least) least = found_s;
    });
    const auto best = halda_windows(cluster, sets, rounds, options);
    ASSERT_EQ(best.has_value(), least.has_value()) << i;
    if (!least) {
      EXPECT_EQ(best.error().code, ErrorCode::kOutOfMemory);
      continue;
    }
    ++feasible;
    EXPECT_TRUE(all_allowed(cluster, sets, rounds, *best, options.terms));
    EXPECT_NEAR(halda_objective_s(cluster, sets, rounds, *best, options.terms), *least, 1e-9) << i;
  }
  EXPECT_GT(feasible, 100);
  EXPECT_LT(feasible, 400);
}

// --- the algorithm ----------------------------------------------------------------------------------------

// On every cluster for which there is a plan at all it makes one round; a plan that has to make more has the
// same objective at best.
TEST(Halda, NeverMakesTwoRounds) {
  std::mt19937 draw(4);
  int plans = 0, refused = 0;
  for (int i = 0; i < 300; ++i) {
    const HaldaCluster cluster = random_cluster(draw, 1 + up_to(draw, 5), 48);
    for (const HaldaOptions& options : {HaldaOptions{}, kHaldaAsCoded}) {
      const auto plan = halda(cluster, options);
      if (!plan) {
        EXPECT_EQ(plan.error().code, ErrorCode::kOutOfMemory) << plan.error().message;
        ++refused;
        continue;
      }
      ++plans;
      EXPECT_EQ(plan->rounds, 1U);
      std::uint32_t layers = 0;
      for (const HaldaWindow& window : plan->windows) layers += window.layers;
      EXPECT_EQ(layers, 48U);
      HaldaOptions same_devices = options;
      same_devices.drop_devices = false;
      same_devices.head_priority = 1;
      const auto all = halda(cluster, same_devices);
      ASSERT_TRUE(all);
      for (const std::uint32_t rounds : {2U, 3U, 4U}) {
        if (const auto many = halda_windows(cluster, all->sets, rounds, same_devices)) {
          EXPECT_GE(halda_objective_s(cluster, all->sets, rounds, *many, options.terms),
                    all->objective_s * (1 - 1e-9));
        }
      }
    }
  }
  std::cout << std::format("{} plans, {} times none\n", plans, refused);
  EXPECT_GT(plans, 100);
}

// A head that holds the model alone, and a device that only slows it down.
HaldaCluster head_and_a_slow_device() {
  const HaldaDevice head = {.name = "head",
                            .cpu_flops = 4e11,
                            .ram_bytes_per_s = 5e10,
                            .disk_bytes_per_s = 2e9,
                            .ram_bytes = 48 * kGiB};
  HaldaDevice slow = head;
  slow.name = "slow";
  slow.cpu_flops = 1e9;
  slow.ram_bytes = 24 * kGiB;
  return {.model = {.n_layer = 40,
                    .layer_bytes = 512 * kMiB,
                    .kv_bytes = 4 * kMiB,
                    .embedding_bytes = 512 * kMiB,
                    .output_bytes = 512 * kMiB,
                    .n_vocab = 128'000,
                    .layer_flop = 1.7e9,
                    .output_flop = 2e9},
          .devices = {head, slow}};
}

TEST(Halda, EveryDeviceIsInEveryRoundUntilItIsDropped) {
  const HaldaCluster cluster = head_and_a_slow_device();
  const auto kept = halda(cluster, {.drop_devices = false});
  ASSERT_TRUE(kept);
  EXPECT_THAT(kept->windows, ElementsAre(HaldaWindow{39, 0}, HaldaWindow{1, 0}));
  const auto in_rounds = halda(cluster, {.rounds = 4, .drop_devices = false});
  ASSERT_TRUE(in_rounds);
  EXPECT_THAT(in_rounds->windows, ElementsAre(HaldaWindow{9, 0}, HaldaWindow{1, 0}));
  const auto dropped = halda(cluster);
  ASSERT_TRUE(dropped);
  EXPECT_THAT(dropped->windows, ElementsAre(HaldaWindow{40, 0}, HaldaWindow{0, 0}));
  EXPECT_LT(dropped->objective_s, kept->objective_s);
}

// A device that the first split overloads stays so, because that split does not see buffers and the sets
// never change after it: the slow device keeps at least the layers that overload it, though the head has room
// for all.
TEST(Halda, AnOverloadedDeviceStaysOverloaded) {
  HaldaCluster cluster = head_and_a_slow_device();
  cluster.devices[1].cpu_buffer_bytes = 20 * kGiB;
  for (const HaldaOptions& options : {HaldaOptions{}, kHaldaAsCoded}) {
    const auto plan = halda(cluster, options);
    ASSERT_TRUE(plan);
    // 13 of 40 layers by memory, 7.9 fit: at least 8 it has.
    EXPECT_THAT(plan->sets, ElementsAre(HaldaSet::kM4, HaldaSet::kM3));
    EXPECT_THAT(plan->windows, ElementsAre(HaldaWindow{32, 0}, HaldaWindow{8, 0}));
    HaldaCluster alone = cluster;
    alone.devices.pop_back();
    const auto better = halda(alone, options);
    ASSERT_TRUE(better);
    EXPECT_LT(better->objective_s * 10, plan->objective_s);
  }
}

// A head with a large GPU, and a device whose overload is worth it to the solver: its processor and disk are
// faster than all.
HaldaCluster gpu_head_and_a_fast_device() {
  HaldaCluster cluster = head_and_a_slow_device();
  HaldaDevice &head = cluster.devices[0], &fast = cluster.devices[1];
  head.ram_bytes = 6 * kGiB;
  head.cuda_bytes = 40 * kGiB;
  head.gpu_flops = 1e13;
  head.vram_bytes_per_s = 4e11;
  fast.name = "fast";
  fast.ram_bytes = 2 * kGiB;
  fast.cpu_flops = 1e14;
  fast.disk_bytes_per_s = 1e15;
  return cluster;
}

// Unused VRAM beside a device that reads from its disk: that one is forced to read nothing.
TEST(Halda, ForcesTheSlowestDiskWhereVramIsUnused) {
  const auto plan = halda(gpu_head_and_a_fast_device(), kHaldaAsCoded);
  ASSERT_TRUE(plan);
  EXPECT_THAT(plan->sets, ElementsAre(HaldaSet::kM4, HaldaSet::kM4));
  EXPECT_THAT(plan->windows, ElementsAre(HaldaWindow{37, 37}, HaldaWindow{3, 0}));
}

TEST(Halda, ForcesNoneBesideAWeakDevice) {
  HaldaCluster cluster = gpu_head_and_a_fast_device();
  cluster.devices.push_back(head_and_a_slow_device().devices[1]);
  cluster.devices[2].ram_bytes = 13 * kGiB;  // its 25 of 40 layers fit, so that it may have one
  HaldaOptions options = kHaldaAsCoded;
  options.drop_devices = false;
  const auto plan = halda(cluster, options);
  ASSERT_TRUE(plan);
  EXPECT_THAT(plan->sets, ElementsAre(HaldaSet::kM4, HaldaSet::kM3, HaldaSet::kM4));
  EXPECT_THAT(plan->windows, ElementsAre(HaldaWindow{1, 1}, HaldaWindow{38, 0}, HaldaWindow{1, 0}));
}

// Without its disk 36 of 40 layers fit: the solution before is kept.
TEST(Halda, GoesBackWhereForcingLeavesNoRoom) {
  HaldaCluster cluster = gpu_head_and_a_fast_device();
  cluster.devices[0].cuda_bytes = 12 * kGiB;
  const auto plan = halda(cluster, kHaldaAsCoded);
  ASSERT_TRUE(plan);
  EXPECT_THAT(plan->sets, ElementsAre(HaldaSet::kM4, HaldaSet::kM3));
  EXPECT_THAT(plan->windows, ElementsAre(HaldaWindow{1, 1}, HaldaWindow{39, 0}));
}

// Disks below the threshold are spared, and memory is a bound then.
TEST(Halda, SaysWhereMemoryDoesNotSuffice) {
  HaldaCluster cluster = head_and_a_slow_device();
  for (HaldaDevice& device : cluster.devices) device.disk_bytes_per_s = 99e6;
  EXPECT_TRUE(halda(cluster));
  for (HaldaDevice& device : cluster.devices) device.ram_bytes = 9 * kGiB;
  const auto none = halda(cluster);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(none.error().message, HasSubstr("no windows of 40 layers on 2 devices"));
}

TEST(Halda, SaysWhatIsNoCluster) {
  const auto error_of = [](const auto& change) {
    HaldaCluster cluster = head_and_a_slow_device();
    change(cluster);
    const auto plan = halda(cluster);
    return plan ? "no error" : plan.error().message;
  };
  EXPECT_THAT(error_of([](HaldaCluster& c) { c.model.n_layer = 0; }), HasSubstr("the model has 0 layers"));
  EXPECT_THAT(error_of([](HaldaCluster& c) { c.devices.clear(); }), HasSubstr("no device"));
  EXPECT_THAT(error_of([](HaldaCluster& c) { c.devices[1].disk_bytes_per_s = 0; }),
              HasSubstr("slow: disk_bytes_per_s is 0, expected more than 0"));
  EXPECT_THAT(error_of([](HaldaCluster& c) { c.devices[0].cuda_bytes = kGiB; }),
              HasSubstr("head: gpu_flops is 0"));
  EXPECT_THAT(error_of([](HaldaCluster& c) { c.model.n_layer = 1; }),
              HasSubstr("1 layers cannot be split over 2 devices"));
  const auto rounds = halda(head_and_a_slow_device(), {.rounds = 3});
  ASSERT_FALSE(rounds);
  EXPECT_THAT(rounds.error().message, HasSubstr("3 rounds do not divide 40 layers"));
}

TEST(HaldaWithoutSolver, IsProportionalToMemory) {
  HaldaCluster cluster = head_and_a_slow_device();
  cluster.devices[0].cuda_bytes = 4 * kGiB;
  cluster.devices[0].gpu_flops = 1e13;
  cluster.devices[0].vram_bytes_per_s = 4e11;
  const auto plan = halda_without_solver(cluster);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->rounds, 1U);
  // 48 to 24 GiB; 4 GiB are 7.9 layers of 516 MiB.
  EXPECT_THAT(plan->windows, ElementsAre(HaldaWindow{27, 7}, HaldaWindow{13, 0}));
}

// --- the paper's cluster ----------------------------------------------------------------------------------

// Memory and disks as published. Assumed: what decoding a layer in Q4_K gives in FLOP/s of a square product
// in cache, memory bandwidths, 3 ms a hop, buffers of 0.2 GiB, Metal's budget equal to the free RAM, and 1024
// tokens of KV cache.
HaldaCluster papers_cluster() {
  const HaldaDevice any = {.name = "",
                           .kv_append_cpu_s = 2e-5,
                           .kv_append_gpu_s = 2e-5,
                           .copy_s = 1e-4,
                           .hop_s = 0.003,
                           .cpu_buffer_bytes = gib(0.2),
                           .gpu_buffer_bytes = gib(0.2)};
  HaldaDevice d1 = any, d2 = any, d3 = any, d4 = any;
  d1.name = "D1 Mac";
  d1.os = HaldaOs::kMacos;
  d1.cpu_flops = 2e11;
  d1.gpu_flops = 1e12;
  d1.ram_bytes_per_s = d1.vram_bytes_per_s = 50e9;
  d1.unified = true;
  d1.disk_bytes_per_s = 0.72e9;
  d1.ram_bytes = d1.metal_bytes = gib(2.4);
  d2.name = "D2 laptop";
  d2.cpu_flops = 3e11;
  d2.gpu_flops = 6e12;
  d2.ram_bytes_per_s = 34e9;
  d2.vram_bytes_per_s = 310e9;
  d2.disk_bytes_per_s = 2.98e9;
  d2.ram_bytes = gib(4.1);
  d2.cuda_bytes = gib(8);
  d3.name = "D3 desktop";
  d3.cpu_flops = 5e11;
  d3.gpu_flops = 8e12;
  d3.ram_bytes_per_s = 36e9;
  d3.vram_bytes_per_s = 430e9;
  d3.disk_bytes_per_s = 3.17e9;
  d3.ram_bytes = gib(9.7);
  d3.cuda_bytes = gib(11);
  d4.name = "D4 phone";
  d4.os = HaldaOs::kAndroid;
  d4.cpu_flops = 8e10;
  d4.ram_bytes_per_s = 18e9;
  d4.disk_bytes_per_s = 1.37e9;
  d4.ram_bytes = gib(1.9);
  return {.model = {.n_layer = 80,
                    .layer_bytes = gib(0.5),
                    .kv_bytes = 4 * kMiB,
                    .embedding_bytes = gib(0.55),
                    .output_bytes = gib(0.8),
                    .n_vocab = 128'256,
                    .layer_flop = 1.7e9,
                    .output_flop = 2.1e9},
          .devices = {d1, d2, d3, d4}};
}

TEST(HaldaPapersCluster, HasAPlan) {
  const HaldaCluster cluster = papers_cluster();
  const auto paper = halda(cluster), coded = halda(cluster, kHaldaAsCoded),
             fallback = halda_without_solver(cluster);
  for (const auto& [title, plan] : {std::pair("paper", &paper), std::pair("as coded", &coded),
                                    std::pair("without a solver", &fallback)}) {
    ASSERT_TRUE(*plan) << title << ": " << plan->error().message;
    std::cout << title << ": " << (*plan)->describe(cluster);
    EXPECT_EQ((*plan)->rounds, 1U);
    std::uint32_t layers = 0;
    for (const HaldaWindow& window : (*plan)->windows) layers += window.layers;
    EXPECT_EQ(layers, 80U);
  }
}

}  // namespace
}  // namespace hearth::plan
