#include "residency/division.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::residency {
namespace {

using model::SegmentId;
using ::testing::ElementsAre;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

// n_embd 256, n_ff 512, heads 8 x 32 (4 for keys and values), F16 matrices: q 128 KiB, k and v 64 KiB each,
// output 128 KiB, gate, up, down 256 KiB each; norms 1 KiB.
constexpr std::uint64_t kKiB = 1024, kNoBlocks = ~std::uint64_t{0};

Part tensors(std::uint32_t first, std::uint32_t n) {
  return {.first_tensor = first, .n_tensors = n};
}

class Division : public ::testing::Test {
 protected:
  static model::ModelFile open(const synth::SynthSpec& spec) {
    return value_of(model::ModelFile::open(test_model(spec)));
  }
  const model::ModelFile model_ = open(small_spec("llama", "F16"));
  const SegmentId layer_ = SegmentId::of_layer(1);
};

// 0 attn_norm, 1 q, 2 k, 3 v, 4 output, 5 ffn_norm, 6 gate, 7 up, 8 down
TEST_F(Division, ALayerThatFitsIsOnePart) {
  const std::uint64_t bytes = model_.segment_bytes(layer_);
  ASSERT_EQ(bytes, (128 + 64 + 64 + 128 + 3 * 256 + 2) * kKiB);
  EXPECT_THAT(divide(model_, layer_, bytes, kNoBlocks), ElementsAre(tensors(0, 9)));
  EXPECT_EQ(part_bytes(model_, layer_, tensors(0, 9)), bytes);
}

TEST_F(Division, PartsAreFilledInTheOrderOfUse) {
  // norm, q, k, v: 257; with the output 385. The FFN's norm does not stay behind its matrix.
  EXPECT_THAT(divide(model_, layer_, 384 * kKiB, kNoBlocks),
              ElementsAre(tensors(0, 4), tensors(4, 1), tensors(5, 2), tensors(7, 1), tensors(8, 1)));
  EXPECT_THAT(divide(model_, layer_, 385 * kKiB, kNoBlocks),
              ElementsAre(tensors(0, 5), tensors(5, 2), tensors(7, 1), tensors(8, 1)));
  EXPECT_THAT(divide(model_, layer_, 513 * kKiB, kNoBlocks),
              ElementsAre(tensors(0, 5), tensors(5, 3), tensors(8, 1)));
  EXPECT_EQ(part_bytes(model_, layer_, tensors(5, 3)), 513 * kKiB);
}

TEST_F(Division, ATensorThatIsTooLargeIsAPartOfItsOwn) {
  EXPECT_THAT(
      divide(model_, layer_, 128 * kKiB, kNoBlocks),
      ElementsAre(tensors(0, 2), tensors(2, 2), tensors(4, 1), tensors(5, 2), tensors(7, 1), tensors(8, 1)));
  EXPECT_THAT(divide(model_, layer_, 0, kNoBlocks),
              ElementsAre(tensors(0, 2), tensors(2, 1), tensors(3, 1), tensors(4, 1), tensors(5, 2),
                          tensors(7, 1), tensors(8, 1)));
}

// q has 256 rows of 512 bytes, down 256 of 1024.
TEST_F(Division, MatricesOfALayerAreCutToo) {
  EXPECT_THAT(
      divide(model_, layer_, 200 * kKiB, 200 * kKiB),
      ElementsAre(tensors(0, 3), tensors(3, 2), Part{5, 2, 0, 256}, Part{6, 1, 256, 512}, Part{7, 1, 0, 256},
                  Part{7, 1, 256, 512}, Part{8, 1, 0, 128}, Part{8, 1, 128, 256}));
  EXPECT_EQ(part_bytes(model_, layer_, Part{5, 2, 0, 256}), 129 * kKiB);
  EXPECT_EQ(part_bytes(model_, layer_, Part{8, 1, 128, 256}), 128 * kKiB);
  // Nothing joins a block, also where there is room.
  const auto parts = divide(model_, layer_, 1000 * kKiB, 200 * kKiB);
  EXPECT_THAT(std::vector(parts.begin(), parts.begin() + 3),
              ElementsAre(tensors(0, 5), Part{5, 2, 0, 256}, Part{6, 1, 256, 512}));
}

// Pieces are what is stored; parts hold them in the same order.
TEST_F(Division, PartsAreMadeOfPieces) {
  for (const SegmentId id : {layer_, SegmentId::output()})
    for (const std::uint64_t block : {std::uint64_t{1}, 100 * kKiB, 200 * kKiB, 10'000 * kKiB})
      for (const std::uint64_t most : {std::uint64_t{1}, 150 * kKiB, 10'000 * kKiB}) {
        const auto pieces = pieces_of(model_, id, block);
        std::size_t next = 0;
        std::uint64_t bytes = 0;
        for (const Part& part : divide(model_, id, most, block)) {
          EXPECT_EQ(part.first_tensor, pieces.at(next).tensor);
          std::uint64_t sum = 0;
          for (std::uint32_t i = 0; i < part.n_tensors; ++i) sum += pieces.at(next++).bytes;
          EXPECT_EQ(part_bytes(model_, id, part), sum);
          bytes += sum;
        }
        EXPECT_EQ(next, pieces.size());
        EXPECT_EQ(bytes, model_.segment_bytes(id));
      }
}

TEST_F(Division, VectorsGoWithTheMatrixThatFollows) {
  // 0 attn_norm, 1 q, 2 k, 3 v, 4 q_norm, 5 k_norm, 6 output, 7 ffn_norm, 8 gate, 9 up, 10 down
  const auto qwen3 = open(small_spec("qwen3", "F16"));
  EXPECT_THAT(divide(qwen3, layer_, 0, kNoBlocks),
              ElementsAre(tensors(0, 2), tensors(2, 1), tensors(3, 1), tensors(4, 3), tensors(7, 2),
                          tensors(9, 1), tensors(10, 1)));
}

TEST_F(Division, TheEmbeddingIsOnePart) {
  EXPECT_THAT(divide(model_, SegmentId::embedding(), 1, 1), ElementsAre(tensors(0, 1)));
}

// 2048 rows of 512 bytes.
TEST_F(Division, TheOutputIsCutIntoEvenBlocksOfRows) {
  const auto id = SegmentId::output();
  ASSERT_EQ(model_.params().n_vocab, 2048U);
  ASSERT_EQ(model_.segment_bytes(id), 1025 * kKiB);
  EXPECT_THAT(divide(model_, id, 1025 * kKiB, 1024 * kKiB), ElementsAre(tensors(0, 2)));
  EXPECT_THAT(divide(model_, id, 1024 * kKiB, 1023 * kKiB),
              ElementsAre(Part{0, 2, 0, 1024}, Part{1, 1, 1024, 2048}));
  EXPECT_THAT(divide(model_, id, 1025 * kKiB, 400 * kKiB),
              ElementsAre(Part{0, 2, 0, 704}, Part{1, 1, 704, 1408}, Part{1, 1, 1408, 2048}));
  EXPECT_EQ(part_bytes(model_, id, Part{0, 2, 0, 704}), 704 * 512 + 1024U);
  EXPECT_EQ(part_bytes(model_, id, Part{1, 1, 1408, 2048}), 640U * 512);
}

TEST_F(Division, ABlockHasAtLeastSixtyFourRows) {
  const auto parts = divide(model_, SegmentId::output(), 1, 1);
  ASSERT_EQ(parts.size(), 32U);
  for (std::uint32_t i = 0; i < 32; ++i)
    EXPECT_EQ(parts[i], (Part{i == 0 ? 0U : 1U, i == 0 ? 2U : 1U, i * 64, i * 64 + 64}));
}

}  // namespace
}  // namespace hearth::residency
