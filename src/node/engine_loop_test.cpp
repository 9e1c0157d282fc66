// The engine thread's loop on a filled channel, and what overtakes it.
#include "node/engine_loop.h"

#include <thread>

#include <gtest/gtest.h>

#include "model/tokenizer.h"
#include "support/streaming_source.h"
#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::node {
namespace {

using testing::value_of;

DeviceKey key_of(std::uint8_t n) {
  DeviceKey key;
  key.bytes.fill(n);
  return key;
}

// A worker between the head, which has no layers, and the head again.
class Loop : public ::testing::Test {
 protected:
  Loop()
      : model_(value_of(model::ModelFile::open(testing::test_model(testing::small_spec("llama", "Q4_0"))))),
        backend_(value_of(compute::Backend::cpu(1))),
        executor_(model_, *backend_, 1,
                  ExecutorSink{
                      .send = [this](const DeviceKey&,
                                     std::vector<std::uint8_t> frame) { sent_.push_back(std::move(frame)); },
                      .finished = {}}) {
    hooks_ = {
        .memory = [] { return 1ULL << 40; },
        .loaded = [this](
                      std::uint32_t epoch,
                      Result<engine::LoadReport> report) { loaded_.emplace_back(epoch, std::move(report)); },
        .broken = [this](std::uint32_t epoch, Error error) { broken_.emplace_back(epoch, std::move(error)); },
        .load_progress =
            [this](residency::LoadStage, std::uint64_t, std::uint64_t) {
              if (on_progress_) on_progress_();
            },
        .freed = [this](std::uint32_t epoch) { freed_.push_back(epoch); }};
  }

  [[nodiscard]] wire::Prepare plan(std::uint32_t epoch) const {
    wire::Prepare plan{.epoch = epoch,
                       .n_layer = model_.params().n_layer,
                       .n_ctx = 64,
                       .n_ubatch = 16,
                       .steps = {{1, 0, model_.params().n_layer}}};
    plan.members = {{.name = "head", .key = key_of(1), .address = {"127.0.0.1", 1, 2}},
                    {.name = "worker", .key = key_of(2), .address = {"127.0.0.1", 3, 4}}};
    return plan;
  }
  // Batch `id` of one token at position id - 1.
  [[nodiscard]] FrameArrived frame(std::uint32_t epoch, std::uint64_t id, float value = 0.5F,
                                   bool output = true) const {
    wire::BatchFrame frame{.epoch = epoch, .batch = {.id = id}, .n_embd = model_.params().n_embd};
    frame.batch.tokens = {{.position = static_cast<std::int32_t>(id) - 1,
                           .cell = static_cast<std::uint32_t>(id) - 1,
                           .sequences = wire::SequenceSet::of(0),
                           .output = output}};
    const std::vector<float> row(model_.params().n_embd, value);
    EXPECT_TRUE(wire::encode_hidden(frame.encoding, row, frame.n_embd, frame.hidden));
    std::vector<std::uint8_t> bytes;
    wire::encode(frame, bytes);
    return {key_of(1), std::move(bytes)};
  }
  // Everything that is queued, then the end.
  void run() {
    inputs_.close();
    run_engine(inputs_, recalls_, executor_, nullptr, hooks_);
  }
  [[nodiscard]] bool operations_only(std::size_t sent) const {
    const auto n_steps = std::uint16_t{1};
    return value_of(wire::decode_batch_frame(
                        sent_[sent],
                        {.n_ctx = 64, .n_ubatch = 16, .n_embd = model_.params().n_embd, .n_steps = n_steps}))
        .batch.operations_only;
  }

