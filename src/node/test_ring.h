// For tests: executors of several devices, wired by hand on one thread: every frame can be looked at, held
// back or forged.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <format>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "engine/plan_rules.h"
#include "node/executor.h"
#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::node {

inline constexpr std::uint32_t kEpoch = 7;

inline DeviceKey key_of(std::uint16_t device) {
  DeviceKey key;
  key.bytes.fill(static_cast<std::uint8_t>(0x40 + device));
  return key;
}

inline wire::Prepare make_plan(const model::ModelFile& model, std::uint32_t epoch, std::uint16_t n_devices,
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
      : model_(testing::value_of(model::ModelFile::open(path))),
        backend_(testing::value_of(compute::Backend::cpu(1))) {
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
    for (std::uint16_t i = 0; i < plan.members.size(); ++i)
      testing::value_of(executors_[i]->load(plan, i, {}));
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
      if (testing::value_of(wire::peek_batch_frame(next.frame)).step == 5) return next;
      EXPECT_TRUE(deliver(next));
    }
  }
  [[nodiscard]] wire::BatchFrame decoded(const Posted& posted) const {
    return testing::value_of(wire::decode_batch_frame(
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

}  // namespace hearth::node
