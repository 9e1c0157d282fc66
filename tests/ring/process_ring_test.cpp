// A ring of real processes over encrypted links gives libllama's bits: tokens and every row of logits.
//
// Claimed: exact (f32 links, the same threads, the same batches), for each architecture. The head runs in the
// test's process, the workers are `hearth worker`.
#include <algorithm>
#include <format>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "node/head.h"
#include "oracle/player.h"
#include "real_workers.h"
#include "support/test_models.h"

namespace hearth::testing {
namespace {

constexpr std::uint32_t kChunk = 64;
constexpr std::size_t kPrompt = 210;
constexpr std::size_t kGenerated = 64;

struct Cut {
  std::vector<std::uint32_t> windows;  // the head, then the workers; empty: by memory
  std::uint32_t rounds;
  std::uint32_t n_window_rounds = 1;
};

node::HeadNodeOptions head_options(const std::string& model, const Workers& workers, const Cut& cut) {
  node::HeadNodeOptions options;
  options.model_path = model;
  options.workers = workers.addresses();
  options.epoch.n_ctx = 512;
  options.epoch.n_ubatch = kChunk;
  options.windows = cut.windows;
  options.n_window_rounds = cut.n_window_rounds;
  if (!cut.windows.empty()) options.workers.resize(cut.windows.size() / cut.n_window_rounds - 1);
  options.rounds = cut.rounds;
  options.log = [](engine::LogLevel, const std::string&) {};
  return options;
}

node::GenerateOptions greedy_options() {
  node::GenerateOptions options;
  options.sampling.temperature = 0;
  options.max_tokens = kGenerated;
  options.ignore_end = true;
  options.keep_logits = true;
  return options;
}

class ProcessRing : public ::testing::TestWithParam<const char*> {};

TEST_P(ProcessRing, GivesTheBitsOfLibllama) {
  const auto path = test_model(small_spec(GetParam(), "Q4_K_M"));
  const RingOptions same = {.n_ctx = 512, .n_ubatch = kChunk};
  oracle::Oracle oracle = open_oracle(path, same);
  const auto prompt = random_prompt(kPrompt, static_cast<std::uint32_t>(oracle.n_vocab()));
  OraclePlayer player(oracle);
  player.prompt(prompt, kChunk, Outputs::kEnd);
  player.greedy(kGenerated);
  ASSERT_EQ(player.transcript().rows.size(), kGenerated);

  auto key = net::KeyPair::generate().value();
  const Workers workers(path.string(), key.public_key());
  for (const Cut& cut :
       {Cut{{8}, 1}, Cut{{4, 4}, 1}, Cut{{2, 2, 2, 2}, 1}, Cut{{1, 4, 1, 2}, 1}, Cut{{1, 1, 1, 1}, 2},
        Cut{{}, 1}, Cut{{1, 1, 1}, 3}, Cut{{2, 1, 0, 0, 1, 1, 1, 0, 2}, 0, 3}}) {
    SCOPED_TRACE(std::format("{} windows of the head first {}, {} rounds", GetParam(),
                             cut.windows.empty() ? 0 : cut.windows[0], cut.rounds));
    auto head = node::HeadNode::start(head_options(path.string(), workers, cut), key.clone());
    ASSERT_TRUE(head.has_value()) << head.error().message;
    auto request = (*head)->submit(prompt, greedy_options());
    ASSERT_TRUE(request.has_value()) << request.error().message;
    EXPECT_TRUE(exact(player.transcript(), collect(**request)));
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, ProcessRing,
                         ::testing::Values("llama", "qwen2", "qwen3", "gemma3", "gpt-oss", "phi3"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

// Discarding and shifting in the frames of a ring, as libllama does it with the same numbers; keys and values
// of q8_0 in one of both.
TEST(ProcessRing, ShiftsTheContextAsLibllamaDoes) {
  constexpr std::int32_t kContext = 256, kKeep = 4;
  for (const wire::KvTypes types : {wire::KvTypes(), wire::KvTypes(wire::KvType::kQ8_0)}) {
    const auto path = test_model(small_spec("qwen3", "Q4_K_M"));
    const RingOptions same = {.n_ctx = kContext, .n_ubatch = kChunk, .kv_type = types};
    oracle::Oracle oracle = open_oracle(path, same);
    const auto prompt = random_prompt(kPrompt, static_cast<std::uint32_t>(oracle.n_vocab()));
    OraclePlayer player(oracle);
    player.prompt(prompt, kChunk, Outputs::kEnd);
    std::vector<std::int32_t> tokens;
    constexpr std::size_t kTokens = 250;  // the context is full three times
    while (true) {
      tokens.push_back(argmax(player.transcript().rows.back()));
      if (tokens.size() == kTokens) break;
      if (player.next_position(0) == kContext) {
        const std::int32_t keep = kKeep + 1;  // the begin of the text stays too
        const std::int32_t n = (kContext - keep) / 2;
        player.operate({.kind = wire::KvOpKind::kRemove, .seq = 0, .p0 = keep, .p1 = keep + n});
        player.operate({.kind = wire::KvOpKind::kShift, .seq = 0, .p0 = keep + n, .delta = -n});
      }
      const oracle::BatchToken next = {
          .token = tokens.back(), .pos = player.next_position(0), .seqs = {0}, .output = true};
      player.decode({&next, 1});
    }
    const Transcript wanted = {.tokens = tokens, .rows = player.transcript().rows};

    auto key = net::KeyPair::generate().value();
    const Workers workers(path.string(), key.public_key());
    auto options = head_options(path.string(), workers, {{2, 1, 0, 1, 0, 2, 1, 1}, 0, 2});
    options.epoch.n_ctx = kContext;
    options.epoch.kv_type = types;
    auto head = node::HeadNode::start(options, key.clone());
    ASSERT_TRUE(head.has_value()) << head.error().message;
    auto generate = greedy_options();
    generate.max_tokens = kTokens;
    generate.context_shift = true;
    generate.n_keep = kKeep;
    auto request = (*head)->submit(prompt, generate);
    ASSERT_TRUE(request.has_value()) << request.error().message;
    EXPECT_TRUE(exact(wanted, collect(**request))) << wire::traits(types.k).name;

    // Without it the answer ends where the context does; with nothing to discard, too.
    for (const bool shifts : {false, true}) {
      generate.context_shift = shifts;
      generate.n_keep = -1;
      auto ends = (*head)->submit(random_prompt(kContext - 1, 2000), generate);
      ASSERT_TRUE(ends.has_value());
      EXPECT_EQ(collect(**ends).tokens.size(), 2U);
    }
  }
}

TEST(ProcessRing, AStoppedAnswerLeavesNothingBehind) {
  const auto path = test_model(small_spec("llama", "Q4_K_M"));
  auto key = net::KeyPair::generate().value();
  const Workers workers(path.string(), key.public_key());
  auto head = node::HeadNode::start(head_options(path.string(), workers, {{1, 1, 1, 1}, 2}), key.clone());
  ASSERT_TRUE(head.has_value()) << head.error().message;
  const auto n_vocab = (*head)->model().params().n_vocab;
  const auto prompt = random_prompt(kPrompt, n_vocab);
  auto first = (*head)->submit(prompt, greedy_options());
  ASSERT_TRUE(first.has_value());
  const Transcript before = collect(**first);

  // Stopped while its prompt is on its way in several batches, and in the middle of the answer.
  for (const std::size_t after : {0UZ, 3UZ}) {
    auto options = greedy_options();
    options.max_tokens = -1;
    auto stopped = (*head)->submit(random_prompt(kPrompt, n_vocab / 2), options);
    ASSERT_TRUE(stopped.has_value());
    for (std::size_t i = 0; i < after; ++i)
      ASSERT_TRUE((*stopped)->events.receive_for(kPatience).has_value());
    (*head)->stop(*stopped);
    collect(**stopped);
    auto again = (*head)->submit(prompt, greedy_options());
    ASSERT_TRUE(again.has_value());
    EXPECT_TRUE(exact(before, collect(**again)));
  }
}

}  // namespace
}  // namespace hearth::testing
