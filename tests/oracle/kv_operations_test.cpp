// Operations on the KV cells give what libllama's memory gives: exact, as cells, batches and threads are the
// same.
#include <format>
#include <functional>
#include <ostream>
#include <random>
#include <string>

#include <gtest/gtest.h>

#include "oracle/player.h"
#include "support/test_models.h"

namespace hearth::testing {
namespace {

using wire::KvOp;
using wire::KvOpKind;

constexpr std::uint32_t kSequences = 4;
constexpr std::uint32_t kChunk = 32;

KvOp remove(std::uint16_t seq, std::int32_t p0 = 0, std::int32_t p1 = KvOp::kToTheEnd) {
  return {.kind = KvOpKind::kRemove, .seq = seq, .p0 = p0, .p1 = p1};
}
KvOp copy(std::uint16_t from, std::uint16_t to, std::int32_t p0 = 0, std::int32_t p1 = KvOp::kToTheEnd) {
  return {.kind = KvOpKind::kCopy, .seq = from, .seq_to = to, .p0 = p0, .p1 = p1};
}
KvOp keep(std::uint16_t seq) {
  return {.kind = KvOpKind::kKeep, .seq = seq};
}
KvOp shift(std::uint16_t seq, std::int32_t p0, std::int32_t p1, std::int32_t delta) {
  return {.kind = KvOpKind::kShift, .seq = seq, .p0 = p0, .p1 = p1, .delta = delta};
}

// A token of each of the sequences, as one batch.
void step(Player& player, std::initializer_list<std::int32_t> seqs, std::int32_t token) {
  std::vector<oracle::BatchToken> batch;
  for (const std::int32_t seq : seqs)
    batch.push_back({.token = token + seq, .pos = player.next_position(seq), .seqs = {seq}, .output = true});
  player.decode(batch);
}

struct Scenario {
  std::string name;
  std::function<void(Player&)> play;
};

const Scenario kScenarios[] = {
    {"RemoveTheEnd",
     [](Player& p) {
       p.prompt(random_prompt(50, 2000), kChunk);
       p.greedy(8);
       p.operate(remove(0, 30));
       p.prompt(random_prompt(9, 2000, 2), kChunk);
       p.greedy(16);
     }},
    {"RemoveTheMiddle",
     [](Player& p) {
       p.prompt(random_prompt(50, 2000), kChunk);
       p.operate(remove(0, 10, 25));
       p.greedy(20);
     }},
    {"RemoveEverythingAndStartAgain",
     [](Player& p) {
       p.prompt(random_prompt(50, 2000), kChunk);
       p.operate(remove(0));
       p.prompt(random_prompt(40, 2000, 2), kChunk);
       p.greedy(8);
     }},
    {"RemoveOneOfTwo",
     [](Player& p) {
       p.prompt(random_prompt(20, 2000), kChunk, Outputs::kEnd, 0);
       p.prompt(random_prompt(30, 2000, 2), kChunk, Outputs::kEnd, 1);
       p.operate(remove(0));
       p.prompt(random_prompt(25, 2000, 3), kChunk, Outputs::kEnd, 2);  // into the free cells and beyond
       for (int i = 0; i < 8; ++i) step(p, {1, 2}, 100 + i);
     }},
    // What an endless chat does: the oldest part goes, the rest moves up.
    {"ShiftTheContext",
     [](Player& p) {
       p.prompt(random_prompt(60, 2000), kChunk);
       p.greedy(4);
       p.operate(remove(0, 4, 24));
       p.operate(shift(0, 24, KvOp::kToTheEnd, -20));
       p.greedy(12);
       p.operate(remove(0, 4, 14));
       p.operate(shift(0, 14, KvOp::kToTheEnd, -10));
       p.prompt(random_prompt(20, 2000, 4), kChunk);
       p.greedy(8);
     }},
    {"ShiftTwiceBeforeOneBatch",
     [](Player& p) {
       p.prompt(random_prompt(40, 2000), kChunk);
       p.operate(shift(0, 20, KvOp::kToTheEnd, 7));
       p.operate(shift(0, 0, KvOp::kToTheEnd, 3));
       p.greedy(8);
     }},
    {"ShiftBelowZeroFreesCells",
     [](Player& p) {
       p.prompt(random_prompt(40, 2000), kChunk);
       p.operate(shift(0, 0, KvOp::kToTheEnd, -12));
       p.greedy(8);
       p.prompt(random_prompt(20, 2000, 5), kChunk, Outputs::kEnd, 1);
     }},
    {"SharedPrefixByCopy",
     [](Player& p) {
       p.prompt(random_prompt(70, 2000), kChunk);
       for (std::uint16_t seq = 1; seq < kSequences; ++seq) p.operate(copy(0, seq));
       for (int i = 0; i < 12; ++i) step(p, {0, 1, 2, 3}, 50 + i * 10);
       p.operate(remove(0));
       p.operate(remove(2));
       for (int i = 0; i < 6; ++i) step(p, {3, 1}, 700 + i);
     }},
    {"PartOfAPrefixByCopy",
     [](Player& p) {
       p.prompt(random_prompt(70, 2000), kChunk);
       p.operate(copy(0, 1, 0, 33));
       p.prompt(random_prompt(10, 2000, 6), kChunk, Outputs::kEachChunk, 1);
       for (int i = 0; i < 6; ++i) step(p, {0, 1}, 50 + i);
     }},
    {"KeepOne",
     [](Player& p) {
       p.prompt(random_prompt(40, 2000), kChunk);
       p.operate(copy(0, 2));
       p.prompt(random_prompt(30, 2000, 7), kChunk, Outputs::kEnd, 1);
       for (int i = 0; i < 4; ++i) step(p, {0, 1, 2}, 50 + i);
       p.operate(keep(2));
       for (int i = 0; i < 4; ++i) step(p, {2}, 90 + i);
       p.prompt(random_prompt(30, 2000, 8), kChunk, Outputs::kEnd, 0);
     }},
    {"ShiftOfSharedCells",
     [](Player& p) {
       p.prompt(random_prompt(40, 2000), kChunk);
       p.operate(copy(0, 1));
       p.operate(remove(0, 0, 8));
       p.operate(remove(1, 0, 8));
       p.operate(shift(0, 8, KvOp::kToTheEnd, -8));
       for (int i = 0; i < 4; ++i) step(p, {0, 1}, 50 + i);
     }},
};

struct Model {
  std::string name;
  synth::SynthSpec spec;
  friend std::ostream& operator<<(std::ostream& out, const Model& model) { return out << model.name; }
};

std::vector<Model> models() {
  Model llama3 = {"llama3", small_spec("llama", "Q8_0")};
  llama3.spec.rope_freqs = true;
  llama3.spec.rope_freq_base = 500000;
  Model linear = {"linear", small_spec("qwen2", "Q4_0")};
  linear.spec.rope_scale_linear = 2;
  // Not smollm3: libllama turns the keys of its layers without RoPE, too.
  return {{"llama", small_spec("llama", "Q4_K_M")},
          {"qwen3", small_spec("qwen3", "Q8_0")},
          llama3,
          linear,
          {"granite", small_spec("granite", "Q4_0")},
          {"olmo2", small_spec("olmo2", "Q8_0")},
          {"qwen3moe", small_spec("qwen3moe", "Q4_0")}};
}

class KvOperations : public ::testing::TestWithParam<Model> {};

TEST_P(KvOperations, GiveTheBitsOfLibllama) {
  const auto model = test_model(GetParam().spec);
  const RingOptions options = {.windows = {1, 2, 1}, .rounds = 2, .n_ctx = 512, .n_ubatch = kChunk};
  oracle::Oracle oracle = open_oracle(model, options, kSequences);
  for (const Scenario& scenario : kScenarios) {
    SCOPED_TRACE(scenario.name);
    OraclePlayer reference(oracle);
    scenario.play(reference);
    const auto ring = open_ring(model, options);
    RingPlayer player(*ring);
    scenario.play(player);
    EXPECT_TRUE(exact(reference.transcript(), player.transcript()));
    for (const auto& window : ring->windows()) EXPECT_EQ(window->cells(), ring->windows()[0]->cells());
  }
}

// Without flash attention masked cells take part with weight 0, so other things could go wrong.
TEST_P(KvOperations, GiveTheBitsOfLibllamaWithFlashAttentionOff) {
  const auto model = test_model(GetParam().spec);
  const RingOptions options = {.windows = {3, 5},
                               .n_ctx = 256,
                               .n_ubatch = kChunk,
                               .flash_attention = false,
                               .kv_type = wire::KvType::kF32};
  oracle::Oracle oracle = open_oracle(model, options, kSequences);
  for (const Scenario& scenario : kScenarios) {
    SCOPED_TRACE(scenario.name);
    OraclePlayer reference(oracle);
    scenario.play(reference);
    const auto ring = open_ring(model, options);
    RingPlayer player(*ring);
    scenario.play(player);
    EXPECT_TRUE(exact(reference.transcript(), player.transcript()));
  }
}

// Any operations in any order, from a seed.
void play_at_random(Player& player, std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](std::int32_t n) {
    return static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(n));
  };
  for (int turn = 0; turn < 30; ++turn) {
    const auto seq = static_cast<std::uint16_t>(below(kSequences));
    const std::int32_t length = player.next_position(seq);
    switch (below(7)) {
      case 0:
        if (length > 0) player.operate(remove(seq, below(length)));
        break;
      case 1:
        if (length > 2) {
          const std::int32_t p0 = below(length - 1);
          player.operate(remove(seq, p0, p0 + 1 + below(length - p0)));
        }
        break;
      case 2: {
        const auto to = static_cast<std::uint16_t>((seq + 1) % kSequences);
        player.operate(remove(to));
        player.operate(copy(seq, to));
        break;
      }
      case 3:
        if (below(4) == 0) player.operate(keep(seq));
        break;
      case 4:
        if (length > 12) {
          const std::int32_t p0 = below(length - 8), n = 1 + below(6);
          player.operate(remove(seq, p0, p0 + n));
          player.operate(shift(seq, p0 + n, KvOp::kToTheEnd, -n));
        }
        break;
      default: {
        std::vector<oracle::BatchToken> batch;
        for (std::int32_t s = 0; s < static_cast<std::int32_t>(kSequences); ++s) {
          const std::int32_t n = below(4), start = player.next_position(s);
          for (std::int32_t i = 0; i < n; ++i)
            batch.push_back({.token = below(2000), .pos = start + i, .seqs = {s}, .output = i + 1 == n});
        }
        if (!batch.empty()) player.decode(batch);
      }
    }
  }
  player.prompt(random_prompt(3, 2000), kChunk);
}

