// When to plan anew: the measured period of a token leaves the prediction for long enough, and a better plan
// repays the move.
//
// Two steps. ReplanWatch says that the present prediction no longer holds, in either direction: a ring that
// is faster than predicted has a stale profile as well. Then the caller measures the devices again, solves
// again, and repays() compares the best plan with the present one.
//
// No oscillation. A move has to gain kLeastGain of the period and kCostFactor times what it costs, so that
// two plans never both beat each other, not even when each period is off by up to kLeastGain / 2. What new
// measurements do not explain becomes what is expected, so that one deviation asks for them once.
//
// Pure: time comes in as a value, seconds of a clock that never goes back. Any thread; ReplanWatch is a
// value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

namespace hearth::plan {

// A larger relative difference of period and prediction is a deviation. Of the planner's predictions the
// median is to be within it.
inline constexpr double kDeviation = 0.15;
// Tokens whose median is compared; odd. Seven slow ones in a row do nothing.
inline constexpr std::size_t kMedianTokens = 15;
// The median has to stay on the same side of the prediction for so many tokens, and for so long: a fast ring
// makes 32 tokens in a second, which a browser's page can disturb.
inline constexpr std::size_t kDeviationTokens = 32;
inline constexpr double kDeviationS = 10;
// More seconds between two tokens: a device slept, or nobody asked. What came before says nothing about now.
inline constexpr double kGapS = 30;

// Tokens from a change of the period to an established deviation, where they take kDeviationS: the median
// follows when more than half of its tokens are new.
inline constexpr std::size_t kTokensToEstablish = kMedianTokens / 2 + kDeviationTokens;

// A better plan has a period shorter by this part at least.
inline constexpr double kLeastGain = 0.05;
// Seconds gained over the tokens expected, per second that the move costs: both are estimates.
inline constexpr double kCostFactor = 2;

enum class Deviation : std::uint8_t { kNone, kSlower, kFaster };

// Measured periods of tokens against the one that is expected, > 0.
class ReplanWatch {
 public:
  explicit ReplanWatch(double expected_period_s);

  // A token took `period_s` >= 0 and was there at `at_s`, not before the one observed last. Only tokens that
  // the prediction is of: decoded ones, of as many sequences.
  //
  // A token more than kGapS after the one before is not counted and what was observed is forgotten; but of
  // several such tokens in a row only the first: then the ring is that slow.
  void observe(double period_s, double at_s);

  // Established: the median has been off, on this side, for kDeviationTokens and kDeviationS. A token counts
  // no more seconds than the median, so that one slow token does not stand for many.
  [[nodiscard]] Deviation deviation() const;
  // Of the last kMedianTokens; nullopt: there are not so many yet.
  [[nodiscard]] std::optional<double> median_s() const;
  [[nodiscard]] double expected_s() const { return expected_s_; }

  // The devices were measured again and the plan stays: what they now take is expected from here on, the
  // median if there is one. After a move start with a new watch.
  void accept_measured();

 private:
  void forget();

  double expected_s_;
  std::deque<double> periods_s_;       // at most kMedianTokens, the newest last
  Deviation side_ = Deviation::kNone;  // where the median is
  std::size_t side_tokens_ = 0;        // for so many tokens
  double side_s_ = 0;                  // and seconds
  std::optional<double> last_at_s_;
  bool after_gap_ = false;
};

// The best plan and the present one, both under the same, new measurements.
struct MoveOffer {
  double present_period_s = 0;  // of a token; infinite: memory does not hold the present plan any more
  double best_period_s = 0;     // infinite: there is no plan
  double move_s = 0;            // until the new plan runs: moving and packing layers, replaying the KV cache
  std::uint64_t tokens_expected = 0;  // still to be generated
};

// Whether it gains enough for each token, and repays the move over the tokens expected. An offer that lacked
// only tokens may be asked about again when more are expected.
[[nodiscard]] bool repays(const MoveOffer& offer);

enum class ReplanAction : std::uint8_t {
  kKeep,       // go on
  kRemeasure,  // the prediction does not hold: measure the devices again, plan, and decide with the offer
  kMove,       // to the best plan
};

// `offer`: what new measurements led to since the deviation was established; nullopt: there are none yet.
// After kKeep with an offer, call watch.accept_measured().
[[nodiscard]] ReplanAction decide(const ReplanWatch& watch, const std::optional<MoveOffer>& offer);

}  // namespace hearth::plan
