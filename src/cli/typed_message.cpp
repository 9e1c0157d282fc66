#include "cli/typed_message.h"

#include <algorithm>

namespace hearth::cli {
namespace {

constexpr std::string_view kFence = "\"\"\"";
constexpr std::string_view kSpace = " \t\r\n";
// The command whose value may be a block.
constexpr std::string_view kSetSystem = "/set system ";

std::string_view without_space_at_end(std::string_view text) {
  const auto last = text.find_last_not_of(kSpace);
  return text.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

}  // namespace

bool TypedMessage::add(std::string_view line) {
  if (!started()) {
    const std::size_t before = line.starts_with(kSetSystem) ? kSetSystem.size() : 0;
    if (line.substr(before).starts_with(kFence)) {
      in_block_ = has_block_ = true;
      begins_with_block_ = before == 0;
      text_ = line.substr(0, before);
      block_ = before;
      line.remove_prefix(before + kFence.size());
    }
  } else if (in_block_) {
    text_ += '\n';
  }
  if (in_block_) {
    const std::string_view trimmed = without_space_at_end(line);
    in_block_ = !trimmed.ends_with(kFence);
    text_ += in_block_ ? line : trimmed.substr(0, trimmed.size() - kFence.size());
    // A line break after the opening fence and before the closing one is not meant.
    if (!in_block_ && text_.size() > block_ && text_.back() == '\n') text_.pop_back();
    if (!in_block_ && text_.size() > block_ && text_[block_] == '\n') text_.erase(block_, 1);
    return !in_block_;
  }
  if (line.ends_with('\\')) {
    text_ += line.substr(0, line.size() - 1);
    text_ += '\n';
    return false;
  }
  text_ += line;
  return true;
}

std::string TypedMessage::as_typed() const {
  if (!has_block_) return text_;
  return text_.substr(0, block_) + std::string(kFence) + text_.substr(block_) + std::string(kFence);
}

std::string take_word(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  std::string word(text.substr(0, text.find_first_of(kSpace)));
  text.remove_prefix(word.size());
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  return word;
}

Command parse_command(std::string_view text) {
  text.remove_prefix(1);
  Command command;
  command.name = take_word(text);
  command.rest = without_space_at_end(text);
  return command;
}

}  // namespace hearth::cli
