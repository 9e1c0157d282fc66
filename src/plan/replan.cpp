#include "plan/replan.h"

#include <algorithm>
#include <vector>

#include "base/result.h"

namespace hearth::plan {
namespace {

static_assert(kMedianTokens % 2 == 1);

Deviation side_of(double period_s, double expected_s) {
  if (period_s > expected_s * (1 + kDeviation)) return Deviation::kSlower;
  if (period_s < expected_s * (1 - kDeviation)) return Deviation::kFaster;
  return Deviation::kNone;
}

}  // namespace

ReplanWatch::ReplanWatch(double expected_period_s) : expected_s_(expected_period_s) {
  HEARTH_CHECK(expected_period_s > 0);
}

void ReplanWatch::observe(double period_s, double at_s) {
  HEARTH_CHECK(period_s >= 0);
  HEARTH_CHECK(!last_at_s_ || at_s >= *last_at_s_);
  const bool gap = last_at_s_ && at_s - *last_at_s_ > kGapS;
  const bool first_gap = gap && !after_gap_;
  last_at_s_ = at_s;
  after_gap_ = gap;
  if (first_gap) {
    forget();
    return;
  }

  periods_s_.push_back(period_s);
  if (periods_s_.size() > kMedianTokens) periods_s_.pop_front();
  const auto median = median_s();
  if (!median) return;
  const Deviation side = side_of(*median, expected_s_);
  if (side != side_) {
    side_ = side;
    side_tokens_ = 0;
    side_s_ = 0;
  }
  ++side_tokens_;
  side_s_ += std::min(period_s, *median);
}

Deviation ReplanWatch::deviation() const {
  return side_tokens_ >= kDeviationTokens && side_s_ >= kDeviationS ? side_ : Deviation::kNone;
}

std::optional<double> ReplanWatch::median_s() const {
  if (periods_s_.size() < kMedianTokens) return std::nullopt;
  std::vector<double> sorted(periods_s_.begin(), periods_s_.end());
  const auto middle = sorted.begin() + kMedianTokens / 2;
  std::ranges::nth_element(sorted, middle);
  return *middle;
}

void ReplanWatch::accept_measured() {
  if (const auto median = median_s(); median && *median > 0) expected_s_ = *median;
  forget();
}

void ReplanWatch::forget() {
  periods_s_.clear();
  side_ = Deviation::kNone;
  side_tokens_ = 0;
  side_s_ = 0;
}

bool repays(const MoveOffer& offer) {
  // Infinite periods compare as they should; a difference of two would be no number.
  if (!(offer.best_period_s < offer.present_period_s * (1 - kLeastGain)) || offer.tokens_expected == 0)
    return false;
  const double gain_s = offer.present_period_s - offer.best_period_s;
  return gain_s * static_cast<double>(offer.tokens_expected) > kCostFactor * offer.move_s;
}

ReplanAction decide(const ReplanWatch& watch, const std::optional<MoveOffer>& offer) {
  if (watch.deviation() == Deviation::kNone) return ReplanAction::kKeep;
  if (!offer) return ReplanAction::kRemeasure;
  return repays(*offer) ? ReplanAction::kMove : ReplanAction::kKeep;
}

}  // namespace hearth::plan
