#include "cli/answer_printer.h"

#include <utility>

namespace hearth::cli {
namespace {

constexpr std::string_view kDim = "\x1b[2m", kBright = "\x1b[0m", kReplacement = "\xEF\xBF\xBD";

}  // namespace

std::string safe_for_terminal(std::string_view text) {
  std::string safe;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0U;
    if (c == '\r') continue;
    if (c == 0xC2 && next >= 0x80 && next < 0xA0) {  // U+0080 to U+009F
      safe += kReplacement;
      ++i;
    } else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) {
      safe += kReplacement;
    } else {
      safe += text[i];
    }
  }
  return safe;
}

std::string AnswerPrinter::show(const model::ReasoningStream::Piece& piece) {
  const bool is_reasoning = piece.part == model::ReasoningStream::Part::kReasoning;
  if (!is_terminal_) return is_reasoning ? "" : piece.text;
  std::string out;
  if (is_reasoning != dimmed_) out = is_reasoning ? std::string(kDim) : std::string(kBright) + "\n\n";
  dimmed_ = is_reasoning;
  return out + safe_for_terminal(piece.text);
}

std::string AnswerPrinter::end() {
  return std::string(std::exchange(dimmed_, false) ? kBright : "") + "\n";
}

}  // namespace hearth::cli
