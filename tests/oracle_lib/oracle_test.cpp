// The oracle itself: the shipped model says what its README says, and options and cell operations reach
// libllama.
#include "oracle_lib/oracle.h"

#include <cmath>
#include <cstring>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hearth::oracle {
namespace {

const std::filesystem::path kEmber = std::filesystem::path(HEARTH_SOURCE_DIR) / "models/ember-q4_k_m.gguf";

Oracle open_ember(OracleOptions options = {}) {
  Result<Oracle> oracle = Oracle::open(kEmber, options);
  EXPECT_TRUE(oracle) << oracle.error().message;
  return std::move(*oracle);
}

void expect_same_bits(std::span<const float> a, std::span<const float> b) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size_bytes()), 0);
}

std::vector<BatchToken> as_batch(std::span<const std::int32_t> tokens, std::int32_t seq, bool last_output) {
  std::vector<BatchToken> batch;
  for (const std::int32_t t : tokens) {
    batch.push_back({.token = t, .pos = static_cast<std::int32_t>(batch.size()), .seqs = {seq}});
  }
  batch.back().output = last_output;
  return batch;
}

// The answer is documented in models/README.md.
TEST(Oracle, EmberAnswersAsDocumented) {
  Oracle oracle = open_ember({.n_threads = 1});
  const auto prompt =
      oracle.tokenize("<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n", true, true);
  EXPECT_EQ(prompt.front(), 1);
  const Result<Generation> answer = oracle.greedy(prompt, 40);
  ASSERT_TRUE(answer) << answer.error().message;
  std::vector<std::int32_t> tokens = answer->tokens;
  tokens.erase(std::ranges::find(tokens, 4), tokens.end());  // <|im_end|>
  EXPECT_EQ(oracle.detokenize(tokens), "I am Ember, a tiny model that lives in a ring of small devices.");
  EXPECT_EQ(answer->logits.n_rows(), 40u);
  EXPECT_EQ(argmax(answer->logits.row(7)), answer->tokens[7]);
}

TEST(Oracle, IsRepeatableAndContextsShareAModel) {
  Oracle a = open_ember();
  const auto prompt = a.tokenize("Once upon a time there was a fox", true, false);
  Result<Oracle> b = a.another({.n_ctx = 256});
  ASSERT_TRUE(b) << b.error().message;
  const auto of_a = a.greedy(prompt, 8);
  const auto of_b = b->greedy(prompt, 8);
  ASSERT_TRUE(of_a && of_b);
  expect_same_bits(of_a->logits.values, of_b->logits.values);
  EXPECT_EQ(b->n_ctx(), 256u);
}

TEST(Oracle, PromptLogitsHaveARowPerTokenAlsoInSeveralBatches) {
  Oracle oracle = open_ember({.n_batch = 4, .n_ubatch = 4});
  const std::vector<std::int32_t> prompt{1, 300, 301, 302, 303, 304, 305, 306, 307};
  const auto logits = oracle.logits_for_prompt(prompt);
  ASSERT_TRUE(logits) << logits.error().message;
  ASSERT_EQ(logits->n_rows(), prompt.size());
  for (const float x : logits->values) ASSERT_TRUE(std::isfinite(x));
  EXPECT_EQ(oracle.seq_pos_max(0), 8);
}

TEST(Oracle, RepackingAndFlashAttentionChangeBits) {
  const std::vector<std::int32_t> prompt{1, 300, 301, 302, 303, 304, 305, 306, 307};
  const auto last = [&](const OracleOptions& options) {
    Oracle oracle = open_ember(options);
    auto logits = oracle.greedy(prompt, 1);
    EXPECT_TRUE(logits);
    return logits->logits.values;
  };
  const auto base = last({});
  EXPECT_NE(base, last({.flash = Flash::kOff}));
  EXPECT_EQ(base, last({.flash = Flash::kOn}));  // what auto resolves to
  EXPECT_EQ(base, last({.load = Load::kRead}));
}

TEST(Oracle, SequenceOperations) {
  Oracle oracle = open_ember({.n_seq_max = 3});
  const std::vector<std::int32_t> prompt{1, 300, 301, 302, 303};
  const auto first = oracle.decode(as_batch(prompt, 0, true));
  ASSERT_TRUE(first) << first.error().message;
  ASSERT_EQ(first->n_rows(), 1u);

  // A copy of all but the last token, continued with that token, sees the same context.
  oracle.seq_cp(0, 1, 0, 4);
  EXPECT_EQ(oracle.seq_pos_max(1), 3);
  oracle.seq_keep(1);
  EXPECT_EQ(oracle.seq_pos_max(0), -1);
  const BatchToken next{.token = 303, .pos = 4, .seqs = {1}, .output = true};
  const auto again = oracle.decode({&next, 1});
  ASSERT_TRUE(again);
  EXPECT_EQ(argmax(again->row(0)), argmax(first->row(0)));

  EXPECT_TRUE(oracle.seq_rm(1, 0, 2));
  oracle.seq_add(1, 2, -1, -2);
  EXPECT_EQ(oracle.seq_pos_max(1), 2);
  oracle.clear();
  EXPECT_EQ(oracle.seq_pos_max(1), -1);
}

TEST(Oracle, OneTokenInSeveralSequences) {
  Oracle oracle = open_ember({.n_seq_max = 2});
  const std::vector<BatchToken> batch{{.token = 1, .pos = 0, .seqs = {0, 1}},
                                      {.token = 300, .pos = 1, .seqs = {0}, .output = true},
                                      {.token = 400, .pos = 1, .seqs = {1}, .output = true}};
  const auto logits = oracle.decode(batch);
  ASSERT_TRUE(logits) << logits.error().message;
  EXPECT_EQ(logits->n_rows(), 2u);
  EXPECT_GT(oracle.last_decode_seconds(), 0);
}

TEST(Oracle, ObserverSeesHiddenRows) {
  std::map<std::string, std::size_t> rows;
  OracleOptions options;
  options.observer = {
      .wants = [](std::string_view name) { return name.starts_with("l_out-") || name == "result_output"; },
      .seen = [&](std::string_view name, std::span<const float> values,
                  std::size_t row) { rows[std::string(name)] = values.size() / row; }};
  Oracle oracle = open_ember(options);
  const std::vector<std::int32_t> prompt{1, 300, 301};
  ASSERT_TRUE(oracle.decode(as_batch(prompt, 0, true)));
  EXPECT_EQ(rows.size(), oracle.n_layer() + 1);
  EXPECT_EQ(rows["l_out-0"], 3u);
  EXPECT_EQ(rows["l_out-7"], 1u);  // the last layer computes output rows only
  EXPECT_EQ(rows["result_output"], 1u);
}

TEST(Oracle, Errors) {
  const auto missing = Oracle::open("/nonexistent/model.gguf");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kInvalidFile);
  EXPECT_THAT(missing.error().message, testing::HasSubstr("/nonexistent/model.gguf"));

  Oracle oracle = open_ember({.n_ctx = 256, .n_batch = 16, .n_ubatch = 16});
  EXPECT_FALSE(oracle.decode({}));
  const std::vector<std::int32_t> too_long(17, 1);
  EXPECT_EQ(oracle.decode(as_batch(too_long, 0, true)).error().code, ErrorCode::kInvalidArgument);
  const BatchToken wild{.token = 2048, .output = true};
  EXPECT_EQ(oracle.decode({&wild, 1}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(oracle.greedy(std::vector<std::int32_t>(256, 1), 2).error().code, ErrorCode::kOutOfMemory);
}

}  // namespace
}  // namespace hearth::oracle
