// ChatTemplate: messages -> prompt text by the Jinja template in the GGUF file (minja).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "gguf/file.h"
#include "model/reasoning.h"

namespace hearth::model {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

class ChatTemplate {
 public:
  // kUnsupported when the file has no template, kInvalidFile when it cannot be parsed (with the template
  // engine's message). bos, eos: the special tokens' texts.
  [[nodiscard]] static Result<ChatTemplate> load(const gguf::File& file, std::string bos, std::string eos);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // The prompt that asks for the assistant's next message. A template that refuses the messages
  // (kInvalidArgument) says why. The text holds the model's special tokens in words: tokenize with
  // parse_special, add_special off when it begins with BOS. `thinking` is for templates that have the switch.
  [[nodiscard]] Result<std::string> apply(std::span<const ChatMessage> messages,
                                          bool add_generation_prompt = true,
                                          std::optional<bool> thinking = std::nullopt) const;

  // How the model marks its reasoning, if it does. Messages of the assistant go into apply() without it:
  // templates of such models leave it out of older answers themselves, or refuse it.
  [[nodiscard]] const std::optional<ReasoningMarks>& reasoning() const;
  // Whether reasoning can be switched off (enable_thinking of Qwen3 and others, thinking of Granite and
  // DeepSeek V3.1).
  [[nodiscard]] bool has_thinking_switch() const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::model