  model::ModelFile model_;
  std::unique_ptr<compute::Backend> backend_;
  std::vector<std::vector<std::uint8_t>> sent_;
  std::vector<std::pair<std::uint32_t, Result<engine::LoadReport>>> loaded_;
  std::vector<std::pair<std::uint32_t, Error>> broken_;
  std::vector<std::uint32_t> freed_;
  std::function<void()> on_progress_;
  Recalls recalls_;
  EngineInbox inputs_{64};
  EngineLoopHooks hooks_;
  Executor executor_;
};

TEST_F(Loop, ComputesWhatComesInOrder) {
  inputs_.send(LoadPlan{plan(5), 1});
  for (std::uint64_t id = 1; id <= 3; ++id) inputs_.send(frame(5, id));
  inputs_.send(FreePlan{5});
  run();
  ASSERT_EQ(loaded_.size(), 1U);
  EXPECT_TRUE(loaded_[0].second);
  ASSERT_EQ(sent_.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(value_of(wire::peek_batch_frame(sent_[i])).batch, i + 1);
    EXPECT_FALSE(operations_only(i));
  }
  EXPECT_EQ(freed_, std::vector<std::uint32_t>{5});
  EXPECT_TRUE(broken_.empty());
}

TEST_F(Loop, ACancelOvertakesTheFramesThatWait) {
  inputs_.send(LoadPlan{plan(5), 1});
  for (std::uint64_t id = 1; id <= 4; ++id) inputs_.send(frame(5, id));
  // Said after the frames were queued, and before the engine sees the first of them.
  hooks_.loaded = [this](std::uint32_t, const Result<engine::LoadReport>&) {
    recalls_.add_batches({5, 2, 3});
  };
  run();
  ASSERT_EQ(sent_.size(), 4U) << "a cancelled batch still passes";
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(operations_only(i), i == 1 || i == 2) << i;
}

TEST_F(Loop, TheEndOfAnEpochOvertakesItsFrames) {
  inputs_.send(LoadPlan{plan(5), 1});
  for (std::uint64_t id = 1; id <= 3; ++id) inputs_.send(frame(5, id));
  inputs_.send(FreePlan{5});
  inputs_.send(LoadPlan{plan(5), 1});  // the same number again, by a head that was started anew
  inputs_.send(frame(5, 1));
  int loads = 0;
  hooks_.loaded = [&](std::uint32_t, const Result<engine::LoadReport>& report) {
    EXPECT_TRUE(report);
    if (++loads == 1) recalls_.add_epoch(5);
  };
  run();
  EXPECT_EQ(loads, 2);
  EXPECT_EQ(sent_.size(), 1U) << "of the second life alone";
  EXPECT_TRUE(broken_.empty()) << "dropped frames are no error";
}

TEST_F(Loop, TheEndOfAnEpochEndsItsLoad) {
  inputs_.send(LoadPlan{plan(5), 1});
  inputs_.send(FreePlan{5});
  int steps = 0;
  on_progress_ = [&] {
    if (++steps == 2) recalls_.add_epoch(5);
  };
  run();
  if (steps == 0) GTEST_SKIP() << "this CPU has no other layout for Q4_0: nothing is copied";
  EXPECT_EQ(steps, 2);
  ASSERT_EQ(loaded_.size(), 1U);
  ASSERT_FALSE(loaded_[0].second);
  EXPECT_EQ(loaded_[0].second.error().code, ErrorCode::kCancelled);
  EXPECT_FALSE(executor_.holds(5));
  EXPECT_FALSE(recalls_.has(5));
}

TEST_F(Loop, AStepOfAnEpochThatIsOverEndsBetweenTwoNodes) {
  // The graph itself asks; without a recall it runs to its end.
  int asked = 0;
  value_of(executor_.load(plan(5), 1, {}));
  executor_.abort_when([&](std::uint32_t epoch) {
    EXPECT_EQ(epoch, 5U);
    EXPECT_EQ(executor_.counters().work_done, static_cast<std::uint64_t>(asked) + 1) << "seen within a step";
    return ++asked == 7;
  });
  const FrameArrived first = frame(5, 1);
  const auto outcome = executor_.on_frame(first.from, first.bytes);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().error.code, ErrorCode::kCancelled) << outcome.error().error.message;
  EXPECT_EQ(asked, 7);
  EXPECT_TRUE(sent_.empty());
  executor_.free(5);
  const ExecutorCounters& counters = executor_.counters();
  EXPECT_EQ(counters.steps_done, counters.steps_accepted) << "nothing looks stuck afterwards";
}

TEST_F(Loop, AFailureEndsItsEpochAndSaysWhy) {
  inputs_.send(LoadPlan{plan(5), 1});
  inputs_.send(frame(5, 2));  // where batch 1 is expected
  inputs_.send(frame(5, 1));
  run();
  ASSERT_EQ(broken_.size(), 1U);
  EXPECT_EQ(broken_[0].first, 5U);
  EXPECT_EQ(broken_[0].second.code, ErrorCode::kProtocol);
  EXPECT_TRUE(sent_.empty());
  EXPECT_FALSE(executor_.holds(5));
}

// --- Streamed weights

