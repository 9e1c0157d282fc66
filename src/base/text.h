// Text that came from a file or a peer: is it UTF-8, and how to show it in a message.
// Pure functions; any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace hearth {

// True when `bytes` is well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above
// U+10FFFF).
[[nodiscard]] bool is_valid_utf8(std::string_view bytes);

// `bytes` in single quotes, fit for a terminal and a log: control characters and broken UTF-8 appear as \xNN,
// and what is longer than `max_bytes` ends in "..." after the closing quote. So a hostile name cannot move
// the cursor or flood the screen.
[[nodiscard]] std::string quote(std::string_view bytes, std::size_t max_bytes = 80);

}  // namespace hearth
