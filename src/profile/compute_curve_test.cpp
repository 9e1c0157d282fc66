#include "profile/compute_curve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::profile {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

std::vector<std::uint32_t> counts(const std::vector<PassRate>& curve) {
  std::vector<std::uint32_t> out;
  for (const PassRate& rate : curve) out.push_back(rate.n_tokens);
  return out;
}

model::ModelFile small_model(const char* architecture = "llama", const char* type = "Q8_0") {
  return value_of(model::ModelFile::open(test_model(small_spec(architecture, type))));
}

TEST(ComputeCurve, OfRealLayers) {
  const auto backend = value_of(compute::Backend::cpu(1));
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    const auto model = small_model(architecture);
    const auto curve =
        value_of(measure_compute(model, *backend, {.memory_bytes = kGiB, .tokens = {1, 2, 8, 128}}));
    EXPECT_THAT(counts(curve), ElementsAre(1, 2, 8, 128)) << architecture;
    for (const PassRate& rate : curve) {
      EXPECT_GT(rate.bytes_per_s, 1'000U) << architecture << " " << rate.n_tokens;
      EXPECT_GE(rate.spread, 0);
      EXPECT_GE(rate.n_passes, 1U);
    }
  }
}

TEST(ComputeCurve, CountsComeInOrderAndOneIsAlwaysThere) {
  const auto model = small_model();
  const auto backend = value_of(compute::Backend::cpu(1));
  const auto curve =
      value_of(measure_compute(model, *backend, {.memory_bytes = kGiB, .tokens = {40, 3, 40}}));
  EXPECT_THAT(counts(curve), ElementsAre(1, 3, 40));
  EXPECT_THAT(counts(value_of(measure_compute(model, *backend, {.memory_bytes = kGiB, .tokens = {}}))),
              ElementsAre(1));
}

TEST(ComputeCurve, WithoutTimeOneCountAndOnePass) {
  const auto model = small_model("llama", "Q4_K_M");
  const auto backend = value_of(compute::Backend::cpu(1));
  const auto curve = value_of(measure_compute(
      model, *backend, {.memory_bytes = kGiB, .budget = std::chrono::milliseconds(0), .weight_bytes = 1}));
  EXPECT_THAT(counts(curve), ElementsAre(1));
  EXPECT_EQ(curve[0].n_passes, 1U);
  EXPECT_EQ(curve[0].spread, 0);
}

// A layer of this model has about 0.9 MB; buffers for 4096 tokens are larger than 32 MB, since rows of n_ff
// values alone are 8 MB each.
TEST(ComputeCurve, LargeCountsAreLeftOutWhereMemoryIsShort) {
  const auto model = small_model();
  const auto backend = value_of(compute::Backend::cpu(1));
  const auto curve =
      value_of(measure_compute(model, *backend, {.memory_bytes = 32 << 20, .tokens = {1, 4, 4096}}));
  EXPECT_THAT(counts(curve), ElementsAre(1, 4));
}

TEST(ComputeCurve, ALayerThatDoesNotFitIsAnError) {
  const auto model = small_model();
  const auto backend = value_of(compute::Backend::cpu(1));
  const auto curve = measure_compute(model, *backend, {.memory_bytes = 1000});
  ASSERT_FALSE(curve);
  EXPECT_EQ(curve.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(curve.error().message, HasSubstr("there are 1.0 kB to measure it in"));
}

TEST(ComputeCurve, CountsOutOfRangeAreErrors) {
  const auto model = small_model();
  const auto backend = value_of(compute::Backend::cpu(1));
  for (const std::uint32_t n : {0U, ~0U}) {
    const auto curve = measure_compute(model, *backend, {.memory_bytes = kGiB, .tokens = {1, n}});
    ASSERT_FALSE(curve);
    EXPECT_EQ(curve.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(curve.error().message, HasSubstr(std::to_string(n)));
  }
}

TEST(ComputeCurve, CanBeCancelledWhileLoadingAndBetweenPasses) {
  const auto model = small_model();
  const auto backend = value_of(compute::Backend::cpu(1));
  int asked = 0, limit = 0;
  const auto cancelled = [&] { return ++asked > limit; };
  for (limit = 0; limit < 200; limit += 25) {
    asked = 0;
    const auto curve = measure_compute(model, *backend, {.memory_bytes = kGiB}, cancelled);
    if (curve) break;
    EXPECT_EQ(curve.error().code, ErrorCode::kCancelled);
    EXPECT_EQ(asked, limit + 1);  // not asked again
  }
  EXPECT_GT(limit, 25);
}

}  // namespace
}  // namespace hearth::profile
