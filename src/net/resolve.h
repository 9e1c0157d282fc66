// Host names and addresses of connections, as text.
//
// Thread contract: pure functions over the operating system's resolver; resolve() may take seconds for a name
// that is not numeric.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace hearth::net {

// Numeric addresses of `host`, IPv6 ones with brackets ("[fe80::1%eth0]"), in the resolver's order.
// kPeerGone.
[[nodiscard]] Result<std::vector<std::string>> resolve(const std::string& host);

// The remote address of an open TCP socket whose own port is `local_port`; "" when `descriptor` is something
// else by now.
[[nodiscard]] std::string remote_address(int descriptor, std::uint16_t local_port);

// Ends the connection of such a socket under its owner, who sees it closed; nothing when it is something else
// by now.
void shut_down(int descriptor, std::uint16_t local_port);

}  // namespace hearth::net
