// Memory of this machine as the kernel and the process' control group tell it.
#pragma once

#include <cstdint>

namespace hearth {

// Bytes that this process may still take without harming others: the kernel's MemAvailable, or what is left
// of the memory limit of a control group (v1 or v2) where that is less. 0 when the system does not say.
[[nodiscard]] std::uint64_t available_memory();

}  // namespace hearth
