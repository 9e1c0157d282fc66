// What the C library says of memory. For tests only.
#pragma once

#include <cstdint>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace hearth {

// What malloc has handed out; 0 where it does not tell (other C libraries, sanitizers).
inline std::uint64_t allocated_bytes() {
#if defined(__GLIBC__)
  const struct mallinfo2 info = mallinfo2();
  return std::uint64_t{info.uordblks} + info.hblkhd;
#else
  return 0;
#endif
}

}  // namespace hearth
