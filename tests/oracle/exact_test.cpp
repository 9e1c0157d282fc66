// Exact: any cut of any model gives the bits that libllama gives, for each architecture and weight type that
// is common.
//
// Claimed under the exactness contract: f32 links, the same threads, the same batches.
#include <algorithm>
#include <format>
#include <string>
#include <tuple>

#include <gtest/gtest.h>

#include "oracle/player.h"
#include "support/test_models.h"

namespace hearth::testing {
namespace {

constexpr std::uint32_t kChunk = 64;
constexpr std::size_t kPrompt =
    210;  // 4 chunks; attention grows from 256 to 512 cells while tokens are generated
constexpr std::size_t kGenerated = 64;

struct Cut {
  const char* name;
  std::vector<std::uint32_t> windows;
  std::uint32_t rounds = 1;
  std::size_t n_devices = 0;  // 0: one for each window
  std::size_t n_steps = windows.size() * rounds;
};

constexpr std::uint32_t kLayers = 12;
const Cut kCuts[] = {{"one device", {12}},
                     {"three", {5, 4, 3}},
                     {"four uneven", {1, 6, 2, 3}},
                     {"four, three rounds", {1, 1, 1, 1}, 3}};
// Also of models whose layers are all alike.
const Cut kMoreCuts[] = {{"two", {6, 6}},
                         {"three, three rounds, the last one cut short", {2, 2, 1}, 3, 0, 7},
                         // One round after another: a device's windows differ, and it may have none.
                         {"three, three rounds, each another way", {3, 1, 0, 0, 2, 1, 2, 0, 3}, 3, 3, 6}};

// Which types have another layout depends on the CPU; these have one wherever there is AVX2.
bool surely_repacked(const std::string& type) {
#ifdef __x86_64__
  return __builtin_cpu_supports("avx2") != 0 && (type == "Q4_0" || type == "Q4_K_M");
#else
  return type.empty();  // none is known for sure
#endif
}

class ExactMatrix : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(ExactMatrix, EveryCutGivesTheBitsOfLibllama) {
  const auto& [arch, type] = GetParam();
  synth::SynthSpec spec = family_spec(arch, type);
  spec.shape.n_layer = kLayers;
  const auto model = test_model(spec);
  for (const bool repack : {true, false}) {
    RingOptions options = {.n_ctx = 512, .n_ubatch = kChunk, .repack = repack};
    oracle::Oracle oracle = open_oracle(model, options);
    const auto prompt = random_prompt(kPrompt, static_cast<std::uint32_t>(oracle.n_vocab()));
    OraclePlayer reference(oracle);
    reference.prompt(prompt, kChunk);
    reference.greedy(kGenerated);
    ASSERT_EQ(reference.transcript().rows.size(), 4 + kGenerated - 1);

    std::vector<Cut> cuts(std::begin(kCuts), std::end(kCuts));
    if (arch == "llama" || arch.starts_with("qwen"))
      cuts.insert(cuts.end(), std::begin(kMoreCuts), std::end(kMoreCuts));
    for (const Cut& cut : cuts) {
      SCOPED_TRACE(std::format("{} {}, {}, {}", arch, type, repack ? "repacked" : "plain", cut.name));
      options.windows = cut.windows;
      options.rounds = cut.rounds;
      options.n_devices = cut.n_devices;
      // The weights may move between any two computes; once per layout is enough.
      if (cut.rounds == 3) options.moving_weights.emplace();
      const auto ring = open_ring(model, options);
      ASSERT_EQ(ring->windows().size(), cut.n_steps);
      if (!repack) {
        EXPECT_EQ(ring->repacked_bytes(), 0U);
      } else if (surely_repacked(type)) {
        EXPECT_GT(ring->repacked_bytes(), 0U);
      }
      RingPlayer player(*ring);
      player.prompt(prompt, kChunk);
      player.greedy(kGenerated);
      EXPECT_TRUE(exact(reference.transcript(), player.transcript()));
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<ExactMatrix::ParamType>& test) {
  std::string name = std::get<0>(test.param) + "_" + std::get<1>(test.param);
  std::ranges::replace(name, '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, ExactMatrix,
                         ::testing::Combine(::testing::Values("gemma2", "gemma3", "gpt-oss", "granite",
                                                              "llama", "mixtral", "olmo2", "olmo3", "phi3",
                                                              "qwen2", "qwen2moe", "qwen3", "qwen3moe",
                                                              "smollm3"),
                                            ::testing::Values("F16", "Q8_0", "Q4_K_M")),
                         name_of);
INSTANTIATE_TEST_SUITE_P(MoreTypes, ExactMatrix,
                         ::testing::Combine(::testing::Values("llama", "qwen2", "qwen3"),
                                            ::testing::Values("Q4_0", "Q6_K")),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Experts, ExactMatrix,
                         ::testing::Combine(::testing::Values("gpt-oss", "qwen3moe"),
                                            ::testing::Values("MXFP4_MOE", "Q4_0")),
                         name_of);

}  // namespace
}  // namespace hearth::testing
