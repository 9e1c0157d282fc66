// A ring whose weights do not fit in memory gives the bits of libllama, where they do: tokens and every row
// of logits.
//
// Claimed: exact (f32 links, the same threads, the same batches), with the head alone and with a worker, for
// one and two rounds, a prompt of several batches. The head runs in the test's process, workers and `hearth
// run` are real processes; all use one folder of packs at the same time.
#include <format>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/os_memory.h"
#include "base/test_sanitizer.h"
#include "node/head.h"
#include "node/weights.h"
#include "oracle/player.h"
#include "real_workers.h"
#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::testing {
namespace {

constexpr std::uint32_t kChunk = 16;
constexpr std::size_t kPrompt = 100;
constexpr std::size_t kGenerated = 12;

// 8 layers of 16.9 MB, each of them in several parts of at most 8 MiB.
synth::SynthSpec large_spec() {
  synth::SynthSpec spec = small_spec("llama", "Q8_0");
  spec.shape = {.n_layer = 8, .n_embd = 768, .n_head = 12, .n_head_kv = 6, .head_dim = 64, .n_ff = 6144};
  return spec;
}
// Four layers do not fit into it, three parts do, with much room for what a program takes for itself.
constexpr std::uint64_t kForEpochs = std::uint64_t{44} << 20;

struct Cut {
  std::vector<std::uint32_t> windows;  // the head, then the worker
  std::uint32_t rounds;
};

// Processes are given so little memory here that weights have to be streamed.
#define NEEDS_PLAIN_MEMORY() \
  if (kAddressSanitized) GTEST_SKIP() << "the sanitizer's own memory is more than these processes may take"

// 8 layers of 16 MB: experts, repacked where the CPU has a layout, each matrix of all of them a part.
synth::SynthSpec experts_spec() {
  synth::SynthSpec spec = small_spec("qwen3moe", "Q4_0");
  spec.shape = {.n_layer = 8, .n_embd = 512, .n_head = 8, .n_head_kv = 4, .head_dim = 64, .n_ff = 2048};
  spec.shape.n_expert = 8;
  return spec;
}

class StreamedModel : public ::testing::TestWithParam<synth::SynthSpec> {};

TEST_P(StreamedModel, GivesTheBitsOfLibllama) {
  NEEDS_PLAIN_MEMORY();
  const auto path = test_model(GetParam());
  const RingOptions same = {.n_ctx = 256, .n_ubatch = kChunk};
  std::vector<std::int32_t> prompt;
  Transcript expected;
  {
    oracle::Oracle oracle = open_oracle(path, same);
    prompt = random_prompt(kPrompt, static_cast<std::uint32_t>(oracle.n_vocab()));
    OraclePlayer player(oracle);
    player.prompt(prompt, kChunk, Outputs::kEnd);
    player.greedy(kGenerated);
    expected = player.transcript();
  }
  ASSERT_EQ(expected.rows.size(), kGenerated);

  const TestDir packs;
  auto key = net::KeyPair::generate().value();
  const Workers workers(path.string(), key.public_key(), 1,
                        {"--cache-dir", packs.path().string(), "--memory",
                         std::format("{}", kForEpochs + node::kMemoryReserve)});
  for (const Cut& cut : {Cut{{8}, 1}, Cut{{4}, 2}, Cut{{4, 4}, 1}, Cut{{2, 2}, 2}, Cut{{1, 3}, 2}}) {
    SCOPED_TRACE(
        std::format("{} of {} devices first, {} rounds", cut.windows[0], cut.windows.size(), cut.rounds));
    node::HeadNodeOptions options;
    options.model_path = path.string();
    options.workers = workers.addresses();
    options.workers.resize(cut.windows.size() - 1);
    options.windows = cut.windows;
    options.rounds = cut.rounds;
    options.epoch.n_ctx = same.n_ctx;
    options.epoch.n_ubatch = kChunk;
    options.weights.cache_dir = packs.path();
    options.memory_bytes = process_memory().anonymous + node::kMemoryReserve + kForEpochs;
    options.log = [](engine::LogLevel, const std::string&) {};
    auto head = node::HeadNode::start(options, key.clone());
    ASSERT_TRUE(head.has_value()) << head.error().message;
    const auto& model = (*head)->model();
    const node::RingReport& ring = (*head)->ring();
    std::vector<std::uint64_t> of_layers(cut.windows.size(), 0);
    for (const auto& step : ring.plan.steps)
      for (std::uint32_t il = step.layers.begin; il < step.layers.end; ++il)
        of_layers.at(step.device) += model.segment_bytes(model::SegmentId::of_layer(il));
    for (std::size_t i = 0; i < of_layers.size(); ++i)
      if (of_layers[i] > kForEpochs) {
        EXPECT_LT(ring.devices.at(i).weight_bytes, kForEpochs) << "device " << i << " streams";
      }
    node::GenerateOptions greedy;
    greedy.sampling.temperature = 0;
    greedy.max_tokens = kGenerated;
    greedy.ignore_end = true;
    greedy.keep_logits = true;
    // The second one begins with what the first one left in the slots.
    for (int i = 0; i < 2; ++i) {
      auto request = (*head)->submit(prompt, greedy);
      ASSERT_TRUE(request.has_value()) << request.error().message;
      EXPECT_TRUE(exact(expected, collect(**request)));
    }
    if (of_layers[0] > kForEpochs) {
      EXPECT_GT((*head)->counters().read_bytes, kGenerated * (of_layers[0] - kForEpochs));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, StreamedModel, ::testing::Values(large_spec(), experts_spec()),
                         [](const auto& test) { return test.param.arch; });

// All lines of a program that ends by itself.
std::string output_of(const std::vector<std::string>& arguments) {
  auto child = value_of(Child::spawn(arguments));
  std::string text;
  while (true) {
    const auto line = child.read_line(kPatience);
    if (!line && line.error().code == ErrorCode::kPeerGone) return text;
    text += value_of(line) + "\n";
  }
}

TEST(StreamedRing, RunSaysTheSame) {
  NEEDS_PLAIN_MEMORY();
  const auto path = test_model(large_spec());
  const TestDir packs;
  const std::string prompt =
      "A long prompt goes through the ring in several batches, which each need all the weights.";
  const std::vector<std::string> run = {HEARTH_PROGRAM,
                                        "run",
                                        "-m",
                                        path.string(),
                                        "-t",
                                        "1",
                                        "-c",
                                        "256",
                                        "-ub",
                                        "16",
                                        "--temp",
                                        "0",
                                        "--ignore-eos",
                                        "-n",
                                        "12",
                                        "--cache-dir",
                                        packs.path().string(),
                                        "--raw",
                                        "-p",
                                        prompt};
  const std::string expected = output_of(run);
  // Without a split by hand the head keeps much for itself.
  const std::string memory = std::format("{}", 2 * kForEpochs + node::kMemoryReserve);
  ASSERT_FALSE(expected.empty());
  EXPECT_TRUE(std::filesystem::is_empty(packs.path())) << "what fits needs no pack";
  for (const char* rounds : {"1", "2"}) {
    std::vector<std::string> streamed = run;
    streamed.insert(streamed.end(), {"-k", rounds, "--memory", memory});
    EXPECT_EQ(output_of(streamed), expected) << rounds << " rounds";
    EXPECT_FALSE(std::filesystem::is_empty(packs.path()));
  }
}

}  // namespace
}  // namespace hearth::testing
