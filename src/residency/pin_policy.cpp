#include "residency/pin_policy.h"

namespace hearth::residency {
namespace {

// Of the planned pins, per second of pressure about: some of it is felt by nobody, and all of it is gone
// within seconds when nothing else helps.
constexpr std::uint64_t kShortDivisor = 16, kCriticalDivisor = 4;
constexpr std::chrono::seconds kStepInterval{1};
// What others have to find free: programs that run from files need some of what counts as free.
constexpr std::uint64_t kFreeDivisor = 16, kPlentyBytes = std::uint64_t{1} << 30;

}  // namespace

PinPolicy::Change PinPolicy::decide(const Look& look) {
  std::uint64_t step = 0;
  if (look.pressure)
    step = look.planned_bytes /
           (*look.pressure == Pressure::Level::kCritical ? kCriticalDivisor : kShortDivisor);
  const std::uint64_t wanted = std::min(kPlentyBytes, std::max(step, look.short_total_bytes / kFreeDivisor));
  const bool pressed = look.pressure && look.short_free_bytes < wanted;
  if (look.lost || pressed) {
    if (taken_ && look.now - *taken_ < options_.relapse) {
      patience_ = std::min(2 * patience_, options_.most_patience);
      taken_.reset();
    }
    trouble_ = look.now;
  }
  if (look.pressure && look.short_free_bytes < kPlentyBytes) trouble_ = look.now;
  if (pressed) {
    if (stepped_ && look.now - *stepped_ < kStepInterval && *look.pressure <= step_level_) return {};
    stepped_ = look.now;
    step_level_ = *look.pressure;
    return {.give_back_bytes = std::min({step, wanted - look.short_free_bytes, look.pinned_bytes}),
            .take_bytes = 0};
  }
  if (look.pinned_bytes >= look.planned_bytes) {
    // Long enough for the next trouble to be another one.
    if (taken_ && look.now - *taken_ >= options_.relapse) patience_ = options_.patience;
    return {};
  }
  if ((trouble_ && look.now - *trouble_ < patience_) || look.free_bytes <= options_.margin_bytes) return {};
  return {.give_back_bytes = 0,
          .take_bytes =
              std::min(look.planned_bytes - look.pinned_bytes, look.free_bytes - options_.margin_bytes)};
}

}  // namespace hearth::residency
