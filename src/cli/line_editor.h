// LineEditor: lines that a person types at the terminal, with editing and history (libedit).
//
// The prompt and what is typed are shown on standard error. Pasted text stays one line with its line breaks
// within (bracketed paste). One object at a time, one thread.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <string>

namespace hearth::cli {

class LineEditor {
 public:
  enum class End : std::uint8_t {
    kInterrupted,  // Ctrl-C: the line is given up
    kEnd,          // Ctrl-D in an empty line, the terminal is gone, or SIGTERM
  };

  // Plain reading, without editing, where standard error is no terminal or $TERM names none that can move its
  // cursor.
  LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;
  ~LineEditor();

  // The line without its line break; bytes that are no UTF-8 come as U+FFFD from the editor.
  [[nodiscard]] std::expected<std::string, End> read(const std::string& prompt);
  // Adds to what the arrow keys and Ctrl-R find.
  void remember(const std::string& text);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::cli
