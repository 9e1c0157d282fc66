// Executors of several devices, wired by hand on one thread: every frame can be looked at, held back or
// forged. Claimed where logits are compared: exact.
#include "node/executor.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <format>
#include <limits>
#include <optional>

#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "engine/plan_rules.h"
#include "node/weights.h"
#include "residency/resident_source.h"
#include "support/damaged_copy.h"
#include "support/streaming_source.h"
#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::node {
namespace {

using testing::value_of;

constexpr std::uint32_t kEpoch = 7;

DeviceKey key_of(std::uint16_t device) {
  DeviceKey key;
  key.bytes.fill(static_cast<std::uint8_t>(0x40 + device));
  return key;
}

wire::Prepare make_plan(const model::ModelFile& model, std::uint32_t epoch, std::uint16_t n_devices,
                        const std::vector<wire::StepSpec>& steps) {
  wire::Prepare plan{
      .epoch = epoch, .n_layer = model.params().n_layer, .n_ctx = 64, .n_ubatch = 16, .steps = steps};
  for (std::uint16_t i = 0; i < n_devices; ++i)
    plan.members.push_back({.name = i == 0 ? "head" : std::format("worker{}", i),
                            .key = key_of(i),
                            .address = {.host = "127.0.0.1", .control_port = 1, .data_port = 2}});
  EXPECT_TRUE(engine::validate_prepare(plan));
  return plan;
}

struct Posted {
  std::uint16_t from, to;
  std::vector<std::uint8_t> frame;
};

class HandRing : public ::testing::Test {
 protected:
  static constexpr std::uint16_t kDevices = 3;

  explicit HandRing(const OpenWeights& open_weights = {},
                    const std::filesystem::path& path = testing::test_model(testing::small_spec("llama",
                                                                                                "Q4_0")))
      : model_(value_of(model::ModelFile::open(path))), backend_(value_of(compute::Backend::cpu(1))) {
    for (std::uint16_t i = 0; i < kDevices; ++i) executors_.push_back(executor(i, open_weights));
  }

  std::unique_ptr<Executor> executor(std::uint16_t i, const OpenWeights& open_weights) {
    return std::make_unique<Executor>(
        model_, *backend_, 16,
        ExecutorSink{.send =
                         [this, i](const DeviceKey& to, std::vector<std::uint8_t> frame) {
                           posted_.push_back({i, device_with(to), std::move(frame)});
                         },
                     .finished =
                         [this](const FinishedBatch& batch) {
                           finished_.push_back({batch.epoch,
                                                batch.batch,
                                                batch.operations_only,
                                                {batch.logits.begin(), batch.logits.end()}});
                         }},
        open_weights);
  }

  struct Finished {
    std::uint32_t epoch;
    std::uint64_t batch;
    bool operations_only;
    std::vector<float> logits;
  };

  static std::uint16_t device_with(const DeviceKey& key) {
    for (std::uint16_t i = 0; i < kDevices; ++i)
      if (key == key_of(i)) return i;
    ADD_FAILURE() << "a frame for nobody";
    return 0;
  }

  // Device 0, 1, 2 and again, one round of 2, 1, 3 layers and one of the last two.
  [[nodiscard]] wire::Prepare two_rounds(std::uint32_t epoch = kEpoch) const {
    return make_plan(model_, epoch, kDevices, {{0, 0, 2}, {1, 2, 3}, {2, 3, 6}, {0, 6, 7}, {1, 7, 8}});
  }

  void load(const wire::Prepare& plan) {
    for (std::uint16_t i = 0; i < plan.members.size(); ++i) value_of(executors_[i]->load(plan, i, {}));
  }

  // Tokens `first`, `first` + 37, … of sequence `seq` at the next positions; only the last row is wanted.
  struct Text {
    std::uint32_t seq = 0;
    std::uint32_t first_cell = 0;
    std::int32_t position = 0;
  };
  engine::OutgoingBatch batch(std::uint64_t id, Text& text, std::int32_t first, std::int32_t n) const {
    engine::OutgoingBatch out;
    out.batch.id = id;
    for (std::int32_t i = 0; i < n; ++i, ++text.position) {
      out.batch.tokens.push_back({.position = text.position,
                                  .cell = text.first_cell + static_cast<std::uint32_t>(text.position),
                                  .sequences = wire::SequenceSet::of(text.seq),
                                  .output = i + 1 == n});
      out.tokens.push_back((first + 37 * i) % static_cast<std::int32_t>(model_.params().n_vocab));
    }
    return out;
  }

