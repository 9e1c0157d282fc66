// What fits stays in memory and needs no pack; what does not is streamed from one.
#include "residency/open_weights.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "residency/test_packs.h"

namespace hearth::residency {
namespace {

using model::SegmentId;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

class OpenWeights : public ::testing::Test {
 protected:
  OpenWeights() : ids_(packing_.all()) {
    for (const SegmentId id : ids_) bytes_ += packing_.model.segment_bytes(id);
    // Not of the matrix: only rows of it are looked up.
    ids_.insert(ids_.begin(), SegmentId::embedding());
  }
  Result<std::unique_ptr<WeightSource>> open(std::uint64_t limit, std::uint64_t later_bytes,
                                             const std::function<bool()>& cancelled = {}) {
    packing_.notices.clear();
    return open_weights(packing_.model, ids_, packing_.backend->device(),
                        {.repack = true, .anonymous_limit = limit, .progress = {}, .cancelled = cancelled},
                        {.later_bytes = later_bytes, .streaming_bytes = streaming_bytes_},
                        {.cache_dir = packing_.options.cache_dir, .notice = packing_.options.notice});
  }
  [[nodiscard]] bool has_pack() const { return std::filesystem::exists(packing_.options.cache_dir); }

  test::Packing packing_{test_model(small_spec("llama", "Q4_K_M"))};
  std::vector<SegmentId> ids_;
  std::uint64_t bytes_ = 0, streaming_bytes_ = 0;
};

TEST_F(OpenWeights, WhatFitsStaysInMemory) {
  for (const std::uint64_t later : {0, 1000}) {
    const auto source = value_of(open(bytes_ + later, later));
    EXPECT_FALSE(source->streams());
    EXPECT_EQ(source->statistics().streamed_bytes_per_pass, 0U);
    EXPECT_TRUE(packing_.notices.empty());
  }
  EXPECT_FALSE(has_pack());
}

TEST_F(OpenWeights, WhatDoesNotIsStreamedFromAPack) {
  const std::uint64_t later = 1000;
  const auto source = value_of(open(bytes_ + later - 1, later));
  EXPECT_TRUE(source->streams());
  EXPECT_TRUE(packing_.noticed("do not fit"));
  EXPECT_TRUE(has_pack());
  EXPECT_LE(source->resident_bytes(), bytes_ - 1);
  EXPECT_GT(source->anonymous_bytes(), 0U);
  for (const SegmentId id : ids_) {
    EXPECT_TRUE(source->acquire(id, 0));
    source->release(id, 0);
  }
  EXPECT_TRUE(source->still_good());
}

TEST_F(OpenWeights, WhatStreamingTakesCountsOnlyWhereItStreams) {
  const std::uint64_t whole = value_of(open(bytes_ - 1, 0))->resident_bytes();
  streaming_bytes_ = bytes_ / 4;
  EXPECT_FALSE(value_of(open(bytes_, 0))->streams());
  EXPECT_LE(value_of(open(bytes_ - 1, 0))->resident_bytes(), bytes_ - 1 - streaming_bytes_);
  EXPECT_LT(value_of(open(bytes_ - 1, 0))->resident_bytes(), whole);
}

TEST_F(OpenWeights, LessThanIsTakenLaterIsAnError) {
  const auto source = open(500, 1000);
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::kOutOfMemory);
}

TEST_F(OpenWeights, BuildingThePackCanBeEnded) {
  const auto source = open(bytes_ - 1, 0, [] { return true; });
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::kCancelled);
}

}  // namespace
}  // namespace hearth::residency
