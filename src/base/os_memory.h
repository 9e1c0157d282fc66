// Memory of this machine as the kernel and the process' control group tell it, and how this process uses it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hearth {

// Bytes that this process may still take without harming others: the kernel's MemAvailable, or what is left
// of the memory limit of a control group (v1 or v2) where that is less. 0 when the system does not say.
[[nodiscard]] std::uint64_t available_memory();

// Asks for huge pages behind fresh anonymous memory that will be read from end to end again and again: fewer
// misses in the processor's address cache. Call it before the first write; the system may ignore it.
void prefer_huge_pages(void* begin, std::size_t size);

}  // namespace hearth