TEST_F(Loop, WhatWaitsIsComputedTogether) {
  std::uint64_t n_acquired = 0;
  const testing::MovingSource* source = nullptr;
  Executor streaming(model_, *backend_, 1,
                     {.send =
                          [&](const DeviceKey&, std::vector<std::uint8_t> frame) {
                            sent_.push_back(std::move(frame));
                            if (sent_.size() < 4) return;
                            n_acquired = source->n_acquired();
                            inputs_.close();
                          },
                      .finished = {}},
                     testing::open_streaming([&](const testing::MovingSource* opened) { source = opened; }));
  inputs_.send(LoadPlan{plan(5), 1});
  for (std::uint64_t id = 1; id <= 4; ++id) inputs_.send(frame(5, id));
  run_engine(inputs_, recalls_, streaming, nullptr, hooks_);
  ASSERT_EQ(sent_.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(value_of(wire::peek_batch_frame(sent_[i])).batch, i + 1);
  EXPECT_EQ(n_acquired, model_.params().n_layer) << "each layer once for four batches";
  EXPECT_TRUE(broken_.empty());
}

// Of a ring that has one batch at once no second one is waited for.
TEST_F(Loop, AWorkerIsToldHowManyBatchesThereAre) {
  for (const bool told : {false, true}) {
    EngineInbox inputs(64);
    Executor streaming(
        model_, *backend_, 1,
        {.send = [&](const DeviceKey&, const std::vector<std::uint8_t>&) { inputs.close(); }, .finished = {}},
        testing::open_streaming());
    inputs.send(LoadPlan{plan(5), 1});
    if (told) inputs.send(EpochActive{5, 1});
    inputs.send(frame(5, 1));
    run_engine(inputs, recalls_, streaming, nullptr, hooks_);
    const FrameArrived piece = frame(5, 2, 0.5F, false);  // of a prompt: no output
    ASSERT_TRUE(streaming.on_frame(piece.from, piece.bytes));
    EXPECT_EQ(streaming.expects_more(5), !told);
  }
}

TEST_F(Loop, TheEndOfAnEpochEndsWhatWaits) {
  Executor streaming(
      model_, *backend_, 1,
      {.send = [&](const DeviceKey&,
                   const std::vector<std::uint8_t>&) { ADD_FAILURE() << "nobody waits for it"; },
       .finished = {}},
      testing::open_streaming());
  inputs_.send(LoadPlan{plan(5), 1});
  for (std::uint64_t id = 1; id <= 3; ++id) inputs_.send(frame(5, id));
  inputs_.send(FreePlan{5});
  inputs_.close();
  run_engine(inputs_, recalls_, streaming, nullptr, hooks_);
  EXPECT_EQ(freed_, std::vector<std::uint32_t>{5});
  EXPECT_FALSE(streaming.waiting());
  EXPECT_TRUE(broken_.empty());
}

// A head that is its own ring: what it generates from a prompt of four chunks, and how often it fetched a
// layer.
TEST(HeadLoop, APromptIsOneGroup) {
  const auto path = testing::test_model(testing::small_spec("llama", "Q8_0"));
  const auto model = value_of(model::ModelFile::open(path));
  const auto tokenizer = value_of(model::Tokenizer::load(path));
  const auto backend = value_of(compute::Backend::cpu(1));
  const auto generate = [&](const OpenWeights& open_weights, std::uint32_t max_in_flight,
                            const std::function<void()>& first_token) {
    EngineInbox inputs(64);
    Recalls recalls;
    std::atomic<std::uint32_t> in_flight{0};
    std::unique_ptr<Generator> generator;
    Executor executor(model, *backend, 1,
                      {.send = {},
                       .finished =
                           [&](const FinishedBatch& batch) {
                             if (!batch.logits.empty()) first_token();
                             generator->on_finished(batch);
                           }},
                      open_weights);
    generator = std::make_unique<Generator>(
        tokenizer, executor, Generator::Options{.n_ctx = 64, .n_ubatch = 16, .n_seq_max = 1},
        [](std::uint32_t, engine::BatchRange) {}, in_flight);
    wire::Prepare plan{.epoch = 5,
                       .n_layer = model.params().n_layer,
                       .n_ctx = 64,
                       .n_ubatch = 16,
                       .steps = {{0, 0, model.params().n_layer}}};
    plan.members = {{.name = "head", .key = key_of(1), .address = {"127.0.0.1", 1, 2}}};
    auto request = std::make_shared<Request>();
    for (std::int32_t i = 0; i < 50; ++i) request->prompt.push_back(5 + i * 11);
    request->options.max_tokens = 4;
    request->options.ignore_end = true;
    request->options.sampling.temperature = 0;
    inputs.send(LoadPlan{plan, 0});
    inputs.send(EpochActive{5, max_in_flight});
    inputs.send(Submit{request});
    std::thread engine([&] {
      run_engine(inputs, recalls, executor, generator.get(),
                 {.memory = [] { return 1ULL << 40; },
                  .loaded = [](auto, auto) {},
                  .broken = [](auto, auto) {},
                  .load_progress = {},
                  .freed = {}});
    });
    std::vector<model::Token> tokens;
    while (const auto event = request->events.receive()) {
      if (const auto* token = std::get_if<TokenEvent>(&*event)) tokens.push_back(token->token);
      if (const auto* failed = std::get_if<FailedEvent>(&*event)) ADD_FAILURE() << failed->error.message;
    }
    inputs.close();
    engine.join();
    return tokens;
  };
  const auto wanted = generate({}, 2, [] {});
  ASSERT_EQ(wanted.size(), 4U);
  const std::uint64_t n_layer = model.params().n_layer;
  // Another device may have memory for fewer batches at once: then they come in more groups.
  for (const auto& [max_in_flight, n_groups] : {std::pair{kMaxBatches, 1U}, {4U, 1U}, {2U, 2U}, {1U, 4U}}) {
    const testing::MovingSource* source = nullptr;
    std::vector<std::uint64_t> fetched;
    const auto tokens =
        generate(testing::open_streaming([&](const testing::MovingSource* opened) { source = opened; }),
                 max_in_flight, [&] { fetched.push_back(source->n_acquired()); });
    EXPECT_EQ(tokens, wanted);
    // Embeddings of four chunks, each layer once for each group, the output; then a token at a time.
    ASSERT_EQ(fetched.size(), 4U);
    EXPECT_EQ(fetched[0], 4 + n_groups * n_layer + 1) << max_in_flight << " at once";
    EXPECT_EQ(fetched[1] - fetched[0], 1 + n_layer + 1);
  }
}

}  // namespace
}  // namespace hearth::node
