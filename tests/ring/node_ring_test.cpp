// A whole ring inside one process: its nodes talk over encrypted links on loopback, with the threads they
// have everywhere. Small enough to run under the sanitizers.
// Claimed: exact, unless a test says equivalent.
#include <format>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "node/head.h"
#include "node/worker.h"
#include "support/equivalence.h"
#include "support/test_models.h"

namespace hearth::testing {
namespace {

using node::HeadNode;
using node::WorkerNode;

constexpr std::chrono::seconds kPatience{60};

std::string model_path() {
  return test_model(small_spec("qwen3", "Q8_0")).string();
}

std::vector<model::Token> prompt(std::size_t n, model::Token first) {
  std::vector<model::Token> tokens;
  for (std::size_t i = 0; i < n; ++i) tokens.push_back((first + 131 * static_cast<model::Token>(i)) % 1000);
  return tokens;
}

struct Answer {
  std::vector<model::Token> tokens;
  std::vector<std::vector<float>> rows;
  std::optional<node::FinishReason> reason;
  std::optional<Error> error;
};

void take(node::RequestEvent event, Answer& answer) {
  if (auto* token = std::get_if<node::TokenEvent>(&event)) {
    answer.tokens.push_back(token->token);
    answer.rows.push_back(std::move(token->logits));
  } else if (const auto* done = std::get_if<node::DoneEvent>(&event)) {
    answer.reason = done->reason;
  } else {
    answer.error = std::get<node::FailedEvent>(event).error;
  }
}

Answer collect(node::Request& request) {
  Answer answer;
  while (!answer.reason && !answer.error) {
    auto event = request.events.receive_for(kPatience);
    if (!event) {
      ADD_FAILURE() << "no answer";
      break;
    }
    take(std::move(*event), answer);
  }
  return answer;
}

node::GenerateOptions greedy(std::int64_t max_tokens) {
  node::GenerateOptions options;
  options.sampling.temperature = 0;
  options.max_tokens = max_tokens;
  options.ignore_end = true;
  options.keep_logits = true;
  return options;
}

class NodeRing : public ::testing::Test {
 protected:
  NodeRing() : head_key_(net::KeyPair::generate().value()) {
    for (int i = 1; i <= 3; ++i) workers_.push_back(start_worker(i));
  }

  std::unique_ptr<WorkerNode> start_worker(int i) {
    node::WorkerNodeOptions options;
    options.model_path = model_path();
    options.name = std::format("w{}", i);
    options.heads = {head_key_.public_key()};
    options.log = [](engine::LogLevel, const std::string&) {};
    auto worker = WorkerNode::start(options, net::KeyPair::generate().value());
    if (!worker) throw std::runtime_error(worker.error().message);
    return std::move(*worker);
  }

  [[nodiscard]] node::HeadNodeOptions options(std::vector<std::uint32_t> windows,
                                              std::uint32_t rounds) const {
    node::HeadNodeOptions options;
    options.model_path = model_path();
    for (const auto& worker : workers_)
      options.workers.push_back(
          {.key = worker->key(), .host = "127.0.0.1", .control_port = worker->control_port()});
    options.epoch.n_ctx = 256;
    options.epoch.n_ubatch = 32;
    options.windows = std::move(windows);
    options.rounds = rounds;
    options.epoch.n_seq = 3;
    options.max_outputs = 3;
    options.log = [](engine::LogLevel, const std::string&) {};
    return options;
  }
  std::unique_ptr<HeadNode> start_head(std::vector<std::uint32_t> windows, std::uint32_t rounds) {
    auto head = HeadNode::start(options(std::move(windows), rounds), head_key_.clone());
    if (!head) throw std::runtime_error(head.error().message);
    return std::move(*head);
  }
  static std::shared_ptr<node::Request> submit(HeadNode& head, std::vector<model::Token> tokens,
                                               std::int64_t max_tokens) {
    auto request = head.submit(std::move(tokens), greedy(max_tokens));
    if (!request) throw std::runtime_error(request.error().message);
    return std::move(*request);
  }
  static Answer ask(HeadNode& head, std::vector<model::Token> tokens, std::int64_t max_tokens) {
    return collect(*submit(head, std::move(tokens), max_tokens));
  }
  // What one device answers.
  Answer alone(const std::vector<model::Token>& tokens, std::int64_t max_tokens) {
    auto lone = options({}, 1);
    lone.workers.clear();
    auto head = HeadNode::start(lone, net::KeyPair::generate().value());
    if (!head) throw std::runtime_error(head.error().message);
    return ask(**head, tokens, max_tokens);
  }

