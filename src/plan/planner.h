// Planner: which devices run which layers, in which order and in how many rounds, so that a token takes the
// least time; what limits each device; what would change it.
//
// For each number of rounds the exact solver finds the best shares of mean layers. Those that may turn out
// best are laid out in whole layers and played through with the model's real ones (prediction.h), which
// decides; then single layers are moved between devices as long as that helps, or leads to what fits.
// docs/explanation/planner.md has the formulas.
//
// Pure; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "plan/exact_solver.h"
#include "plan/plan.h"
#include "plan/prediction.h"
#include "plan/profiles.h"

namespace hearth::plan {

struct PlanRequest {
  Traffic traffic;
  std::uint32_t rounds = 0;  // 0: the best
  // By hand: layers of each device in a round; with n_window_rounds in so many, one round after another.
  // Empty: the best.
  std::vector<std::uint32_t> windows = {};
  std::uint32_t n_window_rounds = 1;
  std::vector<bool> excluded = {};  // by device; empty: none. An excluded head still has its output head
  bool gpus = false;                // layers may be computed on GPUs
  double max_ttft_s = std::numeric_limits<double>::infinity();  // time to the first token
  std::function<bool()> cancelled = {};                         // asked between plans that are tried
  [[nodiscard]] bool excludes(std::size_t m) const { return !excluded.empty() && excluded[m]; }
  [[nodiscard]] bool is_cancelled() const { return cancelled && cancelled(); }
};

// The solver's optimum that a plan comes from, of mean layers and evenly spaced visits.
struct Optimum {
  RingTerms terms;  // with a limit on the first token, computing has a part of the prompt's
  std::uint32_t rounds = 1;
  Limits limits;
  double period_s = 0;  // of a token, without any prompt
};

struct Proposal {
  Plan plan;
  std::uint32_t rounds = 1;
  std::uint32_t n_ubatch = 0;             // tokens of a batch, at most
  std::vector<std::uint32_t> gpu_layers;  // by device
  Prediction prediction;
  std::optional<Optimum> optimum;  // none: windows by hand, or the solver has none
  std::vector<bool> assumed;       // by device: a rate of it was not measured
  bool links_assumed = false;
  [[nodiscard]] bool any_assumed() const;  // of those that the plan uses
};

// For PlanRequest::excluded: which devices these are. kInvalidArgument: there is none of that name.
[[nodiscard]] Result<std::vector<bool>> named(const RingProfile& ring, const std::vector<std::string>& names);

// kInvalidArgument: windows that do not fit the ring. kOutOfMemory: no plan fits, with what each device lends
// and needs, and what would make it fit. kUnsupported: no plan keeps max_ttft_s; says the least there is.
// kCancelled: by the request.
[[nodiscard]] Result<Proposal> propose(const RingProfile& ring, const PlanRequest& request);

// The same for devices that could not be measured: of one without computing, of the slowest that was
// measured; of one without disk, of the slowest disk. By device, whether anything is assumed.
inline constexpr double kAssumedBytesPerS = 5e9;      // where no processor was measured
inline constexpr double kAssumedDiskBytesPerS = 1e8;  // where no disk was: a hard disk or a memory card
struct Assumptions {
  RingProfile ring;
  std::vector<bool> assumed;
};
[[nodiscard]] Assumptions with_assumptions(RingProfile ring);

// What a token would take if one thing was different: of a whole plan made for that.
struct Alternatives {
  // Infinite: it fits, but the first token would come too late.
  std::optional<double> with_it_s;     // left out: if it had to have a layer; nullopt: nothing fits then
  std::optional<double> without_it_s;  // in the ring: if it was excluded; nullopt: nothing fits then
  std::optional<double> with_more_memory_s;   // if it lent kMoreMemory more, where memory matters
  std::optional<double> with_faster_disk_s;   // if its disk was twice as fast
  std::optional<double> with_faster_links_s;  // if frames took half the time to it and from it
};
inline constexpr std::uint64_t kMoreMemory = std::uint64_t{1} << 30;
// Of devices that were not tried before the request was cancelled all is nullopt.
[[nodiscard]] std::vector<Alternatives> alternatives(const RingProfile& ring, const PlanRequest& request,
                                                     const Proposal& proposal);

}  // namespace hearth::plan
