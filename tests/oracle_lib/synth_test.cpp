// Synthetic models load in libllama, generate varied text, and are what their spec says.
#include "synth/synth.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include <ggml.h>
#include <gguf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "oracle_lib/oracle.h"

namespace hearth {
namespace {

namespace fs = std::filesystem;
using oracle::Oracle;
using oracle::OracleOptions;
using synth::SynthSpec;
using testing::HasSubstr;

const fs::path kEmber = fs::path(HEARTH_SOURCE_DIR) / "models/ember-q8_0.gguf";

double deviation(std::span<const float> values) {
  double sum = 0, squares = 0;
  for (const float x : values) sum += x, squares += static_cast<double>(x) * x;
  const double n = static_cast<double>(values.size());
  return std::sqrt(squares / n - (sum / n) * (sum / n));
}

class SynthTest : public testing::Test {
 protected:
  SynthTest() {
    std::string name = (fs::temp_directory_path() / "hearth-synth-XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  ~SynthTest() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  fs::path write(const SynthSpec& spec, const std::string& name = "model.gguf") {
    const auto report = synth::write_model(spec, folder_ / name);
    EXPECT_TRUE(report) << report.error().message;
    return report ? report->files.front() : fs::path();
  }
  Oracle load(const fs::path& path, const OracleOptions& options = {}) {
    Result<Oracle> oracle = Oracle::open(path, options);
    EXPECT_TRUE(oracle) << oracle.error().message;
    return std::move(*oracle);
  }
  std::vector<float> first_logits(const SynthSpec& spec, const std::string& name) {
    Oracle oracle = load(write(spec, name));
    const std::vector<std::int32_t> prompt{1, 5, 9, 200};
    const auto result = oracle.greedy(prompt, 1);
    EXPECT_TRUE(result) << result.error().message;
    return result->logits.values;
  }

  // Loads and gives finite logits that differ from each other.
  void expect_sane(const SynthSpec& spec) {
    Oracle oracle = load(write(spec));
    const auto text = oracle.greedy(std::vector<std::int32_t>{1, 100, 200}, 8);
    ASSERT_TRUE(text) << text.error().message;
    for (const float x : text->logits.values) ASSERT_TRUE(std::isfinite(x));
    EXPECT_GT(deviation(text->logits.row(3)), 0.3) << spec.type;
  }

  fs::path folder_;
};

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

SynthSpec tiny(std::string arch, std::string type = "F16") {
  SynthSpec spec;
  spec.arch = std::move(arch);
  spec.type = std::move(type);
  spec.vocab_from = kEmber;
  return spec;
}

// Text loops when a stretch of it repeats to its end: the shortest period of the last half.
std::size_t loop_length(std::span<const std::int32_t> tokens) {
  const auto tail = tokens.subspan(tokens.size() / 2);
  for (std::size_t period = 1; period <= tail.size() / 2; ++period) {
    if (std::equal(tail.begin() + static_cast<std::ptrdiff_t>(period), tail.end(), tail.begin()))
      return period;
  }
  return tail.size();
}

class EachArchAndType : public SynthTest,
                        public testing::WithParamInterface<std::tuple<const char*, const char*>> {};

TEST_P(EachArchAndType, LoadsAndGenerates) {
  const auto [arch, type] = GetParam();
  Oracle oracle = load(write(tiny(arch, type)));
  EXPECT_EQ(oracle.n_vocab(), 2048u);
  const std::vector<std::int32_t> prompt{1, 300, 301, 302, 303};
  const auto text = oracle.greedy(prompt, 64);
  ASSERT_TRUE(text) << text.error().message;
  for (const float x : text->logits.values) ASSERT_TRUE(std::isfinite(x));
  const double spread = deviation(text->logits.row(10));
  EXPECT_GT(spread, 0.5);
  EXPECT_LT(spread, 20);
  EXPECT_GT(std::set(text->tokens.begin(), text->tokens.end()).size(), 30u);
}

INSTANTIATE_TEST_SUITE_P(Synth, EachArchAndType,
                         testing::Combine(testing::Values("llama", "qwen2", "qwen3"),
                                          testing::Values("F16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K")),
                         [](const auto& param) {
                           return std::string(std::get<0>(param.param)) + "_" + std::get<1>(param.param);
                         });

class EachArch : public SynthTest, public testing::WithParamInterface<const char*> {};

TEST_P(EachArch, TextOfTwelveHundredTokensDoesNotLoop) {
  for (const bool tied : {false, true}) {
    SynthSpec spec = tiny(GetParam(), "Q4_0");
    spec.shape.tied = tied;
    Oracle oracle = load(write(spec), {.n_ctx = 1536});
    const std::vector<std::int32_t> prompt{1, 300, 301, 302, 303};
    const auto text = oracle.greedy(prompt, 1200);
    ASSERT_TRUE(text) << text.error().message;
    EXPECT_EQ(loop_length(text->tokens), 600u) << "tied " << tied;
    EXPECT_GT(std::set(text->tokens.begin(), text->tokens.end()).size(), 200u) << "tied " << tied;
  }
}

TEST_P(EachArch, OutliersReachAMillionAndTextGoesOn) {
  SynthSpec spec = tiny(GetParam(), "F16");
  spec.outliers = true;
  float largest = 0, largest_first = 0;
  OracleOptions options;
  options.observer = {.wants = [](std::string_view name) { return name.starts_with("l_out-"); },
                      .seen =
                          [&](std::string_view name, std::span<const float> values, std::size_t) {
                            float& most = name == "l_out-0" ? largest_first : largest;
                            for (const float x : values) most = std::max(most, std::abs(x));
                          }};
  Oracle oracle = load(write(spec), options);
  const std::vector<std::int32_t> prompt{1, 300, 301, 302, 303};
  const auto text = oracle.greedy(prompt, 64);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_GT(largest, 1e6f);
  EXPECT_LT(largest, 1e8f);
  EXPECT_LT(largest_first, 100.0f);
  for (const float x : text->logits.values) ASSERT_TRUE(std::isfinite(x));
  EXPECT_GT(deviation(text->logits.row(10)), 0.5);
  EXPECT_GT(std::set(text->tokens.begin(), text->tokens.end()).size(), 30u);
}

INSTANTIATE_TEST_SUITE_P(Synth, EachArch, testing::Values("llama", "qwen2", "qwen3"),
                         [](const auto& param) { return std::string(param.param); });

// 8192 rows of the embedding make more weights than the pool has.
TEST_F(SynthTest, PooledWeightsCompute) {
  for (const char* type : {"F32", "BF16", "Q4_0", "Q8_0", "Q4_K_M", "Q1_0"}) {
    SynthSpec spec = tiny("qwen3", type);
    spec.shape.n_layer = 1;
    spec.shape.n_vocab = 8192;
    spec.pool = synth::Pool::kOn;
    expect_sane(spec);
  }
}

class EachType : public SynthTest, public testing::WithParamInterface<std::string> {};

TEST_P(EachType, OneLayerComputes) {
  SynthSpec spec = tiny("llama", GetParam());
  spec.shape.n_layer = 1;
  spec.vocab_from.clear();  // few rows: some quantizers take 10 us a weight
  expect_sane(spec);
}

INSTANTIATE_TEST_SUITE_P(Synth, EachType, testing::ValuesIn(synth::type_names()),
                         [](const auto& param) { return param.param; });

TEST_F(SynthTest, SameSeedSameBytesWhateverTheThreads) {
  for (const synth::Pool pool : {synth::Pool::kOff, synth::Pool::kOn}) {
    SynthSpec spec = tiny("qwen3", "Q8_0");
    spec.shape.n_vocab = 30000 + 1;  // several blocks of rows, the last one short
    spec.shape.n_layer = 2;
    spec.pool = pool;
    spec.n_threads = 1;
    const std::string one = bytes_of(write(spec));
    spec.n_threads = 3;
    EXPECT_EQ(one, bytes_of(write(spec)));
    spec.seed = 2;
    EXPECT_NE(one, bytes_of(write(spec)));
  }
}

TEST_F(SynthTest, WeightsHaveTheDeviationOfTheirRowLength) {
  for (const synth::Pool pool : {synth::Pool::kOff, synth::Pool::kOn}) {
    SynthSpec spec = tiny("llama", "Q8_0");
    spec.shape = {.n_layer = 1, .n_embd = 1024, .n_head = 8, .n_head_kv = 2, .head_dim = 128, .n_ff = 2048};
    spec.pool = pool;
    const std::string path = write(spec).string();
    ggml_context* tensors = nullptr;
    gguf_context* gguf = gguf_init_from_file(path.c_str(), {.no_alloc = false, .ctx = &tensors});
    ASSERT_NE(gguf, nullptr);
    ggml_tensor* gate = ggml_get_tensor(tensors, "blk.0.ffn_gate.weight");
    ASSERT_NE(gate, nullptr);
    std::vector<float> values(static_cast<std::size_t>(ggml_nelements(gate)));
    ggml_get_type_traits(gate->type)->to_float(gate->data, values.data(), ggml_nelements(gate));
    EXPECT_NEAR(deviation(values), 1.0 / 32, 0.001);  // 1 / sqrt(1024)
    // No two of the first rows are equal.
    std::set<std::vector<float>> rows;
    for (std::size_t r = 0; r < 100; ++r) {
      const auto first = values.begin() + static_cast<std::ptrdiff_t>(r * 1024);
      rows.emplace(first, first + 1024);
    }
    EXPECT_EQ(rows.size(), 100u);
    gguf_free(gguf);
    ggml_free(tensors);
  }
}

TEST_F(SynthTest, MixRaisesThePartsOfLlamaCpp) {
  // For 8 layers: the first and last eighth (0, 7) and every third between (3, 6).
  const std::string path = write(tiny("llama", "Q4_K_M")).string();
  gguf_context* gguf = gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = nullptr});
  ASSERT_NE(gguf, nullptr);
  const auto type = [&](const std::string& name) {
    return gguf_get_tensor_type(gguf, gguf_find_tensor(gguf, name.c_str()));
  };
  for (int il = 0; il < 8; ++il) {
    const bool raised = il == 0 || il == 3 || il == 6 || il == 7;
    const std::string layer = "blk." + std::to_string(il) + ".";
    EXPECT_EQ(type(layer + "attn_v.weight"), raised ? GGML_TYPE_Q6_K : GGML_TYPE_Q4_K) << il;
    EXPECT_EQ(type(layer + "ffn_down.weight"), raised ? GGML_TYPE_Q6_K : GGML_TYPE_Q4_K) << il;
    EXPECT_EQ(type(layer + "attn_q.weight"), GGML_TYPE_Q4_K) << il;
    EXPECT_EQ(type(layer + "attn_norm.weight"), GGML_TYPE_F32) << il;
  }
  EXPECT_EQ(type("output.weight"), GGML_TYPE_Q6_K);
  EXPECT_EQ(type("token_embd.weight"), GGML_TYPE_Q4_K);
  gguf_free(gguf);
}

TEST_F(SynthTest, SplitFilesAreTheSameModel) {
  SynthSpec spec = tiny("qwen2", "Q8_0");
  const std::vector<float> whole = first_logits(spec, "whole.gguf");
  spec.split_files = 3;
  EXPECT_EQ(whole, first_logits(spec, "parts.gguf"));
  for (const char* name :
       {"parts-00001-of-00003.gguf", "parts-00002-of-00003.gguf", "parts-00003-of-00003.gguf"}) {
    EXPECT_TRUE(fs::exists(folder_ / name)) << name;
  }
  EXPECT_FALSE(fs::exists(folder_ / "parts.gguf"));
}

TEST_F(SynthTest, OptionsChangeTheModel) {
  const std::vector<float> base = first_logits(tiny("llama"), "base.gguf");
  std::set<std::vector<float>> seen{base};
  const auto expect_new = [&](auto change) {
    SynthSpec spec = tiny("llama");
    change(spec);
    EXPECT_TRUE(seen.insert(first_logits(spec, "changed.gguf")).second);
  };
  expect_new([](SynthSpec& s) { s.qkv_bias = true; });
  expect_new([](SynthSpec& s) { s.rope_freqs = true; });
  expect_new([](SynthSpec& s) { s.rope_scale_linear = 4; });
  expect_new([](SynthSpec& s) { s.rope_yarn = 4; });
  expect_new([](SynthSpec& s) { s.shape.n_expert = 4; });
  expect_new([](SynthSpec& s) { s.shape.n_expert = 4, s.shape.n_expert_used = 3; });
  expect_new([](SynthSpec& s) { s.arch = "gemma2"; });
  expect_new([](SynthSpec& s) { s.arch = "gemma2", s.attention_cap = 2; });
  expect_new([](SynthSpec& s) { s.arch = "gemma2", s.logit_cap = 2; });
  expect_new([](SynthSpec& s) { s.arch = "phi3"; });
  expect_new([](SynthSpec& s) { s.arch = "phi3", s.rope_freqs = true; });
  expect_new([](SynthSpec& s) { s.rope_freq_base = 500000; });
  expect_new([](SynthSpec& s) { s.shape.tied = true; });
  expect_new([](SynthSpec& s) { s.seed = 7; });
  expect_new([](SynthSpec& s) { s.shape.head_dim = 32, s.shape.n_head = 6; });
}

TEST_F(SynthTest, TokenizerIsCopiedPaddedOrMade) {
  SynthSpec spec = tiny("llama");
  spec.shape.n_vocab = 2500;
  Oracle padded = load(write(spec, "padded.gguf"));
  Oracle ember = load(kEmber);
  EXPECT_EQ(padded.n_vocab(), 2500u);
  const std::string text = "<|im_start|>Once upon a time, caf\xC3\xA9 42!";
  EXPECT_EQ(padded.tokenize(text, true, true), ember.tokenize(text, true, true));

  spec.vocab_from.clear();
  spec.shape.n_vocab = 0;
  Oracle made = load(write(spec, "made.gguf"));
  EXPECT_EQ(made.n_vocab(), 260u);
  const auto tokens = made.tokenize("Hi \xE2\x82\xAC", false, false);
  EXPECT_EQ(made.detokenize(tokens), "Hi \xE2\x82\xAC");
}

TEST_F(SynthTest, ImpossibleSpecsSayWhy) {
  const auto expect_error = [&](const char* part, auto change) {
    SynthSpec spec = tiny("llama", "Q4_K");
    change(spec);
    const auto report = synth::write_model(spec, folder_ / "no.gguf");
    ASSERT_FALSE(report) << part;
    EXPECT_THAT(report.error().message, HasSubstr(part));
  };
  expect_error("there are: gemma2 gemma3 gpt-oss granite llama ", [](SynthSpec& s) { s.arch = "gpt2"; });
  expect_error("no type or mix 'Q9'", [](SynthSpec& s) { s.type = "Q9"; });
  expect_error("blk.0.attn_output.weight has rows of 192",
               [](SynthSpec& s) { s.shape.n_head = 3, s.shape.n_head_kv = 1; });
  expect_error("token_embd.weight has rows of 160", [](SynthSpec& s) { s.shape.n_embd = 160; });
  expect_error("blk.0.ffn_down.weight has rows of 320", [](SynthSpec& s) { s.shape.n_ff = 320; });
  expect_error("no multiple of --kv-heads 3", [](SynthSpec& s) { s.shape.n_head_kv = 3; });
  expect_error("RoPE needs an even one", [](SynthSpec& s) { s.shape.head_dim = 63; });
  expect_error("--layers is 0", [](SynthSpec& s) { s.shape.n_layer = 0; });
  expect_error("the tokenizer has 2048 tokens", [](SynthSpec& s) { s.shape.n_vocab = 100; });
  expect_error("--qkv-bias: gemma2 models", [](SynthSpec& s) { s.arch = "gemma2", s.qkv_bias = true; });
  expect_error("--rope-freqs: qwen2 models", [](SynthSpec& s) { s.arch = "qwen2", s.rope_freqs = true; });
  expect_error("--experts: qwen2 models", [](SynthSpec& s) { s.arch = "qwen2", s.shape.n_expert = 4; });
  expect_error("--experts is 0; gpt-oss models", [](SynthSpec& s) { s.arch = "gpt-oss"; });
  expect_error("--experts-used is 5 of 4 experts",
               [](SynthSpec& s) { s.shape.n_expert = 4, s.shape.n_expert_used = 5; });
  expect_error("--window: llama models", [](SynthSpec& s) { s.shape.n_swa = 32; });
  expect_error("--rot: llama models", [](SynthSpec& s) { s.shape.n_rot = 32; });
  expect_error("--tied: olmo2 models", [](SynthSpec& s) { s.arch = "olmo2", s.shape.tied = true; });
  expect_error("--attention-cap: gemma3 models",
               [](SynthSpec& s) { s.arch = "gemma3", s.attention_cap = 5; });
  expect_error("--logit-cap: llama models", [](SynthSpec& s) { s.logit_cap = 5; });
  expect_error("--rope-scale-linear", [](SynthSpec& s) { s.rope_scale_linear = -1; });
  expect_error("tensors", [](SynthSpec& s) { s.split_files = 900; });
  expect_error("cannot be read as GGUF", [](SynthSpec& s) { s.vocab_from = HEARTH_SOURCE_DIR "/README.md"; });
  expect_error("are free in", [](SynthSpec& s) {
    s.shape = *synth::preset("8b");
    s.shape.n_layer = 4096;
  });
  EXPECT_TRUE(fs::is_empty(folder_));
  const auto nowhere = synth::write_model(tiny("llama"), folder_ / "missing" / "x.gguf");
  ASSERT_FALSE(nowhere);
  EXPECT_THAT(nowhere.error().message, HasSubstr("there is no folder"));
  EXPECT_THAT(synth::preset("9z").error().message, HasSubstr("tiny small 600m 1b 8b 70b"));
}

}  // namespace
}  // namespace hearth
