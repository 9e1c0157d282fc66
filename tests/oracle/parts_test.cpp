// Exact, with weights that come and go in parts: the bits of libllama and of the same ring with whole
// segments, however the layers and the output matrix are divided. Each part is at another address each time
// and spoiled when it was released.
#include <algorithm>
#include <format>
#include <ostream>
#include <string>
#include <tuple>

#include <gtest/gtest.h>

#include "oracle/player.h"
#include "support/test_models.h"

namespace hearth::testing {
namespace {

constexpr std::uint32_t kChunk = 32;
constexpr std::size_t kPrompt = 75, kGenerated = 12;

const std::pair<const char*, Division> kDivisions[] = {{"whole", Division::kWhole},
                                                       {"small parts", Division::kSmall},
                                                       {"single tensors", Division::kTensors},
                                                       {"blocks of rows", Division::kBlocks}};

void expect_exact(const synth::SynthSpec& spec, RingOptions options, Outputs outputs = Outputs::kEachChunk) {
  const auto model = test_model(spec);
  for (const bool repack : {true, false}) {
    options.repack = repack;
    options.moving_weights.reset();
    oracle::Oracle oracle = open_oracle(model, options);
    const auto prompt = random_prompt(kPrompt, static_cast<std::uint32_t>(oracle.n_vocab()));
    const auto play = [&](Player& player) {
      player.prompt(prompt, kChunk, outputs);
      player.greedy(kGenerated);
      return player.transcript();
    };
    OraclePlayer reference(oracle);
    const Transcript wanted = play(reference);
    const auto whole = open_ring(model, options);
    RingPlayer whole_player(*whole);
    EXPECT_TRUE(exact(wanted, play(whole_player)));
    for (const auto& [name, division] : kDivisions) {
      SCOPED_TRACE(std::format("{} {}, {}, {}", spec.arch, spec.type, repack ? "repacked" : "plain", name));
      options.moving_weights = MovingOptions{.division = division};
      const auto ring = open_ring(model, options);
      RingPlayer player(*ring);
      EXPECT_TRUE(exact(wanted, play(player)));
    }
  }
}

RingOptions two_windows() {
  return {.windows = {1, 2}, .n_ctx = 256, .n_ubatch = kChunk};
}

class Parts : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(Parts, GiveTheBitsOfWholeLayers) {
  synth::SynthSpec spec = small_spec(std::get<0>(GetParam()), std::get<1>(GetParam()));
  spec.shape.n_layer = 3;
  expect_exact(spec, two_windows());
}

INSTANTIATE_TEST_SUITE_P(All, Parts,
                         ::testing::Combine(::testing::Values("llama", "qwen2", "qwen3"),
                                            ::testing::Values("F16", "Q8_0", "Q4_K_M", "Q6_K")),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" + std::get<1>(test.param);
                         });

INSTANTIATE_TEST_SUITE_P(Architectures, Parts,
                         ::testing::Values(std::tuple("gemma2", "Q4_K_M"), std::tuple("gemma3", "Q8_0"),
                                           std::tuple("gpt-oss", "MXFP4_MOE"), std::tuple("granite", "Q4_0"),
                                           std::tuple("olmo2", "Q4_K_M"), std::tuple("phi3", "Q4_0"),
                                           std::tuple("qwen2moe", "Q4_K_M"), std::tuple("qwen3moe", "Q4_0"),
                                           std::tuple("smollm3", "Q8_0")),
                         [](const auto& test) {
                           std::string name = std::get<0>(test.param) + "_" + std::get<1>(test.param);
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

struct Variant {
  std::string name;
  synth::SynthSpec spec;
  RingOptions options = two_windows();
  Outputs outputs = Outputs::kEachChunk;
  friend std::ostream& operator<<(std::ostream& out, const Variant& v) { return out << v.name; }
};

template <class Change>
Variant variant(std::string name, std::string_view arch, std::string_view type, Change change) {
  Variant v{.name = std::move(name), .spec = small_spec(arch, type)};
  v.spec.shape.n_layer = 3;
  change(v);
  return v;
}

class PartsOf : public ::testing::TestWithParam<Variant> {};

TEST_P(PartsOf, GiveTheBitsOfWholeLayers) {
  expect_exact(GetParam().spec, GetParam().options, GetParam().outputs);
}

INSTANTIATE_TEST_SUITE_P(
    All, PartsOf,
    ::testing::Values(
        variant("RopeFactors", "llama", "Q4_0", [](Variant& v) { v.spec.rope_freqs = true; }),
        variant("BiasesInLlama", "llama", "Q8_0", [](Variant& v) { v.spec.qkv_bias = true; }),
        variant("TiedEmbeddings", "qwen3", "Q4_0", [](Variant& v) { v.spec.shape.tied = true; }),
        variant("NoOutputBeforeTheEnd", "qwen2", "Q4_K_M", [](Variant& v) { v.outputs = Outputs::kEnd; }),
        variant("EveryRow", "qwen3", "Q4_K_M", [](Variant& v) { v.outputs = Outputs::kAll; }),
        variant("FlashOff", "llama", "Q4_K_M", [](Variant& v) { v.options.flash_attention = false; }),
        variant("TwoThreads", "qwen2", "Q8_0", [](Variant& v) { v.options.n_threads = 2; })),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace hearth::testing
