// TypedMessage: one message of a chat from the lines that a person types.
//
// A line that ends with a backslash goes on in the next one; """ begins a text of any lines up to the next
// """. A value; no threads.
#pragma once

#include <string>
#include <string_view>

namespace hearth::cli {

class TypedMessage {
 public:
  // Adds a line without its line break (one that was pasted may have some within). True: complete.
  [[nodiscard]] bool add(std::string_view line);
  // Within """: a line break is text.
  [[nodiscard]] bool in_block() const { return in_block_; }
  [[nodiscard]] bool started() const { return !text_.empty() || in_block_; }

  [[nodiscard]] const std::string& text() const { return text_; }
  // Begins with a slash and not with """.
  [[nodiscard]] bool is_command() const { return !begins_with_block_ && text_.starts_with('/'); }
  // A line that gives the same message again, for the history.
  [[nodiscard]] std::string as_typed() const;

 private:
  std::string text_;
  std::size_t block_ = 0;  // where the block begins in text_
  bool in_block_ = false, begins_with_block_ = false, has_block_ = false;
};

// "/set temp  0.5" -> "set", "temp  0.5"
struct Command {
  std::string name, rest;
};
[[nodiscard]] Command parse_command(std::string_view text);
// The first word of `text`, which loses it and the space after it.
[[nodiscard]] std::string take_word(std::string_view& text);

}  // namespace hearth::cli
