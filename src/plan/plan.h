// Plan: which device runs which layers, in which order. An immutable value; a new plan is a new epoch.
//
// Pure: no clocks, files, sockets.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace hearth::plan {

struct LayerRange {
  std::uint32_t begin = 0;  // inclusive
  std::uint32_t end = 0;    // exclusive
  [[nodiscard]] std::uint32_t size() const { return end - begin; }
  friend auto operator<=>(const LayerRange&, const LayerRange&) = default;
};

// One visit of a batch to a device.
struct Step {
  std::uint16_t device = 0;  // index of the ring's devices; 0 is the head
  LayerRange layers;
  friend bool operator==(const Step&, const Step&) = default;
};

struct Plan {
  std::uint32_t n_layer = 0;
  std::vector<std::string> devices;  // names; [0] is the head
  std::vector<Step> steps;           // cover [0, n_layer) in order, each window non-empty

  [[nodiscard]] std::vector<std::uint16_t> steps_of(
      std::uint16_t device) const;                                    // indices into steps, ascending
  [[nodiscard]] std::uint32_t layers_of(std::uint16_t device) const;  // number of layers
  // The ring as one line per device for people: "laptop  8/24 layers: 0-3, 12-15\n".
  [[nodiscard]] std::string describe() const;
};

// Steps that a device makes one after the other, without a hop between them, are one visit. The head's output
// comes after the last step, and right before the next token's first.
struct Visits {
  std::vector<std::uint32_t> of_step;  // of each step; each device's are counted from 0, in order
  std::uint32_t of_output = 0;         // one of the head's
};
[[nodiscard]] Visits visits_of(std::span<const std::uint16_t> device_of_step);

// kInvalidArgument names the step that leaves a gap, overlaps, is empty or names no device.
[[nodiscard]] Result<> validate(const Plan& plan);

// A split by hand (-lw/--layer-window, --rounds). One window for each device: windows[m] layers on device m
// in each of `rounds` rounds. When rounds * sum(windows) < n_layer, or fewer rounds would do, it is an error,
// with the numbers; the last round's windows may be cut short. `rounds` windows for each device, those of one
// round after those of another: just these, which must have n_layer layers in all, and some in each round. A
// device with window 0 gets no step.
[[nodiscard]] Result<Plan> split_by_windows(std::uint32_t n_layer, std::span<const std::string> devices,
                                            std::span<const std::uint32_t> windows, std::uint32_t rounds);

}  // namespace hearth::plan
