// Batches that wait to be computed together, where weights are streamed. Claimed where logits are compared:
// exact.
#include <utility>

#include <gtest/gtest.h>

#include "node/executor.h"
#include "node/test_ring.h"
#include "support/streaming_source.h"

namespace hearth::node {
namespace {

using testing::value_of;

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

// As many wait as the ring ever has: the next one comes only after one of these has gone around.
TEST_F(StreamingRing, AWorkerKnowsThatTheRingHasNoMore) {
  load(two_rounds());
  Text text;
  const auto all = chunks(text);
  for (const auto& executor : executors_) executor->activate(kEpoch, 3);
  for (std::size_t i = 0; i < 3; ++i) {
    start(kEpoch, all[i]);
    ASSERT_TRUE(executors_[0]->run_waiting());
    pass_everything();
    EXPECT_EQ(executors_[1]->expects_more(kEpoch), i < 2) << i;
  }
  // The same three, in another window of the same device.
  for (const std::size_t i : {1, 2, 0}) {
    ASSERT_TRUE(executors_[i]->run_waiting());
    pass_everything();
  }
  EXPECT_FALSE(executors_[1]->expects_more(kEpoch));
  executors_[1]->activate(kEpoch, 4);
  EXPECT_TRUE(executors_[1]->expects_more(kEpoch));
  executors_[1]->activate(kEpoch + 1, 3);
  EXPECT_TRUE(executors_[1]->expects_more(kEpoch)) << "another epoch";
}

// 272 tokens: the cells, which come in 256, and a batch.
TEST_F(StreamingRing, GroupsKeepToTheMemoryThatIsLeft) {
  const auto report = value_of(executors_[1]->load(two_rounds(), 1, {}));
  EXPECT_EQ(report.max_group, 17U);
  EXPECT_EQ(report.max_batches, 3U + 2 * 17);
  executors_[1]->free(kEpoch);
  const std::uint64_t per_batch = 2ULL * 16 * model_.params().n_embd * sizeof(float);
  const std::uint64_t fixed = report.kv_bytes + report.compute_bytes - 17 * per_batch;
  // A sixteenth of what is left for weights.
  for (const std::uint64_t n : {1, 2, 5}) {
    const auto tight = value_of(executors_[1]->load(
        two_rounds(), 1,
        {.anonymous_limit = fixed + 16 * n * per_batch + 8, .progress = {}, .cancelled = {}}));
    EXPECT_EQ(tight.max_group, n);
    EXPECT_EQ(tight.max_batches, n == 1 ? 3 : 3 + 2 * n) << "three in any case, and each group twice";
    executors_[1]->free(kEpoch);
  }
}

}  // namespace
}  // namespace hearth::node
