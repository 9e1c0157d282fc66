// A group of batches gives the bits of the same batches one after another, layer by layer or not.
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "compute/window.h"
#include "support/damaged_copy.h"
#include "support/moving_source.h"
#include "support/one_device.h"
#include "support/test_models.h"

namespace hearth::compute {
namespace {

using testing::Division;
using testing::MovingOptions;
using testing::MovingSource;
using testing::OneDevice;
using testing::small_spec;
using testing::test_model;
using testing::value_of;
using wire::KvOpKind;

constexpr std::uint32_t kChunk = 64, kCells = 512;

// Batches in cells 0, 1, 2 …
class Texts {
 public:
  struct Piece {
    std::uint32_t seq;
    std::int32_t n;
    bool output = false;  // of its last token
  };
  Texts& add(const std::vector<Piece>& pieces, const std::vector<wire::KvOp>& operations = {}) {
    wire::Batch batch{.id = batches.size() + 1, .operations = operations};
    for (const Piece& piece : pieces)
      for (std::int32_t i = 0; i < piece.n; ++i)
        batch.tokens.push_back({.position = next_[piece.seq]++,
                                .cell = cell_++,
                                .sequences = wire::SequenceSet::of(piece.seq),
                                .output = piece.output && i + 1 == piece.n});
    batches.push_back(std::move(batch));
    return *this;
  }
  std::vector<wire::Batch> batches;

