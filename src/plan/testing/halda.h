// Baselines that plans are compared with: Halda, the planner of prima.cpp (arXiv 2504.08791), and splits that
// look at memory only or at nothing.
//
// Written anew from the paper's formulas. Two versions: of the paper, and as coded there in July 2025, where
// reading memory and passing tokens on cost nothing. Differences from the original that are kept small:
//   - The program for a fixed k is solved exactly, by dynamic programming; the original's solver stops within
//     1e-4 of the best.
//   - Compute buffers are inputs; the original bounds them anew from each solution.
//   - A model has one quantization, so that the sum over types is one quotient.
//   - Bounds are the sets' own conditions: overloaded means more than the budget, the rest is at most that.
//   - Where the original aborts there is an Error.
//
// Tests and benches only. Pure; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace hearth::plan {

// --- splits -----------------------------------------------------------------------------------------------

// Layers per device, as even as they can be, the first devices one more. n_devices > 0.
[[nodiscard]] std::vector<std::uint32_t> even_split(std::uint32_t n_layer, std::size_t n_devices);

// Layers in proportion to memory, rounded, at least one each. What rounding leaves goes to the device of most
// memory; what is too many is taken from those of least that have more than one. kInvalidArgument: fewer
// layers than devices, no device, or no memory at all.
[[nodiscard]] Result<std::vector<std::uint32_t>> memory_split(std::uint32_t n_layer,
                                                              std::span<const std::uint64_t> memory_bytes);

// --- Halda ------------------------------------------------------------------------------------------------

struct HaldaModel {
  std::uint32_t n_layer = 0;          // L
  std::uint64_t layer_bytes = 0;      // b, the mean layer's weights
  std::uint64_t kv_bytes = 0;         // of a layer at the tokens to be cached: b' = b + this
  std::uint64_t embedding_bytes = 0;  // b_i
  std::uint64_t output_bytes = 0;     // b_o, with its norm
  std::uint32_t n_vocab = 0;          // V > 0
  double layer_flop = 0;              // of one token
  double output_flop = 0;
};

enum class HaldaOs : std::uint8_t { kLinux, kMacos, kAndroid };

struct HaldaDevice {
  std::string name;
  HaldaOs os = HaldaOs::kLinux;
  double cpu_flops = 0;         // FLOP per second in the model's quantization, > 0
  double gpu_flops = 0;         // > 0 on a device with a GPU
  double ram_bytes_per_s = 0;   // T^cpu; kPaper only, as the other memory bandwidth
  double vram_bytes_per_s = 0;  // T^gpu
  double kv_append_cpu_s = 0;   // t^kv_cpy: appending a token's K and V in one layer
  double kv_append_gpu_s = 0;
  double copy_s = 0;                   // hidden state from RAM to VRAM and back, once each
  bool unified = false;                // no copies
  double hop_s = 0;                    // t^comm, to the next device
  double disk_bytes_per_s = 0;         // random reads on macOS, sequential ones elsewhere; > 0
  std::uint64_t ram_bytes = 0;         // d^avail
  std::uint64_t swap_bytes = 0;        // d^swapout, Android only
  std::uint64_t cuda_bytes = 0;        // d^avail,cuda: free VRAM; 0: no such GPU
  std::uint64_t metal_bytes = 0;       // d^avail,metal: its working set; 0: Metal is off. macOS only
  std::uint64_t cpu_buffer_bytes = 0;  // c^cpu, at most
  std::uint64_t gpu_buffer_bytes = 0;  // c^gpu, at most
  [[nodiscard]] bool metal() const { return os == HaldaOs::kMacos && metal_bytes > 0; }
  [[nodiscard]] bool has_gpu() const { return metal() || cuda_bytes > 0; }
};

struct HaldaCluster {
  HaldaModel model;
  std::vector<HaldaDevice> devices;  // [0] is the head
};

enum class HaldaTerms : std::uint8_t {
  kPaper,
  kAsCoded,  // memory bandwidth and xi cost nothing, Android is taken for Linux, the output costs as a layer
};

