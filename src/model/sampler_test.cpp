#include "model/sampler.h"

#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace hearth::model
