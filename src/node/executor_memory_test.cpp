// What a load takes, says and asks for.
#include <limits>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "node/executor.h"
#include "node/test_ring.h"
#include "node/weights.h"
#include "support/streaming_source.h"

namespace hearth::node {
namespace {

using testing::value_of;

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

// Weights that stay leave what they leave: half of it is for frames on their way, besides three.
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
    EXPECT_EQ(all.max_batches, kMaxBatches) << "without a limit";
    const std::uint64_t taken = all.kv_bytes + all.compute_bytes + all.weight_bytes;
    const std::uint64_t frame = std::uint64_t{plan.n_ubatch} * model_.params().n_embd * sizeof(float);
    EXPECT_EQ(load_with(taken).max_batches, 3U) << repack;
    EXPECT_EQ(load_with(taken + 2 * frame - 1).max_batches, 3U) << repack;
    EXPECT_EQ(load_with(taken + 2 * 5 * frame).max_batches, 8U) << repack;
  }
}

// Where nothing passes a link there is no limit but that of all; where a layer cannot be held, what was set
// aside for groups, 272 tokens as rows and as frames, is for frames.
TEST(MaxBatches, DependsOnWhatADeviceHasToDo) {
  const model::ModelFile model =
      value_of(model::ModelFile::open(testing::test_model(testing::small_spec("llama", "Q4_0"))));
  const auto backend = value_of(compute::Backend::cpu(1));
  struct Case {
    std::string name;
    std::uint16_t device, n_devices;
    std::vector<wire::StepSpec> steps;
    OpenWeights open_weights;
    std::uint32_t max_batches, max_group;
  };
  const Case cases[] = {
      {"alone", 0, 1, {{0, 0, 8}}, {}, 64, 1},
      {"alone, streaming", 0, 1, {{0, 0, 8}}, testing::open_streaming(), 64, 17},
      {"a worker without layers", 1, 2, {{0, 0, 8}}, {}, 64, 1},
      {"a head without layers, streaming", 0, 2, {{1, 0, 8}}, testing::open_streaming(), 3, 1},
      {"a worker, streaming", 1, 2, {{1, 0, 8}}, testing::open_streaming(), 3 + 2 * 17, 17},
      {"a worker that cannot hold a layer",
       1,
       2,
       {{1, 0, 8}},
       testing::open_streaming({}, testing::Division::kSmall),
       3 + 2 * 272 / 16,
       1},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Executor executor(model, *backend, 16, {}, c.open_weights);
    const auto report = value_of(executor.load(make_plan(model, kEpoch, c.n_devices, c.steps), c.device, {}));
    EXPECT_EQ(report.max_batches, c.max_batches);
    EXPECT_EQ(report.max_group, c.max_group);
  }
}

TEST(MemoryForEpochs, IsWhatIsLentWithoutTheProgram) {
  constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
  EXPECT_EQ(memory_for_epochs(1), 0U) << "the program alone takes more";
  EXPECT_EQ(memory_for_epochs(kMemoryReserve), 0U);
  // It takes something, and far less than a hundred times the reserve.
  const std::uint64_t half = memory_status().usable() / 2;
  EXPECT_LT(memory_for_epochs(half), half - kMemoryReserve);
  EXPECT_GT(memory_for_epochs(half) + 100 * kMemoryReserve, half);
  EXPECT_GT(memory_for_epochs(0), 0U);
  // Without a number other programs keep some, and nobody lends more than there is; others take and give
  // meanwhile.
  const std::uint64_t slack = kGiB / 2;
  const std::uint64_t by_itself = memory_for_epochs(0), too_much = memory_for_epochs(1024 * kGiB);
  EXPECT_LT(by_itself, too_much + slack);
  EXPECT_LT(too_much, memory_status().usable() + slack);
}

TEST(MemoryForEpochs, IsNoMoreThanIsLeftWhenALoadBegins) {
  EXPECT_EQ(memory_left(1000), 1000U);
  const std::uint64_t all = std::uint64_t{1} << 50;
  EXPECT_LT(memory_left(all), all) << "what was promised is gone";
  EXPECT_GT(memory_left(all), 0U);
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