  net::KeyPair head_key_;
  std::vector<std::unique_ptr<WorkerNode>> workers_;
};

TEST_F(NodeRing, GivesTheBitsOfOneDevice) {
  const auto question = prompt(75, 3);
  const Answer expected = alone(question, 12);
  ASSERT_EQ(expected.tokens.size(), 12U);
  for (const std::uint32_t rounds : {1U, 2U}) {
    const auto head = start_head({2 / rounds, 2 / rounds, 2 / rounds, 2 / rounds}, rounds);
    const Answer answer = ask(*head, question, 12);
    EXPECT_EQ(answer.reason, node::FinishReason::kLength);
    EXPECT_EQ(answer.tokens, expected.tokens);
    EXPECT_EQ(answer.rows, expected.rows);
  }
}

TEST_F(NodeRing, SeveralTextsAtOnceAndAloneAgainAfterwards) {
  const auto head = start_head({1, 1, 1, 1}, 2);
  const auto question = prompt(40, 5);
  const Answer before = ask(*head, question, 6);
  std::vector<std::shared_ptr<node::Request>> requests;
  for (int i = 0; i < 3; ++i)
    requests.push_back(submit(*head, prompt(20 + 25 * static_cast<std::size_t>(i), 17 * i), 10 + 5 * i));
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const Answer answer = collect(*requests[i]);
    EXPECT_EQ(answer.reason, node::FinishReason::kLength);
    ASSERT_EQ(answer.tokens.size(), 10 + 5 * i);
    // Equivalent as far as random weights let it be; another text's row would be off by about 2.
    const Answer expected = alone(prompt(20 + 25 * i, 17 * static_cast<model::Token>(i)), 1);
    const Comparison c = compare({expected.rows[0]}, {answer.rows[0]});
    EXPECT_LT(c.nmse, 0.05) << "text " << i;
  }
  const Answer after = ask(*head, question, 6);
  EXPECT_EQ(after.tokens, before.tokens);
  EXPECT_EQ(after.rows, before.rows);
}

TEST_F(NodeRing, AStoppedTextLeavesNothingBehind) {
  const auto head = start_head({1, 1, 1, 1}, 2);
  const auto question = prompt(40, 5);
  const Answer before = ask(*head, question, 4);
  // Stopped with all chunks of its prompt on the way, and in the middle of its answer.
  for (const std::size_t after : {0UZ, 2UZ}) {
    const auto unwanted = submit(*head, prompt(200, 9), -1);
    Answer begun;
    while (begun.tokens.size() < after) {
      auto event = unwanted->events.receive_for(kPatience);
      ASSERT_TRUE(event);
      take(std::move(*event), begun);
    }
    head->stop(unwanted);
    EXPECT_EQ(collect(*unwanted).reason, node::FinishReason::kStopped);
    const Answer again = ask(*head, question, 4);
    EXPECT_EQ(again.tokens, before.tokens);
    EXPECT_EQ(again.rows, before.rows);
  }
}

TEST_F(NodeRing, AWorkerThatLeavesEndsTheTextAndTheOthersServeTheNextHead) {
  const auto question = prompt(40, 5);
  Answer before;
  {
    const auto head = start_head({2, 2, 2, 2}, 1);
    before = ask(*head, question, 4);
    const auto request = submit(*head, prompt(30, 1), -1);
    ASSERT_TRUE(request->events.receive_for(kPatience)) << "the answer has begun";
    workers_.erase(workers_.begin() + 1);
    const Answer broken = collect(*request);
    ASSERT_TRUE(broken.error);
    EXPECT_EQ(broken.error->code, ErrorCode::kPeerGone) << broken.error->message;
    EXPECT_TRUE(broken.error->message.contains("w2")) << broken.error->message;
    const auto late = head->submit(question, greedy(1));
    ASSERT_TRUE(late);
    EXPECT_TRUE(collect(**late).error) << "the ring is gone";
  }
  const auto head = start_head({3, 2, 3}, 1);
  const Answer after = ask(*head, question, 4);
  EXPECT_EQ(after.tokens, before.tokens);
  EXPECT_EQ(after.rows, before.rows);
}

TEST_F(NodeRing, MeasuresEveryLinkBeforeItPlans) {
  workers_.pop_back();
  const auto question = prompt(20, 4);
  for (int time = 0; time < 2; ++time) {  // the second head comes to workers that measured for another one
    auto measuring = options({}, 0);
    std::mutex mutex;
    std::string lines;
    measuring.log = [&](engine::LogLevel, const std::string& line) {
      const std::lock_guard lock(mutex);
      lines += line + "\n";
    };
    const auto head = HeadNode::start(measuring, head_key_.clone());
    ASSERT_TRUE(head) << head.error().message;
    const engine::LinkMatrix& links = (*head)->ring().links;
    ASSERT_EQ(links.size(), 3U);
    const std::lock_guard lock(mutex);
    for (std::size_t from = 0; from < 3; ++from) {
      ASSERT_EQ(links[from].size(), 3U);
      for (std::size_t to = 0; to < 3; ++to) {
        ASSERT_EQ(links[from][to].has_value(), from != to) << from << " -> " << to << "\n" << lines;
        if (from == to) continue;
        EXPECT_GT(links[from][to]->latency_s, 0);
        EXPECT_GE(links[from][to]->bytes_per_s, 0);
      }
    }
    for (const std::string_view pair :
         {"head -> w1: ", "head -> w2: ", "w1 -> head: ", "w1 -> w2: ", "w2 -> head: ", "w2 -> w1: "})
      EXPECT_TRUE(lines.contains(pair)) << pair << " in\n" << lines;
    if (time == 0) std::printf("%s", lines.c_str());
    EXPECT_EQ(ask(**head, question, 4).tokens.size(), 4U);
  }
}

TEST_F(NodeRing, MeasuresNoLinksForWindowsByHand) {
  const auto head = start_head({2, 2, 2, 2}, 1);
  EXPECT_TRUE(head->ring().links.empty());
}

TEST_F(NodeRing, AWorkerWithoutTheMemoryRefusesThePlanAndSaysWhy) {
  auto small = options({2, 2, 2, 2}, 1);
  node::WorkerNodeOptions worker;
  worker.model_path = model_path();
  worker.name = "tiny";
  worker.heads = {head_key_.public_key()};
  worker.memory_bytes = 4096;
  worker.log = [](engine::LogLevel, const std::string&) {};
  auto tiny = WorkerNode::start(worker, net::KeyPair::generate().value());
  ASSERT_TRUE(tiny) << tiny.error().message;
  small.workers[1] = {.key = (*tiny)->key(), .host = "127.0.0.1", .control_port = (*tiny)->control_port()};
  const auto refused = HeadNode::start(small, head_key_.clone());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory) << refused.error().message;
  EXPECT_TRUE(refused.error().message.contains("tiny")) << refused.error().message;
  EXPECT_TRUE(refused.error().message.contains("KV cache")) << refused.error().message;
  const auto head = start_head({2, 2, 2, 2}, 1);
  EXPECT_EQ(ask(*head, prompt(10, 2), 2).tokens.size(), 2U);
}

}  // namespace
}  // namespace hearth::testing