  Executor::Outcome deliver(const Posted& posted) {
    return executors_[posted.to]->on_frame(key_of(posted.from), posted.frame);
  }
  // Until nothing is on its way; frames between two devices stay in order.
  void pass_everything() {
    while (!posted_.empty()) {
      const Posted next = std::move(posted_.front());
      posted_.pop_front();
      const auto done = deliver(next);
      ASSERT_TRUE(done) << done.error().error.message;
    }
  }
  void start(std::uint32_t epoch, const engine::OutgoingBatch& outgoing) {
    const auto done = executors_[0]->start(epoch, outgoing);
    ASSERT_TRUE(done) << done.error().error.message;
  }
  // The logits of a text of three batches in an epoch of its own.
  std::vector<std::vector<float>> alone(std::uint32_t epoch, std::int32_t first) {
    load(two_rounds(epoch));
    finished_.clear();
    Text text;
    start(epoch, batch(1, text, first, 9));
    start(epoch, batch(2, text, first + 1, 16));
    start(epoch, batch(3, text, first + 2, 1));
    pass_everything();
    for (const auto& executor : executors_) executor->free(epoch);
    std::vector<std::vector<float>> rows;
    for (Finished& done : finished_) rows.push_back(std::move(done.logits));
    finished_.clear();
    return rows;
  }

  // Batch 1 has come to the point where the last device hands it to the head.
  Posted at_the_end() {
    Text text;
    start(kEpoch, batch(1, text, 11, 5));
    while (true) {
      Posted next = std::move(posted_.front());
      posted_.pop_front();
      if (value_of(wire::peek_batch_frame(next.frame)).step == 5) return next;
      EXPECT_TRUE(deliver(next));
    }
  }
  [[nodiscard]] wire::BatchFrame decoded(const Posted& posted) const {
    return value_of(wire::decode_batch_frame(
        posted.frame, {.n_ctx = 64, .n_ubatch = 16, .n_embd = model_.params().n_embd, .n_steps = 5}));
  }
  static Posted with(Posted posted, const wire::BatchFrame& frame) {
    posted.frame.clear();
    wire::encode(frame, posted.frame);
    return posted;
  }
  void expect_failure(const Executor::Outcome& outcome, ErrorCode code,
                      const std::vector<std::string>& parts) {
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().epoch, kEpoch);
    EXPECT_EQ(outcome.error().error.code, code) << outcome.error().error.message;
    for (const std::string& part : parts)
      EXPECT_TRUE(outcome.error().error.message.contains(part))
          << outcome.error().error.message << " misses " << part;
    EXPECT_TRUE(finished_.empty());
  }

  model::ModelFile model_;
  std::unique_ptr<compute::Backend> backend_;
  std::vector<std::unique_ptr<Executor>> executors_;
  std::deque<Posted> posted_;
  std::vector<Finished> finished_;
};

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

// --- Streamed weights

class StreamingRing : public HandRing {
 protected:
  StreamingRing()
      : HandRing(testing::open_streaming(
            [this](const testing::MovingSource* source) { sources_.push_back(source); })) {}

