// What executors do with the frames of their plan, and with those that break it. Claimed where logits are
// compared: exact.
#include "node/executor.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "node/test_ring.h"
#include "residency/resident_source.h"
#include "support/damaged_copy.h"

namespace hearth::node {
namespace {

using testing::value_of;

TEST_F(HandRing, TwoEpochsAtOnceDoNotTouchEachOther) {
  const auto expected_old = alone(1, 100), expected_new = alone(2, 500);
  ASSERT_EQ(expected_old.size(), 3U);
  ASSERT_NE(expected_old, expected_new);

  load(two_rounds(3));
  load(make_plan(model_, 4, kDevices, {{2, 0, 5}, {1, 5, 8}}));  // another split of the same layers
  Text old_text, new_text;
  start(3, batch(1, old_text, 100, 9));
  start(4, batch(1, new_text, 500, 9));
  start(3, batch(2, old_text, 101, 16));
  start(4, batch(2, new_text, 501, 16));
  pass_everything();
  // The old plan ends in the middle of its text; the new one goes on.
  for (const auto& executor : executors_) executor->free(3);
  start(4, batch(3, new_text, 502, 1));
  pass_everything();

  std::vector<std::vector<float>> old_rows, new_rows;
  for (const Finished& done : finished_) (done.epoch == 3 ? old_rows : new_rows).push_back(done.logits);
  EXPECT_EQ(old_rows, (std::vector<std::vector<float>>{expected_old[0], expected_old[1]}));
  EXPECT_EQ(new_rows, expected_new);
}

// ggml would end the process: a head that asks for it is told.
TEST_F(HandRing, KeysAndValuesThatCannotBeStoredSoAreRefused) {
  wire::Prepare plan = two_rounds();
  plan.kv_type = wire::KvType::kQ8_0;
  plan.flash_attention = false;
  for (std::uint16_t device = 0; device < kDevices; ++device) {
    const auto loaded = executors_[device]->load(plan, device, {});
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().code, ErrorCode::kInvalidArgument);
    EXPECT_TRUE(loaded.error().message.contains("need flash attention")) << loaded.error().message;
    EXPECT_FALSE(executors_[device]->holds(kEpoch));
  }
}

TEST_F(HandRing, FramesOfAnEpochThatIsFreeAreDropped) {
  load(two_rounds());
  const Posted late = at_the_end();
  for (const auto& executor : executors_) executor->free(kEpoch);
  EXPECT_TRUE(deliver(late));
  EXPECT_TRUE(finished_.empty());
  EXPECT_FALSE(executors_[0]->holds(kEpoch));
}

TEST_F(HandRing, ACancelledBatchLeavesTheOthersAsTheyWere) {
  const auto expected = alone(1, 100);
  load(two_rounds());
  Text text, unwanted{.seq = 1, .first_cell = 40};
  start(kEpoch, batch(1, text, 100, 9));
  start(kEpoch, batch(2, unwanted, 300, 12));
  for (const auto& executor : executors_) executor->cancel(kEpoch, 2, 2);
  start(kEpoch, batch(3, text, 101, 16));
  start(kEpoch, batch(4, text, 102, 1));
  pass_everything();
  ASSERT_EQ(finished_.size(), 4U);
  EXPECT_TRUE(finished_[1].operations_only);
  EXPECT_TRUE(finished_[1].logits.empty());
  EXPECT_EQ(finished_[0].logits, expected[0]);
  EXPECT_EQ(finished_[2].logits, expected[1]);
  EXPECT_EQ(finished_[3].logits, expected[2]);
}

// The last device is believed only as far as it returns what was sent.
TEST_F(HandRing, ALastDeviceThatDropsAnOutputIsFoundOut) {
  load(two_rounds());
  const Posted honest = at_the_end();
  wire::BatchFrame frame = decoded(honest);
  frame.batch.tokens.back().output = false;
  frame.hidden.clear();
  expect_failure(deliver(with(honest, frame)), ErrorCode::kProtocol,
                 {"'worker1'", "batch 1", "5 tokens and 0 outputs", "5 and 1"});
}

TEST_F(HandRing, ALastDeviceThatDropsATokenIsFoundOut) {
  load(two_rounds());
  const Posted honest = at_the_end();
  wire::BatchFrame frame = decoded(honest);
  frame.batch.tokens.erase(frame.batch.tokens.begin());
  expect_failure(deliver(with(honest, frame)), ErrorCode::kProtocol, {"'worker1'", "4 tokens and 1 outputs"});
}

TEST_F(HandRing, ALastDeviceThatComputesNothingIsFoundOut) {
  load(two_rounds());
  const Posted honest = at_the_end();
  wire::BatchFrame frame = decoded(honest);
  frame.batch.operations_only = true;
  frame.hidden.clear();
  expect_failure(deliver(with(honest, frame)), ErrorCode::kProtocol, {"'worker1'", "nobody cancelled"});
}

TEST_F(HandRing, ALastDeviceThatInventsABatchIsFoundOut) {
  load(two_rounds());
  const Posted honest = at_the_end();
  ASSERT_TRUE(deliver(honest));
  finished_.clear();
  wire::BatchFrame frame = decoded(honest);
  frame.batch.id = 2;
  expect_failure(deliver(with(honest, frame)), ErrorCode::kProtocol,
                 {"'worker1'", "batch 2", "not on its way"});
}

TEST_F(HandRing, AReplayedFrameEndsTheEpoch) {
  load(two_rounds());
  const Posted honest = at_the_end();
  ASSERT_TRUE(deliver(honest));
  finished_.clear();
  expect_failure(deliver(honest), ErrorCode::kProtocol, {"worker1", "batch"});
}

TEST_F(HandRing, AFrameFromOutsideThePlanEndsTheEpoch) {
  load(two_rounds());
  const Posted honest = at_the_end();
  const auto outcome = executors_[0]->on_frame(key_of(9), honest.frame);
  expect_failure(outcome, ErrorCode::kUnauthorized, {key_of(9).short_hex(), "no member"});
}

TEST_F(HandRing, RowsThatAreNoNumbersNameTheDeviceThatSentThem) {
  load(two_rounds());
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Text text;
    posted_.clear();
    start(kEpoch, batch(1, text, 11, 5));
    ASSERT_EQ(posted_.front().to, 1);
    wire::BatchFrame frame = decoded(posted_.front());
    ASSERT_EQ(frame.encoding, wire::HiddenEncoding::kF32);
    std::memcpy(frame.hidden.data() + 4 * 17, &bad, sizeof bad);
    expect_failure(deliver(with(posted_.front(), frame)), ErrorCode::kNumeric, {"'worker1'"});
    for (const auto& executor : executors_) executor->free(kEpoch);
    load(two_rounds());
  }
}

