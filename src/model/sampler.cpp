#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include <llama.h>

#include "model/tokenizer_impl.h"

namespace hearth::model {
namespace {

constexpr std::int32_t kMaxRepeatLastN = 1 << 20;
constexpr float kMinTemperature = 1e-5F;
constexpr float kMaxTemperature = 1e5F;
constexpr float kMinPenalty = 1e-3F;
constexpr float kMaxPenalty = 1e3F;
// Logits are cut here so that penalties and temperature cannot push one to infinity, whose softmax is NaN.
constexpr float kMaxLogit = 1e25F;
// libllama's way to say "random".
constexpr std::uint32_t kRandomSeed = LLAMA_DEFAULT_SEED;

template <typename T>
Result<> check_range(const char* name, T value, std::type_identity_t<T> min, std::type_identity_t<T> max) {
  if (value >= min && value <= max) return {};  // false for NaN
  return fail(ErrorCode::kInvalidArgument, "{} is {}, expected {} to {}", name, value, min, max);
}

Result<> check(const SamplingOptions& o) {
  if (!(o.temperature <= 0))
    HEARTH_TRY_VOID(check_range("temperature", o.temperature, kMinTemperature, kMaxTemperature));
  HEARTH_TRY_VOID(check_range("top-p", o.top_p, 0, 1));
  HEARTH_TRY_VOID(check_range("min-p", o.min_p, 0, 1));
  HEARTH_TRY_VOID(check_range("repeat-penalty", o.repeat_penalty, kMinPenalty, kMaxPenalty));
  HEARTH_TRY_VOID(check_range("repeat-last-n", o.repeat_last_n, 0, kMaxRepeatLastN));
  return {};
}

std::uint32_t random_seed() {
  std::random_device device;
  std::uint32_t seed = device();
  while (seed == kRandomSeed) seed = device();
  return seed;
}

}  // namespace

struct Sampler::Impl {
  struct Free {
    void operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }
  };
  std::unique_ptr<llama_sampler, Free> chain;
  std::vector<llama_token_data> candidates;  // [n_vocab], refilled for each token
  std::uint32_t seed = 0;

  void add(llama_sampler* sampler) { llama_sampler_chain_add(chain.get(), sampler); }
};

Result<Sampler> Sampler::create(const Tokenizer& tokenizer, const SamplingOptions& options) {
  HEARTH_TRY_VOID(check(options));
  const llama_vocab* vocab = tokenizer.impl().vocab;
  const auto n_vocab = static_cast<std::int32_t>(tokenizer.n_vocab());

  auto impl = std::make_unique<Impl>();
  impl->candidates.resize(tokenizer.n_vocab());
  impl->seed = options.seed && *options.seed != kRandomSeed ? *options.seed : random_seed();
  llama_sampler_chain_params params = llama_sampler_chain_default_params();
  params.no_perf = true;
  impl->chain.reset(llama_sampler_chain_init(params));

  // llama.cpp's order; its other samplers are off by default.
  std::int32_t n_suppressed = 0;
  if (const llama_token* suppressed = llama_vocab_get_suppress_tokens(vocab, &n_suppressed);
      n_suppressed > 0) {
    std::vector<llama_logit_bias> biases;
    for (const llama_token token : std::span(suppressed, static_cast<std::size_t>(n_suppressed)))
      biases.push_back({token, -std::numeric_limits<float>::infinity()});
    impl->add(llama_sampler_init_logit_bias(n_vocab, n_suppressed, biases.data()));
  }
  if (options.repeat_penalty != 1.0F && options.repeat_last_n > 0)
    impl->add(
        llama_sampler_init_penalties(n_vocab, options.repeat_last_n, options.repeat_penalty, 0.0F, 0.0F));
  if (options.temperature <= 0) {
    impl->add(llama_sampler_init_greedy());
  } else {
    if (options.top_k > 0) impl->add(llama_sampler_init_top_k(options.top_k));
    if (options.top_p < 1) impl->add(llama_sampler_init_top_p(options.top_p, 0));
    if (options.min_p > 0) impl->add(llama_sampler_init_min_p(options.min_p, 0));
    impl->add(llama_sampler_init_temp(options.temperature));
    impl->add(llama_sampler_init_dist(impl->seed));
  }
  return Sampler(std::move(impl));
}

Sampler::Sampler(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;
Sampler::~Sampler() = default;

void Sampler::accept(Token token) {
  if (token < 0 || std::cmp_greater_equal(token, impl_->candidates.size())) return;
  llama_sampler_accept(impl_->chain.get(), token);
}

Token Sampler::sample(std::span<const float> logits) {
  std::vector<llama_token_data>& candidates = impl_->candidates;
  HEARTH_CHECK(logits.size() == candidates.size(), "one logit per token of the vocabulary");
  // NaN and infinities have no order or no softmax. NaN counts as impossible; when nothing is possible the
  // first token is picked (the engine reports non-finite rows before they come here).
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float logit = std::isnan(logits[i]) ? -kMaxLogit : std::clamp(logits[i], -kMaxLogit, kMaxLogit);
    candidates[i] = {static_cast<llama_token>(i), logit, 0.0F};
    if (logit > candidates[best].logit) best = i;
  }
  llama_token_data_array array{candidates.data(), candidates.size(), -1, false};
  llama_sampler_apply(impl_->chain.get(), &array);
  const bool is_selected = array.selected >= 0 && std::cmp_less(array.selected, array.size);
  const Token token = is_selected ? array.data[array.selected].id : static_cast<Token>(best);
  llama_sampler_accept(impl_->chain.get(), token);
  return token;
}

std::uint32_t Sampler::seed() const {
  return impl_->seed;
}

}  // namespace hearth::model
