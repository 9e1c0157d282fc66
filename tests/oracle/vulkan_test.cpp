// Layers on a GPU against libllama on the same GPU: equivalent (support/equivalence.h), ember's greedy text
// equal.
//
// Both sides have the same layers there. Random weights of many layers make small differences grow beyond any
// rule, so those models have three.
#include "support/vulkan.h"

#include <algorithm>
#include <filesystem>
#include <format>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>
#include <llama.h>

#include "base/test_dir.h"
#include "oracle/player.h"
#include "support/test_models.h"

namespace hearth::testing {
namespace {

// Ember in another type.
std::filesystem::path ember(const std::string& type) {
  if (type == "Q8_0") return shipped_model("ember-q8_0.gguf");
  if (type == "Q4_K_M") return shipped_model("ember-q4_k_m.gguf");
  static TestDir folder;
  const auto path = folder.path() / std::format("ember-{}.gguf", type);
  if (std::filesystem::exists(path)) return path;
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.ftype = type == "F16" ? LLAMA_FTYPE_MOSTLY_F16 : LLAMA_FTYPE_GUESSED;
  params.allow_requantize = true;
  if (llama_model_quantize(shipped_model("ember-q8_0.gguf").c_str(), path.c_str(), &params) != 0)
    throw std::runtime_error("libllama cannot write ember as " + type);
  return path;
}

struct Cut {
  std::string name;
  std::vector<std::uint32_t> windows;  // of 8 layers
};

class EmberOnGpu : public ::testing::TestWithParam<std::tuple<std::string, Cut, std::string>> {};

TEST_P(EmberOnGpu, TellsWhatLibllamaTellsThere) {
  const auto& [type, cut, share] = GetParam();
  const auto model = ember(type);
  RingOptions options = {.windows = cut.windows, .gpu = test_gpu(), .gpu_layers = share == "all" ? 9U : 5U};
  oracle::Oracle oracle = open_oracle(model, options);
  const auto request = oracle.tokenize(
      "<s><|im_start|>user\nTell me a story about a fox and a lamp.<|im_end|>\n<|im_start|>assistant\n",
      false, true);
  OraclePlayer reference(oracle);
  const auto ring = open_ring(model, options);
  RingPlayer player(*ring);
  for (Player* one : {static_cast<Player*>(&reference), static_cast<Player*>(&player)}) {
    one->prompt(request, 512, Outputs::kAll);
    one->greedy(64);
  }
  EXPECT_EQ(player.transcript().tokens, reference.transcript().tokens);
  EXPECT_TRUE(equivalent(std::format("ember {}, {}, {} layers", type, cut.name, share),
                         reference.transcript().rows, player.transcript().rows));
}

INSTANTIATE_TEST_SUITE_P(All, EmberOnGpu,
                         ::testing::Combine(::testing::Values("F16", "Q8_0", "Q4_K_M"),
                                            ::testing::Values(Cut{"Whole", {8}}, Cut{"Three", {3, 2, 3}}),
                                            ::testing::Values("all", "half")),
                         [](const auto& test) {
                           return std::format("{}_{}_{}", std::get<0>(test.param),
                                              std::get<1>(test.param).name, std::get<2>(test.param));
                         });

// Full batches, the last one cut short, and a window that was full before.
TEST(LongOnGpu, PromptsInChunksGiveLibllamasLogits) {
  for (const bool flash : {true, false}) {
    const auto model = shipped_model("ember-q8_0.gguf");
    const RingOptions options = {.windows = {5, 3},
                                 .n_ctx = 1024,
                                 .n_ubatch = 512,
                                 .flash_attention = flash,
                                 .gpu = test_gpu(),
                                 .gpu_layers = 6};
    oracle::Oracle oracle = open_oracle(model, options);
    OraclePlayer reference(oracle);
    const auto ring = open_ring(model, options);
    RingPlayer player(*ring);
    const auto text = random_prompt(706, 2000);
    for (Player* one : {static_cast<Player*>(&reference), static_cast<Player*>(&player)}) {
      one->prompt(text, 512, Outputs::kEnd);
      one->prompt(random_prompt(40, 2000, 2), 40, Outputs::kAll);
    }
    EXPECT_TRUE(equivalent(flash ? "706 and 40 tokens" : "without flash attention",
                           reference.transcript().rows, player.transcript().rows));
  }
}

// What each architecture has of its own: windows, caps, sinks, experts, fused matrices.
class FamilyOnGpu : public ::testing::TestWithParam<const char*> {};

TEST_P(FamilyOnGpu, GivesLibllamasLogits) {
  synth::SynthSpec spec = family_spec(GetParam(), "F16");
  spec.shape.n_layer = 3;
  const auto model = test_model(spec);
  const RingOptions options = {.windows = {2, 1}, .gpu = test_gpu(), .gpu_layers = 4};
  oracle::Oracle oracle = open_oracle(model, options);
  OraclePlayer reference(oracle);
  const auto ring = open_ring(model, options);
  RingPlayer player(*ring);
  const auto text = random_prompt(96, 2048);
  for (Player* one : {static_cast<Player*>(&reference), static_cast<Player*>(&player)})
    one->prompt(text, 64, Outputs::kAll);
  EXPECT_TRUE(equivalent(GetParam(), reference.transcript().rows, player.transcript().rows));
}

INSTANTIATE_TEST_SUITE_P(All, FamilyOnGpu,
                         ::testing::Values("gemma2", "gemma3", "gpt-oss", "granite", "llama", "mixtral",
                                           "olmo2", "olmo3", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe",
                                           "smollm3"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace hearth::testing
