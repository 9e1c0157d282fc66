// Prompt -> tokens -> text, as run, demo and bench need it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/result.h"
#include "model/chat_template.h"
#include "node/head.h"

namespace hearth::cli {

// Names and defaults of llama.cpp.
struct SamplingFlags {
  std::int64_t max_tokens = -1;
  float temperature = 0.8F;
  std::int32_t top_k = 40;
  float top_p = 0.95F;
  float min_p = 0.05F;
  float repeat_penalty = 1.0F;
  std::int64_t seed = -1;
  bool ignore_eos = false;
  bool context_shift = false;
  std::int32_t n_keep = 0;
  void add(CLI::App& app);
  [[nodiscard]] node::GenerateOptions options() const;
};

// Turns text or a conversation into the model's tokens.
class Prompter {
 public:
  // Without a chat template only raw() works; `raw_only` does not ask for one. kUnsupported says so. The
  // tokenizer must outlive it.
  [[nodiscard]] static Result<Prompter> create(const model::ModelFile& model,
                                               const model::Tokenizer& tokenizer, bool raw_only);
  [[nodiscard]] Result<std::vector<model::Token>> raw(const std::string& text) const;
  [[nodiscard]] Result<std::vector<model::Token>> chat(std::span<const model::ChatMessage> messages) const;

 private:
  explicit Prompter(const model::Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  const model::Tokenizer* tokenizer_;
  std::optional<model::ChatTemplate> template_;
};

// Generates until the end, an interrupt, `each` gives false (Done with kStopped) or an error.
[[nodiscard]] Result<node::DoneEvent> generate(node::HeadNode& head, std::vector<model::Token> prompt,
                                               const node::GenerateOptions& options,
                                               const std::function<bool(model::Token)>& each);
// The same; `piece` gets whole UTF-8 characters.
[[nodiscard]] Result<node::DoneEvent> generate_text(node::HeadNode& head, std::vector<model::Token> prompt,
                                                    const node::GenerateOptions& options,
                                                    const std::function<bool(const std::string&)>& piece);

// A line typed at the terminal; nothing at its end or after an interrupt.
[[nodiscard]] std::optional<std::string> read_terminal_line();

}  // namespace hearth::cli