TEST_F(HandRing, ALayerThatGivesNoNumbersIsNamedWithItsDevice) {
  const TestDir folder;
  const auto damaged = value_of(model::ModelFile::open(testing::damaged_copy(
      testing::test_model(testing::small_spec("llama", "F16")), folder.path() / "damaged.gguf",
      "blk.2.ffn_down.weight", std::numeric_limits<float>::quiet_NaN())));
  Executor faulty(damaged, *backend_, 16, ExecutorSink{.send = {}, .finished = {}});
  value_of(faulty.load(two_rounds(), 1, {}));
  value_of(executors_[0]->load(two_rounds(), 0, {}));
  Text text;
  start(kEpoch, batch(1, text, 11, 5));
  expect_failure(faulty.on_frame(key_of(0), posted_.front().frame), ErrorCode::kNumeric,
                 {"device 'worker1'", "layer 2 gave a NaN or Inf"});
}

// The head's model file is cut short while it is used; rows of zeros are not sent on.
class ShrinkingRing : public HandRing {
 protected:
  ShrinkingRing() : HandRing({}, copy()) {}
  // The base's constructor needs the file before any member is there.
  static std::filesystem::path copy() {
    std::filesystem::copy_file(testing::test_model(testing::small_spec("llama", "Q4_0")), copy_path(),
                               std::filesystem::copy_options::overwrite_existing);
    return copy_path();
  }
  static std::filesystem::path copy_path() {
    static const TestDir folder;
    return folder.path() / "model.gguf";
  }
};