  // Chunks of 16, 16, 16 and 9 tokens and a single one, of which the last two give logits.
  std::vector<engine::OutgoingBatch> chunks(Text& text) const {
    std::vector<engine::OutgoingBatch> out;
    for (const std::int32_t n : {16, 16, 16, 9, 1})
      out.push_back(batch(out.size() + 1, text, 100 + static_cast<std::int32_t>(out.size()), n));
    for (std::size_t i = 0; i < 3; ++i) out[i].batch.tokens.back().output = false;
    return out;
  }
  // The same by devices that keep their weights.
  std::vector<std::vector<float>> expected() {
    std::vector<std::unique_ptr<Executor>> streaming = std::move(executors_);
    executors_.clear();
    for (std::uint16_t i = 0; i < kDevices; ++i) executors_.push_back(executor(i, {}));
    load(two_rounds());
    Text text;
    for (const engine::OutgoingBatch& chunk : chunks(text)) start(kEpoch, chunk);
    pass_everything();
    std::vector<std::vector<float>> rows;
    for (Finished& done : std::exchange(finished_, {})) rows.push_back(std::move(done.logits));
    executors_ = std::move(streaming);
    return rows;
  }
  // Hands in all that is on its way before anything is computed, as often as it takes.
  void pass_in_groups() {
    bool computed = true;
    while (computed) {
      pass_everything();
      computed = false;
      for (const auto& executor : executors_)
        while (executor->waiting()) {
          const auto done = executor->run_waiting();
          ASSERT_TRUE(done) << done.error().error.message;
          computed = true;
        }
    }
  }

  std::vector<const testing::MovingSource*> sources_;
};

