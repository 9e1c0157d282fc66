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

// counts[m] layers on device m, in `rounds` rounds, windows as even as whole layers allow; no step is empty.
[[nodiscard]] std::vector<Step> lay_out(std::span<const std::uint32_t> counts, std::uint32_t rounds);

// kInvalidArgument names the step that leaves a gap, overlaps, is empty or names no device.
[[nodiscard]] Result<> validate(const Plan& plan);

// A split by hand (-lw/--layer-window, --rounds): windows[m] layers on device m in each of `rounds` rounds.
// When rounds * sum(windows) < n_layer, or fewer rounds would do, it is an error, with the numbers; the last
// round's windows may be cut short. A device with window 0 gets no step.
[[nodiscard]] Result<Plan> split_by_windows(std::uint32_t n_layer, std::span<const std::string> devices,
                                            std::span<const std::uint32_t> windows, std::uint32_t rounds);

struct DeviceMemory {
  std::string name;
  std::uint64_t bytes = 0;  // that may be used
  std::uint64_t reserved =
      0;  // taken before any layer: on the head embedding, output head; buffers everywhere
};

// Layers in proportion to what each device has left after `reserved`, in `rounds` rounds; every layer costs
// `layer_bytes[il]` (weights and KV). No device gets more bytes than it has left; one that has nothing left
// gets no step. With layers of one size a split is found whenever one exists. Each device gets within one
// layer of its share, unless that would not fit, spread over the rounds as evenly as whole layers allow.
// kOutOfMemory when the layers do not fit, with the numbers per device.
[[nodiscard]] Result<Plan> split_by_memory(std::span<const std::uint64_t> layer_bytes,
                                           std::span<const DeviceMemory> devices, std::uint32_t rounds);

struct StreamSplit {
  std::span<const std::uint64_t> layer_bytes;  // of weights
  std::uint64_t kv_bytes = 0;                  // of each layer; has to be in memory
  std::uint64_t output_bytes = 0;              // of weights, the head's in any case
  std::uint32_t rounds = 1;
};

// Where layers do not fit, and what is beyond a device's memory is read from its disk for every token: layers
// so that the disk that takes longest for that has as little to read as whole layers of the mean size allow,
// spread over the rounds as evenly. disk_bytes_per_s[m] > 0 is of device m. A device has no more layers than
// its memory has room for their KV and something more. kOutOfMemory: that is not enough, with the numbers per
// device.
[[nodiscard]] Result<Plan> split_to_stream(const StreamSplit& split, std::span<const DeviceMemory> devices,
                                           std::span<const std::uint64_t> disk_bytes_per_s);

}  // namespace hearth::plan
