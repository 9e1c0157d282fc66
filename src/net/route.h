// The own address that a peer would see: which of this machine's addresses packets to a host leave from.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace hearth::net {

// Numeric address without brackets. Asks the routing table only; nothing is sent. kPeerGone when `host` has
// no address or no route.
[[nodiscard]] Result<std::string> local_address_towards(const std::string& host);

}  // namespace hearth::net
