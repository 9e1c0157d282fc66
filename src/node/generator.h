// Generator: the head's engine logic: takes requests, keeps the ring filled with their batches, samples,
// hands out tokens.
//
// Engine thread only, except what Request says.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/channel.h"
#include "base/result.h"
#include "engine/batcher.h"
#include "model/sampler.h"
#include "model/tokenizer.h"
#include "node/executor.h"

namespace hearth::node {

enum class FinishReason : std::uint8_t {
  kEnd,      // the model ended its text
  kLength,   // max_tokens
  kStopped,  // the caller
  kContextFull,
};

struct GenerateOptions {
  model::SamplingOptions sampling;
  std::int64_t max_tokens = -1;  // < 0: until the model ends or the context is full (kContextFull)
  // Where the context is full, half of it is discarded, but for the first n_keep tokens of the prompt (and a
  // begin-of-text token before them; < 0: all of the prompt).
  bool context_shift = false;
  std::int32_t n_keep = 0;
  bool ignore_end = false;   // go on after the model's end token, unless a grammar has come to its end
  bool keep_logits = false;  // deliver each row that was sampled from (tests, benches)
};

struct Timings {
  std::uint32_t n_prompt = 0;
  std::uint32_t n_generated = 0;
  std::uint32_t n_shifts = 0;          // of the context
  std::chrono::nanoseconds prompt{0};  // submission to first token
  std::chrono::nanoseconds decode{0};  // first to last token
};

struct TokenEvent {
  model::Token token;
  std::vector<float> logits;  // with keep_logits
};
struct DoneEvent {
  FinishReason reason;
  Timings timings;
};
struct FailedEvent {
  Error error;
};
using RequestEvent = std::variant<TokenEvent, DoneEvent, FailedEvent>;

// One text to generate. Whoever submitted it reads `events` until Done or Failed, from any thread.
struct Request {
  std::vector<model::Token> prompt;
  GenerateOptions options;
  Channel<RequestEvent> events{1 << 16};

  // Generator's own.
  std::optional<model::Sampler> sampler;
  std::uint32_t seq = 0;
  Timings timings;
  std::chrono::steady_clock::time_point submitted, first_token;
};

// Ends it with `error`; nothing happens when it has ended. Any thread.
void fail_request(Request& request, const Error& error);

class Generator {
 public:
  struct Options {
    std::uint32_t n_ctx = 4096;
    std::uint32_t n_ubatch = 512;
    std::uint32_t n_seq_max = 1;
  };
  // announce_cancel tells the other devices; in_flight is kept up to date for the control thread.
  Generator(const model::Tokenizer& tokenizer, Executor& executor, const Options& options,
            std::function<void(std::uint32_t epoch, engine::BatchRange)> announce_cancel,
            std::atomic<std::uint32_t>& in_flight);

  void activate(std::uint32_t epoch, std::uint32_t max_in_flight);
  void submit(std::shared_ptr<Request> request);
  void stop(const std::shared_ptr<Request>& request);
  void on_finished(const FinishedBatch& batch);
  // The epoch that requests run in; 0: none.
  [[nodiscard]] std::uint32_t epoch() const { return epoch_; }
  // Ends every request with `error`; later ones fail the same way until the next activate().
  void fail_all(const Error& error);

  // Starts one batch if one can be: true, there may be more. On a ring of one it is done when this returns,
  // so callers look at their inputs in between. Errors are the executor's.
  [[nodiscard]] std::expected<bool, Executor::Failure> pump();

 private:
  using Clock = std::chrono::steady_clock;

  void accept(Request& request, std::span<const float> logits);
  [[nodiscard]] Result<> push(Request& request, model::Token token);
  void finish(const std::shared_ptr<Request>& request, FinishReason reason);

  const model::Tokenizer& tokenizer_;
  Executor& executor_;
  Options options_;
  std::function<void(std::uint32_t, engine::BatchRange)> announce_cancel_;
  std::atomic<std::uint32_t>& in_flight_;
  std::uint32_t epoch_ = 0;  // 0: none is active
  std::optional<Error> failure_;
  engine::Batcher batcher_;
  std::map<std::uint32_t, std::shared_ptr<Request>> running_;  // by sequence
};

}  // namespace hearth::node
