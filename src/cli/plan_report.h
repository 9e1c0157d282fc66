// A plan as people and programs read it.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "plan/planner.h"

namespace hearth::cli {

// What is planned, for whom, and what came of it.
struct PlanReport {
  const plan::RingProfile& ring;
  const plan::PlanRequest& request;
  const plan::Proposal& proposal;
  const std::vector<plan::Alternatives>& alternatives;
};

// Said of every plan with layers on GPUs.
inline constexpr const char* kGpusAreToCome =
    "with GPUs, which plans of a real ring do not count on yet: this is what it would do";

// Some lines: the ring, a table of its devices, what limits it, who is left out and why, what would help.
[[nodiscard]] std::string describe(const PlanReport& report);
// The same with all numbers; bytes and seconds.
[[nodiscard]] nlohmann::ordered_json to_json(const PlanReport& report);

}  // namespace hearth::cli
