// Exact, beyond the matrix: what a model may have besides, and how it may be run. Each case says if it is
// exact; the one that is not (f32 keys and values with flash attention) is here with the rule of equivalence.
#include <ostream>
#include <string>

#include <gtest/gtest.h>

#include "oracle/player.h"
#include "support/test_models.h"

namespace hearth::testing {
namespace {

using synth::SynthSpec;

struct Variant {
  std::string name;
  SynthSpec spec = small_spec("llama", "Q8_0");
  RingOptions options = {.windows = {1, 4, 1, 2}, .n_ctx = 512, .n_ubatch = 64};
  std::size_t n_prompt = 150;
  std::size_t n_generated = 24;
  Outputs outputs = Outputs::kEachChunk;
  friend std::ostream& operator<<(std::ostream& out, const Variant& v) { return out << v.name; }
};

template <class Change>
Variant variant(std::string name, std::string_view arch, std::string_view type, Change change) {
  Variant v{.name = std::move(name), .spec = small_spec(arch, type)};
  change(v);
  return v;
}

std::pair<Transcript, Transcript> play_both(const Variant& v, const std::filesystem::path& model) {
  oracle::Oracle oracle = open_oracle(model, v.options);
  const auto prompt = random_prompt(v.n_prompt, static_cast<std::uint32_t>(oracle.n_vocab()));
  const auto play = [&](Player& player) {
    player.prompt(prompt, v.options.n_ubatch, v.outputs);
    player.greedy(v.n_generated);
    return player.transcript();
  };
  OraclePlayer reference(oracle);
  const auto ring = open_ring(model, v.options);
  RingPlayer player(*ring);
  Transcript wanted = play(reference);
  return {std::move(wanted), play(player)};
}

class ExactVariant : public ::testing::TestWithParam<Variant> {};

TEST_P(ExactVariant, GivesTheBitsOfLibllama) {
  const Variant& v = GetParam();
  const auto model = test_model(v.spec);
  for (const bool repack : {true, false}) {
    SCOPED_TRACE(repack ? "repacked" : "plain");
    Variant run = v;
    run.options.repack = repack;
    const auto [reference, transcript] = play_both(run, model);
    EXPECT_TRUE(exact(reference, transcript));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Model, ExactVariant,
    ::testing::Values(
        variant("TiedEmbeddings", "qwen3", "Q4_0", [](Variant& v) { v.spec.shape.tied = true; }),
        variant("TiedEmbeddingsOfAMix", "llama", "Q4_K_M", [](Variant& v) { v.spec.shape.tied = true; }),
        variant("RopeFactors", "llama", "Q8_0",
                [](Variant& v) {
                  v.spec.rope_freqs = true;
                  v.spec.rope_freq_base = 500000;
                }),
        variant("LinearRopeScaling", "llama", "Q4_0", [](Variant& v) { v.spec.rope_scale_linear = 4; }),
        variant("LinearRopeScalingOfHalves", "qwen2", "Q8_0",
                [](Variant& v) { v.spec.rope_scale_linear = 2; }),
        variant("BiasesInLlama", "llama", "F16", [](Variant& v) { v.spec.qkv_bias = true; }),
        variant("BFloat16", "qwen2", "BF16", [](Variant&) {}),
        variant("Float32", "llama", "F32", [](Variant&) {}),
        variant("OneHeadForAll", "qwen3", "Q4_K_M", [](Variant& v) { v.spec.shape.n_head_kv = 1; }),
        variant("AsManyKeysAsHeads", "llama", "Q4_K_M", [](Variant& v) { v.spec.shape.n_head_kv = 8; }),
        variant("WideHeads", "llama", "Q8_0",
                [](Variant& v) {
                  v.spec.shape.n_head = 2;
                  v.spec.shape.n_head_kv = 1;
                  v.spec.shape.head_dim = 128;
                }),
        variant("HeadsOfEighty", "llama", "Q8_0", [](Variant& v) { v.spec.shape.head_dim = 80; }),
        variant("Outliers", "llama", "Q8_0", [](Variant& v) { v.spec.outliers = true; }),
        variant("SplitFile", "qwen2", "Q4_K_M", [](Variant& v) { v.spec.split_files = 3; }),
        variant("Yarn", "llama", "Q8_0", [](Variant& v) { v.spec.rope_yarn = 4; }),
        variant("YarnOfHalves", "qwen3", "Q4_0", [](Variant& v) { v.spec.rope_yarn = 2.5; }),
        variant("YarnInSlidingWindowsToo", "gpt-oss", "MXFP4_MOE", [](Variant& v) { v.spec.rope_yarn = 32; }),
        variant("LinearRopeButInSlidingWindows", "gemma3", "Q8_0",
                [](Variant& v) { v.spec.rope_scale_linear = 8; }),
        variant("YarnButInSlidingWindows", "olmo2", "Q8_0",
                [](Variant& v) {
                  v.spec.rope_yarn = 8;
                  v.spec.shape.n_swa = 32;
                }),
        variant("LongFactors", "phi3", "Q8_0", [](Variant& v) { v.spec.rope_freqs = true; }),
        variant("ShortFactorsOfPartOfAHead", "phi3", "Q4_0",
                [](Variant& v) {
                  v.spec.rope_freqs = true;
                  v.spec.shape.n_rot = 24;
                  v.options.n_ctx = 256;
                }),
        variant("FactorsInGranite", "granite", "Q4_0", [](Variant& v) { v.spec.rope_freqs = true; }),
        variant("BiasesInSmolLM", "smollm3", "Q8_0", [](Variant& v) { v.spec.qkv_bias = true; }),
        variant("TiedPhi", "phi3", "Q8_0", [](Variant& v) { v.spec.shape.tied = true; }),
        variant("UntiedGemma3", "gemma3", "Q4_0", [](Variant& v) { v.spec.shape.tied = false; }),
        variant("TiedGemma3", "gemma3", "Q8_0", [](Variant& v) { v.spec.shape.tied = true; }),
        variant("OneExpertUsed", "qwen3moe", "Q8_0", [](Variant& v) { v.spec.shape.n_expert_used = 1; }),
        variant("AllExpertsUsed", "qwen2moe", "Q4_0", [](Variant& v) { v.spec.shape.n_expert_used = 8; })),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Run, ExactVariant,
    ::testing::Values(
        variant("MoreThan1024Cells", "qwen3", "Q8_0",
                [](Variant& v) {
                  v.n_prompt = 1100;
                  v.n_generated = 64;
                  v.options.n_ctx = 1536;
                  v.options.n_ubatch = 256;
                }),
        variant("TwoThreads", "llama", "Q4_K_M",
                [](Variant& v) {
                  v.options.n_threads = 2;
                  v.options.moving_weights.emplace();
                  v.n_generated = 12;
                }),
        variant("TwoThreadsQwen2", "qwen2", "Q4_0",
                [](Variant& v) {
                  v.options.n_threads = 2;
                  v.n_generated = 12;
                }),
        // From 512 cells on the threads share one row's attention.
        variant("TwoThreadsOver600Cells", "qwen3", "Q6_K",
                [](Variant& v) {
                  v.spec.shape.n_layer = 3;
                  v.options.windows = {1, 2};
                  v.options.n_threads = 2;
                  v.options.n_ctx = 768;
                  v.n_prompt = 600;
                }),
        variant("ContextThatIsNoMultipleOf256", "qwen2", "Q8_0",
                [](Variant& v) {
                  v.options.n_ctx = 300;
                  v.n_prompt = 250;
                }),
        variant("ContextFilledToTheLastCell", "llama", "Q4_0",
                [](Variant& v) {
                  v.options.n_ctx = 256;
                  v.n_prompt = 240;
                  v.n_generated = 17;  // the last one is not decoded
                }),
        variant("TokenByToken", "llama", "Q4_K_M",
                [](Variant& v) {
                  v.options.n_ubatch = 1;
                  v.n_prompt = 40;
                }),
        variant("ChunksOfSeven", "qwen3", "Q4_0",
                [](Variant& v) {
                  v.options.n_ubatch = 7;
                  v.n_prompt = 60;
                }),
        variant("NoOutputBeforeTheEnd", "llama", "Q6_K", [](Variant& v) { v.outputs = Outputs::kEnd; }),
        variant("EveryRow", "qwen2", "Q4_K_M",
                [](Variant& v) {
                  v.outputs = Outputs::kAll;
                  v.options.rounds = 2;
                  v.options.windows = {1, 2, 1};
                }),
        // The windows' cells are used again and again.
        variant("ManyTimesTheSlidingWindow", "gpt-oss", "Q8_0",
                [](Variant& v) {
                  v.spec.shape.n_layer = 4;
                  v.options = {.windows = {1, 3}, .n_ctx = 1536, .n_ubatch = 96};
                  v.n_prompt = 1200;
                  v.n_generated = 200;
                }),
        variant("SlidingTokenByToken", "gemma2", "Q8_0",
                [](Variant& v) {
                  v.spec.shape.n_layer = 4;
                  v.spec.shape.n_swa = 20;
                  v.options = {.windows = {1, 3}, .n_ctx = 768, .n_ubatch = 1};
                  v.n_prompt = 600;
                }),
        variant("SlidingWindowAsLargeAsTheContext", "gemma3", "Q4_0",
                [](Variant& v) {
                  v.spec.shape.n_swa = 512;
                  v.n_prompt = 300;
                }),
        variant("EveryRowOfExperts", "qwen3moe", "Q4_K_M", [](Variant& v) { v.outputs = Outputs::kAll; }),
        variant("NoOutputBeforeTheEndOfGemma", "gemma2", "Q6_K",
                [](Variant& v) { v.outputs = Outputs::kEnd; }),
        variant("NoOutputBeforeTheEndOfPhi", "phi3", "Q4_0", [](Variant& v) { v.outputs = Outputs::kEnd; }),
        variant("TwoThreadsOfExperts", "qwen2moe", "Q4_0",
                [](Variant& v) {
                  v.options.n_threads = 2;
                  v.n_generated = 12;
                }),
        variant("FlashOffWithSoftCaps", "gemma2", "Q4_K_M",
                [](Variant& v) {
                  v.options.flash_attention = false;
                  v.spec.attention_cap = 5;
                  v.n_prompt = 280;
                }),
        variant("FlashOffWithSinks", "gpt-oss", "Q8_0",
                [](Variant& v) {
                  v.options.flash_attention = false;
                  v.n_prompt = 280;
                }),
        variant("FlashOffScaledQueries", "phi3", "Q8_0",
                [](Variant& v) { v.options.flash_attention = false; }),
        variant("FlashOff", "llama", "Q4_K_M", [](Variant& v) { v.options.flash_attention = false; }),
        variant("FlashOffQwen3", "qwen3", "F16",
                [](Variant& v) {
                  v.options.flash_attention = false;
                  v.n_prompt = 250;  // attention grows to 512 cells while tokens are generated
                }),
        variant("Float32KeysAndValuesFlashOff", "llama", "Q8_0",
                [](Variant& v) {
                  v.options.flash_attention = false;
                  v.options.kv_type = wire::KvType::kF32;
                }),
        variant("Float32KeysAndValuesFlashOffQwen2", "qwen2", "Q4_0",
                [](Variant& v) {
                  v.options.flash_attention = false;
                  v.options.kv_type = wire::KvType::kF32;
                })),
    [](const auto& test) { return test.param.name; });

// Equivalent, not exact: libllama rounds f32 keys and values to f16 before flash attention, hearth does not.
TEST(F32KeysAndValues, WithFlashAttentionAreEquivalent) {
  for (const char* arch : {"llama", "qwen2", "qwen3"}) {
    Variant v = variant("", arch, "F16", [](Variant& it) {
      it.spec.shape.n_layer = 3;
      it.options.windows = {1, 2};
      it.options.kv_type = wire::KvType::kF32;
      it.n_generated = 1;  // another token would be another text
      it.outputs = Outputs::kAll;
    });
    const auto [reference, transcript] = play_both(v, test_model(v.spec));
    EXPECT_TRUE(equivalent(std::string("f32 keys and values, ") + arch, reference.rows, transcript.rows));
  }
}

class ShippedModel : public ::testing::TestWithParam<const char*> {};

TEST_P(ShippedModel, GivesTheBitsOfLibllama) {
  const auto model = shipped_model(GetParam());
  for (const bool repack : {true, false}) {
    SCOPED_TRACE(repack ? "repacked" : "plain");
    RingOptions options = {.n_ctx = 512, .n_ubatch = 512, .repack = repack};
    oracle::Oracle oracle = open_oracle(model, options);
    const auto prompt = oracle.tokenize(
        "<s><|im_start|>user\nTell me a story about a fox and a lamp.<|im_end|>\n<|im_start|>assistant\n",
        false, true);
    ASSERT_GT(prompt.size(), 10U);
    OraclePlayer reference(oracle);
    reference.prompt(prompt, options.n_ubatch);
    reference.greedy(64);
    if (oracle.n_layer() == 8) {
      options.windows = {1, 1, 1, 1};
      options.rounds = 2;
    } else {
      options.windows = {1, 1};
    }
    const auto ring = open_ring(model, options);
    RingPlayer player(*ring);
    player.prompt(prompt, options.n_ubatch);
    player.greedy(64);
    EXPECT_TRUE(exact(reference.transcript(), player.transcript()));
  }
}

INSTANTIATE_TEST_SUITE_P(All, ShippedModel,
                         ::testing::Values("ember-q8_0.gguf", "ember-q4_k_m.gguf", "spark-q8_0.gguf"),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name)
                             if (c == '-' || c == '.') c = '_';
                           return name;
                         });

}  // namespace
}  // namespace hearth::testing
