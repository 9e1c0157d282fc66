#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include <llama.h>

#include "base/text.h"
#include "model/grammar_check.h"
#include "model/llama_log.h"
#include "model/tokenizer_impl.h"

namespace hearth::model {
namespace {

constexpr std::int32_t kMaxLastN = 1 << 20;
constexpr float kMinTemperature = 1e-5F;
constexpr float kMaxTemperature = 1e5F;
constexpr float kMinPenalty = 1e-3F;
constexpr float kMaxPenalty = 1e3F;
constexpr std::size_t kMaxBreakers = 64, kMaxBreakerBytes = 40;  // libllama cuts longer ones
constexpr std::size_t kMaxSteps = 32;
constexpr float kMaxBias = 1e6F;
// Logits are cut here so that penalties and temperature cannot push one to infinity, whose softmax is NaN.
constexpr float kMaxLogit = 1e25F;
// libllama's way to say "random".
constexpr std::uint32_t kRandomSeed = LLAMA_DEFAULT_SEED;
// As in llama.cpp; the number of tokens from which mirostat 1 estimates how fast probabilities fall.
constexpr std::int32_t kMirostatM = 100;
constexpr float kInf = std::numeric_limits<float>::infinity();

constexpr std::array<SamplerStep, 9> kDefaultSteps = {
    SamplerStep::kPenalties, SamplerStep::kDry,     SamplerStep::kTopNSigma,
    SamplerStep::kTopK,      SamplerStep::kTypical, SamplerStep::kTopP,
    SamplerStep::kMinP,      SamplerStep::kXtc,     SamplerStep::kTemperature};

template <typename T>
Result<> check_range(const char* name, T value, std::type_identity_t<T> min, std::type_identity_t<T> max) {
  if (value >= min && value <= max) return {};  // false for NaN
  return fail(ErrorCode::kInvalidArgument, "{} is {}, expected {} to {}", name, value, min, max);
}

std::uint32_t random_seed() {
  std::random_device device;
  std::uint32_t seed = device();
  while (seed == kRandomSeed) seed = device();
  return seed;
}

struct Free {
  void operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }
};
using Owned = std::unique_ptr<llama_sampler, Free>;

// The biases of the options and the tokens that the model's file forbids.
std::vector<llama_logit_bias> biases(const llama_vocab* vocab, const SamplingOptions& options) {
  std::vector<llama_logit_bias> all;
  for (const LogitBias& bias : options.logit_bias) all.push_back({bias.token, bias.bias});
  std::int32_t n_suppressed = 0;
  if (const llama_token* suppressed = llama_vocab_get_suppress_tokens(vocab, &n_suppressed); n_suppressed > 0)
    for (const llama_token token : std::span(suppressed, static_cast<std::size_t>(n_suppressed)))
      all.push_back({token, -kInf});
  return all;
}

// The step's sampler; null where it would change nothing.
llama_sampler* make(SamplerStep step, const llama_vocab* vocab, const SamplingOptions& o,
                    std::uint32_t seed) {
  switch (step) {
    case SamplerStep::kPenalties:
      if (o.repeat_last_n == 0 ||
          (o.repeat_penalty == 1 && o.frequency_penalty == 0 && o.presence_penalty == 0))
        return nullptr;
      return llama_sampler_init_penalties(llama_vocab_n_tokens(vocab), o.repeat_last_n, o.repeat_penalty,
                                          o.frequency_penalty, o.presence_penalty);
    case SamplerStep::kDry: {
      if (o.dry_multiplier == 0 || o.dry_last_n == 0) return nullptr;
      std::vector<const char*> breakers;
      for (const std::string& text : o.dry_breakers) breakers.push_back(text.c_str());
      return llama_sampler_init_dry(vocab, o.dry_multiplier, o.dry_base, o.dry_allowed_length, o.dry_last_n,
                                    breakers.data(), breakers.size());
    }
    case SamplerStep::kTopNSigma:
      return o.top_n_sigma > 0 ? llama_sampler_init_top_n_sigma(o.top_n_sigma) : nullptr;
    case SamplerStep::kTopK:
      return o.top_k > 0 ? llama_sampler_init_top_k(o.top_k) : nullptr;
    case SamplerStep::kTypical:
      return o.typical_p < 1 ? llama_sampler_init_typical(o.typical_p, 0) : nullptr;
    case SamplerStep::kTopP:
      return o.top_p < 1 ? llama_sampler_init_top_p(o.top_p, 0) : nullptr;
    case SamplerStep::kMinP:
      return o.min_p > 0 ? llama_sampler_init_min_p(o.min_p, 0) : nullptr;
    case SamplerStep::kXtc:
      return o.xtc_probability > 0 && o.xtc_threshold <= 0.5F
                 ? llama_sampler_init_xtc(o.xtc_probability, o.xtc_threshold, 0, seed)
                 : nullptr;
    case SamplerStep::kTemperature:
      return o.dynatemp_range > 0
                 ? llama_sampler_init_temp_ext(o.temperature, o.dynatemp_range, o.dynatemp_exponent)
                 : llama_sampler_init_temp(o.temperature);
  }
  return nullptr;
}

Result<Owned> make_grammar(const Tokenizer& tokenizer, const std::string& grammar) {
  HEARTH_TRY_VOID(check_grammar(grammar, [&](std::string_view text) {
    const auto tokens = tokenizer.encode(text, {.add_special = false, .parse_special = true});
    return tokens && tokens->size() == 1;
  }));
  const LlamaErrors errors;
  try {
    if (Owned made(llama_sampler_init_grammar(tokenizer.impl().vocab, grammar.c_str(), "root"));
        made != nullptr)
      return made;
  } catch (const std::exception&) {
    // Said below.
  }
  return fail(ErrorCode::kInvalidArgument, "libllama refuses the grammar: {}", quote(errors.last(), 200));
}

}  // namespace

