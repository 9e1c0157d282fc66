#include "cli/sampling_flags.h"

#include <algorithm>
#include <charconv>
#include <format>
#include <limits>
#include <variant>

#include "base/text.h"

namespace hearth::cli {
namespace {

constexpr std::int32_t kMostTokens = 1 << 24;

using Member =
    std::variant<float SamplingFlags::*, std::int32_t SamplingFlags::*, std::int64_t SamplingFlags::*,
                 bool SamplingFlags::*, std::string SamplingFlags::*>;

// The one list of what can be set; flags are llama.cpp's.
struct Setting {
  const char* flags;
  const char* name;
  const char* text;
  Member member;
};

const Setting kSettings[] = {
    {"-n,--predict,--n-predict", "predict", "most tokens to generate; -1: until the model ends",
     &SamplingFlags::max_tokens},
    {"-s,--seed", "seed", "random seed; -1: a new one", &SamplingFlags::seed},
    {"--temp", "temp", "temperature; 0: always the most likely token", &SamplingFlags::temperature},
    {"--top-k", "top-k", "choose among the k most likely; 0: all", &SamplingFlags::top_k},
    {"--top-p", "top-p", "choose among the most likely that sum to p", &SamplingFlags::top_p},
    {"--min-p", "min-p", "leave out what is less likely than min-p times the best", &SamplingFlags::min_p},
    {"--top-n-sigma,--top-nsigma", "top-n-sigma",
     "leave out what is more than so many standard deviations below the best logit; -1: off",
     &SamplingFlags::top_n_sigma},
    {"--typical,--typical-p", "typical", "locally typical sampling with p; 1: off",
     &SamplingFlags::typical_p},
    {"--xtc-probability", "xtc-probability", "how often all but the last of the likely are left out; 0: off",
     &SamplingFlags::xtc_probability},
    {"--xtc-threshold", "xtc-threshold", "probability from which a token is one of these",
     &SamplingFlags::xtc_threshold},
    {"--repeat-last-n", "repeat-last-n", "tokens that penalties look back; 0: none, -1: the context",
     &SamplingFlags::repeat_last_n},
    {"--repeat-penalty", "repeat-penalty", "divides logits of tokens that were there; 1: off",
     &SamplingFlags::repeat_penalty},
    {"--presence-penalty", "presence-penalty", "taken from logits of tokens that were there",
     &SamplingFlags::presence_penalty},
    {"--frequency-penalty", "frequency-penalty", "the same, for each time",
     &SamplingFlags::frequency_penalty},
    {"--dry-multiplier", "dry-multiplier", "penalty of repeated sequences (DRY); 0: off",
     &SamplingFlags::dry_multiplier},
    {"--dry-base", "dry-base", "how fast it grows with their length", &SamplingFlags::dry_base},
    {"--dry-allowed-length", "dry-allowed-length", "length from which it grows",
     &SamplingFlags::dry_allowed_length},
    {"--dry-penalty-last-n", "dry-penalty-last-n", "tokens that it looks back; -1: the context",
     &SamplingFlags::dry_last_n},
    {"--dynatemp-range", "dynatemp-range", "temperature moves up and down by this, by entropy; 0: off",
     &SamplingFlags::dynatemp_range},
    {"--dynatemp-exp", "dynatemp-exp", "exponent of that", &SamplingFlags::dynatemp_exponent},
    {"--mirostat", "mirostat", "1 or 2: Mirostat in place of all but temperature; 0: off",
     &SamplingFlags::mirostat},
    {"--mirostat-lr", "mirostat-lr", "its learning rate, eta", &SamplingFlags::mirostat_lr},
    {"--mirostat-ent", "mirostat-ent", "its target entropy, tau", &SamplingFlags::mirostat_ent},
    {"--samplers", "samplers",
     "which samplers in which order, e.g. 'penalties;top_k;temperature' (default: all of them, as llama.cpp "
     "orders them)",
     &SamplingFlags::samplers},
    {"--ignore-eos", "ignore-eos", "go on after the model's end", &SamplingFlags::ignore_eos},
    {"--context-shift,!--no-context-shift", "context-shift",
     "where the context is full, discard half of it and go on (default: end with an error)",
     &SamplingFlags::context_shift},
    {"--keep", "keep", "tokens of the prompt that a context shift keeps; -1: all", &SamplingFlags::n_keep},
};

template <class T>
Result<T> number(std::string_view name, std::string_view text) {
  T value{};
  // from_chars does not take a plus.
  const std::string_view digits = text.starts_with('+') ? text.substr(1) : text;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size())
    return fail(ErrorCode::kInvalidArgument, "{}: expected a {}number, got {}", name,
                std::is_integral_v<T> ? "whole " : "", quote(text, 40));
  return value;
}

Result<bool> on_or_off(std::string_view name, std::string_view text) {
  if (text == "on" || text == "true" || text == "1") return true;
  if (text == "off" || text == "false" || text == "0") return false;
  return fail(ErrorCode::kInvalidArgument, "{}: expected on or off, got {}", name, quote(text, 40));
}

Result<> assign(SamplingFlags& flags, const Setting& setting, std::string_view value) {
  return std::visit(
      [&](auto member) -> Result<> {
        using T = std::decay_t<decltype(flags.*member)>;
        if constexpr (std::is_same_v<T, std::string>) {
          flags.*member = value;
        } else if constexpr (std::is_same_v<T, bool>) {
          HEARTH_TRY(flags.*member, on_or_off(setting.name, value));
        } else {
          HEARTH_TRY(flags.*member, number<T>(setting.name, value));
        }
        return {};
      },
      setting.member);
}

Result<model::LogitBias> parse_logit_bias(std::string_view text) {
  const auto bad = [&] {
    return fail(ErrorCode::kInvalidArgument,
                "logit-bias: expected TOKEN_ID+BIAS or TOKEN_ID-BIAS like 15043-1 or 15043-inf, got {}",
                quote(text, 40));
  };
  const auto sign = text.find_first_of("+-", 1);
  if (sign == std::string_view::npos) return bad();
  const auto token = number<std::int32_t>("logit-bias", text.substr(0, sign));
  const auto bias = number<float>("logit-bias", text.substr(sign + 1));
  if (!token || !bias || text[0] == '+' || *bias < 0) return bad();
  return model::LogitBias{*token, text[sign] == '-' ? -*bias : *bias};
}

}  // namespace

