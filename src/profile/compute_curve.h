// How fast this device passes layers of a model, for batches of one token to a prompt's chunk: real layers,
// through the real window runner, repacked, with flash attention and an f16 KV cache.
//
// A decode step is limited by reading weights, so that a batch of two costs little more than one; a chunk is
// limited by arithmetic. The curve between is what a plan needs: seconds of a pass are bytes over rate.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/result.h"
#include "compute/backend.h"
#include "model/model_file.h"

namespace hearth::profile {

struct PassRate {
  std::uint32_t n_tokens = 0;     // of a pass, in an empty context
  std::uint64_t bytes_per_s = 0;  // of layer weights that were passed, the median of n_passes
  double spread = 0;              // half their interquartile range over it
  std::uint32_t n_passes = 0;     // at least 1, without the one that built the graphs
  friend bool operator==(const PassRate&, const PassRate&) = default;
};

struct ComputeOptions {
  // Most that weights and buffers may take. Where it is not enough for all, the largest counts are left out,
  // then layers.
  std::uint64_t memory_bytes = 0;
  // 1 to wire::kMaxBatchTokens each; 1 is measured always.
  std::vector<std::uint32_t> tokens = {1, 2, 4, 8, 16, 32, 128, 512};
  // For loading the layers and all passes together; passes have a quarter of it in any case. Larger counts
  // are left out when what smaller ones took says that two passes of them would take more than half of what
  // is left.
  std::chrono::milliseconds budget{10'000};
  // Layers are taken until they have so many bytes, so that they are not read from a cache; 0: four times
  // the caches of the last level, 64 MiB to 1 GiB. Counts above kDecodeTokens, which read each weight from
  // the cache many times anyway, pass one layer.
  std::uint64_t weight_bytes = 0;
};
inline constexpr std::uint32_t kDecodeTokens = 32;

// By n_tokens, ascending, the first is 1. Layers are neighbours whose mean size is nearest to that of all,
// because mixes of types give some layers more bits. kInvalidArgument for a count out of range; kOutOfMemory
// when one layer does not fit; kCancelled when `cancelled` says so, asked while layers are loaded and between
// passes; the errors of ResidentSource and Window::run. Blocks; the caller's thread is the one that computes.
[[nodiscard]] Result<std::vector<PassRate>> measure_compute(const model::ModelFile& model,
                                                            compute::Backend& backend,
                                                            const ComputeOptions& options,
                                                            const std::function<bool()>& cancelled = {});

}  // namespace hearth::profile
