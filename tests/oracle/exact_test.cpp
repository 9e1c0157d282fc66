// Exact: any cut of any model gives the bits that libllama gives, for each architecture and weight type that
// is common.
//
// Claimed under the exactness contract: f32 links, the same threads, the same batches.
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

const Cut kCuts[] = {{"one device", {8}},
                     {"two", {4, 4}},
                     {"four even", {2, 2, 2, 2}},
                     {"four uneven", {1, 4, 1, 2}},
                     {"four, two rounds", {1, 1, 1, 1}, 2},
                     {"three, three rounds, the last one cut short", {1, 1, 1}, 3, 0, 8},
                     // One round after another: a device's windows differ, and it may have none.
                     {"three, three rounds, each another way", {2, 1, 0, 0, 1, 1, 1, 0, 2}, 3, 3, 6}};

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
  const auto model = test_model(small_spec(arch, type));
  for (const bool repack : {true, false}) {
    RingOptions options = {.n_ctx = 512, .n_ubatch = kChunk, .repack = repack};
    oracle::Oracle oracle = open_oracle(model, options);
    const auto prompt = random_prompt(kPrompt, static_cast<std::uint32_t>(oracle.n_vocab()));
    OraclePlayer reference(oracle);
    reference.prompt(prompt, kChunk);
    reference.greedy(kGenerated);
    ASSERT_EQ(reference.transcript().rows.size(), 4 + kGenerated - 1);

    for (const Cut& cut : kCuts) {
      SCOPED_TRACE(std::format("{} {}, {}, {}", arch, type, repack ? "repacked" : "plain", cut.name));
      options.windows = cut.windows;
      options.rounds = cut.rounds;
      options.n_devices = cut.n_devices;
      // The weights may move between any two computes; once per layout is enough.
      if (cut.rounds == 2) options.moving_weights.emplace();
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

INSTANTIATE_TEST_SUITE_P(All, ExactMatrix,
                         ::testing::Combine(::testing::Values("llama", "qwen2", "qwen3"),
                                            ::testing::Values("F16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K")),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" + std::get<1>(test.param);
                         });

}  // namespace
}  // namespace hearth::testing
