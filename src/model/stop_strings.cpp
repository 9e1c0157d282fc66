#include "model/stop_strings.h"

#include <algorithm>
#include <utility>

namespace hearth::model {

std::size_t begun(std::string_view text, const std::vector<std::string>& strings) {
  std::size_t most = 0;
  for (const std::string_view wanted : strings)
    for (std::size_t n = std::min(text.size(), wanted.empty() ? 0 : wanted.size() - 1); n > most; --n)
      if (text.ends_with(wanted.substr(0, n))) most = n;
  return most;
}

Result<StopStrings> StopStrings::create(std::vector<std::string> strings) {
  if (strings.size() > kMaxStopStrings)
    return fail(ErrorCode::kInvalidArgument, "{} stop strings, expected at most {}", strings.size(),
                kMaxStopStrings);
  for (const std::string& text : strings)
    if (text.empty() || text.size() > kMaxStopStringBytes)
      return fail(ErrorCode::kInvalidArgument, "a stop string has {} bytes, expected 1 to {}", text.size(),
                  kMaxStopStringBytes);
  StopStrings stops;
  stops.strings_ = std::move(strings);
  return stops;
}

std::string StopStrings::push(std::string_view text) {
  if (stopped_) return "";
  pending_ += text;
  std::size_t first = std::string::npos;
  for (const std::string& wanted : strings_) first = std::min(first, pending_.find(wanted));
  stopped_ = first != std::string::npos;
  const std::size_t ready = stopped_ ? first : pending_.size() - begun(pending_, strings_);
  std::string out = pending_.substr(0, ready);
  pending_.erase(0, stopped_ ? pending_.size() : ready);
  return out;
}

std::string StopStrings::finish() {
  return std::exchange(pending_, "");
}

}  // namespace hearth::model
