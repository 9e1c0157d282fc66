#include "model/reasoning.h"

#include <algorithm>
#include <array>
#include <utility>

#include "model/stop_strings.h"

namespace hearth::model {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

struct Known {
  std::string_view open, close;
};
constexpr std::array<Known, 7> kKnown = {{{"<think>", "</think>"},
                                          {"[THINK]", "[/THINK]"},
                                          {"<|START_THINKING|>", "<|END_THINKING|>"},
                                          {"<seed:think>", "</seed:think>"},
                                          {"<thought>", "</thought>"},
                                          {"<thinking>", "</thinking>"},
                                          {"<reasoning>", "</reasoning>"}}};
constexpr std::string_view kChannel = "<|channel|>analysis<|message|>";

std::size_t first_of_text(std::string_view text) {
  return std::min(text.find_first_not_of(kSpace), text.size());
}

}  // namespace

std::optional<ReasoningMarks> reasoning_marks(std::string_view chat_template) {
  if (chat_template.contains(kChannel))
    return ReasoningMarks{
        std::string(kChannel),
        "<|end|>",
        {"<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>"}};
  // Templates that leave reasoning out of older answers name only its end.
  for (const auto& [open, close] : kKnown)
    if (chat_template.contains(close)) return ReasoningMarks{std::string(open), std::string(close)};
  return std::nullopt;
}

bool opens_reasoning(const ReasoningMarks& marks, std::string_view prompt) {
  const auto last = prompt.find_last_not_of(kSpace);
  return last != std::string_view::npos && prompt.substr(0, last + 1).ends_with(marks.open);
}

ReasoningStream::ReasoningStream(std::optional<ReasoningMarks> marks, bool starts_open)
    : marks_(std::move(marks)) {
  if (!marks_) return;
  state_ = starts_open ? State::kReasoning : State::kBefore;
  before_marks_ = marks_->passed;
  before_marks_.insert(before_marks_.begin(), marks_->open);
}

std::vector<ReasoningStream::Piece> ReasoningStream::push(std::string_view text) {
  pending_ += text;
  std::vector<Piece> out;
  while (step(out)) {
  }
  return out;
}

bool ReasoningStream::step(std::vector<Piece>& out) {
  if (pending_.empty()) return false;
  switch (state_) {
    case State::kBefore:
      return before(out);
    case State::kReasoning:
      return reasoning(out);
    case State::kAnswer:
      break;
  }
  out.push_back({Part::kAnswer, std::exchange(pending_, "")});
  return false;
}

// Nothing of the answer has come: a mark, or its beginning, or the answer.
bool ReasoningStream::before(std::vector<Piece>&) {
  const std::size_t space = first_of_text(pending_);
  const std::string_view text = std::string_view(pending_).substr(space);
  if (text.empty()) return false;
  for (const std::string& mark : before_marks_) {
    if (text.starts_with(mark)) {
      if (mark == marks_->open) state_ = State::kReasoning;
      at_block_start_ = had_mark_ = true;
      pending_.erase(0, space + mark.size());
      return true;
    }
    if (std::string_view(mark).starts_with(text)) return false;
  }
  state_ = State::kAnswer;
  if (had_mark_) pending_.erase(0, space);
  return true;
}

bool ReasoningStream::reasoning(std::vector<Piece>& out) {
  if (at_block_start_) pending_.erase(0, first_of_text(pending_));
  const std::size_t close = pending_.find(marks_->close);
  const bool closes = close != std::string::npos;
  std::string_view ready = std::string_view(pending_).substr(0, close);
  if (!closes) ready.remove_suffix(begun(ready, {marks_->close}));
  // White space may be the last of the block.
  const auto last = ready.find_last_not_of(kSpace);
  ready = last == std::string_view::npos ? std::string_view() : ready.substr(0, last + 1);
  const std::size_t taken = closes ? close + marks_->close.size() : ready.size();
  if (!ready.empty()) {
    out.push_back({Part::kReasoning, std::string(ready)});
    at_block_start_ = false;
  }
  pending_.erase(0, taken);
  if (closes) {
    state_ = State::kBefore;
    had_mark_ = true;
  }
  return closes;
}

std::vector<ReasoningStream::Piece> ReasoningStream::finish() {
  std::string rest = std::exchange(pending_, "");
  if (rest.empty()) return {};
  const Part part = state_ == State::kReasoning ? Part::kReasoning : Part::kAnswer;
  if (state_ == State::kReasoning || had_mark_) {
    const auto last = rest.find_last_not_of(kSpace);
    rest.resize(last == std::string::npos ? 0 : last + 1);
  }
  if (state_ == State::kBefore) {
    const std::size_t space = first_of_text(rest);
    if (rest.size() - space > 1) return {};  // what waits there is the beginning of a mark
    if (had_mark_) rest.erase(0, space);
  } else if (marks_) {
    const std::size_t partial = begun(rest, {marks_->close});
    if (partial > 1) rest.resize(rest.size() - partial);
  }
  if (rest.empty()) return {};
  return {{part, std::move(rest)}};
}

}  // namespace hearth::model
