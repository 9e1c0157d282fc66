#include "model/sampler.h"

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/test_grammar.h"
#include "model/test_vocabulary.h"

namespace hearth::model {
namespace {

using testing::Each;
using testing::HasSubstr;

constexpr std::size_t kTokens = 13;  // of bpe_vocabulary()
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

const Tokenizer& tokenizer() {
  static const Tokenizer loaded = [] {
    const TempFile file(bpe_vocabulary().model().image().bytes);
    auto result = Tokenizer::load(file.path());
    HEARTH_CHECK(result.has_value(), result.error().message);
    return std::move(*result);
  }();
  return loaded;
}

Sampler make(const SamplingOptions& options) {
  auto sampler = Sampler::create(tokenizer(), options);
  HEARTH_CHECK(sampler.has_value(), sampler.error().message);
  return std::move(*sampler);
}

// Logits that are 0 but for those named.
std::vector<float> row(const std::map<Token, float>& named, float rest = 0) {
  std::vector<float> logits(kTokens, rest);
  for (const auto& [token, logit] : named) logits[static_cast<std::size_t>(token)] = logit;
  return logits;
}

std::vector<double> frequencies(Sampler& sampler, const std::vector<float>& logits, int draws) {
  std::vector<double> count(kTokens, 0);
  for (int i = 0; i < draws; ++i) count[static_cast<std::size_t>(sampler.sample(logits))] += 1.0 / draws;
  return count;
}

// Nothing but the softmax itself.
SamplingOptions plain() {
  return {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 7};
}

TEST(Sampler, GreedyPicksTheLargest) {
  for (const float temperature : {0.0F, -1.0F}) {
    auto sampler = make({.temperature = temperature});
    EXPECT_EQ(sampler.sample(row({{5, 1.0F}, {3, 0.5F}})), 5);
    EXPECT_EQ(sampler.sample(row({{12, 0.1F}})), 12);
    EXPECT_EQ(sampler.sample(row({{0, 3.0F}, {12, 2.9F}})), 0);
    // The first of equals.
    EXPECT_EQ(sampler.sample(row({{4, 1.0F}, {9, 1.0F}})), 4);
  }
}

TEST(Sampler, DrawsFromTheSoftmax) {
  auto sampler = make(plain());
  // exp(2) : exp(1) : 11 x exp(0)
  const double sum = std::exp(2.0) + std::exp(1.0) + 11;
  const auto frequency = frequencies(sampler, row({{3, 2.0F}, {8, 1.0F}}), 20'000);
  // Four standard deviations of 20,000 draws are at most 1.5 %.
  EXPECT_NEAR(frequency[3], std::exp(2.0) / sum, 0.015);
  EXPECT_NEAR(frequency[8], std::exp(1.0) / sum, 0.015);
  EXPECT_NEAR(frequency[0], 1 / sum, 0.015);
}

TEST(Sampler, TemperatureSharpens) {
  auto options = plain();
  options.temperature = 0.5F;
  auto sampler = make(options);
  const double sum = std::exp(4.0) + 12;
  EXPECT_NEAR(frequencies(sampler, row({{3, 2.0F}}), 20'000)[3], std::exp(4.0) / sum, 0.015);
}

TEST(Sampler, TopKKeepsTheBest) {
  auto options = plain();
  options.top_k = 2;
  auto sampler = make(options);
  const auto frequency = frequencies(sampler, row({{3, 0.2F}, {8, 0.1F}}), 2'000);
  EXPECT_NEAR(frequency[3] + frequency[8], 1, 1e-9);
  EXPECT_GT(frequency[8], 0.3);
}

TEST(Sampler, TopPKeepsTheNucleus) {
  auto options = plain();
  options.top_p = 0.5F;
  auto sampler = make(options);
  // Token 3 has more than half of the probability.
  const auto frequency = frequencies(sampler, row({{3, 4.0F}}), 500);
  EXPECT_NEAR(frequency[3], 1, 1e-9);
}

TEST(Sampler, MinPDropsTheUnlikely) {
  auto options = plain();
  options.min_p = 0.5F;
  auto sampler = make(options);
  // exp(-1) < 0.5 <= exp(-0.5)
  const auto frequency = frequencies(sampler, row({{3, 2.0F}, {8, 1.5F}, {9, 1.0F}}, -5.0F), 1'000);
  EXPECT_NEAR(frequency[3] + frequency[8], 1, 1e-9);
  EXPECT_GT(frequency[8], 0.2);
}

TEST(Sampler, RepeatPenalty) {
  auto sampler = make({.temperature = 0, .repeat_penalty = 2, .repeat_last_n = 3});
  const auto logits = row({{5, 1.0F}, {3, 0.8F}});
  sampler.accept(5);  // of the prompt: 1.0 / 2 < 0.8
  EXPECT_EQ(sampler.sample(logits), 3);
  // Now both are penalized: 0.5 against 0.4.
  EXPECT_EQ(sampler.sample(logits), 5);
  // Negative logits are multiplied.
  auto other = make({.temperature = 0, .repeat_penalty = 2, .repeat_last_n = 3});
  other.accept(5);
  EXPECT_EQ(other.sample(row({{5, -1.0F}, {3, -1.5F}}, -9.0F)), 3);
}

TEST(Sampler, RepeatPenaltyForgets) {
  auto sampler = make({.temperature = 0, .repeat_penalty = 4, .repeat_last_n = 2});
  for (const Token token : {5, 1, 2}) sampler.accept(token);
  EXPECT_EQ(sampler.sample(row({{5, 1.0F}, {3, 0.9F}})), 5);
}

TEST(Sampler, TokensThatDoNotExistAreNotAccepted) {
  auto sampler = make({.temperature = 0, .repeat_penalty = 2});
  for (const Token token : {-1, 13, std::numeric_limits<Token>::max()}) sampler.accept(token);
  EXPECT_EQ(sampler.sample(row({{5, 1.0F}})), 5);
}

TEST(Sampler, SameSeedSameTokens) {
  const auto draw = [](Sampler sampler) {
    std::vector<Token> tokens;
    for (int i = 0; i < 100; ++i) tokens.push_back(sampler.sample(row({})));
    return tokens;
  };
  auto options = plain();
  EXPECT_EQ(make(options).seed(), 7U);
  const auto first = draw(make(options));
  EXPECT_EQ(draw(make(options)), first);
  options.seed = 8;
  EXPECT_NE(draw(make(options)), first);
  EXPECT_GT(std::set(first.begin(), first.end()).size(), 8U);
}

TEST(Sampler, WithoutASeedItIsRandom) {
  std::set<std::uint32_t> seeds;
  for (int i = 0; i < 16; ++i) {
    auto options = plain();
    options.seed.reset();
    if (i % 2 == 1) options.seed = 0xFFFFFFFF;  // llama.cpp's -1 means random
    seeds.insert(make(options).seed());
  }
  EXPECT_EQ(seeds.size(), 16U);
  EXPECT_FALSE(seeds.contains(0xFFFFFFFF));
}

TEST(Sampler, NonFiniteLogitsDoNotCrash) {
  for (const float temperature : {0.0F, 0.8F, 1e-5F, 1e5F}) {
    for (const float penalty : {1.0F, 1000.0F, 0.001F}) {
      auto sampler = make({.temperature = temperature, .repeat_penalty = penalty, .seed = 1});
      for (const float value : {kNan, -kNan, kInf, -kInf, 3e38F, -3e38F}) {
        for (const float rest : {kNan, kInf, -kInf, 0.0F, -3e38F}) {
          const Token token = sampler.sample(row({{5, value}, {6, 1.0F}}, rest));
          EXPECT_TRUE(token >= 0 && token < static_cast<Token>(kTokens));
        }
      }
    }
  }
}

TEST(Sampler, NanIsNeverPicked) {
  for (const float temperature : {0.0F, 0.8F}) {
    auto sampler = make({.temperature = temperature, .seed = 1});
    for (int i = 0; i < 100; ++i) EXPECT_EQ(sampler.sample(row({{5, 1.0F}}, kNan)), 5);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(sampler.sample(row({{5, 1.0F}}, -kInf)), 5);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(sampler.sample(row({{5, kInf}})), 5);
  }
}

TEST(Sampler, SuppressedTokensAreNeverPicked) {
  auto vocabulary = bpe_vocabulary();
  vocabulary.with(gguf::array_key("tokenizer.ggml.suppress_tokens", 5, 1, gguf::encoded(std::int32_t{5})));
  const TempFile file(vocabulary.model().image().bytes);
  const auto loaded = Tokenizer::load(file.path());
  ASSERT_TRUE(loaded) << loaded.error().message;
  for (const float temperature : {0.0F, 1.0F}) {
    auto sampler = Sampler::create(*loaded, {.temperature = temperature, .seed = 1});
    ASSERT_TRUE(sampler);
    for (int i = 0; i < 50; ++i) EXPECT_NE(sampler->sample(row({{5, 9.0F}})), 5);
  }
}

TEST(Sampler, RefusesWildOptions) {
  const std::pair<SamplingOptions, const char*> cases[] = {
      {{.temperature = kNan}, "temperature is nan"},
      {{.temperature = kInf}, "temperature is inf"},
      {{.temperature = 1e-9F}, "temperature is"},
      {{.top_p = -0.1F}, "top-p is -0.1"},
      {{.top_p = 1.5F}, "top-p is 1.5, expected 0 to 1"},
      {{.top_p = kNan}, "top-p is nan"},
      {{.min_p = 2}, "min-p is 2, expected 0 to 1"},
      {{.repeat_penalty = 0}, "repeat-penalty is 0"},
      {{.repeat_penalty = -1}, "repeat-penalty is -1"},
      {{.repeat_penalty = kInf}, "repeat-penalty is inf"},
      {{.repeat_last_n = -1}, "repeat-last-n is -1"},
      {{.repeat_last_n = std::numeric_limits<std::int32_t>::max()}, "repeat-last-n is 2147483647"},
  };
  for (const auto& [options, message] : cases) {
    const auto sampler = Sampler::create(tokenizer(), options);
    ASSERT_FALSE(sampler) << message;
    EXPECT_EQ(sampler.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(sampler.error().message, HasSubstr(message));
  }
  for (const std::int32_t top_k :
       {std::numeric_limits<std::int32_t>::min(), -1, 0, 1, std::numeric_limits<std::int32_t>::max()}) {
    auto sampler = Sampler::create(tokenizer(), {.top_k = top_k});
    ASSERT_TRUE(sampler);
    EXPECT_EQ(sampler->sample(row({{5, 100.0F}})), 5);
  }
}

// libllama's own chain, made here step by step.
class Chain {
 public:
  Chain() : chain_(llama_sampler_chain_init(llama_sampler_chain_default_params())) {}
  Chain(Chain&& other) noexcept : chain_(std::exchange(other.chain_, nullptr)) {}
  Chain& operator=(Chain&& other) noexcept {
    std::swap(chain_, other.chain_);
    return *this;
  }
  ~Chain() {
    if (chain_ != nullptr) llama_sampler_free(chain_);
  }
  Chain&& with(llama_sampler* sampler) && {
    llama_sampler_chain_add(chain_, sampler);
    return std::move(*this);
  }
  Token sample(const std::vector<float>& logits, llama_sampler* grammar = nullptr) {
    std::vector<llama_token_data> all;
    for (std::size_t i = 0; i < logits.size(); ++i) all.push_back({static_cast<Token>(i), logits[i], 0});
    llama_token_data_array array{all.data(), all.size(), -1, false};
    if (grammar != nullptr) llama_sampler_apply(grammar, &array);
    llama_sampler_apply(chain_, &array);
    return array.data[array.selected].id;
  }
  void accept(Token token) { llama_sampler_accept(chain_, token); }

 private:
  llama_sampler* chain_;
};

std::vector<float> random_row(std::mt19937& random, std::size_t n) {
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> row(n);
  for (float& logit : row) logit = normal(random);
  return row;
}

TEST(Sampler, IsLibllamasChain) {
  const llama_vocab* vocab = byte_tokenizer().impl().vocab;
  const auto n_vocab = static_cast<std::int32_t>(byte_tokenizer().n_vocab());
  constexpr std::uint32_t kSeed = 42;
  const llama_logit_bias biases[] = {{70, 5.0F}, {71, -kInf}};
  const char* breakers[] = {"\n", ":", "\"", "*"};
  const auto dist = [] { return llama_sampler_init_dist(kSeed); };
  const auto usual = [&](Chain&& chain) {
    return std::move(chain)
        .with(llama_sampler_init_top_k(40))
        .with(llama_sampler_init_top_p(0.95F, 0))
        .with(llama_sampler_init_min_p(0.05F, 0))
        .with(llama_sampler_init_temp(0.8F))
        .with(dist());
  };
  struct Case {
    const char* name;
    SamplingOptions options;
    Chain chain;
  };
  Case cases[] = {
      {"defaults", {}, usual(Chain())},
      {"bias",
       {.logit_bias = {{70, 5.0F}, {71, -kInf}}},
       usual(Chain().with(llama_sampler_init_logit_bias(n_vocab, 2, biases)))},
      {"penalties",
       {.repeat_penalty = 1.3F, .repeat_last_n = 20, .presence_penalty = 0.5F, .frequency_penalty = 0.25F},
       usual(Chain().with(llama_sampler_init_penalties(n_vocab, 20, 1.3F, 0.25F, 0.5F)))},
      {"dry",
       {.dry_multiplier = 0.8F, .dry_last_n = 100},
       usual(Chain().with(llama_sampler_init_dry(vocab, 0.8F, 1.75F, 2, 100, breakers, 4)))},
      {"top-n-sigma", {.top_n_sigma = 1.5F}, usual(Chain().with(llama_sampler_init_top_n_sigma(1.5F)))},
      {"typical",
       {.top_k = 0, .top_p = 1, .min_p = 0, .typical_p = 0.7F},
       Chain().with(llama_sampler_init_typical(0.7F, 0)).with(llama_sampler_init_temp(0.8F)).with(dist())},
      {"xtc",
       {.top_k = 0, .top_p = 1, .min_p = 0, .xtc_probability = 0.5F, .xtc_threshold = 0.05F},
       Chain()
           .with(llama_sampler_init_xtc(0.5F, 0.05F, 0, kSeed))
           .with(llama_sampler_init_temp(0.8F))
           .with(dist())},
      {"dynatemp",
       {.top_k = 0, .top_p = 1, .min_p = 0, .dynatemp_range = 0.5F, .dynatemp_exponent = 1.5F},
       Chain().with(llama_sampler_init_temp_ext(0.8F, 0.5F, 1.5F)).with(dist())},
      {"mirostat 1",
       {.mirostat = 1, .mirostat_ent = 3},
       Chain()
           .with(llama_sampler_init_temp(0.8F))
           .with(llama_sampler_init_mirostat(n_vocab, kSeed, 3, 0.1F, 100))},
      {"mirostat 2",
       {.mirostat = 2, .mirostat_lr = 0.2F},
       Chain().with(llama_sampler_init_temp(0.8F)).with(llama_sampler_init_mirostat_v2(kSeed, 5, 0.2F))},
      {"another order",
       {.top_k = 5, .steps = {SamplerStep::kTemperature, SamplerStep::kTopK}},
       Chain().with(llama_sampler_init_temp(0.8F)).with(llama_sampler_init_top_k(5)).with(dist())},
      {"greedy with xtc",
       {.temperature = 0, .top_k = 0, .top_p = 1, .min_p = 0, .xtc_probability = 1, .xtc_threshold = 0.05F},
       Chain().with(llama_sampler_init_xtc(1, 0.05F, 0, kSeed)).with(llama_sampler_init_greedy())},
  };
  for (Case& c : cases) {
    c.options.seed = kSeed;
    auto sampler = Sampler::create(byte_tokenizer(), c.options);
    ASSERT_TRUE(sampler) << c.name << ": " << sampler.error().message;
    std::mt19937 random(7);
    std::set<Token> seen;
    for (const Token token : {70, 80, 70, 80, 70}) sampler->accept(token), c.chain.accept(token);
    for (int i = 0; i < 200; ++i) {
      const auto logits = random_row(random, byte_tokenizer().n_vocab());
      const Token expected = c.chain.sample(logits);
      c.chain.accept(expected);
      ASSERT_EQ(sampler->sample(logits), expected) << c.name << ", token " << i;
      seen.insert(expected);
    }
    EXPECT_GT(seen.size(), 20U) << c.name;
  }
}

TEST(Sampler, StepsHaveLlamaCppsNames) {
  EXPECT_THAT(parse_sampler_steps("top_k;typ_p;temperature").value(),
              testing::ElementsAre(SamplerStep::kTopK, SamplerStep::kTypical, SamplerStep::kTemperature));
  EXPECT_THAT(parse_sampler_steps("").value(), testing::IsEmpty());
  for (const char* bad : {"top_z", "top_k,top_p", "top_k;;top_p"})
    EXPECT_FALSE(parse_sampler_steps(bad)) << bad;
}

// As llama.cpp does it: a token of the chain that the grammar refuses is drawn again from those it allows.
TEST(Sampler, UnderAGrammarIsLlamaCpps) {
  const char* grammar = "root ::= (\"{\" [a-f]{3,9} (\":\" [0-9]+)? \"}\")+";
  for (const float temperature : {0.0F, 0.8F, 2.0F}) {
    auto sampler =
        Sampler::create(byte_tokenizer(), {.temperature = temperature, .seed = 3, .grammar = grammar});
    ASSERT_TRUE(sampler) << sampler.error().message;
    Chain chain;
    if (temperature > 0)
      chain = std::move(chain)
                  .with(llama_sampler_init_top_k(40))
                  .with(llama_sampler_init_top_p(0.95F, 0))
                  .with(llama_sampler_init_min_p(0.05F, 0))
                  .with(llama_sampler_init_temp(temperature))
                  .with(llama_sampler_init_dist(3));
    else
      chain = std::move(chain).with(llama_sampler_init_greedy());
    llama_sampler* reference = llama_sampler_init_grammar(byte_tokenizer().impl().vocab, grammar, "root");
    std::mt19937 random(9);
    std::string text;
    for (int i = 0; i < 300; ++i) {
      auto logits = random_row(random, byte_tokenizer().n_vocab());
      for (const char c : std::string("abcdef}:0"))
        logits[3U + static_cast<unsigned char>(c)] += 9;  // mostly of the grammar
      for (const Token end : {2, 267}) logits[static_cast<std::size_t>(end)] -= 50;
      Token expected = chain.sample(logits);
      llama_token_data one{expected, 1, 0};
      llama_token_data_array array{&one, 1, -1, false};
      llama_sampler_apply(reference, &array);
      if (std::isinf(one.logit)) expected = chain.sample(logits, reference);
      llama_sampler_accept(reference, expected);
      chain.accept(expected);
      ASSERT_EQ(sampler->sample(logits), expected) << "token " << i << " after " << text;
      if (byte_tokenizer().ends_generation(expected)) break;
      text += byte_tokenizer().piece(expected);
    }
    llama_sampler_free(reference);
    EXPECT_GT(text.size(), 10U);
    EXPECT_GT(sampler->n_resampled(), 3U);
  }
}

TEST(Sampler, TheGrammarsEndIsTheTextsEnd) {
  auto sampler = Sampler::create(byte_tokenizer(), {.temperature = 0, .grammar = "root ::= \"xy\""});
  ASSERT_TRUE(sampler);
  sampler->accept(3 + 'z');  // of the prompt: nothing to the grammar
  std::vector<float> logits(byte_tokenizer().n_vocab(), 0);
  logits[3 + 'z'] = 9;
  EXPECT_EQ(sampler->sample(logits), 3 + 'x');
  EXPECT_EQ(sampler->sample(logits), 3 + 'y');
  EXPECT_TRUE(byte_tokenizer().ends_generation(sampler->sample(logits)));
}

TEST(Sampler, AGrammarThatTheVocabularyCannotWrite) {
  // No token has a "z", and there is none to write it by bytes.
  auto sampler = Sampler::create(tokenizer(), {.temperature = 0, .grammar = "root ::= \"h\" \"z\""});
  ASSERT_TRUE(sampler);
  EXPECT_EQ(sampler->sample(row({})), 0);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(sampler->sample(row({})), Sampler::kNoToken);
}

TEST(Sampler, RefusesWhatTheVocabularyOrTheGrammarCannot) {
  const auto refused = [](const SamplingOptions& options, const char* message) {
    const auto sampler = Sampler::create(tokenizer(), options);
    ASSERT_FALSE(sampler) << message;
    EXPECT_EQ(sampler.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(sampler.error().message, HasSubstr(message));
  };
  refused({.logit_bias = {{13, 1}}}, "logit-bias is for token 13, the vocabulary has 0 to 12");
  refused({.logit_bias = {{-1, 1}}}, "logit-bias is for token -1");
  refused({.logit_bias = {{1, kNan}}}, "logit-bias is nan");
  refused({.logit_bias = {{1, kInf}}}, "logit-bias is inf");
  refused({.grammar = "root ::= root"}, "begins with itself");
  refused({.grammar = "root ::= <none>"}, "'<none>' is not one token");
  refused({.mirostat = 3}, "mirostat is 3, expected 0 to 2");
  refused({.typical_p = -1}, "typical is -1");
  refused({.xtc_threshold = 2}, "xtc-threshold is 2");
  refused({.dry_base = 0}, "dry-base is 0");
  refused({.dry_breakers = {""}}, "dry-sequence-breaker: its bytes is 0");
  refused({.presence_penalty = kInf}, "presence-penalty is inf");
  refused({.dynatemp_range = -1}, "dynatemp-range is -1");
  refused({.top_n_sigma = kNan}, "top-n-sigma is nan");
}

}  // namespace
}  // namespace hearth::model