void SamplingFlags::add(CLI::App& app) {
  for (const Setting& setting : kSettings)
    std::visit(
        [&](auto member) {
          using T = std::decay_t<decltype(this->*member)>;
          if constexpr (std::is_same_v<T, bool>)
            app.add_flag(setting.flags, this->*member, setting.text);
          else if constexpr (std::is_same_v<T, std::string>)
            app.add_option(setting.flags, this->*member, setting.text);
          else
            app.add_option(setting.flags, this->*member, setting.text)->capture_default_str();
        },
        setting.member);
  const auto tokens = CLI::Validator(
      [](const std::string& text) {
        const auto n = number<std::int32_t>("", text);
        if (n && (*n == -1 || (*n >= 1 && *n <= kMostTokens))) return std::string();
        return std::format("{} is no number of tokens: give 1 to {}, or -1", quote(text), kMostTokens);
      },
      "TOKENS");
  app.get_option("--predict")->check(tokens);
  app.get_option("--keep")->check(CLI::Range(-1, kMostTokens));
  app.get_option("--seed")->check(CLI::Range(std::int64_t{-1}, std::int64_t{0xFFFFFFFF}));
  app.add_option(
         "--dry-sequence-breaker", dry_breakers,
         "text over which DRY does not look (default: line break, : \" *); may be repeated; none: no such "
         "text")
      ->allow_extra_args(false);
  app.add_option(
         "-l,--logit-bias", logit_bias,
         "TOKEN_ID+BIAS or TOKEN_ID-BIAS, added to a token's logit: 15043+1, 15043-inf; may be repeated")
      ->allow_extra_args(false);
}

