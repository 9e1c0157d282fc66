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
};

node::HeadNodeOptions head_options(const std::string& model, const Workers& workers, const Cut& cut) {
  node::HeadNodeOptions options;
  options.model_path = model;
  options.workers = workers.addresses();
  options.epoch.n_ctx = 512;
  options.epoch.n_ubatch = kChunk;
  options.windows = cut.windows;
  if (!cut.windows.empty()) options.workers.resize(cut.windows.size() - 1);
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
  for (const Cut& cut : {Cut{{8}, 1}, Cut{{4, 4}, 1}, Cut{{2, 2, 2, 2}, 1}, Cut{{1, 4, 1, 2}, 1},
                         Cut{{1, 1, 1, 1}, 2}, Cut{{}, 1}}) {
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
