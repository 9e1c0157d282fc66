// ChatTemplate: messages -> prompt text by the Jinja template in the GGUF file (minja).
#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "gguf/file.h"

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
  // parse_special, add_special off when it begins with BOS.
  [[nodiscard]] Result<std::string> apply(std::span<const ChatMessage> messages,
                                          bool add_generation_prompt = true) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::model
