// RingTerms: what the planner's solvers see of a ring: seconds that a layer costs each device, and what each
// device's memories hold. Every layer is the mean layer; plans with real layers are played through by the
// simulator. docs/explanation/planner.md derives the formulas.
//
// A layer is divided into `units`, of which each is kept in memory (pinned) or read from the disk for every
// token through a slot; so are those of the output head, which the head computes after the last layer. A
// layer that the GPU computes has its units in VRAM, or uploaded for every token through a slot there.
//
// Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace hearth::plan {

// Seconds are of one token (or of one pass of a batch), of a layer where nothing else is said.
struct DeviceTerms {
  double cpu_s = 0;              // computing it on the processor
  double gpu_s = 0;              // on the GPU
  double disk_s = 0;             // reading its weights from the disk
  double upload_s = 0;           // bringing its weights to the GPU; not where memory is unified
  double hop_s = 0;              // passing a token on to the next device
  std::uint64_t ram_bytes = 0;   // for weights, KV cache and slots
  std::uint64_t vram_bytes = 0;  // the same on a GPU of its own
  bool unified = false;          // a GPU computes from ram_bytes
  [[nodiscard]] bool has_gpu() const { return unified || vram_bytes > 0; }
};

struct RingTerms {
  std::uint32_t n_layer = 0;
  std::uint32_t units = 4;           // of a layer
  std::uint64_t layer_bytes = 0;     // weights of a layer, > 0
  std::uint64_t kv_bytes = 0;        // KV cache of a layer, never streamed
  std::uint32_t output_units = 0;    // of the output head: in the RAM of devices[0], or streamed
  double output_s = 0;               // computing it
  std::vector<DeviceTerms> devices;  // [0] is the head, which is in every ring

  // Units that fit beside the KV cache of `n_layers`; nullopt: not even that fits.
  [[nodiscard]] std::optional<std::uint64_t> units_in(std::uint64_t bytes, std::uint32_t n_layers) const;
  [[nodiscard]] double units_s(double layer_s, std::uint64_t n_units) const {
    return layer_s * static_cast<double>(n_units) / units;
  }
};

// Slots in each memory that anything streams through, at least: one is used, one is filled.
inline constexpr std::uint64_t kLeastSlots = 2;

// What one device does for a token.
struct DeviceShare {
  std::uint32_t cpu_layers = 0, gpu_layers = 0;
  bool every_round = false;                   // visited in each of the k rounds; else once
  std::uint64_t streamed = 0, slots = 0;      // units read from the disk for a token, through so many in RAM
  std::uint64_t uploaded = 0, gpu_slots = 0;  // units brought to the GPU for a token, through so many in VRAM
  [[nodiscard]] std::uint32_t layers() const { return cpu_layers + gpu_layers; }
  friend bool operator==(const DeviceShare&, const DeviceShare&) = default;
};

// A device between the arrival of a token at it and its leaving, all visits together. It waits for what its
// slots did not hold when the token came, because a slot is free only when its unit was used; in every round
// for what they do not hold before each visit, all but one, which is being filled.
[[nodiscard]] double stage_s(const RingTerms& terms, std::size_t device, const DeviceShare& share,
                             std::uint32_t rounds);
// stage_s and the hops after each of its visits; 0 for a device that is not in the ring. The head is in every
// ring of more than itself.
[[nodiscard]] double chain_s(const RingTerms& terms, std::size_t device, const DeviceShare& share,
                             std::uint32_t rounds);
// The longer of its disk's and its GPU link's work for a token: both go on all the time.
[[nodiscard]] double transfer_s(const RingTerms& terms, std::size_t device, const DeviceShare& share);

// Seconds per token when one token is on its way: the sum of chain_s, or the longest transfer_s. A head that
// has all layers makes no hop.
[[nodiscard]] double period_s(const RingTerms& terms, std::span<const DeviceShare> shares,
                              std::uint32_t rounds);

// Whether visits are as they are counted: a device that is visited in every round has another one between its
// visits only if that is, too. So none is, or two at least.
[[nodiscard]] bool take_turns(std::span<const DeviceShare> shares);

// Whether memory holds it: pins and slots, at least two where anything streams. A device that is visited in
// every round has a layer for each visit, and its GPU slots for what one visit uploads and one unit more.
[[nodiscard]] bool fits(const RingTerms& terms, std::size_t device, const DeviceShare& share,
                        std::uint32_t rounds);

}  // namespace hearth::plan
