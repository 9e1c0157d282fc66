// Text that comes from or goes to another device: names, hosts, reasons.
//
// All of it ends up in logs and on terminals, so only printable UTF-8 is let through: no control characters,
// line separators, direction overrides or unassigned code points that could forge or hide output. Pure
// functions, any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hearth::wire {

// Valid UTF-8 (shortest form, no surrogates) without control characters (C0, DEL, C1), line and paragraph
// separators, direction marks and overrides, the byte order mark and non-characters. The empty text is
// printable.
[[nodiscard]] bool printable_utf8(std::string_view text);

// `text` as printable UTF-8 of at most max_bytes: what is not printable becomes '?' ("\n", "\r" and tab
// become a space), what is too long is cut between characters.
[[nodiscard]] std::string to_printable(std::string_view text, std::size_t max_bytes);

// kInvalidArgument unless `name` can be a device's name: 1..kMaxNameBytes of printable UTF-8, no space at
// either end.
[[nodiscard]] Result<> check_device_name(std::string_view name);

// kInvalidArgument unless `host` is 1..kMaxHostBytes of letters, digits and ". - _ : %", so that it can be
// part of an endpoint without changing its meaning.
[[nodiscard]] Result<> check_host(std::string_view host);

}  // namespace hearth::wire
