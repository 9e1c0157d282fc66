// StopStrings: ends a stream of text before the first of some strings, which may come in pieces.
//
// What could be the beginning of one waits until it is known. A value; no threads.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hearth::model {

inline constexpr std::size_t kMaxStopStrings = 64, kMaxStopStringBytes = 4096;

class StopStrings {
 public:
  // kInvalidArgument for an empty string, one that is too long, too many.
  [[nodiscard]] static Result<StopStrings> create(std::vector<std::string> strings);
  StopStrings() = default;  // never stops

  // The text that is known to be wanted. After stopped() nothing comes any more.
  [[nodiscard]] std::string push(std::string_view text);
  // What still waited: the text has ended.
  [[nodiscard]] std::string finish();
  [[nodiscard]] bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> strings_;
  std::string pending_;
  bool stopped_ = false;
};

// Bytes at the end of `text` that are the beginning of one of `strings`, but not all of it: the most.
[[nodiscard]] std::size_t begun(std::string_view text, const std::vector<std::string>& strings);

}  // namespace hearth::model
