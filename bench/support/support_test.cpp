// The arithmetic of measuring, on numbers worked out by hand.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "support/interleave.h"
#include "support/record.h"
#include "support/statistics.h"

namespace hearth::bench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Statistics, Medians) {
  EXPECT_EQ(median({3}), 3);
  EXPECT_EQ(median({9, 1, 4}), 4);
  EXPECT_EQ(median({8, 1, 2, 4}), 3);
}

TEST(Statistics, Quantiles) {
  EXPECT_EQ(quantile({1, 2, 3, 4, 5}, 0), 1);
  EXPECT_EQ(quantile({5, 4, 3, 2, 1}, 1), 5);
  EXPECT_DOUBLE_EQ(quantile({1, 2, 3, 4}, 0.25), 1.75);
  EXPECT_DOUBLE_EQ(quantile({10, 20}, 0.9), 19);
}

TEST(Statistics, BootstrapOfEqualValuesIsAPoint) {
  const std::vector<double> values(30, 1.02);
  const Interval interval = bootstrap_median(values);
  EXPECT_EQ(interval.low, 1.02);
  EXPECT_EQ(interval.median, 1.02);
  EXPECT_EQ(interval.high, 1.02);
}

TEST(Statistics, BootstrapIsRepeatableAndOrdered) {
  const std::vector<double> values{1.1, 0.9, 1.0, 1.3, 0.95, 1.05, 1.02};
  const Interval a = bootstrap_median(values), b = bootstrap_median(values);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_EQ(a.median, 1.02);
  EXPECT_LT(a.low, a.median);
  EXPECT_GT(a.high, a.median);
  EXPECT_GE(a.low, 0.9);
  EXPECT_LE(a.high, 1.3);
}

// 95 % intervals of samples from a known distribution hold its median about 95 times in 100.
TEST(Statistics, BootstrapIntervalsCoverTheTrueMedian) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> distribution(0, 0.1);  // median 1
  int covered = 0;
  constexpr int kTrials = 200;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> sample(31);
    for (double& x : sample) x = distribution(random);
    const Interval i = bootstrap_median(sample, 0.95, 500, static_cast<std::uint64_t>(trial) + 1);
    if (i.low <= 1 && 1 <= i.high) ++covered;
  }
  EXPECT_GE(covered, kTrials * 88 / 100);
  EXPECT_LE(covered, kTrials * 99 / 100);
}

TEST(Interleave, AlternatesAndKeepsTheOrderOfPairs) {
  std::string calls;
  double next = 0;
  InterleaveOptions options{
      .n_pairs = 3, .n_warmup = 1, .cpu_times = [] { return Result<CpuTimes>(CpuTimes{}); }};
  const auto pairs = interleave(
      options, [&] { return calls += 'A', Result<double>(++next); },
      [&] { return calls += 'B', Result<double>(++next * 2); });
  ASSERT_TRUE(pairs);
  EXPECT_EQ(calls, "ABABABAB");
  EXPECT_THAT(pairs->a_s, ElementsAre(3, 5, 7));
  EXPECT_THAT(pairs->b_s, ElementsAre(8, 12, 16));
  EXPECT_THAT(pairs->ratios(), ElementsAre(3.0 / 8, 5.0 / 12, 7.0 / 16));
  EXPECT_EQ(pairs->n_discarded, 0u);
}

TEST(Interleave, DiscardsPairsThatLostTime) {
  // Every second pair loses 10 of its 100 ticks.
  CpuTimes now;
  std::size_t readings = 0;
  InterleaveOptions options{.n_pairs = 2, .n_warmup = 0};
  options.cpu_times = [&] {
    if (++readings % 2 == 0) {
      now.total += 100;
      now.own += readings % 4 == 0 ? 90 : 98;
      now.idle += readings % 4 == 0 ? 0 : 2;
      now.steal += readings % 4 == 0 ? 10 : 0;
    }
    return Result<CpuTimes>(now);
  };
  double next = 0;
  const auto pairs =
      interleave(options, [&] { return Result<double>(++next); }, [&] { return Result<double>(1.0); });
  ASSERT_TRUE(pairs);
  EXPECT_THAT(pairs->a_s, ElementsAre(1, 3));
  EXPECT_EQ(pairs->n_discarded, 1u);
  EXPECT_EQ(pairs->worst_kept, 0);
}

TEST(Interleave, GivesUpOnABusyMachineAndPassesErrorsOn) {
  CpuTimes now;
  InterleaveOptions options{.n_pairs = 5, .n_warmup = 0, .max_tries = 7};
  options.cpu_times = [&] {
    now.total += 100;  // all of it busy and none of it ours
    return Result<CpuTimes>(now);
  };
  const auto one = [] { return Result<double>(1.0); };
  const auto pairs = interleave(options, one, one);
  ASSERT_TRUE(pairs);
  EXPECT_TRUE(pairs->a_s.empty());
  EXPECT_EQ(pairs->n_discarded, 7u);

  const auto broken = interleave(options, one, [] { return Result<double>(fail(ErrorCode::kIo, "no")); });
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().message, "no");
}

TEST(Record, CommandLineIsQuotedForAShell) {
  EXPECT_EQ(command_line({"bench", "-m", "a b.gguf", "it's", ""}), R"(bench -m 'a b.gguf' 'it'\''s' '')");
}

TEST(Record, AppendsLines) {
  const TestDir folder;
  const std::filesystem::path file = folder.path() / "deep" / "r.jsonl";
  ASSERT_TRUE(append_line(file, {{"a", 1}}));
  ASSERT_TRUE(append_line(file, {{"b", "x\ny"}}));
  std::ifstream in(file);
  std::string first, second;
  std::getline(in, first);
  std::getline(in, second);
  EXPECT_EQ(first, R"({"a":1})");
  EXPECT_EQ(nlohmann::json::parse(second)["b"], "x\ny");
  EXPECT_FALSE(append_line("/proc/nothing/r.jsonl", {{"a", 1}}));
}

// The digest of "abc" in the test vectors of BLAKE3's authors.
TEST(Record, HashesFiles) {
  const TestDir folder;
  const std::filesystem::path file = folder.path() / "abc";
  std::ofstream(file) << "abc";
  const auto hash = file_hash(file);
  ASSERT_TRUE(hash);
  EXPECT_EQ(*hash, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
  EXPECT_FALSE(file_hash(folder.path() / "none"));
}

TEST(Record, MachineAndEnvironment) {
  EXPECT_TRUE(machine().contains("cores"));
#if defined(__x86_64__)
  const auto sets = machine().value("vector_sets", std::vector<std::string>{});
  EXPECT_EQ(std::ranges::count(sets, "avx2"), __builtin_cpu_supports("avx2") != 0 ? 1 : 0);
#endif
  setenv("OMP_HEARTH_TEST", "1,2", 1);
  EXPECT_EQ(openmp_environment().at("OMP_HEARTH_TEST"), "1,2");
  unsetenv("OMP_HEARTH_TEST");
  EXPECT_EQ(commit("/nonexistent"), "unknown");
}

}  // namespace
}  // namespace hearth::bench
