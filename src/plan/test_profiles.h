// Small rings for tests of what is planned from profiles.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "plan/profiles.h"

namespace hearth::plan {

inline constexpr std::uint64_t kMB = 1'000'000;

// `n_layer` layers of 100 MB in parts of 5 MB, an output head of 50 MB, 1 MB of KV cache for a layer, 4 MB of
// buffers for 512 tokens, 1 MB for 128.
inline ModelProfile test_model(std::uint32_t n_layer) {
  return {.name = "test",
          .n_embd = 1000,
          .layer_bytes = std::vector<std::uint64_t>(n_layer, 100 * kMB),
          .output_bytes = 50 * kMB,
          .kv_bytes = kMB,
          .window_bytes = 0,
          .parts = {.largest_bytes = 5 * kMB, .mean_bytes = 5 * kMB},
          .batches = {{.n_tokens = 512, .worker_bytes = 4 * kMB, .head_bytes = 4 * kMB},
                      {.n_tokens = 128, .worker_bytes = kMB, .head_bytes = kMB}}};
}

// 10 GB/s of weights, a disk of 1 GB/s.
inline DeviceProfile test_device(std::string name, std::uint64_t memory_bytes) {
  return {.name = std::move(name),
          .memory_bytes = memory_bytes,
          .cpu = {.passes = {{.n_tokens = 1, .bytes_per_s = 10e9}, {.n_tokens = 512, .bytes_per_s = 0.1e9}}},
          .disk_bytes_per_s = 1e9};
}

// With memory of its own: 100 GB/s of weights, 5 GB/s to it.
inline GpuProfile test_gpu(std::uint64_t memory_bytes) {
  return {.name = "gpu",
          .memory_bytes = memory_bytes,
          .unified = false,
          .compute = {.passes = {{.n_tokens = 1, .bytes_per_s = 100e9}}},
          .upload_bytes_per_s = 5e9};
}

// Links of 1 ms for anything.
inline RingProfile test_ring(std::uint32_t n_layer, std::vector<DeviceProfile> devices) {
  const std::size_t n = devices.size();
  return {.model = test_model(n_layer),
          .devices = std::move(devices),
          .links = std::vector(n, std::vector<LinkProfile>(n, {.latency_s = 0.001, .bytes_per_s = 0}))};
}

}  // namespace hearth::plan
