#include "cli/generate.h"

#include <utility>
#include <variant>

#include "base/os_process.h"
#include "model/stop_strings.h"

namespace hearth::cli {
Result<Prompter> Prompter::create(const model::ModelFile& model, const model::Tokenizer& t, bool raw_only) {
  Prompter prompter(t);
  if (raw_only) return prompter;
  const auto text = [&t](model::Token token) { return token < 0 ? std::string() : t.piece(token, true); };
  auto loaded = model::ChatTemplate::load(model.file(), text(t.bos()), text(t.eos()));
  if (!loaded)
    return fail(loaded.error().code, "{}; use --no-chat to continue plain text", loaded.error().message);
  prompter.template_ = std::move(*loaded);
  if (const auto& marks = prompter.template_->reasoning()) {
    std::string all = marks->open + marks->close;
    for (const std::string& mark : marks->passed) all += mark;
    // Marks that the vocabulary cannot write are never generated.
    const auto tokens = t.encode(all, {.add_special = false, .parse_special = true});
    for (const model::Token token : tokens.value_or(std::vector<model::Token>()))
      if (t.piece(token).empty()) prompter.marks_.insert(token);
  }
  return prompter;
}

Result<Prompt> Prompter::raw(const std::string& text) const {
  HEARTH_TRY(auto tokens, tokenizer_->encode(text, {.add_special = true, .parse_special = false}));
  return Prompt{.tokens = std::move(tokens)};
}

Result<Prompt> Prompter::chat(std::span<const model::ChatMessage> messages,
                              std::optional<bool> thinking) const {
  HEARTH_CHECK(template_.has_value());
  HEARTH_TRY(std::string text, template_->apply(messages, true, thinking));
  Prompt prompt;
  if (const auto& marks = template_->reasoning()) {
    prompt.opens_reasoning = model::opens_reasoning(*marks, text);
    if (prompt.opens_reasoning && thinking == false) {
      text += "\n" + marks->close + "\n\n";
      prompt.opens_reasoning = false;
    }
  }
  // A template that writes BOS itself must not get a second one.
  const std::string bos = tokenizer_->bos() < 0 ? "" : tokenizer_->piece(tokenizer_->bos(), true);
  const bool has_bos = !bos.empty() && text.starts_with(bos);
  HEARTH_TRY(prompt.tokens, tokenizer_->encode(text, {.add_special = !has_bos, .parse_special = true}));
  return prompt;
}

std::optional<model::ReasoningMarks> Prompter::reasoning() const {
  return template_ ? template_->reasoning() : std::nullopt;
}

std::string Prompter::piece(model::Token token) const {
  return tokenizer_->piece(token, marks_.contains(token));
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

Result<Answer> generate_answer(node::HeadNode& head, const Prompter& prompter, Prompt prompt,
                               const AnswerOptions& options,
                               const std::function<bool(const model::ReasoningStream::Piece&)>& show) {
  HEARTH_TRY(auto stops, model::StopStrings::create(options.stops));
  model::Utf8Stream utf8;
  model::ReasoningStream divided(options.divide ? prompter.reasoning() : std::nullopt,
                                 prompt.opens_reasoning);
  Answer answer;
  bool wanted = true;
  const auto take = [&](const std::vector<model::ReasoningStream::Piece>& pieces) {
    for (const auto& piece : pieces) {
      (piece.part == model::ReasoningStream::Part::kAnswer ? answer.text : answer.reasoning) += piece.text;
      wanted = wanted && show(piece);
    }
  };
  auto done = generate(head, std::move(prompt.tokens), options.generate, [&](model::Token token) {
    take(divided.push(stops.push(utf8.push(prompter.piece(token)))));
    return wanted && !stops.stopped();
  });
  if (!done) return pass(std::move(done));
  if (!stops.stopped()) take(divided.push(stops.push(utf8.finish()) + stops.finish()));
  take(divided.finish());
  answer.done = *done;
  return answer;
}

}  // namespace hearth::cli
