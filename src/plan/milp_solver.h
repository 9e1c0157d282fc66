// The best shares for a fixed number of rounds as a mixed integer linear program, solved by HiGHS.
//
// A second way to the optimum of exact_solver.h: each confirms the other. It shares nothing with it but
// RingTerms, and takes what a table per device cannot, such as a constraint over several devices. Slower:
// some 20 ms for three devices, seconds and perhaps a gap for sixteen.
//
// Every plan that is returned was evaluated again by ring_terms.h, in whole units and without the tolerances
// of the program. docs/explanation/planner.md derives the formulas.
//
// Any thread; HiGHS starts `threads` - 1 of its own. Distributions build HiGHS with its assertions, which
// abort the process: not for one that serves.
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "plan/exact_solver.h"

namespace hearth::plan {

struct MilpOptions {
  double time_limit_s = 10;
  std::uint32_t threads = 1;
  double relative_gap = 1e-7;  // between plan and bound, at which the plan is called optimal
};

struct MilpResult {
  std::optional<Solution> solution;  // nullopt: infeasible
  double gap = 0;                    // (period - bound) / period, of HiGHS
  bool proven = false;               // optimal within relative_gap, or infeasible; else time was up
};

// The least period with `rounds` rounds. limits.stage_s is kept within 1e-5 of itself.
// Errors: kTimeout (time was up before the first plan), kOutOfMemory, kNumeric (HiGHS failed, or its plan
// does not keep what the program says when it is evaluated again).
[[nodiscard]] Result<MilpResult> solve_milp(const RingTerms& terms, std::uint32_t rounds,
                                            const Limits& limits = {}, const MilpOptions& options = {});

}  // namespace hearth::plan