// What a device reloads from its disk for every token.
enum class HaldaSet : std::uint8_t {
  kM1,  // macOS without Metal, more than the budget: what is over it
  kM2,  // macOS with Metal, more than the budget: everything
  kM3,  // Linux and Android, the CPU's part more than the budget: what is over it
  kM4,  // nothing: it fits, the disk is slower than kHaldaSlowDisk, or it was forced. Memory is a bound
};
inline constexpr double kHaldaSlowDisk = 100e6;  // bytes per second

// A device's layers in one round.
struct HaldaWindow {
  std::uint32_t layers = 0;      // w, 1 <= w <= L
  std::uint32_t gpu_layers = 0;  // n <= w
  friend bool operator==(const HaldaWindow&, const HaldaWindow&) = default;
};

struct HaldaPlan {
  std::uint32_t rounds = 1;          // k
  std::vector<HaldaWindow> windows;  // [devices]; no layers: the device was dropped
  std::vector<HaldaSet> sets;        // [devices]; of a dropped one as before it was dropped
  double objective_s = 0;            // seconds per token as it predicts them
  [[nodiscard]] std::string describe(const HaldaCluster& cluster) const;
};

struct HaldaOptions {
  HaldaTerms terms = HaldaTerms::kPaper;
  std::uint32_t rounds = 0;  // 0: the best of all k that divide n_layer, at most n_layer / 2
  double head_priority = 1;  // a layer on the head counts 1 / this in the choice; as coded 1.01
  bool drop_devices = true;  // those other than the head that have one layer a round or none
};
// What the original does without options.
inline constexpr HaldaOptions kHaldaAsCoded = {
    .terms = HaldaTerms::kAsCoded, .rounds = 0, .head_priority = 1.01, .drop_devices = true};

// The whole algorithm. kInvalidArgument: what cannot be a cluster, with the device and the field;
// kOutOfMemory: no windows for any k within the bounds of the sets, and none before either.
[[nodiscard]] Result<HaldaPlan> halda(const HaldaCluster& cluster, const HaldaOptions& options = {});

// Its fallback without a solver: layers in proportion to the budgets, on the GPU what fits there, one round.
// kInvalidArgument as halda() and memory_split().
[[nodiscard]] Result<HaldaPlan> halda_without_solver(const HaldaCluster& cluster,
                                                     HaldaTerms terms = HaldaTerms::kPaper);

// --- its parts --------------------------------------------------------------------------------------------

// One device's part of k(a'w + b'n + c) and of kappa.
struct HaldaCosts {
  double layer_s = 0;      // a
  double gpu_layer_s = 0;  // b, on top of a
  double round_s = 0;      // c
  double constant_s = 0;   // its part of kappa
};
[[nodiscard]] HaldaCosts halda_costs(const HaldaCluster& cluster, std::size_t device, HaldaSet set,
                                     HaldaTerms terms);

// T. One set and one window for each device.
[[nodiscard]] double halda_objective_s(const HaldaCluster& cluster, std::span<const HaldaSet> sets,
                                       std::uint32_t rounds, std::span<const HaldaWindow> windows,
                                       HaldaTerms terms);

// The set that a window leads to.
[[nodiscard]] HaldaSet halda_set(const HaldaCluster& cluster, std::size_t device, std::uint32_t rounds,
                                 const HaldaWindow& window, HaldaTerms terms);

// Whether a device of that set may have the window: the bounds of 1.4. An overloaded one has to stay so.
[[nodiscard]] bool halda_allows(const HaldaCluster& cluster, std::size_t device, HaldaSet set,
                                std::uint32_t rounds, const HaldaWindow& window, HaldaTerms terms);

// The windows of n_layer / rounds layers with the least objective; O(M L^2). kOutOfMemory: none is allowed.
[[nodiscard]] Result<std::vector<HaldaWindow>> halda_windows(const HaldaCluster& cluster,
                                                             std::span<const HaldaSet> sets,
                                                             std::uint32_t rounds,
                                                             const HaldaOptions& options);

}  // namespace hearth::plan