 private:
  std::array<std::int32_t, 4> next_{};
  std::uint32_t cell_ = 0;
};

struct Case {
  const char* name;
  std::optional<MovingOptions> moving;
};

const Case kSources[] = {
    {"resident", {}},
    {"moving", MovingOptions{}},
    {"parts held together", MovingOptions{.division = Division::kTensors, .max_parts_held = 32}},
    {"blocks held together", MovingOptions{.division = Division::kBlocks, .max_parts_held = 100}},
    {"parts one by one", MovingOptions{.division = Division::kSmall}},
};

class Group : public ::testing::TestWithParam<std::tuple<const char*, bool>> {};

// Five chunks of one text, behind which attention grows from 256 to 512 cells, with pieces of others between;
// then groups that begin with operations.
TEST_P(Group, GivesTheBitsOfOneAfterAnother) {
  const auto& [arch, flash] = GetParam();
  synth::SynthSpec spec = small_spec(arch, "Q4_K_M");
  spec.shape.n_layer = 4;
  spec.rope_freqs = std::string(arch) == "llama";
  const OneDevice device(test_model(spec), {.n_cells = kCells, .n_ubatch = kChunk, .flash_attention = flash});
  const std::size_t n_embd = device.model->params().n_embd;
  Texts texts;
  texts.add({{0, 64}}).add({{0, 64}}).add({{1, 20, true}, {2, 30}}).add({{0, 64}}).add({{0, 64}});
  texts.add({{2, 3, true}, {0, 9, true}}).add({{1, 1, true}});
  texts.batches[3].operations_only = true;  // cancelled: its cells are taken all the same
  texts.add({{1, 1, true}, {2, 1, true}}, {{.kind = KvOpKind::kRemove, .seq = 0, .p0 = 128, .p1 = 192},
                                           {.kind = KvOpKind::kCopy, .seq = 1, .seq_to = 3}});
  texts.add({{1, 1, true}});
  texts.add({{2, 5, true}}, {{.kind = KvOpKind::kShift, .seq = 2, .p0 = 5, .delta = 4}}).add({{1, 2, true}});
  const std::vector<std::size_t> groups = {7, 2, 2};

  for (const Case& source : kSources) {
    SCOPED_TRACE(source.name);
    std::optional<MovingSource> moving;
    residency::WeightSource* weights = device.weights.get();
    if (source.moving) weights = &moving.emplace(*device.weights, *device.model, *source.moving);
    std::vector<std::unique_ptr<Window>> one_by_one, grouped;
    for (const plan::LayerRange layers : {plan::LayerRange{0, 1}, {1, 3}, {3, 4}}) {
      one_by_one.push_back(device.window(layers));
      grouped.push_back(
          value_of(Window::create(*device.scratch, *device.model, layers, *weights, wire::KvType::kF16)));
    }
    auto next = texts.batches.begin();
    for (const std::size_t n : groups) {
      const std::vector<wire::Batch> batches(next, next + static_cast<std::ptrdiff_t>(n));
      next += static_cast<std::ptrdiff_t>(n);
      std::vector<std::vector<float>> rows(n), wanted(n);
      for (std::size_t i = 0; i < n; ++i) {
        if (batches[i].operations_only) continue;
        const auto ids = device.tokens(static_cast<std::int32_t>(batches[i].id * 100),
                                       static_cast<std::int32_t>(batches[i].tokens.size()));
        rows[i].resize(ids.size() * n_embd);
        value_of(device.head->embed(ids, rows[i]));
      }
      wanted = rows;
      for (std::size_t step = 0; step < grouped.size(); ++step) {
        for (std::size_t i = 0; i < n; ++i) {
          const auto input = one_by_one[step]->input(static_cast<std::uint32_t>(batches[i].tokens.size()));
          if (!batches[i].operations_only) std::ranges::copy(wanted[i], input.begin());
          const auto out = value_of(one_by_one[step]->run(batches[i]));
          wanted[i].assign(out.begin(), out.end());
        }
        std::vector<Window::GroupItem> items;
        for (std::size_t i = 0; i < n; ++i) items.push_back({.batch = &batches[i], .rows = rows[i]});
        const std::uint64_t acquired = moving ? moving->n_acquired() : 0;
        value_of(grouped[step]->run_group(items));
        for (std::size_t i = 0; i < n; ++i) {
          rows[i].resize(items[i].n_rows * n_embd);
          ASSERT_EQ(rows[i].size(), wanted[i].size()) << "step " << step << ", batch " << i;
          // A batch that was cancelled has no rows.
          EXPECT_TRUE(rows[i].empty() ||
                      std::memcmp(rows[i].data(), wanted[i].data(), rows[i].size() * sizeof(float)) == 0)
              << "step " << step << ", batch " << i;
        }
        EXPECT_EQ(grouped[step]->cells(), one_by_one[step]->cells());
        if (moving && source.moving->max_parts_held >= moving->parts(model::SegmentId::of_layer(0)).size() &&
            n == groups[0]) {
          std::size_t n_parts = 0;
          for (std::uint32_t il = grouped[step]->layers().begin; il < grouped[step]->layers().end; ++il)
            n_parts += moving->parts(model::SegmentId::of_layer(il)).size();
          EXPECT_EQ(moving->n_acquired() - acquired, n_parts) << "once for all batches";
        }
        if (moving) {
          EXPECT_EQ(moving->n_held(), 0U);
        }
      }
    }
    // What was written to the cells is the same, too.
    std::vector<std::uint32_t> cells;
    for (std::uint32_t cell = 0; cell < grouped[1]->cells().used_end(); ++cell)
      if (!grouped[1]->cells().is_free(cell)) cells.push_back(cell);
    for (const std::uint32_t il : {1U, 2U}) {
      std::vector<std::uint32_t> own = cells;  // a layer with a sliding window has fewer
      std::erase_if(own, [&](std::uint32_t cell) { return cell >= grouped[1]->kv().n_cells(il); });
      EXPECT_EQ(value_of(grouped[1]->kv().export_cells(il, own)),
                value_of(one_by_one[1]->kv().export_cells(il, own)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Group,
                         ::testing::Combine(::testing::Values("llama", "qwen2", "qwen3", "gemma2", "gpt-oss"),
                                            ::testing::Bool()),
                         [](const auto& test) {
                           std::string name = std::get<0>(test.param);
                           std::ranges::replace(name, '-', '_');
                           return name + (std::get<1>(test.param) ? "" : "_flash_off");
                         });

// The first batch computes with the parts that are there, the last leaves what it is done with.
TEST(WindowGroup, PartsComeAndGoWhileOthersAreComputedWith) {
  const OneDevice device(test_model(small_spec("llama", "Q4_K_M")));
  MovingSource moving(*device.weights, *device.model, {.division = Division::kTensors, .max_parts_held = 32});
  const auto n_parts = static_cast<std::uint32_t>(moving.parts(model::SegmentId::of_layer(2)).size());
  ASSERT_GT(n_parts, 4U);
  const auto window =
      value_of(Window::create(*device.scratch, *device.model, {2, 3}, moving, wire::KvType::kF16));
  std::vector<std::uint32_t> held;  // before each node
  device.backend->abort_when([&] {
    held.push_back(moving.n_held());
    return false;
  });
  for (const std::size_t n_batches : {1, 2, 4}) {
    SCOPED_TRACE(n_batches);
    held.clear();
    Texts texts;
    std::vector<float> rows(4 * device.model->params().n_embd, 0.5F);
    std::vector<Window::GroupItem> items;
    for (std::size_t i = 0; i < n_batches; ++i) texts.add({{0, 4}});
    for (std::size_t i = 0; i < n_batches; ++i) items.push_back({.batch = &texts.batches[i], .rows = rows});
    value_of(window->run_group(items));
    // Batches of one shape have equally many nodes.
    ASSERT_EQ(held.size() % n_batches, 0U);
    const std::size_t n_nodes = held.size() / n_batches;
    ASSERT_GT(n_nodes, 0U);
    const std::span<const std::uint32_t> all(held);
    const auto first = all.first(n_nodes), last = all.last(n_nodes);
    EXPECT_LT(first.front(), n_parts / 2);
    EXPECT_LT(last.back(), n_parts / 2);
    if (n_batches == 1) {
      EXPECT_EQ(std::ranges::max(all), 1U);
    } else {
      EXPECT_TRUE(std::ranges::is_sorted(first));
      EXPECT_TRUE(std::ranges::is_sorted(last, std::greater{}));
      for (std::size_t i = first.size(); i < all.size() - last.size(); ++i) EXPECT_EQ(all[i], n_parts);
    }
    EXPECT_EQ(moving.n_held(), 0U);
    value_of(window->run({.id = 100 + n_batches, .operations = {{.kind = KvOpKind::kRemove, .seq = 0}}}));
  }
  device.backend->abort_when({});
}

// Wherever it ends, nothing stays held.
TEST(WindowGroup, AGroupThatFailsHoldsNothing) {
  const OneDevice device(test_model(small_spec("llama", "Q4_K_M")));
  MovingSource moving(*device.weights, *device.model, {.division = Division::kTensors, .max_parts_held = 32});
  const std::vector<float> input(4 * device.model->params().n_embd, 0.5F);
  // The rows of three batches; nothing when it was ended at node `ends_at`.
  int nodes = 0;
  const auto run = [&](int ends_at) -> std::optional<std::vector<float>> {
    const auto window =
        value_of(Window::create(*device.scratch, *device.model, {2, 4}, moving, wire::KvType::kF16));
    nodes = 0;
    device.backend->abort_when([&nodes, ends_at] { return ++nodes == ends_at; });
    Texts texts;
    texts.add({{0, 4}}).add({{0, 4}}).add({{0, 4}});
    std::vector<std::vector<float>> rows(3, input);
    std::vector<Window::GroupItem> items;
    for (std::size_t i = 0; i < 3; ++i) items.push_back({.batch = &texts.batches[i], .rows = rows[i]});
    const auto done = window->run_group(items);
    device.backend->abort_when({});
    EXPECT_EQ(moving.n_held(), 0U) << "ended at node " << ends_at;
    if (!done) {
      EXPECT_EQ(done.error().code, ErrorCode::kCancelled);
      return std::nullopt;
    }
    return rows[2];
  };
  const auto wanted = run(0);
  ASSERT_TRUE(wanted);
  const int n_nodes = nodes;
  for (int ends_at = 1; ends_at <= n_nodes; ends_at += 7) EXPECT_FALSE(run(ends_at)) << ends_at;
  EXPECT_EQ(run(0), wanted);
}

TEST(WindowGroup, NamesLayerAndBatchOfANumberThatIsNone) {
  const TestDir folder;
  const OneDevice device(testing::damaged_copy(test_model(small_spec("llama", "F16")),
                                               folder.path() / "damaged.gguf", "blk.3.ffn_down.weight",
                                               std::numeric_limits<float>::quiet_NaN()));
  const auto window = device.window({2, 5});
  Texts texts;
  texts.add({{0, 4}}).add({{0, 4}});
  texts.batches[0].operations_only = true;
  std::vector<float> rows(4 * device.model->params().n_embd, 0.5F);
  std::vector<Window::GroupItem> items = {{.batch = &texts.batches[0]},
                                          {.batch = &texts.batches[1], .rows = rows}};
  const auto failed = window->run_group(items);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kNumeric);
  EXPECT_NE(failed.error().message.find("layer 3 gave a NaN or Inf in row 0 of 4 (position 4) of batch 2"),
            std::string::npos)
      << failed.error().message;
}

TEST(WindowGroup, ACellThatIsTakenFailsTheGroup) {
  const OneDevice device(test_model(small_spec("llama", "Q8_0")));
  const auto window = device.window({0, 1});
  Texts texts;
  texts.add({{0, 4}}).add({{0, 4}});
  texts.batches[1].tokens[2].cell = 1;
  std::vector<float> rows(8 * device.model->params().n_embd, 0.5F);
  std::vector<Window::GroupItem> items = {
      {.batch = &texts.batches[0], .rows = std::span(rows).first(rows.size() / 2)},
      {.batch = &texts.batches[1], .rows = std::span(rows).last(rows.size() / 2)}};
  const auto failed = window->run_group(items);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kProtocol);
}

TEST(WindowGroupDeathTest, OperationsInTheMiddleAreABug) {
  const OneDevice device(test_model(small_spec("llama", "Q8_0")));
  const auto window = device.window({0, 1});
  Texts texts;
  texts.add({}).add({}, {{.kind = KvOpKind::kKeep, .seq = 0}});
  std::vector<Window::GroupItem> items = {{.batch = &texts.batches[0]}, {.batch = &texts.batches[1]}};
  EXPECT_FALSE(Window::may_follow(texts.batches[1]));
  EXPECT_DEATH((void)window->run_group(items), "middle of a group");
}

}  // namespace
}  // namespace hearth::compute
