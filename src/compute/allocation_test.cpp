// No memory is allocated per token once the graphs are warm: every operator new of the process is counted.
//
// A program of its own, as it replaces the global operators.
#include <atomic>
#include <cstdlib>
#include <new>

#include <gtest/gtest.h>

#include "support/moving_source.h"
#include "support/one_device.h"
#include "support/test_models.h"

namespace {

std::atomic<std::size_t> n_allocations = 0;

void* counted(std::size_t bytes) {
  ++n_allocations;
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void* counted(std::size_t bytes, std::size_t alignment) {
  ++n_allocations;
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// The other forms of new and delete call these, except that sanitizers bring their own forms that do not
// throw.
void* operator new(std::size_t bytes) {
  return counted(bytes);
}
void* operator new[](std::size_t bytes) {
  return counted(bytes);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++n_allocations;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  ++n_allocations;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace hearth::compute {
namespace {

using testing::OneDevice;

TEST(Allocation, TheCounterCounts) {
  const std::size_t before = n_allocations;
  const auto value = std::make_unique<int>(1);
  const std::vector<int> values(10);
  EXPECT_EQ(n_allocations - before, 2U);
}

struct Decoder {
  Head& head;
  std::vector<Window*> windows;
  wire::Batch batch;
  std::vector<std::int32_t> ids;
  std::vector<float> rows;
  float sum = 0;

  // One step of n_sequences sequences, cells step * n_sequences and so on. As the engine does it, without
  // frames.
  void step(std::int32_t position) {
    const auto n = static_cast<std::uint32_t>(batch.tokens.size());
    for (std::uint32_t s = 0; s < n; ++s) {
      batch.tokens[s].position = position;
      batch.tokens[s].cell = static_cast<std::uint32_t>(position) * n + s;
      ids[s] = (position * 31 + static_cast<std::int32_t>(s) * 7) % 2000;
    }
    ++batch.id;
    HEARTH_CHECK(head.embed(ids, rows).has_value());
    for (Window* window : windows) {
      std::ranges::copy(rows, window->input(n).begin());
      const auto out = window->run(batch);
      HEARTH_CHECK(out.has_value());
      std::ranges::copy(*out, rows.begin());
    }
    const auto logits = head.logits(rows);
    HEARTH_CHECK(logits.has_value());
    sum += (*logits)[0];
  }
};

class Decoding : public ::testing::TestWithParam<std::uint32_t> {};

TEST_P(Decoding, AllocatesNothingOnceItIsWarm) {
  const std::uint32_t n_sequences = GetParam();
  for (const char* type : {"Q8_0", "Q4_K_M"}) {
    for (const bool flash : {true, false}) {
      const OneDevice device(testing::test_model(testing::small_spec("llama", type)),
                             {.n_cells = 512, .n_ubatch = 8, .n_outputs = 8, .flash_attention = flash});
      const auto low = device.window({0, 5}), high = device.window({5, 8});
      Decoder run = {.head = *device.head,
                     .windows = {low.get(), high.get()},
                     .batch = {},
                     .ids = std::vector<std::int32_t>(n_sequences),
                     .rows = std::vector<float>(n_sequences * device.model->params().n_embd)};
      for (std::uint32_t s = 0; s < n_sequences; ++s)
        run.batch.tokens.push_back({.sequences = wire::SequenceSet::of(s), .output = true});
      std::int32_t position = 0;
      for (; position < 3; ++position) run.step(position);
      const std::size_t before = n_allocations;
      // Up to 240 of the 256 cells that the warm graphs attend to.
      for (; position < static_cast<std::int32_t>(240 / n_sequences); ++position) run.step(position);
      EXPECT_EQ(n_allocations - before, 0U) << type << (flash ? ", flash attention" : "");
      EXPECT_NE(run.sum, 0);
    }
  }
}

// Nor where the weights come in parts; the source here reuses its memory, too.
TEST_P(Decoding, AllocatesNothingForParts) {
  const std::uint32_t n_sequences = GetParam();
  const OneDevice device(testing::test_model(testing::small_spec("qwen3", "Q4_K_M")),
                         {.n_ubatch = 8, .n_outputs = 8});
  for (const auto division : {testing::Division::kTensors, testing::Division::kBlocks}) {
    testing::MovingSource source(*device.weights, *device.model, {.division = division});
    const auto window =
        testing::value_of(Window::create(*device.scratch, *device.model, {0, 8}, source, wire::KvType::kF16));
    const auto head = testing::value_of(Head::create(*device.backend, *device.model, source, 8, 8));
    Decoder run = {.head = *head,
                   .windows = {window.get()},
                   .batch = {},
                   .ids = std::vector<std::int32_t>(n_sequences),
                   .rows = std::vector<float>(n_sequences * device.model->params().n_embd)};
    for (std::uint32_t s = 0; s < n_sequences; ++s)
      run.batch.tokens.push_back({.sequences = wire::SequenceSet::of(s), .output = true});
    std::int32_t position = 0;
    for (; position < 5; ++position) run.step(position);
    const std::size_t before = n_allocations;
    for (; position < 40; ++position) run.step(position);
    EXPECT_EQ(n_allocations - before, 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(Sequences, Decoding, ::testing::Values(1U, 4U));

// Removing and copying belong to every request; they cost no memory either.
TEST(Allocation, OperationsAllocateNothing) {
  const OneDevice device(testing::test_model(testing::small_spec("llama", "Q8_0")),
                         {.n_ubatch = 8, .n_outputs = 8});
  const auto window = device.all_layers();
  Decoder run = {.head = *device.head,
                 .windows = {window.get()},
                 .batch = {},
                 .ids = {0},
                 .rows = std::vector<float>(256)};
  run.batch.tokens.push_back({.sequences = wire::SequenceSet::of(0), .output = true});
  run.batch.operations = {{.kind = wire::KvOpKind::kCopy, .seq = 0, .seq_to = 1},
                          {.kind = wire::KvOpKind::kRemove, .seq = 1, .p0 = 2}};
  for (std::int32_t position = 0; position < 3; ++position) run.step(position);
  const std::size_t before = n_allocations;
  for (std::int32_t position = 3; position < 60; ++position) run.step(position);
  EXPECT_EQ(n_allocations - before, 0U);
}

}  // namespace
}  // namespace hearth::compute
