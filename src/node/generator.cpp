#include "node/generator.h"

#include <algorithm>
#include <utility>

namespace hearth::node {
namespace {

engine::BatcherOptions batcher_options(const Generator::Options& options, std::uint32_t max_in_flight) {
  return {.n_ctx = options.n_ctx,
          .n_ubatch = options.n_ubatch,
          .n_seq_max = options.n_seq_max,
          .max_in_flight = max_in_flight};
}

}  // namespace

void fail_request(Request& request, const Error& error) {
  request.events.send(FailedEvent{error});
  request.events.close();
}

Generator::Generator(const model::Tokenizer& tokenizer, Executor& executor, const Options& options,
                     std::function<void(std::uint32_t, engine::BatchRange)> announce_cancel,
                     std::atomic<std::uint32_t>& in_flight)
    : tokenizer_(tokenizer),
      executor_(executor),
      options_(options),
      announce_cancel_(std::move(announce_cancel)),
      in_flight_(in_flight),
      batcher_(batcher_options(options, 1)) {}

// An epoch starts with empty KV caches and batch 1.
void Generator::activate(std::uint32_t epoch, std::uint32_t max_in_flight) {
  epoch_ = epoch;
  failure_.reset();
  batcher_ = engine::Batcher(batcher_options(options_, max_in_flight));
  in_flight_ = 0;
}

void Generator::submit(std::shared_ptr<Request> request) {
  const auto refuse = [&](const Error& error) { fail_request(*request, error); };
  if (failure_) return refuse(*failure_);
  if (epoch_ == 0) return refuse({ErrorCode::kPeerGone, "the ring is not running"});
  auto sampler = model::Sampler::create(tokenizer_, request->options.sampling);
  if (!sampler) return refuse(sampler.error());
  request->submitted = Clock::now();
  request->timings.n_prompt = static_cast<std::uint32_t>(request->prompt.size());
  for (const model::Token token : request->prompt) sampler->accept(token);
  request->sampler = std::move(*sampler);
  auto seq = batcher_.start(request->prompt);
  if (!seq) return refuse(seq.error());
  request->seq = *seq;
  running_[*seq] = std::move(request);
}

void Generator::stop(const std::shared_ptr<Request>& request) {
  const auto found = running_.find(request->seq);
  if (found == running_.end() || found->second != request) return;
  for (const engine::BatchRange& range : batcher_.cancel(request->seq)) {
    executor_.cancel(epoch_, range.first, range.last);
    announce_cancel_(epoch_, range);
  }
  finish(request, FinishReason::kStopped);
}

// Pops the request off and tells its owner; its sequence is closed already.
void Generator::finish(const std::shared_ptr<Request>& request, FinishReason reason) {
  const std::shared_ptr<Request> keep = request;
  running_.erase(keep->seq);
  keep->events.send(DoneEvent{reason, keep->timings});
  keep->events.close();
}

void Generator::fail_all(const Error& error) {
  failure_ = error;
  epoch_ = 0;
  in_flight_ = 0;
  for (auto& [seq, request] : std::exchange(running_, {})) fail_request(*request, error);
}

void Generator::on_finished(const FinishedBatch& batch) {
  if (batch.epoch != epoch_) return;
  const auto rows = batcher_.done(batch.batch, batch.operations_only);
  HEARTH_CHECK(rows.has_value(), "the ring's order was checked before");
  in_flight_ = batcher_.in_flight();
  if (rows->empty() || batch.operations_only) return;
  const std::size_t n_vocab = batch.logits.size() / rows->size();
  for (std::size_t i = 0; i < rows->size(); ++i) {
    const engine::OutputRow& row = (*rows)[i];
    if (!row.wanted) continue;
    const auto found = running_.find(row.seq);
    HEARTH_CHECK(found != running_.end());
    accept(*found->second, batch.logits.subspan(i * n_vocab, n_vocab));
  }
}

// Samples the next token of a sequence and sends it on its way.
void Generator::accept(Request& request, std::span<const float> logits) {
  const auto self = running_.at(request.seq);
  const model::Token token = request.sampler->sample(logits);
  const auto now = Clock::now();
  Timings& t = request.timings;
  if (t.n_generated++ == 0) {
    request.first_token = now;
    t.prompt = now - request.submitted;
  }
  t.decode = now - request.first_token;
  // A grammar has nothing to say after its end.
  const bool may_end = !request.options.ignore_end || !request.options.sampling.grammar.empty();
  if (token == model::Sampler::kNoToken || (tokenizer_.ends_generation(token) && may_end)) {
    --t.n_generated;
    batcher_.finish(request.seq);
    return finish(self, FinishReason::kEnd);
  }
  request.events.send(TokenEvent{token, request.options.keep_logits
                                            ? std::vector<float>(logits.begin(), logits.end())
                                            : std::vector<float>{}});
  if (request.options.max_tokens >= 0 &&
      t.n_generated >= static_cast<std::uint64_t>(request.options.max_tokens)) {
    batcher_.finish(request.seq);
    return finish(self, FinishReason::kLength);
  }
  if (!push(request, token)) {
    batcher_.finish(request.seq);
    finish(self, FinishReason::kContextFull);
  }
}

Result<> Generator::push(Request& request, model::Token token) {
  Result<> pushed = batcher_.push(request.seq, token);
  if (pushed || !request.options.context_shift) return pushed;
  const auto n_prompt = static_cast<std::uint32_t>(request.prompt.size());
  std::uint32_t n_keep = n_prompt;
  if (request.options.n_keep >= 0) {
    const bool has_bos = request.prompt.front() == tokenizer_.bos();
    n_keep = std::min(n_prompt, static_cast<std::uint32_t>(request.options.n_keep) + (has_bos ? 1 : 0));
  }
  HEARTH_TRY_VOID(batcher_.discard_half(request.seq, n_keep));
  ++request.timings.n_shifts;
  return batcher_.push(request.seq, token);
}

std::expected<bool, Executor::Failure> Generator::pump() {
  // An epoch that was just freed: the word about its end follows.
  if (epoch_ == 0 || !executor_.holds(epoch_)) return false;
  const auto batch = batcher_.next();
  if (!batch) return false;
  in_flight_ = batcher_.in_flight();
  if (auto started = executor_.start(epoch_, *batch); !started) return std::unexpected(started.error());
  return true;
}

}  // namespace hearth::node