Result<node::GenerateOptions> SamplingFlags::options(std::uint32_t n_ctx) const {
  if (max_tokens != -1 && (max_tokens < 1 || max_tokens > kMostTokens))
    return fail(ErrorCode::kInvalidArgument, "predict is {}, expected 1 to {}, or -1", max_tokens,
                kMostTokens);
  if (seed < -1 || seed > std::numeric_limits<std::uint32_t>::max())
    return fail(ErrorCode::kInvalidArgument, "seed is {}, expected 0 to {}, or -1", seed,
                std::numeric_limits<std::uint32_t>::max());
  const auto last_n = [n_ctx](std::int32_t n) { return n == -1 ? static_cast<std::int32_t>(n_ctx) : n; };
  node::GenerateOptions options;
  options.max_tokens = max_tokens;
  options.ignore_end = ignore_eos;
  if (n_keep < -1 || n_keep > kMostTokens)
    return fail(ErrorCode::kInvalidArgument, "keep is {}, expected 0 to {}, or -1", n_keep, kMostTokens);
  options.context_shift = context_shift;
  options.n_keep = n_keep;
  model::SamplingOptions& s = options.sampling;
  s.temperature = temperature;
  s.top_k = top_k;
  s.top_p = top_p;
  s.min_p = min_p;
  s.repeat_penalty = repeat_penalty;
  s.repeat_last_n = last_n(repeat_last_n);
  if (seed >= 0) s.seed = static_cast<std::uint32_t>(seed);
  s.presence_penalty = presence_penalty;
  s.frequency_penalty = frequency_penalty;
  s.typical_p = typical_p;
  s.top_n_sigma = top_n_sigma;
  s.xtc_probability = xtc_probability;
  s.xtc_threshold = xtc_threshold;
  s.dynatemp_range = dynatemp_range;
  s.dynatemp_exponent = dynatemp_exponent;
  s.dry_multiplier = dry_multiplier;
  s.dry_base = dry_base;
  s.dry_allowed_length = dry_allowed_length;
  s.dry_last_n = last_n(dry_last_n);
  if (dry_breakers == std::vector<std::string>{"none"})
    s.dry_breakers.clear();
  else if (!dry_breakers.empty())
    s.dry_breakers = dry_breakers;
  s.mirostat = mirostat;
  s.mirostat_lr = mirostat_lr;
  s.mirostat_ent = mirostat_ent;
  for (const std::string& text : logit_bias) {
    HEARTH_TRY(const model::LogitBias bias, parse_logit_bias(text));
    s.logit_bias.push_back(bias);
  }
  HEARTH_TRY(s.steps, model::parse_sampler_steps(samplers));
  HEARTH_TRY_VOID(model::Sampler::check(s));
  return options;
}

Result<> SamplingFlags::set(std::string_view name, std::string_view value) {
  const auto* found = std::ranges::find(kSettings, name, &Setting::name);
  if (found == std::end(kSettings))
    return fail(ErrorCode::kInvalidArgument, "there is no setting {}; /set lists them", quote(name, 40));
  SamplingFlags changed = *this;
  HEARTH_TRY_VOID(assign(changed, *found, value));
  // Any context will do: what -1 stands for is always in range.
  HEARTH_TRY_VOID(changed.options(1).transform([](const auto&) {}));
  *this = std::move(changed);
  return {};
}

std::vector<std::pair<std::string, std::string>> SamplingFlags::values() const {
  std::vector<std::pair<std::string, std::string>> all;
  for (const Setting& setting : kSettings)
    std::visit(
        [&](auto member) {
          using T = std::decay_t<decltype(this->*member)>;
          std::string value;
          if constexpr (std::is_same_v<T, bool>)
            value = this->*member ? "on" : "off";
          else
            value = std::format("{}", this->*member);
          all.emplace_back(setting.name, std::move(value));
        },
        setting.member);
  return all;
}

}  // namespace hearth::cli