std::string_view name(SamplerStep step) {
  static constexpr std::array<std::string_view, 9> kNames = {
      "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"};
  return kNames[static_cast<std::size_t>(step)];
}

Result<std::vector<SamplerStep>> parse_sampler_steps(std::string_view text) {
  std::vector<SamplerStep> steps;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(';'));
    const auto* found = std::ranges::find(kDefaultSteps, word, [](SamplerStep step) { return name(step); });
    if (found == kDefaultSteps.end())
      return fail(
          ErrorCode::kInvalidArgument,
          "there is no sampler {}; there are penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, "
          "xtc, temperature",
          quote(word, 40));
    steps.push_back(*found);
    text.remove_prefix(std::min(text.size(), word.size() + 1));
  }
  return steps;
}

Result<> Sampler::check(const SamplingOptions& o) {
  if (!(o.temperature <= 0))
    HEARTH_TRY_VOID(check_range("temperature", o.temperature, kMinTemperature, kMaxTemperature));
  HEARTH_TRY_VOID(check_range("top-p", o.top_p, 0, 1));
  HEARTH_TRY_VOID(check_range("min-p", o.min_p, 0, 1));
  HEARTH_TRY_VOID(check_range("repeat-penalty", o.repeat_penalty, kMinPenalty, kMaxPenalty));
  HEARTH_TRY_VOID(check_range("repeat-last-n", o.repeat_last_n, 0, kMaxLastN));
  HEARTH_TRY_VOID(check_range("presence-penalty", o.presence_penalty, -kMaxPenalty, kMaxPenalty));
  HEARTH_TRY_VOID(check_range("frequency-penalty", o.frequency_penalty, -kMaxPenalty, kMaxPenalty));
  HEARTH_TRY_VOID(check_range("typical", o.typical_p, 0, 1));
  HEARTH_TRY_VOID(check_range("top-n-sigma", o.top_n_sigma, -1, 1e3F));
  HEARTH_TRY_VOID(check_range("xtc-probability", o.xtc_probability, 0, 1));
  HEARTH_TRY_VOID(check_range("xtc-threshold", o.xtc_threshold, 0, 1));
  HEARTH_TRY_VOID(check_range("dynatemp-range", o.dynatemp_range, 0, kMaxTemperature));
  HEARTH_TRY_VOID(check_range("dynatemp-exp", o.dynatemp_exponent, 0, 1e2F));
  HEARTH_TRY_VOID(check_range("dry-multiplier", o.dry_multiplier, 0, 1e2F));
  HEARTH_TRY_VOID(check_range("dry-base", o.dry_base, 1, 1e2F));
  HEARTH_TRY_VOID(check_range("dry-allowed-length", o.dry_allowed_length, 0, kMaxLastN));
  HEARTH_TRY_VOID(check_range("dry-penalty-last-n", o.dry_last_n, 0, kMaxLastN));
  HEARTH_TRY_VOID(check_range("dry-sequence-breaker: how many", o.dry_breakers.size(), 0, kMaxBreakers));
  for (const std::string& text : o.dry_breakers)
    HEARTH_TRY_VOID(check_range("dry-sequence-breaker: its bytes", text.size(), 1, kMaxBreakerBytes));
  HEARTH_TRY_VOID(check_range("mirostat", o.mirostat, 0, 2));
  HEARTH_TRY_VOID(check_range("mirostat-lr", o.mirostat_lr, 0, 1e2F));
  HEARTH_TRY_VOID(check_range("mirostat-ent", o.mirostat_ent, 0, 1e2F));
  HEARTH_TRY_VOID(check_range("samplers: how many", o.steps.size(), 0, kMaxSteps));
  for (const LogitBias& bias : o.logit_bias)
    if (bias.bias != -kInf) HEARTH_TRY_VOID(check_range("logit-bias", bias.bias, -kMaxBias, kMaxBias));
  return {};
}

