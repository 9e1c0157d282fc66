#include "compute/head.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <vector>

#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "support/one_device.h"
#include "support/test_models.h"

namespace hearth::compute {
namespace {

using testing::OneDevice;

synth::SynthSpec one_layer() {
  synth::SynthSpec spec = testing::small_spec("llama", "F32");
  spec.shape.n_layer = 1;
  return spec;
}

// A tensor of an F32 model, straight from the file.
std::vector<float> tensor_of(const model::ModelFile& model, std::string_view name) {
  const gguf::Tensor* tensor = model.file().find_tensor(name);
  HEARTH_CHECK(tensor != nullptr && tensor->type == gguf::TensorType::kF32);
  std::vector<float> values(tensor->bytes / sizeof(float));
  std::ifstream file(model.file().paths()[tensor->file_index], std::ios::binary);
  file.seekg(static_cast<std::streamoff>(tensor->offset));
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(tensor->bytes));
  HEARTH_CHECK(file.good());
  return values;
}

TEST(Head, EmbedsTheRowsOfTheTable) {
  const OneDevice device(testing::test_model(one_layer()));
  const std::vector<float> table = tensor_of(*device.model, "token_embd.weight");
  const std::size_t n_embd = device.model->params().n_embd;
  for (const std::vector<std::int32_t>& ids : {std::vector{0}, std::vector{2047}, std::vector{5, 5, 1000, 0},
                                               std::vector{17}, std::vector{1, 2, 3}}) {
    std::vector<float> rows(ids.size() * n_embd);
    ASSERT_TRUE(device.head->embed(ids, rows));
    for (std::size_t i = 0; i < ids.size(); ++i)
      EXPECT_EQ(std::memcmp(&rows[i * n_embd], &table[static_cast<std::size_t>(ids[i]) * n_embd],
                            n_embd * sizeof(float)),
                0)
          << ids[i];
  }
}

TEST(Head, RefusesTokensThatAreNotInTheVocabulary) {
  const OneDevice device(testing::test_model(one_layer()));
  const std::size_t n_embd = device.model->params().n_embd;
  for (const std::int32_t bad : {-1, 2048, 0x7fffffff, -0x7fffffff - 1}) {
    const std::vector<std::int32_t> ids = {3, bad};
    std::vector<float> rows(ids.size() * n_embd, 42.0F);
    const auto embedded = device.head->embed(ids, rows);
    ASSERT_FALSE(embedded);
    EXPECT_EQ(embedded.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(embedded.error().message.find(std::format("token {} is not in the vocabulary of 2048", bad)),
              std::string::npos)
        << embedded.error().message;
    EXPECT_EQ(rows, std::vector<float>(rows.size(), 42.0F));
  }
}

TEST(Head, LogitsAreTheOutputMatrixTimesTheNormalisedRow) {
  const OneDevice device(testing::test_model(one_layer()));
  const model::HyperParams& p = device.model->params();
  const std::vector<float> norm = tensor_of(*device.model, "output_norm.weight");
  const std::vector<float> output = tensor_of(*device.model, "output.weight");
  std::vector<float> hidden(std::size_t{3} * p.n_embd);
  for (std::size_t i = 0; i < hidden.size(); ++i)
    hidden[i] = static_cast<float>(std::sin(0.37 * double(i))) * 5;

  for (const std::size_t n_rows : {std::size_t{3}, std::size_t{1}, std::size_t{2}, std::size_t{1}}) {
    const auto logits = testing::value_of(device.head->logits(std::span(hidden).first(n_rows * p.n_embd)));
    ASSERT_EQ(logits.size(), n_rows * p.n_vocab);
    for (std::size_t row = 0; row < n_rows; ++row) {
      const float* x = &hidden[row * p.n_embd];
      double squares = 0;
      for (std::size_t i = 0; i < p.n_embd; ++i) squares += double{x[i]} * x[i];
      const double scale = 1 / std::sqrt(squares / p.n_embd + p.rms_eps);
      for (const std::size_t token : {std::size_t{0}, std::size_t{1}, std::size_t{999}, std::size_t{2047}}) {
        double wanted = 0;
        for (std::size_t i = 0; i < p.n_embd; ++i)
          wanted += x[i] * scale * norm[i] * double{output[token * p.n_embd + i]};
        EXPECT_NEAR(logits[row * p.n_vocab + token], wanted, 1e-4) << "row " << row << " token " << token;
      }
    }
  }
}

TEST(Head, RefusesLogitsThatAreNoNumbers) {
  const OneDevice device(testing::test_model(one_layer()));
  const std::size_t n_embd = device.model->params().n_embd;
  std::vector<float> hidden(3 * n_embd, 1.0F);
  hidden[2 * n_embd + 5] = INFINITY;
  const auto logits = device.head->logits(hidden);
  ASSERT_FALSE(logits);
  EXPECT_EQ(logits.error().code, ErrorCode::kNumeric);
  EXPECT_NE(logits.error().message.find("row 2 of 3"), std::string::npos) << logits.error().message;
  hidden[2 * n_embd + 5] = 1;
  EXPECT_TRUE(device.head->logits(hidden)) << "the next call is none the worse";
}

TEST(HeadDeathTest, MoreRowsThanItWasMadeForAreABug) {
  const OneDevice device(testing::test_model(one_layer()), {.n_ubatch = 4, .n_outputs = 2});
  const std::size_t n_embd = device.model->params().n_embd;
  std::vector<float> rows(5 * n_embd, 1.0F);
  EXPECT_DEATH((void)device.head->embed(std::vector<std::int32_t>(5, 1), rows), "max_tokens");
  EXPECT_DEATH((void)device.head->embed(std::vector<std::int32_t>(2, 1), rows), "rows.size");
  EXPECT_DEATH((void)device.head->logits(std::span(rows).first(3 * n_embd)), "max_outputs");
}

// The memory is taken when the head is made; what it computes later finds its place there.
TEST(Head, BytesStayWhatTheyWereAtCreation) {
  const OneDevice device(testing::test_model(one_layer()), {.n_ubatch = 32, .n_outputs = 16});
  const model::HyperParams& p = device.model->params();
  const std::uint64_t bytes = device.head->bytes();
  EXPECT_GE(bytes, std::uint64_t{4} * (32 * p.n_embd + 16 * p.n_vocab + 32));
  std::vector<float> rows(std::size_t{32} * p.n_embd, 1.0F);
  for (const std::size_t n : {1, 16, 3, 15, 1, 8, 16, 2}) {
    ASSERT_TRUE(
        device.head->embed(std::vector<std::int32_t>(2 * n, 1), std::span(rows).first(2 * n * p.n_embd)));
    ASSERT_TRUE(device.head->logits(std::span(rows).first(n * p.n_embd)));
    EXPECT_EQ(device.head->bytes(), bytes);
  }
}

}  // namespace
}  // namespace hearth::compute
