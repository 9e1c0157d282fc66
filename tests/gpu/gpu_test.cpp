// Windows and executors whose layers are partly on a GPU: operations on cells, groups of batches, rings,
// errors.
#include <cstring>
#include <format>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "compute/window.h"
#include "oracle/player.h"
#include "residency/gpu_source.h"
#include "support/executor_ring.h"
#include "support/one_device.h"
#include "support/test_models.h"
#include "support/vulkan.h"

namespace hearth::testing {
namespace {

using model::SegmentId;

// Removed, copied, kept and shifted cells, against libllama on the same GPU.
void play(Player& p) {
  p.prompt(random_prompt(60, 2000), 32);
  p.operate({.kind = wire::KvOpKind::kRemove, .seq = 0, .p0 = 4, .p1 = 20});
  p.operate({.kind = wire::KvOpKind::kShift, .seq = 0, .p0 = 20, .delta = -16});
  p.greedy(6);
  p.operate({.kind = wire::KvOpKind::kCopy, .seq = 0, .seq_to = 1});
  p.prompt(random_prompt(9, 2000, 2), 32, Outputs::kAll, 1);
  p.operate({.kind = wire::KvOpKind::kKeep, .seq = 1});
  p.prompt(random_prompt(5, 2000, 3), 32, Outputs::kAll, 1);
}

TEST(GpuCells, AreOperatedOnAsLibllamaDoes) {
  for (const wire::KvType type : {wire::KvType::kF16, wire::KvType::kQ8_0}) {
    synth::SynthSpec spec = small_spec("llama", "F16");
    spec.shape.n_layer = 3;
    spec.shape.n_head = 4;
    spec.shape.n_head_kv = 2;
    spec.shape.head_dim = 64;
    const auto model = test_model(spec);
    const RingOptions options = {
        .windows = {2, 1}, .n_ctx = 256, .n_ubatch = 32, .kv_type = type, .gpu = test_gpu(), .gpu_layers = 3};
    oracle::Oracle oracle = open_oracle(model, options, 2);
    OraclePlayer reference(oracle);
    play(reference);
    const auto ring = open_ring(model, options);
    RingPlayer player(*ring);
    play(player);
    EXPECT_TRUE(equivalent(std::format("operations, KV {}", wire::traits(type).name),
                           reference.transcript().rows, player.transcript().rows));
  }
}

// A device whose layers 1 and 2 of 4 are on its GPU.
struct Mixed {
  Mixed()
      : gpu(value_of(compute::Backend::gpu(test_gpu()))),
        device(test_model(spec()), {.n_cells = 256, .n_ubatch = 32, .repack = false}) {
    std::vector<SegmentId> rest = {SegmentId::of_layer(0), SegmentId::of_layer(3)};
    auto others = value_of(residency::ResidentSource::load(
        *device.model, rest, device.backend->device(), {.repack = false, .progress = {}, .cancelled = {}}));
    const std::vector<SegmentId> taken = {SegmentId::of_layer(1), SegmentId::of_layer(2)};
    weights =
        value_of(residency::GpuSource::load(*device.model, taken, gpu->device(), {}, std::move(others)));
    scratch = value_of(compute::Scratch::create_beside(*device.scratch, *gpu, *device.model));
  }
  static synth::SynthSpec spec() {
    synth::SynthSpec spec = small_spec("gemma3", "F16");
    spec.shape.n_layer = 4;
    return spec;
  }
  [[nodiscard]] std::unique_ptr<compute::Window> window(plan::LayerRange layers = {0, 4}) const {
    return value_of(compute::Window::create({*device.scratch, scratch.get()}, *device.model, layers, *weights,
                                            wire::KvType::kF16));
  }