struct Sampler::Impl {
  Owned chain, grammar;
  std::vector<llama_token_data> candidates;  // [n_vocab], refilled for each token
  std::uint32_t seed = 0;
  std::uint64_t n_resampled = 0;

  void add(llama_sampler* sampler) {
    if (sampler != nullptr) llama_sampler_chain_add(chain.get(), sampler);
  }
  Token fill(std::span<const float> logits);
  Token pick(Token best);
  bool allows(Token token);
  Token pick_allowed(std::span<const float> logits);
};

Result<Sampler> Sampler::create(const Tokenizer& tokenizer, const SamplingOptions& options) {
  HEARTH_TRY_VOID(check(options));
  const llama_vocab* vocab = tokenizer.impl().vocab;
  const auto n_vocab = static_cast<std::int32_t>(tokenizer.n_vocab());
  for (const LogitBias& bias : options.logit_bias)
    if (bias.token < 0 || bias.token >= n_vocab)
      return fail(ErrorCode::kInvalidArgument, "logit-bias is for token {}, the vocabulary has 0 to {}",
                  bias.token, n_vocab - 1);

  auto impl = std::make_unique<Impl>();
  if (!options.grammar.empty()) {
    HEARTH_TRY(impl->grammar, make_grammar(tokenizer, options.grammar));
  }
  impl->candidates.resize(tokenizer.n_vocab());
  impl->seed = options.seed && *options.seed != kRandomSeed ? *options.seed : random_seed();
  llama_sampler_chain_params params = llama_sampler_chain_default_params();
  params.no_perf = true;
  impl->chain.reset(llama_sampler_chain_init(params));

  const auto make_step = [&](SamplerStep step) { impl->add(make(step, vocab, options, impl->seed)); };
  if (const auto all = biases(vocab, options); !all.empty())
    impl->add(llama_sampler_init_logit_bias(n_vocab, static_cast<std::int32_t>(all.size()), all.data()));
  const std::span<const SamplerStep> steps =
      options.steps.empty() ? std::span<const SamplerStep>(kDefaultSteps) : options.steps;
  if (options.temperature <= 0) {
    // What keeps the best token in its place need not run.
    const bool all = options.xtc_probability > 0 || options.typical_p < 1;
    for (const SamplerStep step : steps)
      if (step == SamplerStep::kPenalties || step == SamplerStep::kDry ||
          (all && step != SamplerStep::kTemperature))
        make_step(step);
    impl->add(llama_sampler_init_greedy());
  } else if (options.mirostat != 0) {
    make_step(SamplerStep::kTemperature);
    impl->add(options.mirostat == 1
                  ? llama_sampler_init_mirostat(n_vocab, impl->seed, options.mirostat_ent,
                                                options.mirostat_lr, kMirostatM)
                  : llama_sampler_init_mirostat_v2(impl->seed, options.mirostat_ent, options.mirostat_lr));
  } else {
    for (const SamplerStep step : steps) make_step(step);
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

// Makes every token a candidate and gives the best.
Token Sampler::Impl::fill(std::span<const float> logits) {
  // NaN and infinities have no order or no softmax. NaN counts as impossible; when nothing is possible the
  // first token is picked (the engine reports non-finite rows before they come here).
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float logit = std::isnan(logits[i]) ? -kMaxLogit : std::clamp(logits[i], -kMaxLogit, kMaxLogit);
    candidates[i] = {static_cast<llama_token>(i), logit, 0.0F};
    if (logit > candidates[best].logit) best = i;
  }
  return static_cast<Token>(best);
}

Token Sampler::Impl::pick(Token best) {
  llama_token_data_array array{candidates.data(), candidates.size(), -1, false};
  llama_sampler_apply(chain.get(), &array);
  const bool is_selected = array.selected >= 0 && std::cmp_less(array.selected, array.size);
  return is_selected ? array.data[array.selected].id : best;
}

bool Sampler::Impl::allows(Token token) {
  llama_token_data candidate{token, 0.0F, 0.0F};
  llama_token_data_array array{&candidate, 1, -1, false};
  llama_sampler_apply(grammar.get(), &array);
  return candidate.logit != -kInf;
}

// A token picked among those that the grammar allows.
Token Sampler::Impl::pick_allowed(std::span<const float> logits) {
  ++n_resampled;
  fill(logits);
  llama_token_data_array array{candidates.data(), candidates.size(), -1, false};
  llama_sampler_apply(grammar.get(), &array);
  // The others leave the row: no step of the chain sees them, and its cost falls with them.
  const auto refused = std::ranges::remove(candidates, -kInf, &llama_token_data::logit);
  array.size = candidates.size() - refused.size();
  if (array.size == 0) return kNoToken;
  const Token best =
      std::ranges::max_element(candidates.begin(), refused.begin(), {}, &llama_token_data::logit)->id;
  llama_sampler_apply(chain.get(), &array);
  const bool is_selected = array.selected >= 0 && std::cmp_less(array.selected, array.size);
  return is_selected ? array.data[array.selected].id : best;
}

Token Sampler::sample(std::span<const float> logits) {
  HEARTH_CHECK(logits.size() == impl_->candidates.size(), "one logit per token of the vocabulary");
  Token token = impl_->pick(impl_->fill(logits));
  if (impl_->grammar != nullptr) {
    // Mostly the model keeps to the grammar by itself, and one token is compared with it in place of all.
    if (!impl_->allows(token)) token = impl_->pick_allowed(logits);
    if (token == kNoToken) return token;
    try {
      llama_sampler_accept(impl_->grammar.get(), token);
    } catch (const std::exception&) {
      return kNoToken;  // libllama's last word on a token that it did allow
    }
  }
  llama_sampler_accept(impl_->chain.get(), token);
  return token;
}

std::uint32_t Sampler::seed() const {
  return impl_->seed;
}

std::uint64_t Sampler::n_resampled() const {
  return impl_->n_resampled;
}

}  // namespace hearth::model
