#include "net/refusals.h"

#include <format>
#include <utility>

namespace hearth::net {

std::optional<RefusedEvent> Refusals::report(TimePoint now, std::string address, std::string reason) {
  if (now - window_ >= std::chrono::seconds(1)) {
    window_ = now;
    used_ = 0;
  }
  if (used_ >= per_second_) {
    ++suppressed_;
    return std::nullopt;
  }
  ++used_;
  if (const std::size_t suppressed = std::exchange(suppressed_, 0); suppressed > 0)
    reason += std::format(" ({} more refusals were not reported)", suppressed);
  return RefusedEvent{std::move(address), std::move(reason)};
}

}  // namespace hearth::net
