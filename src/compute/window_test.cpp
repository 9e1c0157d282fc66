// What a window does besides computing the right numbers, which tests/oracle compares with libllama.
#include "compute/window.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <format>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <ggml.h>
#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "support/damaged_copy.h"
#include "support/moving_source.h"
#include "support/one_device.h"
#include "support/test_models.h"

namespace hearth::compute {
namespace {

using testing::OneDevice;
using testing::small_spec;
using testing::test_model;
using testing::value_of;
using wire::KvOp;
using wire::KvOpKind;

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

TEST(Window, GivesAllRowsButAfterTheLastLayerOnlyTheOutputs) {
  const OneDevice device(test_model(small_spec("llama", "Q8_0")));
  const std::size_t n_embd = device.model->params().n_embd;
  const auto first = device.window({0, 3}), last = device.window({3, 8});
  EXPECT_EQ(first->layers(), (plan::LayerRange{0, 3}));
  wire::Batch batch = OneDevice::batch(0, 5);
  const auto ids = device.tokens(0, 5);
  EXPECT_EQ(device.run({first.get()}, batch, ids).size(), 5 * n_embd);
  EXPECT_EQ(first->cells().used_end(), 5U);
  EXPECT_EQ(last->cells().used_end(), 0U);

  const auto again = device.window({0, 3});
  EXPECT_EQ(device.run({again.get(), last.get()}, batch, ids).size(), 1 * n_embd);
  batch = OneDevice::batch(5, 4);
  for (auto& token : batch.tokens) token.output = true;
  EXPECT_EQ(device.run({again.get(), last.get()}, batch, device.tokens(5, 4)).size(), 4 * n_embd);
}

TEST(Window, ABatchWithoutOutputsGivesNothingButFillsItsCells) {
  const OneDevice device(test_model(small_spec("qwen3", "Q8_0")));
  const auto with = device.all_layers(), without = device.all_layers();
  for (std::int32_t chunk = 0; chunk < 3; ++chunk) {
    wire::Batch batch = OneDevice::batch(chunk * 20, 20);
    EXPECT_FALSE(device.run({with.get()}, batch, device.tokens(chunk * 20, 20)).empty());
    batch.tokens.back().output = false;
    EXPECT_TRUE(device.run({without.get()}, batch, device.tokens(chunk * 20, 20)).empty());
  }
  const auto next = OneDevice::batch(60, 1);
  EXPECT_TRUE(same_bits(device.run({with.get()}, next, device.tokens(60, 1)),
                        device.run({without.get()}, next, device.tokens(60, 1))));
}

// A cancelled batch: its operations and cells count, nothing is computed.
TEST(Window, OperationsOnlyMovesTheCellsAndComputesNothing) {
  const OneDevice device(test_model(small_spec("llama", "Q4_0")));
  const auto window = device.all_layers();
  (void)device.run({window.get()}, OneDevice::batch(0, 10), device.tokens(0, 10));
  const auto cells = std::vector<std::uint32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const auto before = value_of(window->kv().export_cells(4, cells));

  wire::Batch cancelled = OneDevice::batch(10, 2);
  cancelled.operations_only = true;
  cancelled.operations.push_back({.kind = KvOpKind::kRemove, .seq = 0, .p0 = 3, .p1 = 5});
  const auto rows = window->run(cancelled);
  ASSERT_TRUE(rows);
  EXPECT_TRUE(rows->empty());
  EXPECT_EQ(window->cells().n_used(), 10U);
  EXPECT_TRUE(window->cells().is_free(3));
  EXPECT_EQ(window->cells().position(11), 11);
  EXPECT_EQ(value_of(window->kv().export_cells(4, cells)), before) << "no key and no value was written";

  // The cells of the cancelled tokens are removed before others are computed: as if they had never been.
  wire::Batch next = OneDevice::batch(10, 1);
  next.operations.push_back({.kind = KvOpKind::kRemove, .seq = 0, .p0 = 10, .p1 = KvOp::kToTheEnd});
  const auto after_cancel = device.run({window.get()}, next, device.tokens(10, 1));
  const auto other = device.all_layers();
  (void)device.run({other.get()}, OneDevice::batch(0, 10), device.tokens(0, 10));
  next.operations.push_back({.kind = KvOpKind::kRemove, .seq = 0, .p0 = 3, .p1 = 5});
  EXPECT_TRUE(same_bits(after_cancel, device.run({other.get()}, next, device.tokens(10, 1))));
}

TEST(Window, ABatchMayHaveOperationsAndNoToken) {
  const OneDevice device(test_model(small_spec("llama", "Q4_0")));
  const auto window = device.all_layers();
  (void)device.run({window.get()}, OneDevice::batch(0, 10), device.tokens(0, 10));
  wire::Batch batch;
  batch.id = 2;
  batch.operations.push_back({.kind = KvOpKind::kRemove, .seq = 0, .p0 = 0, .p1 = KvOp::kToTheEnd});
  const auto rows = window->run(batch);
  ASSERT_TRUE(rows);
  EXPECT_TRUE(rows->empty());
  EXPECT_EQ(window->cells().n_used(), 0U);
}

TEST(Window, RefusesCellsThatAreTakenOrOutOfRange) {
  const OneDevice device(test_model(small_spec("llama", "Q4_0")), {.n_cells = 256});
  const auto window = device.all_layers();
  (void)device.run({window.get()}, OneDevice::batch(0, 10), device.tokens(0, 10));
  const CellTable before = window->cells();
  for (const std::uint32_t cell : {3U, 256U, 0xFFFFFFFFU}) {
    wire::Batch batch = OneDevice::batch(10, 2);
    batch.tokens[1].cell = cell;
    const auto rows = window->run(batch);
    ASSERT_FALSE(rows);
    EXPECT_EQ(rows.error().code, ErrorCode::kProtocol);
    EXPECT_EQ(window->cells(), before);
  }
  wire::Batch batch = OneDevice::batch(10, 1);
  batch.operations.push_back({.kind = KvOpKind::kRemove, .seq = 256});
  const auto rows = window->run(batch);
  ASSERT_FALSE(rows);
  EXPECT_EQ(rows.error().code, ErrorCode::kProtocol);
}

// The limits of a frame keep a peer from it; that the memory is never overrun is checked once more here.
TEST(WindowDeathTest, ABatchLargerThanTheScratchIsABug) {
  const OneDevice device(test_model(small_spec("llama", "Q4_0")), {.n_ubatch = 8});
  const auto window = device.all_layers();
  EXPECT_DEATH((void)window->run(OneDevice::batch(0, 9)), "n_ubatch");
  EXPECT_DEATH((void)window->input(9), "n_ubatch");
  EXPECT_EQ(window->input(8).size(), 8U * 256);
}

// The keys and values of a generation move to windows of another cut, which go on with the same bits.
TEST(Window, GoesOnWithImportedCells) {
  for (const wire::KvType type : {wire::KvType::kF16, wire::KvType::kF32}) {
    const OneDevice device(test_model(small_spec("qwen2", "Q4_K_M")));
    const auto source = device.window({0, 8}, type);
    std::vector<wire::Batch> history;
    history.push_back(OneDevice::batch(0, 40));
    for (std::int32_t i = 40; i < 50; ++i) history.push_back(OneDevice::batch(i, 1));
    history.push_back(OneDevice::batch(50, 3));
    history.back().operations.push_back({.kind = KvOpKind::kRemove, .seq = 0, .p0 = 45, .p1 = 50});
    for (const wire::Batch& batch : history)
      (void)device.run(
          {source.get()}, batch,
          device.tokens(batch.tokens[0].position, static_cast<std::int32_t>(batch.tokens.size())));

    // The tables of the new windows pass through the same batches; the cells' contents arrive afterwards.
    const auto low = device.window({0, 3}, type), high = device.window({3, 8}, type);
    std::vector<std::uint32_t> used;
    for (std::uint32_t cell = 0; cell < source->cells().used_end(); ++cell)
      if (!source->cells().is_free(cell)) used.push_back(cell);
    EXPECT_EQ(used.size(), 48U);
    for (Window* window : {low.get(), high.get()}) {
      for (wire::Batch batch : history) {
        batch.operations_only = true;
        ASSERT_TRUE(window->run(batch));
      }
      EXPECT_EQ(window->cells(), source->cells());
      for (std::uint32_t il = window->layers().begin; il < window->layers().end; ++il)
        ASSERT_TRUE(window->kv().import_cells(il, used, value_of(source->kv().export_cells(il, used))));
    }
    for (std::int32_t i = 53; i < 70; ++i) {
      const auto batch = OneDevice::batch(i, 1);
      EXPECT_TRUE(same_bits(device.run({source.get()}, batch, device.tokens(i, 1)),
                            device.run({low.get(), high.get()}, batch, device.tokens(i, 1))))
          << i;
    }
  }
}

// What the damage does to the layer's output counts: in a quantized FFN the rounding of activations to 8 bits
// can swallow a NaN of ffn_up before it gets that far.
TEST(Window, NamesTheLayerWhoseWeightsAreDamaged) {
  const TestDir folder;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(),
                  kInf = std::numeric_limits<float>::infinity();
  struct Case {
    const char* type;
    const char* tensor;
    float value;
    std::uint32_t layer;
  };
  for (const Case& c :
       {Case{"F16", "blk.3.ffn_down.weight", kNan, 3}, Case{"Q8_0", "blk.3.attn_q.weight", kNan, 3},
        Case{"F16", "blk.2.ffn_up.weight", kInf, 2}, Case{"F16", "blk.5.attn_v.weight", kInf, 5},
        Case{"Q8_0", "blk.7.ffn_down.weight", kNan, 7}, Case{"Q8_0", "blk.4.attn_output.weight", kInf, 4}}) {
    SCOPED_TRACE(c.tensor);
    const OneDevice device(testing::damaged_copy(test_model(small_spec("llama", c.type)),
                                                 folder.path() / "damaged.gguf", c.tensor, c.value));
    const auto low = device.window({0, 2}), high = device.window({2, 8});
    const auto batch = OneDevice::batch(0, 4);
    const auto rows = device.run({low.get()}, batch, device.tokens(0, 4));
    std::ranges::copy(rows, high->input(4).begin());
    const auto failed = high->run(batch);
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().code, ErrorCode::kNumeric);
    EXPECT_NE(failed.error().message.find(std::format("layer {} gave a NaN or Inf", c.layer)),
              std::string::npos)
        << failed.error().message;
  }
}

// In F16, as the rounding of activations to 8 bits can swallow a NaN.
TEST(Window, NamesTheRowThatIsNoNumber) {
  const OneDevice device(test_model(small_spec("llama", "F16")));
  const std::size_t n_embd = device.model->params().n_embd;
  const auto feed = [&](Window& window, std::uint32_t n, std::size_t bad_row) {
    const auto rows = window.input(n);
    std::ranges::fill(rows, 0.5F);
    rows[bad_row * n_embd + 3] = std::numeric_limits<float>::infinity();
  };
  // Rows 0 and 1 do not see row 2.
  const auto window = device.window({4, 6});
  feed(*window, 5, 2);
  const auto failed = window->run(OneDevice::batch(30, 5));
  ASSERT_FALSE(failed);
  EXPECT_NE(failed.error().message.find("layer 4 gave a NaN or Inf in row 2 of 5 (position 32)"),
            std::string::npos)
      << failed.error().message;

  // After the last layer rows are counted among the outputs, positions are those of the tokens.
  const auto last = device.window({7, 8});
  feed(*last, 5, 3);
  wire::Batch batch = OneDevice::batch(30, 5);
  batch.tokens[1].output = true;
  const auto failed_output = last->run(batch);
  ASSERT_FALSE(failed_output);
  EXPECT_NE(failed_output.error().message.find("layer 7 gave a NaN or Inf in row 1 of 2 (position 34)"),
            std::string::npos)
      << failed_output.error().message;
}

// Residual streams carry such channels; nothing between the layers may cut them to f16's range.
TEST(Window, RowsOfAMillionSurvive) {
  synth::SynthSpec spec = small_spec("llama", "Q8_0");
  spec.outliers = true;
  const OneDevice device(test_model(spec));
  const auto low = device.window({0, 3}), high = device.window({3, 8});
  const auto rows = device.run({low.get()}, OneDevice::batch(0, 32), device.tokens(0, 32));
  const std::size_t n_embd = device.model->params().n_embd;
  for (std::size_t row = 0; row < 32; ++row) {
    float largest = 0;
    for (std::size_t i = 0; i < n_embd; ++i) largest = std::max(largest, std::abs(rows[row * n_embd + i]));
    EXPECT_GT(largest, 65504.0F) << "row " << row;
    EXPECT_LT(largest, 1e8F) << "row " << row;
  }
  EXPECT_GT(*std::ranges::max_element(rows), 5e5F);
  std::ranges::copy(rows, high->input(32).begin());
  const auto out = value_of(high->run(OneDevice::batch(0, 32)));
  EXPECT_TRUE(device.head->logits(out));
}

// Whatever runs in between, the graphs of a shape give the same bits.
TEST(Window, ReusedAndRebuiltGraphsAgree) {
  const OneDevice device(test_model(small_spec("qwen3", "Q4_0")), {.n_cells = 512});
  const auto window = device.all_layers(), other = device.all_layers();
  std::vector<std::vector<float>> first;
  const std::int32_t lengths[] = {1, 7, 3, 1, 32, 5, 64, 1, 2, 9, 1, 64, 64, 1, 7, 1};
  std::int32_t position = 0;
  for (const std::int32_t n : lengths) {
    first.push_back(device.run({window.get()}, OneDevice::batch(position, n), device.tokens(position, n)));
    position += n;
  }
  // The same batches with another window's batches of other shapes between them.
  const auto again = device.all_layers();
  position = 0;
  for (std::size_t i = 0; i < std::size(lengths); ++i) {
    const std::int32_t n = lengths[i], m = lengths[std::size(lengths) - 1 - i];
    wire::Batch between = OneDevice::batch(0, m);
    between.operations.push_back({.kind = KvOpKind::kKeep, .seq = 9});
    (void)device.run({other.get()}, between, device.tokens(0, m));
    EXPECT_TRUE(same_bits(
        first[i], device.run({again.get()}, OneDevice::batch(position, n), device.tokens(position, n))));
    position += n;
  }
}

// A source that fails, at the n-th acquire, and counts what is held.
class FailingSource final : public residency::WeightSource {
 public:
  FailingSource(residency::WeightSource& origin, int fail_at) : origin_(origin), left_(fail_at) {}
  std::span<const residency::Part> parts(model::SegmentId id) const override { return origin_.parts(id); }
  Result<std::span<const residency::TensorPlace>> acquire(model::SegmentId id, std::uint32_t part) override {
    if (left_-- == 0) return fail(ErrorCode::kIo, "the disk is gone");
    ++held;
    return origin_.acquire(id, part);
  }
  void release(model::SegmentId id, std::uint32_t part) override {
    --held;
    origin_.release(id, part);
  }
  std::uint64_t resident_bytes() const override { return origin_.resident_bytes(); }
  int held = 0;

