// Exact for every weight type that a model may hold: a model of one layer, all of its matrices of that type.
#include "gguf/types.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "model/model_file.h"
#include "oracle/player.h"
#include "support/test_models.h"

namespace hearth::testing {
namespace {

std::vector<gguf::TensorType> matrix_types() {
  std::vector<gguf::TensorType> types;
  for (std::uint32_t i = 0; i < 64; ++i) {
    const auto type = static_cast<gguf::TensorType>(i);
    if (gguf::type_info(i) != nullptr && model::is_matrix_type(type)) types.push_back(type);
  }
  return types;
}

class EveryType : public ::testing::TestWithParam<gguf::TensorType> {};

TEST_P(EveryType, OneLayerGivesTheBitsOfLibllama) {
  const std::string type(gguf::type_info(GetParam()).name);
  synth::SynthSpec spec = small_spec("llama", type);
  spec.shape.n_layer = 1;
  spec.vocab_from.clear();  // a vocabulary of bytes: some types are slow to quantize
  const auto path = test_model(spec);
  const auto model = model::ModelFile::open(path);
  ASSERT_TRUE(model) << model.error().message;
  for (const auto& tensor : model->segment(model::SegmentId::of_layer(0)))
    ASSERT_EQ(tensor.tensor->type, model::is_vector(tensor.role) ? gguf::TensorType::kF32 : GetParam())
        << tensor.tensor->name;

  for (const bool repack : {true, false}) {
    SCOPED_TRACE(repack ? "repacked" : "plain");
    const RingOptions options = {
        .n_ctx = 256, .n_ubatch = 32, .repack = repack, .moving_weights = MovingOptions{}};
    oracle::Oracle oracle = open_oracle(path, options);
    const auto ring = open_ring(path, options);
    OraclePlayer reference(oracle);
    RingPlayer player(*ring);
    const auto prompt = random_prompt(45, static_cast<std::uint32_t>(oracle.n_vocab()));
    for (Player* p : {static_cast<Player*>(&reference), static_cast<Player*>(&player)}) {
      p->prompt(prompt, options.n_ubatch, Outputs::kAll);
      p->greedy(8);
    }
    EXPECT_TRUE(exact(reference.transcript(), player.transcript()));
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryType, ::testing::ValuesIn(matrix_types()),
                         [](const auto& test) { return std::string(gguf::type_info(test.param).name); });

}  // namespace
}  // namespace hearth::testing