  std::unique_ptr<compute::Backend> gpu;
  OneDevice device;
  std::unique_ptr<residency::GpuSource> weights;
  std::unique_ptr<compute::Scratch> scratch;
};

// Rows go to the GPU and come back for each layer; one after another they stay there.
TEST(GpuGroups, GiveWhatOneBatchAfterAnotherGives) {
  const Mixed mixed;
  const auto one_by_one = mixed.window(), grouped = mixed.window();
  const std::size_t n_embd = mixed.device.model->params().n_embd;
  std::vector<wire::Batch> batches = {OneDevice::batch(0, 32), OneDevice::batch(32, 32),
                                      OneDevice::batch(64, 7), OneDevice::batch(71, 1)};
  std::vector<std::vector<float>> rows, wanted;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    batches[i].id = i + 1;
    const auto n = static_cast<std::int32_t>(batches[i].tokens.size());
    const auto ids = mixed.device.tokens(batches[i].tokens.front().position, n);
    wanted.push_back(mixed.device.run({one_by_one.get()}, batches[i], ids));
    rows.emplace_back(ids.size() * n_embd);
    value_of(mixed.device.head->embed(ids, rows.back()));
  }
  std::vector<compute::Window::GroupItem> items;
  for (std::size_t i = 0; i < batches.size(); ++i) items.push_back({.batch = &batches[i], .rows = rows[i]});
  value_of(grouped->run_group(items));
  for (std::size_t i = 0; i < batches.size(); ++i) {
    rows[i].resize(items[i].n_rows * n_embd);
    EXPECT_EQ(rows[i], wanted[i]) << "batch " << i;
  }
  for (const std::uint32_t il : {0U, 1U, 2U, 3U}) {
    const std::vector<std::uint32_t> cells = {0, 1, 31, 32, 40};
    EXPECT_EQ(value_of(grouped->kv().export_cells(il, cells)),
              value_of(one_by_one->kv().export_cells(il, cells)));
  }
}

// Cells move between devices, whatever computes there.
TEST(GpuCells, CanBeMovedAway) {
  const Mixed mixed;
  const auto from = mixed.window();
  mixed.device.run({from.get()}, OneDevice::batch(0, 20), mixed.device.tokens(0, 20));
  const auto to = mixed.window();
  const std::vector<std::uint32_t> cells = {3, 4, 19}, elsewhere = {7, 1, 0};
  const auto bytes = value_of(from->kv().export_cells(2, cells));
  EXPECT_GT(std::ranges::count_if(bytes, [](std::uint8_t byte) { return byte != 0; }), 0);
  value_of(to->kv().import_cells(2, elsewhere, bytes));
  EXPECT_EQ(value_of(to->kv().export_cells(2, elsewhere)), bytes);
}

// What is no number is found when it comes back, and the next batch is computed as if nothing had been.
TEST(GpuErrors, NameTheLayersOfTheGpu) {
  const Mixed mixed;
  const auto window = mixed.window({1, 4}), other = mixed.window({1, 4});
  const std::size_t n_embd = mixed.device.model->params().n_embd;
  const std::vector<float> rows(3 * n_embd, 1.0F);
  const auto run = [&](compute::Window& w, const wire::Batch& batch, const std::vector<float>& in) {
    std::ranges::copy(in, w.input(3).begin());
    return w.run(batch);
  };
  std::vector<float> spoiled = rows;
  spoiled[n_embd] = std::numeric_limits<float>::quiet_NaN();
  const auto out = run(*window, OneDevice::batch(0, 3), spoiled);
  ASSERT_FALSE(out);
  EXPECT_EQ(out.error().code, ErrorCode::kNumeric);
  EXPECT_NE(out.error().message.find("one of the layers 1 to 2 gave a NaN or Inf in row 1 of 3"),
            std::string::npos)
      << out.error().message;
  // Its cells are given away, then written anew.
  wire::Batch again = OneDevice::batch(0, 3);
  again.operations = {{.kind = wire::KvOpKind::kRemove, .seq = 0}};
  const auto first = value_of(run(*other, OneDevice::batch(0, 3), rows));
  const std::vector<float> wanted(first.begin(), first.end());
  const auto second = value_of(run(*window, again, rows));
  EXPECT_EQ(std::vector<float>(second.begin(), second.end()), wanted);
}

TEST(GpuErrors, AStopIsHeardBeforeTheNextLayer) {
  const Mixed mixed;
  const auto window = mixed.window(), other = mixed.window();
  const auto wanted = mixed.device.run({other.get()}, OneDevice::batch(0, 5), mixed.device.tokens(0, 5));
  int asked = 0;
  mixed.gpu->abort_when([&] { return ++asked == 2; });
  std::vector<float> rows(5 * mixed.device.model->params().n_embd);
  value_of(mixed.device.head->embed(mixed.device.tokens(0, 5), rows));
  std::ranges::copy(rows, window->input(5).begin());
  const auto stopped = window->run(OneDevice::batch(0, 5));
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(asked, 2);
  mixed.gpu->abort_when({});
  const auto again = mixed.window();
  EXPECT_EQ(mixed.device.run({again.get()}, OneDevice::batch(0, 5), mixed.device.tokens(0, 5)), wanted);
}

// Executors decide by themselves what their GPU computes; links carry rows as ever.
TEST(GpuRing, OfExecutorsGivesWhatProcessorsGive) {
  const auto gpu = value_of(compute::Backend::gpu(test_gpu()));
  const auto model = shipped_model("ember-q8_0.gguf").string();
  const engine::EpochOptions options = {.n_ctx = 256, .n_ubatch = 32};
  const auto text = random_prompt(80, 2000);
  const auto of_processors = value_of(ExecutorRing::create(model, 3, options));
  const auto reference = value_of(of_processors->read(text, engine::Outputs::kAll));
  // A processor rounds activations to 8 bits for this type, a GPU does not.
  const auto rows_of_libllama = [&](const RingOptions& with) {
    oracle::Oracle oracle = open_oracle(model, with);
    OraclePlayer player(oracle);
    player.prompt(text, 32, Outputs::kAll);
    return player.transcript().rows;
  };
  const double floor =
      compare(rows_of_libllama({.n_ctx = 256, .n_ubatch = 32}),
              rows_of_libllama({.n_ctx = 256, .n_ubatch = 32, .gpu = test_gpu(), .gpu_layers = 9}))
          .nmse;
  for (const std::optional<std::uint32_t> n_layers : {std::optional<std::uint32_t>(), {2U}}) {
    const auto ring =
        value_of(ExecutorRing::create(model, 3, options, {.backend = gpu.get(), .n_layers = n_layers}));
    const auto rows = value_of(ring->read(text, engine::Outputs::kAll));
    EXPECT_TRUE(equivalent(n_layers ? "2 of each device's" : "all of each device's", reference, rows, floor));
    for (std::size_t m = 0; m < 3; ++m) {
      const std::uint32_t of_device =
          (static_cast<std::uint32_t>(m) + 1) * 8 / 3 - static_cast<std::uint32_t>(m) * 8 / 3;
      EXPECT_EQ(ring->reports()[m].gpu_layers, n_layers ? (m == 0 ? 1U : 2U) : of_device);
      EXPECT_GT(ring->reports()[m].gpu_bytes, 0U);
    }
    EXPECT_LT(ring->reports()[1].kv_bytes, of_processors->reports()[1].kv_bytes);
    EXPECT_LT(ring->reports()[1].weight_bytes, of_processors->reports()[1].weight_bytes);
  }
}

}  // namespace
}  // namespace hearth::testing
