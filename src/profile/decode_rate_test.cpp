#include "profile/decode_rate.h"

#include <gtest/gtest.h>

#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::profile {
namespace {

using testing::small_spec;
using testing::test_model;
using testing::value_of;

TEST(DecodeRate, OfRealLayers) {
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    const auto model = value_of(model::ModelFile::open(test_model(small_spec(architecture, "Q8_0"))));
    const auto backend = value_of(compute::Backend::cpu(1));
    EXPECT_GT(value_of(measure_decode(model, *backend, std::uint64_t{1} << 30)), 1'000'000U) << architecture;
    // One layer, however little is asked for.
    EXPECT_GT(value_of(measure_decode(model, *backend, std::uint64_t{1} << 30, {}, 1)), 1'000'000U)
        << architecture;
  }
}

TEST(DecodeRate, ALayerThatDoesNotFitIsAnError) {
  const auto model = value_of(model::ModelFile::open(test_model(small_spec("llama", "Q8_0"))));
  const auto backend = value_of(compute::Backend::cpu(1));
  const auto rate = measure_decode(model, *backend, 1000);
  ASSERT_FALSE(rate);
  EXPECT_EQ(rate.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(rate.error().message.find("there are 1.0 kB to measure it in"), std::string::npos)
      << rate.error().message;
}

}  // namespace
}  // namespace hearth::profile
