// FaultGuard: a program lives on when the disk under a mapped file fails.
//
// Reading a page of a mapping that the file no longer has (it was truncated), or that the disk cannot read,
// raises SIGBUS and would end the process. While a range is guarded, such a page is replaced by zeros and the
// guard remembers it: whoever computes with the range looks at damaged() before its results go anywhere.
//
// Invariants: a damaged range never heals; map the file anew. Faults outside guarded ranges do what they did
// before. Reading through the system (write(2), populate()) gives an error instead of a signal and is not
// seen here.
//
// Threads: any may read the range and ask. Nobody may read it when the guard, or the mapping under it, ends;
// the guard ends first. Threads that block SIGBUS are not protected.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"

namespace hearth {

class FaultGuard {
 public:
  static constexpr std::size_t kMaxGuards = 4096;  // a fixed table: the handler may not allocate or lock

  // Guards bytes of a read-only mapping, whole pages. The first guard installs the process-wide handler, for
  // good. kUnsupported when kMaxGuards exist.
  [[nodiscard]] static Result<FaultGuard> watch(std::span<const std::uint8_t> range);

  FaultGuard(FaultGuard&& other) noexcept;
  FaultGuard& operator=(FaultGuard&& other) noexcept;
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;
  ~FaultGuard();

  // Costs one load.
  [[nodiscard]] bool damaged() const;
  // Where in the range the first fault was (its page's offset, 0 if before the range), for the error message.
  [[nodiscard]] std::optional<std::uint64_t> first_damage() const;

 private:
  FaultGuard(std::size_t slot, const std::uint8_t* begin) : slot_(slot), begin_(begin) {}
  static constexpr std::size_t kNone = ~std::size_t{0};

  std::size_t slot_ = kNone;
  const std::uint8_t* begin_ = nullptr;
};

}  // namespace hearth
