// Prompt -> tokens -> text, as run, demo and bench need it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/chat_template.h"
#include "model/reasoning.h"
#include "node/head.h"

namespace hearth::cli {

// What a model continues.
struct Prompt {
  std::vector<model::Token> tokens;
  bool opens_reasoning = false;  // it ends within a block of reasoning
};

// Turns text or a conversation into the model's tokens.
class Prompter {
 public:
  // Without a chat template only raw() works; `raw_only` does not ask for one. kUnsupported says so. The
  // tokenizer must outlive it.
  [[nodiscard]] static Result<Prompter> create(const model::ModelFile& model,
                                               const model::Tokenizer& tokenizer, bool raw_only);
  [[nodiscard]] Result<Prompt> raw(const std::string& text) const;
  // `thinking` off closes a block of reasoning that the template opens, where it has no switch.
  [[nodiscard]] Result<Prompt> chat(std::span<const model::ChatMessage> messages,
                                    std::optional<bool> thinking = std::nullopt) const;

  // Nothing where the model does not reason, or raw_only.
  [[nodiscard]] std::optional<model::ReasoningMarks> reasoning() const;
  [[nodiscard]] bool has_thinking_switch() const { return template_ && template_->has_thinking_switch(); }
  // The text of a token; of special tokens only those that mark reasoning.
  [[nodiscard]] std::string piece(model::Token token) const;

 private:
  explicit Prompter(const model::Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  const model::Tokenizer* tokenizer_;
  std::optional<model::ChatTemplate> template_;
  std::set<model::Token> marks_;  // special tokens of which marks of reasoning consist
};

// Generates until the end, an interrupt, `each` gives false (Done with kStopped) or an error.
[[nodiscard]] Result<node::DoneEvent> generate(node::HeadNode& head, std::vector<model::Token> prompt,
                                               const node::GenerateOptions& options,
                                               const std::function<bool(model::Token)>& each);

struct AnswerOptions {
  node::GenerateOptions generate;
  std::vector<std::string> stops;  // the text ends before any of these
  bool divide = true;              // reasoning from the answer; false: all is answer, as it was generated
};
struct Answer {
  node::DoneEvent done;
  std::string text, reasoning;
};
// The same as text, ended by stop strings and divided; `show` gets what is known to be part of the answer.
[[nodiscard]] Result<Answer> generate_answer(
    node::HeadNode& head, const Prompter& prompter, Prompt prompt, const AnswerOptions& options,
    const std::function<bool(const model::ReasoningStream::Piece&)>& show);

}  // namespace hearth::cli
