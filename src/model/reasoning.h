// Reasoning: the part of an answer in which a model thinks, and the marks that set it off.
//
// Pure values; no threads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hearth::model {

// How a model marks its reasoning: `open` reasoning `close` answer. `passed`: marks that may stand before the
// answer and mean nothing.
struct ReasoningMarks {
  std::string open, close;
  std::vector<std::string> passed{};
  friend bool operator==(const ReasoningMarks&, const ReasoningMarks&) = default;
};

// The marks that a chat template speaks of; nothing for a model that does not reason. Known: <think>,
// [THINK], <|START_THINKING|>, <seed:think>, <thought>, <thinking>, <reasoning>, the channels of gpt-oss.
[[nodiscard]] std::optional<ReasoningMarks> reasoning_marks(std::string_view chat_template);

// Whether a prompt ends within a block of reasoning, so that the model goes on with it.
[[nodiscard]] bool opens_reasoning(const ReasoningMarks& marks, std::string_view prompt);

// Divides a stream of text into reasoning and answer. Marks may come in pieces and are never part of either.
// A block of reasoning is one only before the answer begins: later marks are text (an answer about tags).
// White space around marks is left out.
class ReasoningStream {
 public:
  enum class Part : std::uint8_t { kReasoning, kAnswer };
  struct Piece {
    Part part = Part::kAnswer;
    std::string text;
    friend bool operator==(const Piece&, const Piece&) = default;
  };

  // Without marks everything is answer.
  explicit ReasoningStream(std::optional<ReasoningMarks> marks = std::nullopt, bool starts_open = false);
  // What is known so far; pieces are not empty.
  [[nodiscard]] std::vector<Piece> push(std::string_view text);
  // The rest; the beginning of a mark that never came whole is dropped where it is more than one byte.
  [[nodiscard]] std::vector<Piece> finish();

 private:
  enum class State : std::uint8_t { kBefore, kReasoning, kAnswer };
  // One step; false: it needs more text.
  bool step(std::vector<Piece>& out);
  bool before(std::vector<Piece>& out);
  bool reasoning(std::vector<Piece>& out);

  std::optional<ReasoningMarks> marks_;
  std::vector<std::string> before_marks_;  // open, then those that are passed
  State state_ = State::kAnswer;
  bool had_mark_ = false;       // white space before the answer belongs to a mark
  bool at_block_start_ = true;  // of reasoning: nothing of it came yet
  std::string pending_;
};

}  // namespace hearth::model