TEST_F(ShrinkingRing, ItsModelFileCutShortIsAnError) {
  // The head has no layers: embedded rows leave at once.
  load(make_plan(model_, kEpoch, kDevices, {{1, 0, 5}, {2, 5, 8}}));
  Text text;
  start(kEpoch, batch(1, text, 100, 3));
  pass_everything();
  ASSERT_EQ(finished_.size(), 1U);
  finished_.clear();
  std::filesystem::resize_file(copy_path(), 4096);
  expect_failure(executors_[0]->start(kEpoch, batch(2, text, 103, 1)), ErrorCode::kIo,
                 {"'head'", copy_path().string()});
  EXPECT_TRUE(posted_.empty());
}

// --- Weights that change

// Says at the `fails_at`th question of all that its weights are not what they were.
class SpoiledSource final : public residency::WeightSource {
 public:
  SpoiledSource(std::unique_ptr<residency::ResidentSource> origin, int& questions, const int& fails_at)
      : origin_(std::move(origin)), questions_(questions), fails_at_(fails_at) {}
  [[nodiscard]] std::span<const residency::Part> parts(model::SegmentId id) const override {
    return origin_->parts(id);
  }
  [[nodiscard]] Result<std::span<const residency::TensorPlace>> acquire(model::SegmentId id,
                                                                        std::uint32_t part) override {
    return origin_->acquire(id, part);
  }
  void release(model::SegmentId id, std::uint32_t part) override { origin_->release(id, part); }
  [[nodiscard]] Result<> still_good() override {
    if (++questions_ == fails_at_) return fail(ErrorCode::kInvalidFile, "other weights");
    return {};
  }
  [[nodiscard]] std::uint64_t resident_bytes() const override { return origin_->resident_bytes(); }

 private:
  std::unique_ptr<residency::ResidentSource> origin_;
  int& questions_;
  const int& fails_at_;
};

class SpoiledRing : public HandRing {
 protected:
  SpoiledRing()
      : HandRing([this](const model::ModelFile& model, std::span<const model::SegmentId> segments,
                        ggml_backend_device* device, const residency::LoadOptions& options,
                        const residency::WeightUse&) -> Result<std::unique_ptr<residency::WeightSource>> {
          HEARTH_TRY(auto origin, residency::ResidentSource::load(model, segments, device, options));
          return std::unique_ptr<residency::WeightSource>(
              std::make_unique<SpoiledSource>(std::move(origin), questions_, fails_at_));
        }) {}
  // Gone before the executors, which ask nothing when they end.
  int questions_ = 0, fails_at_ = 0;
};

// Five steps and the logits: asked after each, before its result goes anywhere.
TEST_F(SpoiledRing, NothingLeavesThatWasComputedWithOtherWeights) {
  constexpr int kComputed = 6;
  for (int fails_at = 1; fails_at <= kComputed + 1; ++fails_at) {
    SCOPED_TRACE(fails_at);
    const std::uint32_t epoch = kEpoch + static_cast<std::uint32_t>(fails_at);
    load(two_rounds(epoch));
    questions_ = 0;
    fails_at_ = fails_at;
    finished_.clear();
    posted_.clear();
    Text text;
    Executor::Outcome done = executors_[0]->start(epoch, batch(1, text, 5, 3));
    int passed = 0;
    for (; done && !posted_.empty(); ++passed) {
      const Posted next = std::move(posted_.front());
      posted_.pop_front();
      done = deliver(next);
    }
    if (fails_at > kComputed) {
      EXPECT_TRUE(done);
      EXPECT_EQ(finished_.size(), 1U);
    } else {
      ASSERT_FALSE(done);
      EXPECT_EQ(done.error().error.code, ErrorCode::kInvalidFile);
      EXPECT_TRUE(done.error().error.message.contains("other weights")) << done.error().error.message;
      EXPECT_EQ(passed, fails_at - 1);
      EXPECT_TRUE(finished_.empty());
    }
    EXPECT_TRUE(posted_.empty());
    for (const auto& executor : executors_) executor->free(epoch);
  }
}

}  // namespace
}  // namespace hearth::node
