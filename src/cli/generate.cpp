#include "cli/generate.h"

#include <charconv>
#include <format>
#include <iostream>
#include <variant>

#include "base/os_process.h"
#include "base/text.h"

namespace hearth::cli {
namespace {

constexpr std::int32_t kMostTokens = 1 << 24;

const CLI::Validator is_token_limit(
    [](const std::string& text) {
      std::int32_t n = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
      const bool good = error == std::errc() && end == text.data() + text.size() &&
                        (n == -1 || (n >= 1 && n <= kMostTokens));
      return good ? std::string()
                  : std::format("{} is no number of tokens: give 1 to {}, or -1", quote(text), kMostTokens);
    },
    "TOKENS");

}  // namespace

void SamplingFlags::add(CLI::App& app) {
  app.add_option("-n,--predict", max_tokens, "most tokens to generate; -1: until the model ends")
      ->check(is_token_limit)
      ->capture_default_str();
  app.add_option("--temp", temperature, "temperature; 0: always the most likely token")
      ->capture_default_str();
  app.add_option("--top-k", top_k, "choose among the k most likely; 0: all")->capture_default_str();
  app.add_option("--top-p", top_p, "choose among the most likely that sum to p")->capture_default_str();
  app.add_option("--min-p", min_p, "leave out what is less likely than min-p times the best")
      ->capture_default_str();
  app.add_option("--repeat-penalty", repeat_penalty, "1: none")->capture_default_str();
  app.add_option("-s,--seed", seed, "random seed; -1: a new one")
      ->check(CLI::Range(std::int64_t{-1}, std::int64_t{0xFFFFFFFF}))
      ->capture_default_str();
  app.add_flag("--context-shift,!--no-context-shift", context_shift,
               "where the context is full, discard half of it and go on (default: end with an error)");
  app.add_option("--keep", n_keep, "tokens of the prompt that a context shift keeps; -1: all")
      ->check(CLI::Range(-1, kMostTokens))
      ->capture_default_str();
  app.add_flag("--ignore-eos", ignore_eos, "go on after the model's end");
}

node::GenerateOptions SamplingFlags::options() const {
  node::GenerateOptions options;
  options.sampling.temperature = temperature;
  options.sampling.top_k = top_k;
  options.sampling.top_p = top_p;
  options.sampling.min_p = min_p;
  options.sampling.repeat_penalty = repeat_penalty;
  if (seed >= 0) options.sampling.seed = static_cast<std::uint32_t>(seed);
  options.max_tokens = max_tokens;
  options.ignore_end = ignore_eos;
  options.context_shift = context_shift;
  options.n_keep = n_keep;
  return options;
}

Result<Prompter> Prompter::create(const model::ModelFile& model, const model::Tokenizer& t, bool raw_only) {
  Prompter prompter(t);
  if (raw_only) return prompter;
  const auto text = [&t](model::Token token) { return token < 0 ? std::string() : t.piece(token, true); };
  auto loaded = model::ChatTemplate::load(model.file(), text(t.bos()), text(t.eos()));
  if (!loaded)
    return fail(loaded.error().code, "{}; use --raw to continue plain text", loaded.error().message);
  prompter.template_ = std::move(*loaded);
  return prompter;
}

Result<std::vector<model::Token>> Prompter::raw(const std::string& text) const {
  return tokenizer_->encode(text, {.add_special = true, .parse_special = false});
}

Result<std::vector<model::Token>> Prompter::chat(std::span<const model::ChatMessage> messages) const {
  HEARTH_CHECK(template_.has_value());
  HEARTH_TRY(const std::string text, template_->apply(messages));
  // A template that writes BOS itself must not get a second one.
  const std::string bos = tokenizer_->bos() < 0 ? "" : tokenizer_->piece(tokenizer_->bos(), true);
  const bool has_bos = !bos.empty() && text.starts_with(bos);
  return tokenizer_->encode(text, {.add_special = !has_bos, .parse_special = true});
}

Result<node::DoneEvent> generate(node::HeadNode& head, std::vector<model::Token> prompt,
                                 const node::GenerateOptions& options,
                                 const std::function<bool(model::Token)>& each) {
  constexpr std::chrono::milliseconds kPollInterrupts{50};
  HEARTH_TRY(const auto request, head.submit(std::move(prompt), options));
  bool stopping = false, wanted = true;
  while (true) {
    if ((interrupts() > 0 || !wanted) && !stopping) {
      stopping = true;
      head.stop(request);
    }
    auto event = request->events.receive_for(kPollInterrupts);
    if (!event) {
      if (!request->events.closed()) continue;
      event = request->events.try_receive();  // the last word came between the two looks
      HEARTH_CHECK(event.has_value(), "a request ended without a word");
    }
    if (auto* token = std::get_if<node::TokenEvent>(&*event))
      wanted = each(token->token) && wanted;
    else if (auto* done = std::get_if<node::DoneEvent>(&*event))
      return *done;
    else
      return std::unexpected(std::get<node::FailedEvent>(*event).error);
  }
}

Result<node::DoneEvent> generate_text(node::HeadNode& head, std::vector<model::Token> prompt,
                                      const node::GenerateOptions& options,
                                      const std::function<bool(const std::string&)>& piece) {
  model::Utf8Stream text;
  auto done = generate(head, std::move(prompt), options, [&](model::Token token) {
    const std::string whole = text.push(head.tokenizer().piece(token));
    return whole.empty() || piece(whole);
  });
  if (done)
    if (const std::string rest = text.finish(); !rest.empty()) (void)piece(rest);
  return done;
}

std::optional<std::string> read_terminal_line() {
  std::string line;
  if (!std::getline(std::cin, line)) return std::nullopt;
  return line;
}

}  // namespace hearth::cli
