// What a plan is made from: what each device and each link was measured to do, and what the model needs.
//
// Values only; bytes and seconds. docs/reference/devices.md is the page of the file that holds them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "plan/slots.h"

namespace hearth::plan {

// A pass of so many tokens through layers.
struct PassRate {
  std::uint32_t n_tokens = 1;
  double bytes_per_s = 0;  // of the layers' weights, median, > 0
  double spread = 0;       // half the distance of the quartiles, relative to the median
  friend bool operator==(const PassRate&, const PassRate&) = default;
};

// A processor, or a GPU.
struct ComputeProfile {
  std::vector<PassRate> passes;  // ascending by tokens; empty: not measured
  [[nodiscard]] bool known() const { return !passes.empty(); }
  // Seconds of a pass of `n_tokens` through `bytes` of weights. The time of a pass is linear between measured
  // points; beyond the last it grows with the tokens.
  [[nodiscard]] double pass_s(double bytes, std::uint32_t n_tokens) const;
  friend bool operator==(const ComputeProfile&, const ComputeProfile&) = default;
};

struct GpuProfile {
  std::string name;
  std::uint64_t memory_bytes = 0;  // that may be used
  bool unified = false;            // computes from the device's memory; memory_bytes does not count then
  ComputeProfile compute;
  double upload_bytes_per_s = 0;  // from the device's memory
  friend bool operator==(const GpuProfile&, const GpuProfile&) = default;
};

struct DeviceProfile {
  std::string name;
  std::uint64_t memory_bytes = 0;  // that it lends: for weights, KV cache and buffers
  ComputeProfile cpu;
  double disk_bytes_per_s = 0;  // 0: not measured, or there is none
  double disk_spread = 0;
  std::optional<GpuProfile> gpu = std::nullopt;
  friend bool operator==(const DeviceProfile&, const DeviceProfile&) = default;
};

// One direction, sealing and opening included.
struct LinkProfile {
  double latency_s = 0;    // of a small frame
  double bytes_per_s = 0;  // 0: without limit
  [[nodiscard]] double frame_s(double bytes) const {
    return latency_s + (bytes_per_s > 0 ? bytes / bytes_per_s : 0);
  }
  friend bool operator==(const LinkProfile&, const LinkProfile&) = default;
};
// Of a link that was not measured: Wi-Fi at home.
inline constexpr LinkProfile kAssumedLink = {.latency_s = 0.003, .bytes_per_s = 20e6};

// Where weights are streamed, batches of a prompt wait for each other, to be computed with one reading of the
// weights. What waits takes memory that is left for weights, which costs pins: a small part of it.
struct GroupNeeds {
  std::uint64_t least_tokens = 0, most_tokens = 0;
  std::uint64_t token_bytes = 0;
  // Tokens that may wait where `left` bytes are there for weights; 0: none does.
  [[nodiscard]] std::uint64_t tokens_in(std::uint64_t left) const;
  [[nodiscard]] std::uint64_t bytes_in(std::uint64_t left) const { return tokens_in(left) * token_bytes; }
};
inline constexpr std::uint64_t kGroupDivisor = 16;  // of the memory left, one byte of so many

// What batches of at most so many tokens take of memory, besides weights and KV cache.
struct BatchNeeds {
  std::uint32_t n_tokens = 0;
  std::uint64_t worker_bytes = 0, head_bytes = 0;  // buffers
  GroupNeeds group = {};
};

// From the header of a model file alone.
struct ModelProfile {
  std::string name;
  std::uint32_t n_embd = 0;                // width of the hidden state, an f32 each
  std::vector<std::uint64_t> layer_bytes;  // weights, by layer
  std::uint64_t output_bytes = 0;          // of the output head, in the head's memory
  std::uint64_t kv_bytes = 0;              // KV cache of a layer, for the context asked for: their mean
  std::vector<std::uint64_t> layer_kv_bytes = {};  // by layer; empty: all have kv_bytes
  std::uint64_t window_bytes = 0;                  // that a device's each window takes, whatever its layers
  PartSizes parts;                                 // in which weights are read
  // Hidden states of more bytes are sent in another encoding, which has so many for a token's.
  std::uint64_t most_f32_bytes = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t encoded_row_bytes = 0;
  std::vector<BatchNeeds> batches;  // that may be chosen, the most tokens first; at least one
  [[nodiscard]] std::uint32_t n_layer() const { return static_cast<std::uint32_t>(layer_bytes.size()); }
  [[nodiscard]] std::uint64_t weight_bytes() const;  // of all layers and the output head
  [[nodiscard]] std::uint64_t kv_bytes_of(LayerRange layers) const;
  [[nodiscard]] std::uint64_t kv_bytes_of(const Plan& plan, std::size_t m) const;  // of device m's layers
  // The one of `batches` with so many tokens; there is one.
  [[nodiscard]] const BatchNeeds& batch_of(std::uint32_t n_tokens) const;
  // Of device m with so many windows: buffers, and tables, of which the head has one more.
  [[nodiscard]] std::uint64_t buffer_bytes(const BatchNeeds& batch, std::size_t m,
                                           std::uint64_t n_windows) const;
};

struct RingProfile {
  ModelProfile model;
  std::vector<DeviceProfile> devices;           // [0] is the head
  std::vector<std::vector<LinkProfile>> links;  // [from][to]; empty: none was measured
  bool links_known = true;                      // false: some are assumed
  [[nodiscard]] LinkProfile link(std::size_t from, std::size_t to) const {
    return links.empty() ? kAssumedLink : links[from][to];
  }
  // A pass of so many tokens goes from one device to another.
  [[nodiscard]] double hop_s(std::size_t from, std::size_t to, std::uint32_t n_tokens) const {
    const std::uint64_t bytes = std::uint64_t{4} * model.n_embd * n_tokens;
    return link(from, to).frame_s(
        static_cast<double>(bytes <= model.most_f32_bytes ? bytes : model.encoded_row_bytes * n_tokens));
  }
};

}  // namespace hearth::plan
