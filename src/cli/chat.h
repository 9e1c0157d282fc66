// A conversation on a terminal: what `hearth run` does without a prompt. docs/howto/chat.md shows it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "cli/conversation.h"
#include "cli/generate.h"
#include "node/head.h"

namespace hearth::cli {

struct ChatOptions {
  std::string model;        // its file's name, for people
  SavedConversation start;  // system message and sampling, as the flags say
  std::vector<std::string> stops;
  std::string grammar;  // of every answer; "": none
  std::uint32_t n_ctx = 0;
  bool continues = false;  // no roles: the model goes on with what was typed
  bool divide = true;      // reasoning from answers
  bool verbose = false;
  std::optional<std::filesystem::path> history;  // where what was typed is kept
};

// Talks until /bye, Ctrl-D or Ctrl-C twice; gives the exit code. Interrupts must be counted.
[[nodiscard]] int chat(node::HeadNode& head, const Prompter& prompter, ChatOptions options);

// What one answer is generated with: `sampling` and what a grammar asks for.
[[nodiscard]] Result<AnswerOptions> answer_options(const SamplingFlags& sampling, const ChatOptions& options);

}  // namespace hearth::cli
