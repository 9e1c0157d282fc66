#include "compute/scratch.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "base/test_memory.h"
#include "support/one_device.h"
#include "support/test_models.h"

namespace hearth::compute {
namespace {

using testing::DeviceOptions;
using testing::OneDevice;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

synth::SynthSpec two_layers(std::string_view arch) {
  synth::SynthSpec spec = small_spec(arch, "Q8_0");
  spec.shape.n_layer = 2;
  return spec;
}

// Against what the C library counts; page rounding and small objects make the difference.
TEST(Memory, TakesWhatBytesSays) {
  if (allocated_bytes() == 0) GTEST_SKIP() << "this C library (or a sanitizer) does not count its memory";
  constexpr std::uint64_t kSmallObjects = 128 << 10;
  for (const bool flash : {true, false}) {
    const OneDevice device(test_model(two_layers("llama")));
    std::uint64_t before = allocated_bytes();
    const ScratchOptions options = {.n_cells = 4096, .n_ubatch = 256, .flash_attention = flash};
    const auto scratch = value_of(Scratch::create(*device.backend, *device.model, options));
    std::uint64_t taken = allocated_bytes() - before;
    const std::uint64_t work = Scratch::work_bytes(device.model->params(), options, 1);
    const std::uint64_t own = scratch->bytes() - work;
    EXPECT_GT(own, std::uint64_t{4} << 20);
    EXPECT_GE(taken, own);
    EXPECT_LE(taken, own + kSmallObjects);

    before = allocated_bytes();
    const auto window =
        value_of(Window::create(*scratch, *device.model, {0, 2}, *device.weights, wire::KvType::kF16));
    taken = allocated_bytes() - before;
    const std::uint64_t kv = KvStorage::bytes(device.model->params(), 2, wire::KvType::kF16, 4096);
    const std::uint64_t table = 4096 * (sizeof(std::int32_t) + sizeof(wire::SequenceSet));
    EXPECT_GE(taken, kv + table);
    EXPECT_LE(taken, kv + table + kSmallObjects);

    before = allocated_bytes();
    const auto head = value_of(Head::create(*device.backend, *device.model, *device.weights, 256, 64));
    taken = allocated_bytes() - before;
    EXPECT_GE(taken, head->bytes());
    EXPECT_LE(taken, head->bytes() + kSmallObjects);

    // What the backend takes for itself shows with the first full batch over all cells.
    wire::Batch batch = OneDevice::batch(0, 256);
    for (wire::BatchToken& token : batch.tokens) token.cell += 4096 - 256;
    before = allocated_bytes();
    value_of(window->run(batch));
    taken = allocated_bytes() - before;
    EXPECT_LE(taken, work + 2 * kSmallObjects);
    if (!flash) {
      EXPECT_GE(taken, work / 4) << "it is no wild guess";
    }
  }
}

// Graphs are kept for a few shapes only.
TEST(Memory, DoesNotGrowWithTheNumberOfShapes) {
  if (allocated_bytes() == 0) GTEST_SKIP() << "this C library (or a sanitizer) does not count its memory";
  const OneDevice device(test_model(two_layers("llama")));
  const auto window = device.all_layers();
  const auto run = [&](std::int32_t n) {
    wire::Batch batch = OneDevice::batch(0, n);
    batch.operations.push_back({.kind = wire::KvOpKind::kKeep, .seq = 9});
    (void)device.run({window.get()}, batch, device.tokens(0, n));
  };
  // The longest first: ggml keeps the work memory of the largest graph.
  for (const std::int32_t n : {64, 1, 2, 3, 4, 5, 6}) run(n);
  const std::uint64_t before = allocated_bytes();
  for (std::int32_t n = 7; n < 60; ++n) run(n);
  EXPECT_LE(allocated_bytes(), before + (32 << 10));
}

struct Case {
  const char* arch;
  bool flash_attention;
  wire::KvType kv_type;
};

class AnyBatch : public ::testing::TestWithParam<Case> {};

// Whatever fits the limits finds its place in the memory that was taken at creation.
TEST_P(AnyBatch, FitsTheScratch) {
  const auto [arch, flash, kv_type] = GetParam();
  constexpr std::uint32_t kCells = 1024, kUbatch = 48;
  const OneDevice device(
      test_model(two_layers(arch)),
      {.n_cells = kCells, .n_ubatch = kUbatch, .flash_attention = flash, .kv_type = kv_type});
  const auto window = device.window({0, 2}, kv_type);
  const std::uint64_t bytes = device.scratch->bytes();
  std::mt19937 random(7);
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  for (int i = 0; i < 250; ++i) {
    const std::uint32_t n = i % 5 == 0 ? kUbatch : 1 + below(kUbatch);
    // Cells anywhere, so that attention reaches over 256, 512, 768 or 1,024 of them.
    const std::uint32_t first = below(kCells - n + 1);
    const std::uint32_t n_out = i % 3 == 0 ? n - 1 : below(n + 1);
    wire::Batch batch = OneDevice::batch(0, static_cast<std::int32_t>(n));
    if (i % 4 == 3) batch.operations.push_back({.kind = wire::KvOpKind::kShift, .seq = 0, .delta = 1});
    batch.operations.push_back({.kind = wire::KvOpKind::kKeep, .seq = 9});
    for (std::uint32_t t = 0; t < n; ++t) {
      batch.tokens[t].cell = first + t;
      batch.tokens[t].output = t < n_out;
    }
    (void)device.run({window.get()}, batch, device.tokens(0, static_cast<std::int32_t>(n)));
    ASSERT_EQ(device.scratch->bytes(), bytes)
        << n << " tokens, " << n_out << " outputs, cells from " << first;
    ASSERT_EQ(device.scratch->generation(), 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, AnyBatch,
    ::testing::Values(Case{"llama", true, wire::KvType::kF16}, Case{"qwen2", true, wire::KvType::kF32},
                      Case{"qwen3", true, wire::KvType::kF16}, Case{"llama", false, wire::KvType::kF16},
                      Case{"qwen2", false, wire::KvType::kF32}, Case{"qwen3", false, wire::KvType::kF32},
                      Case{"llama", true, wire::KvType::kQ8_0}, Case{"qwen3", true, wire::KvType::kQ8_0},
                      Case{"phi3", true, wire::KvType::kQ8_0}, Case{"gpt-oss", true, wire::KvType::kQ8_0},
                      Case{"gemma2", true, wire::KvType::kF16}, Case{"gemma2", false, wire::KvType::kF32},
                      Case{"gpt-oss", true, wire::KvType::kF16}, Case{"gpt-oss", false, wire::KvType::kF16},
                      Case{"phi3", true, wire::KvType::kF16}, Case{"qwen2moe", true, wire::KvType::kF16},
                      Case{"qwen2moe", false, wire::KvType::kF32}),
    [](const auto& test) {
      std::string name = test.param.arch;
      std::ranges::replace(name, '-', '_');
      return name + (test.param.flash_attention ? "Flash" : "NoFlash") +
             (test.param.kv_type == wire::KvType::kF32   ? "F32"
              : test.param.kv_type == wire::KvType::kF16 ? "F16"
                                                         : "Q8");
    });

TEST(Scratch, SaysWhatDoesNotFit) {
  const OneDevice device(test_model(two_layers("llama")));
  const auto scratch = Scratch::create(*device.backend, *device.model,
                                       {.n_cells = 1U << 30, .n_ubatch = 1U << 20, .flash_attention = true});
  ASSERT_FALSE(scratch);
  EXPECT_EQ(scratch.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(scratch.error().message.find("1048576 tokens over 1073741824 cells"), std::string::npos)
      << scratch.error().message;
}

TEST(Scratch, PadsCells) {
  EXPECT_EQ(pad_cells(1), 256U);
  EXPECT_EQ(pad_cells(256), 256U);
  EXPECT_EQ(pad_cells(257), 512U);
  EXPECT_EQ(pad_cells(1000), 1024U);
}

}  // namespace
}  // namespace hearth::compute
