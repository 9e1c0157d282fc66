// Conversation: what was said in a chat, and how it is kept in a file (docs/reference/conversation.md).
//
// Values; no threads.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/sampling_flags.h"
#include "model/chat_template.h"

namespace hearth::cli {

struct Turn {
  std::string role;  // "user", "assistant"
  std::string content;
  std::string reasoning = {};  // before the content; not part of what the model is told later
};

struct Conversation {
  std::string system;            // "": none
  std::optional<bool> thinking;  // for models whose template has the switch
  std::vector<Turn> turns;       // user and assistant by turns, the user first
  // As a chat template takes them.
  [[nodiscard]] std::vector<model::ChatMessage> messages() const;
  // As one text, without roles.
  [[nodiscard]] std::string joined() const;
};

struct SavedConversation {
  Conversation conversation;
  SamplingFlags sampling;
};

// JSON, UTF-8 whatever the contents.
[[nodiscard]] std::string to_json(const SavedConversation& saved, std::string_view model);
// kInvalidFile says what is wrong where. Settings that the file does not name are those of `otherwise`.
[[nodiscard]] Result<SavedConversation> from_json(std::string_view text, const SamplingFlags& otherwise);

// Replaces the file whole or leaves what there was. kIo.
[[nodiscard]] Result<> save_conversation(const std::string& path, const SavedConversation& saved,
                                         std::string_view model);
// kNotFound, kIo, kInvalidArgument (no regular file), kInvalidFile.
[[nodiscard]] Result<SavedConversation> load_conversation(const std::string& path,
                                                          const SamplingFlags& otherwise);

}  // namespace hearth::cli
