// AnswerPrinter: puts an answer on standard output as it comes.
//
// On a terminal reasoning is dimmed, with an empty line after it, and what could command the terminal (escape
// sequences in a model's text) is replaced. Elsewhere the answer is written as it is and reasoning left out.
#pragma once

#include <string>
#include <string_view>

#include "model/reasoning.h"

namespace hearth::cli {

// Text without control characters but line break and tab; others become U+FFFD, carriage returns go.
[[nodiscard]] std::string safe_for_terminal(std::string_view text);

class AnswerPrinter {
 public:
  explicit AnswerPrinter(bool is_terminal) : is_terminal_(is_terminal) {}

  // What to write for this piece. Pieces are whole UTF-8 characters.
  [[nodiscard]] std::string show(const model::ReasoningStream::Piece& piece);
  // What to write when the answer has ended, wherever it was: bright again, and a line break.
  [[nodiscard]] std::string end();

 private:
  bool is_terminal_;
  bool dimmed_ = false;
};

}  // namespace hearth::cli
