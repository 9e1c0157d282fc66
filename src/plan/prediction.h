// Prediction: how long a token takes under a plan, and what each device does in that time.
//
// The plan is played through by the simulator with the model's real layers and the rule by which residency
// pins and streams. Devices with a GPU of their own keep in its memory what fits there.
//
// Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "plan/plan.h"
#include "plan/profiles.h"
#include "plan/simulator.h"

namespace hearth::plan {

// What the ring is asked to do.
struct Traffic {
  std::uint32_t users = 1;            // texts generated at the same time: one token of each in a pass
  std::uint32_t prompt_tokens = 512;  // of the prompt that the time to the first token is said for
};

// What most of the time is spent on.
enum class Limit : std::uint8_t { kComputing, kDisk, kLink };

// One device in a plan. Seconds are of one token (of one of each user).
struct DeviceUse {
  std::uint32_t n_layers = 0, n_gpu_layers = 0;
  std::uint32_t n_visits = 0;             // 0: not in the ring
  std::uint64_t weight_bytes = 0;         // of its layers, on the head of the output head too
  std::uint64_t gpu_weight_bytes = 0;     // of these in the memory of its own GPU
  std::uint64_t kv_bytes = 0;             // in its memory and its GPU's
  std::uint64_t buffer_bytes = 0;         // and tables
  std::uint64_t weight_memory_bytes = 0;  // what these leave of its memory, for pins and slots
  std::uint64_t streamed_bytes = 0;       // read from its disk for a token
  std::uint64_t slot_bytes = 0;           // that they pass through
  double computing_s = 0;
  double waiting_s = 0;  // for its disk
  double disk_s = 0;     // that its disk works
  double hops_s = 0;     // passing on
  Limit limit = Limit::kComputing;
};

struct Prediction {
  double period_s = 0;  // of a token (of one of each user)
  // From the prompt to its first token; infinite: not known, since a device was not measured with many
  // tokens.
  double ttft_s = 0;
  std::vector<DeviceUse> devices;  // as in the profile
  // Of the whole ring, and the device that it is most of all; of links there is none.
  Limit limit = Limit::kComputing;
  std::size_t limited_by = 0;
  [[nodiscard]] bool streams() const;
};

// nullopt: the memory of a device does not hold its share, not even streaming. `gpu_layers` by device; empty:
// none. Every device of the plan was measured, see with_assumptions(). Others than kSlots: what it would be
// if weights were left to a page cache, in which a device whose weights do not all fit finds none of them
// again.
[[nodiscard]] std::optional<Prediction> predict(const RingProfile& ring, const Traffic& traffic,
                                                const BatchNeeds& batch, const Plan& plan,
                                                const std::vector<std::uint32_t>& gpu_layers = {},
                                                ReadAhead read_ahead = ReadAhead::kSlots);

// What the devices lack, all together, to hold their shares, if only by streaming them; 0: predict() has a
// prediction.
[[nodiscard]] std::uint64_t lacking_bytes(const RingProfile& ring, const BatchNeeds& batch, const Plan& plan,
                                          const std::vector<std::uint32_t>& gpu_layers);

}  // namespace hearth::plan