TEST_F(StreamingRing, AGroupGivesTheBitsOfOneAfterAnother) {
  const auto wanted = expected();
  ASSERT_EQ(wanted.size(), 5U);
  load(two_rounds());
  ASSERT_EQ(sources_.size(), 3U);
  Text text;
  for (const engine::OutgoingBatch& chunk : chunks(text)) start(kEpoch, chunk);
  EXPECT_TRUE(posted_.empty()) << "they wait for each other";
  EXPECT_EQ(executors_[0]->waiting(), kEpoch);
  pass_in_groups();
  ASSERT_EQ(finished_.size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(finished_[i].logits, wanted[i]) << i;
  // Each layer was fetched once: 3, 2 and 3 of them. The head fetched embeddings five times and its output
  // twice.
  EXPECT_EQ(sources_[0]->n_acquired(), 3U + 5 + 2);
  EXPECT_EQ(sources_[1]->n_acquired(), 2U);
  EXPECT_EQ(sources_[2]->n_acquired(), 3U);
  for (const auto& executor : executors_)
    EXPECT_EQ(executor->counters().steps_done, executor->counters().steps_accepted);
}

TEST_F(StreamingRing, ACancelOvertakesBatchesThatWait) {
  load(two_rounds());
  Text text, unwanted{.seq = 1, .first_cell = 40};
  start(kEpoch, batch(1, text, 100, 9));
  start(kEpoch, batch(2, unwanted, 300, 12));
  start(kEpoch, batch(3, text, 101, 16));
  for (const auto& executor : executors_) executor->cancel(kEpoch, 2, 2);
  pass_in_groups();
  ASSERT_EQ(finished_.size(), 3U);
  EXPECT_FALSE(finished_[0].operations_only);
  EXPECT_TRUE(finished_[1].operations_only);
  EXPECT_FALSE(finished_[2].logits.empty());
}

TEST_F(StreamingRing, OperationsBeginAGroupOfTheirOwn) {
  load(two_rounds());
  Text text;
  start(kEpoch, batch(1, text, 100, 5));
  start(kEpoch, batch(2, text, 105, 5));
  engine::OutgoingBatch third = batch(3, text, 110, 5);
  third.batch.operations.push_back({.kind = wire::KvOpKind::kRemove, .seq = 7});
  start(kEpoch, third);
  ASSERT_TRUE(executors_[0]->run_waiting());
  EXPECT_EQ(posted_.size(), 2U);
  ASSERT_TRUE(executors_[0]->run_waiting());
  EXPECT_EQ(posted_.size(), 3U);
  EXPECT_FALSE(executors_[0]->waiting());
}

TEST_F(StreamingRing, AWorkerKnowsThatAChunkIsFollowed) {
  load(two_rounds());
  Text text;
  const auto all = chunks(text);
  start(kEpoch, all[0]);
  EXPECT_FALSE(executors_[0]->expects_more(kEpoch)) << "the head knows by itself";
  ASSERT_TRUE(executors_[0]->run_waiting());
  pass_everything();
  EXPECT_TRUE(executors_[1]->expects_more(kEpoch));
  for (std::size_t i = 1; i < 4; ++i) start(kEpoch, all[i]);
  ASSERT_TRUE(executors_[0]->run_waiting());
  pass_everything();
  EXPECT_FALSE(executors_[1]->expects_more(kEpoch));
}

// 272 tokens: the cells, which come in 256, and a batch.
TEST_F(StreamingRing, GroupsKeepToTheMemoryThatIsLeft) {
  const auto report = value_of(executors_[1]->load(two_rounds(), 1, {}));
  EXPECT_EQ(executors_[1]->max_group(kEpoch), 17U);
  EXPECT_EQ(report.max_batches, 17U);
  EXPECT_EQ(executors_[1]->max_group(kEpoch + 1), 1U);
  executors_[1]->free(kEpoch);
  const std::uint64_t per_batch = 2ULL * 16 * model_.params().n_embd * sizeof(float);
  const std::uint64_t fixed = report.kv_bytes + report.compute_bytes - 17 * per_batch;
  // A sixteenth of what is left for weights.
  for (const std::uint64_t n : {1, 2, 5}) {
    const auto tight = value_of(executors_[1]->load(
        two_rounds(), 1,
        {.anonymous_limit = fixed + 16 * n * per_batch + 8, .progress = {}, .cancelled = {}}));
    EXPECT_EQ(executors_[1]->max_group(kEpoch), n);
    EXPECT_EQ(tight.max_batches, n == 1 ? 3 : n) << "without groups, three frames on their way";
    executors_[1]->free(kEpoch);
  }
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

// --- Memory

TEST_F(HandRing, ALoadKeepsToTheMemoryItMayTake) {
  const wire::Prepare plan = two_rounds();
  const auto free =
      value_of(executors_[1]->load(plan, 1, {.repack = false, .progress = {}, .cancelled = {}}));
  executors_[1]->free(kEpoch);
  const std::uint64_t taken = free.kv_bytes + free.compute_bytes;  // plain weights are pages of the file
  ASSERT_GT(free.kv_bytes, 0U);
  ASSERT_GT(free.compute_bytes, 0U);
  wire::Prepare plain = plan;
  plain.repack = false;
  const auto with_limit = [&](std::uint64_t limit) {
    return executors_[1]->load(plain, 1,
                               {.repack = false, .anonymous_limit = limit, .progress = {}, .cancelled = {}});
  };
  const auto no_cells = with_limit(free.kv_bytes - 1);
  ASSERT_FALSE(no_cells);
  EXPECT_EQ(no_cells.error().code, ErrorCode::kOutOfMemory);
  EXPECT_TRUE(no_cells.error().message.contains("KV cache")) << no_cells.error().message;
  EXPECT_TRUE(no_cells.error().message.contains("-c")) << no_cells.error().message;
  const auto no_tables = with_limit(free.kv_bytes);
  ASSERT_FALSE(no_tables);
  EXPECT_TRUE(no_tables.error().message.contains("2 tables")) << no_tables.error().message;
  const std::uint64_t tables = 2 * compute::Window::table_bytes(256);
  for (const std::uint64_t limit : {free.kv_bytes + tables, taken - 1}) {
    const auto no_buffers = with_limit(limit);
    ASSERT_FALSE(no_buffers) << limit;
    EXPECT_EQ(no_buffers.error().code, ErrorCode::kOutOfMemory);
    EXPECT_TRUE(no_buffers.error().message.contains("-ub")) << no_buffers.error().message;
    EXPECT_FALSE(executors_[1]->holds(kEpoch));
  }
  EXPECT_TRUE(with_limit(taken));
}

// Weights that stay leave what they leave: a sixteenth of it is for frames on their way, besides three.
TEST_F(HandRing, ALoadSaysHowManyBatchesThereIsMemoryFor) {
  for (const bool repack : {false, true}) {
    wire::Prepare plan = two_rounds();
    plan.repack = repack;
    const auto load_with = [&](std::uint64_t limit) {
      const auto report = value_of(executors_[1]->load(
          plan, 1, {.repack = repack, .anonymous_limit = limit, .progress = {}, .cancelled = {}}));
      executors_[1]->free(kEpoch);
      return report;
    };
    const auto all = load_with(std::numeric_limits<std::uint64_t>::max());
    EXPECT_EQ(all.max_batches, kMaxGroup) << "without a limit";
    const std::uint64_t taken = all.kv_bytes + all.compute_bytes + all.weight_bytes;
    const std::uint64_t frame = std::uint64_t{plan.n_ubatch} * model_.params().n_embd * sizeof(float);
    EXPECT_EQ(load_with(taken).max_batches, 3U) << repack;
    EXPECT_EQ(load_with(taken + 16 * frame - 1).max_batches, 3U) << repack;
    EXPECT_EQ(load_with(taken + 16 * 5 * frame).max_batches, 8U) << repack;
  }
}

TEST(MemoryForEpochs, IsWhatIsLentWithoutTheProgram) {
  constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
  EXPECT_EQ(memory_for_epochs(1), 0U) << "the program alone takes more";
  EXPECT_EQ(memory_for_epochs(kMemoryReserve), 0U);
  // It takes something, and far less than a hundred times the reserve.
  EXPECT_LT(memory_for_epochs(64 * kGiB), 64 * kGiB - kMemoryReserve);
  EXPECT_GT(memory_for_epochs(64 * kGiB), 64 * kGiB - 100 * kMemoryReserve);
  EXPECT_GT(memory_for_epochs(0), 0U);
}

TEST_F(HandRing, ALoadCanBeEndedWhileItRuns) {
  int asked = 0;
  const auto report =
      executors_[1]->load(two_rounds(), 1, {.progress = {}, .cancelled = [&] { return ++asked == 3; }});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(asked, 3);
  EXPECT_FALSE(executors_[1]->holds(kEpoch));
}

// What is used in one visit of a token: steps that follow each other, and on the head the output head, which
// comes right after the last step and right before the next token's first.
TEST(Visits, AreCountedByWhatFollowsWithoutAHop) {
  const model::ModelFile model =
      value_of(model::ModelFile::open(testing::test_model(testing::small_spec("llama", "Q4_0"))));
  ASSERT_EQ(model.params().n_layer, 8U);
  const auto backend = value_of(compute::Backend::cpu(1));
  struct Case {
    std::string name;
    std::uint16_t device;
    std::vector<wire::StepSpec> steps;
    std::vector<std::uint32_t> visit_of;  // layers; on the head embedding and output head
  };
  const Case cases[] = {
      {"alone", 0, {{0, 0, 8}}, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
      {"the head is first and last",
       0,
       {{0, 0, 2}, {1, 2, 4}, {0, 4, 5}, {1, 5, 7}, {0, 7, 8}},
       {0, 0, 1, 0, 0, 0}},
      {"first", 0, {{0, 0, 2}, {1, 2, 6}, {0, 6, 7}, {1, 7, 8}}, {0, 0, 1, 0, 0}},
      {"last", 0, {{1, 0, 2}, {0, 2, 4}, {1, 4, 6}, {0, 6, 8}}, {0, 0, 1, 1, 1, 1}},
      {"in the middle", 0, {{1, 0, 2}, {0, 2, 4}, {1, 4, 8}}, {0, 0, 1, 1}},
      {"without layers", 0, {{1, 0, 8}}, {0, 0}},
      {"a worker", 1, {{0, 0, 2}, {1, 2, 4}, {0, 4, 5}, {1, 5, 7}, {0, 7, 8}}, {0, 0, 1, 1}},
      {"steps that follow each other", 1, {{0, 0, 2}, {1, 2, 3}, {1, 3, 5}, {0, 5, 8}}, {0, 0, 0}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    std::optional<std::vector<std::uint32_t>> told;
    Executor executor(
        model, *backend, 16, {},
        [&](const model::ModelFile&, std::span<const model::SegmentId>, ggml_backend_device*,
            const residency::LoadOptions&,
            const residency::WeightUse& use) -> Result<std::unique_ptr<residency::WeightSource>> {
          told = use.visit_of;
          return fail(ErrorCode::kCancelled, "enough");
        });
    EXPECT_FALSE(executor.load(make_plan(model, kEpoch, 2, c.steps), c.device, {}));
    ASSERT_TRUE(told);
    EXPECT_EQ(*told, c.visit_of);
  }
}

}  // namespace
}  // namespace hearth::node