 private:
  residency::WeightSource& origin_;
  int left_;
};

TEST(Window, PassesTheErrorsOfTheWeightSourceOn) {
  synth::SynthSpec spec = small_spec("llama", "Q8_0");
  spec.rope_freqs = true;
  const OneDevice device(test_model(spec));
  wire::Batch batch = OneDevice::batch(10, 1);
  batch.operations.push_back({.kind = KvOpKind::kShift, .seq = 0, .delta = 1});
  for (int at = 0; at < 12; ++at) {
    // 3 layers: acquired for the first batch, then for the shift and for the second batch.
    FailingSource source(*device.weights, at);
    const auto window =
        value_of(Window::create(*device.scratch, *device.model, {2, 5}, source, wire::KvType::kF16));
    const auto fill = [&](std::uint32_t n) { std::ranges::fill(window->input(n), 0.25F); };
    fill(4);
    const auto first = window->run(OneDevice::batch(0, 4));
    EXPECT_EQ(first.has_value(), at >= 3);
    if (first) {
      fill(1);
      const auto second = window->run(batch);
      EXPECT_EQ(second.has_value(), at >= 9);
      if (!second) {
        EXPECT_EQ(second.error().message, "the disk is gone");
      }
    }
    EXPECT_EQ(source.held, 0);
  }
}

struct ShiftCase {
  const char* name;
  synth::SynthSpec spec;
  wire::KvType keys = wire::KvType::kF32;
  float most = 5e-4F;  // of the largest difference, in keys whose values have a deviation of 2
};

// The keys of a layer follow from the rows and the position: what is shifted to a position is what a token
// there would have left. Not so in libllama with YaRN, whose shift makes keys longer once more.
TEST(Window, ShiftedKeysAreThoseOfTheirNewPositions) {
  synth::SynthSpec yarn = small_spec("llama", "F32"), factors = small_spec("phi3", "F32");
  yarn.rope_yarn = 8;
  factors.rope_freqs = true;
  factors.shape.n_rot = 24;
  for (const ShiftCase& c : {ShiftCase{"plain", small_spec("qwen3", "F32")}, ShiftCase{"yarn", yarn},
                             ShiftCase{"phi3, with factors that make keys longer", factors},
                             ShiftCase{"yarn, quantized", yarn, wire::KvType::kQ8_0, 0.2F}}) {
    SCOPED_TRACE(c.name);
    const wire::KvTypes types = {c.keys, wire::KvType::kF16};
    const OneDevice device(test_model(c.spec), {.n_cells = 512, .kv_type = types});
    const auto shifted = device.window({0, 1}, types), fresh = device.window({0, 1}, types);
    const auto ids = device.tokens(0, 12);
    const auto run = [&](Window& window, const wire::Batch& batch) {
      (void)device.run({&window}, batch, ids);
    };
    run(*shifted, OneDevice::batch(0, 12));
    wire::Batch moved = OneDevice::batch(0, 12);
    for (wire::BatchToken& token : moved.tokens) token.position += 300;
    run(*fresh, moved);
    wire::Batch shift = {.id = 2, .operations_only = true};
    shift.operations.push_back({.kind = KvOpKind::kShift, .seq = 0, .delta = 300});
    value_of(shifted->run(shift));

    const std::size_t n_values = 12 * device.model->params().n_embd_k();
    const auto keys = [&](Window& window) {
      std::vector<float> values(n_values);
      const ggml_tensor* k = window.kv().k(0);
      const auto* bytes = static_cast<const std::byte*>(k->data);
      if (k->type == GGML_TYPE_F32)
        std::memcpy(values.data(), bytes, n_values * sizeof(float));
      else
        ggml_get_type_traits(k->type)->to_float(bytes, values.data(), static_cast<std::int64_t>(n_values));
      return values;
    };
    const auto got = keys(*shifted), wanted = keys(*fresh);
    float largest = 0, square = 0;
    for (std::size_t i = 0; i < n_values; ++i) {
      largest = std::max(largest, std::abs(got[i] - wanted[i]));
      square += wanted[i] * wanted[i];
    }
    EXPECT_GT(square / static_cast<float>(n_values), 0.5F);
    EXPECT_LE(largest, c.most);
  }
}

// What a sliding window has dropped cannot come back into sight.
TEST(Window, SaysWhichContextsCannotBeShifted) {
  const OneDevice gemma(test_model(small_spec("gemma2", "Q8_0"))),
      olmo(test_model(small_spec("olmo2", "Q8_0")));
  const auto refused = Window::check_shift(*gemma.model);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(refused.error().message.find("gemma2 models cannot be shifted"), std::string::npos);
  EXPECT_TRUE(Window::check_shift(*olmo.model));
}

// Wherever it fails, what was acquired is released; the parts before and after count one by one.
TEST(Window, PassesTheErrorsOfPartsOn) {
  synth::SynthSpec spec = small_spec("llama", "Q8_0");
  spec.rope_freqs = true;
  const OneDevice device(test_model(spec));
  testing::MovingSource parts(*device.weights, *device.model, {.division = testing::Division::kTensors});
  const std::size_t n_parts = parts.parts(model::SegmentId::of_layer(2)).size();
  EXPECT_EQ(n_parts, 10U);
  wire::Batch batch = OneDevice::batch(10, 1);
  batch.operations.push_back({.kind = KvOpKind::kShift, .seq = 0, .delta = 1});
  for (std::size_t at = 0; at <= 42; ++at) {
    SCOPED_TRACE(at);
    // 2 layers: each part for the first batch, then the factors alone for the shift, then each part again.
    FailingSource source(parts, static_cast<int>(at));
    const auto window =
        value_of(Window::create(*device.scratch, *device.model, {2, 4}, source, wire::KvType::kF16));
    std::ranges::fill(window->input(4), 0.25F);
    EXPECT_EQ(window->run(OneDevice::batch(0, 4)).has_value(), at >= 20);
    if (at >= 20) {
      std::ranges::fill(window->input(1), 0.25F);
      EXPECT_EQ(window->run(batch).has_value(), at >= 42);
    }
    EXPECT_EQ(source.held, 0);
    EXPECT_EQ(parts.n_held(), 0U);
  }
}

// As many blocks as a layer of 100 GB has.
TEST(Window, ALayerOfHundredsOfBlocks) {
  synth::SynthSpec spec = small_spec("llama", "Q8_0");
  spec.shape.n_layer = 1;
  spec.shape.n_ff = 16384;
  const OneDevice device(test_model(spec), {.n_ubatch = 4, .n_outputs = 4});
  testing::MovingSource blocks(*device.weights, *device.model, {.division = testing::Division::kBlocks});
  EXPECT_GT(blocks.parts(model::SegmentId::of_layer(0)).size(), 512U);
  std::vector<std::vector<float>> results;
  for (residency::WeightSource* source : {static_cast<residency::WeightSource*>(device.weights.get()),
                                          static_cast<residency::WeightSource*>(&blocks)}) {
    const auto window =
        value_of(Window::create(*device.scratch, *device.model, {0, 1}, *source, wire::KvType::kF16));
    std::ranges::fill(window->input(4), 0.25F);
    const auto rows = value_of(window->run(OneDevice::batch(0, 4)));
    results.emplace_back(rows.begin(), rows.end());
  }
  EXPECT_EQ(results[0], results[1]);
}

// Without rope factors a shift needs no weights at all.
TEST(Window, AShiftFetchesNoWeightsItDoesNotNeed) {
  const OneDevice device(test_model(small_spec("qwen2", "Q8_0")));
  FailingSource source(*device.weights, 3);
  const auto window =
      value_of(Window::create(*device.scratch, *device.model, {2, 5}, source, wire::KvType::kF16));
  std::ranges::fill(window->input(4), 0.25F);
  ASSERT_TRUE(window->run(OneDevice::batch(0, 4)));
  wire::Batch batch;
  batch.id = 2;
  batch.operations.push_back({.kind = KvOpKind::kShift, .seq = 0, .delta = 1});
  EXPECT_TRUE(window->run(batch));
  EXPECT_EQ(window->cells().last_position(0), 4);
}

}  // namespace
}  // namespace hearth::compute