TEST_P(KvOperations, AtRandomGiveTheBitsOfLibllama) {
  const auto model = test_model(GetParam().spec);
  const RingOptions options = {.windows = {1, 2, 1}, .rounds = 2, .n_ctx = 512, .n_ubatch = kChunk};
  oracle::Oracle oracle = open_oracle(model, options, kSequences);
  for (std::uint32_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(std::format("seed {}", seed));
    OraclePlayer reference(oracle);
    play_at_random(reference, seed);
    const auto ring = open_ring(model, options);
    RingPlayer player(*ring);
    play_at_random(player, seed);
    EXPECT_TRUE(exact(reference.transcript(), player.transcript()));
  }
}

// Equivalent: a prefix computed once and copied, against libllama computing all of it for each sequence
// alone.
TEST_P(KvOperations, SharedPrefixIsEquivalentToEachAlone) {
  synth::SynthSpec spec = GetParam().spec;
  spec.type = "F16";
  spec.shape.n_layer = 3;
  const auto model = test_model(spec);
  const RingOptions options = {.windows = {1, 2}, .n_ctx = 512, .n_ubatch = 128};
  const auto prefix = random_prompt(100, 2000);
  oracle::Oracle oracle = open_oracle(model, options);
  std::vector<LogitRows> alone;
  for (std::int32_t seq = 0; seq < 4; ++seq) {
    auto text = prefix;
    for (std::int32_t i = 0; i < 8; ++i) text.push_back(300 + i * 10 + seq);
    OraclePlayer player(oracle);
    player.prompt(text, options.n_ubatch, Outputs::kAll);
    alone.emplace_back(player.transcript().rows.end() - 8, player.transcript().rows.end());
  }
  LogitRows wanted;
  for (std::size_t i = 0; i < 8; ++i)
    for (const LogitRows& rows : alone) wanted.push_back(rows[i]);

  const auto ring = open_ring(model, options);
  RingPlayer player(*ring);
  player.prompt(prefix, options.n_ubatch, Outputs::kEnd);
  for (std::uint16_t seq = 1; seq < 4; ++seq) player.operate(copy(0, seq));
  LogitRows rows;
  for (std::int32_t i = 0; i < 8; ++i) step(player, {0, 1, 2, 3}, 300 + i * 10);
  rows.assign(player.transcript().rows.begin() + 1, player.transcript().rows.end());
  EXPECT_TRUE(equivalent("a copied prefix, " + GetParam().name, wanted, rows));
}

INSTANTIATE_TEST_SUITE_P(All, KvOperations, ::testing::ValuesIn(models()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace hearth::testing
