// GpuShare: which of a device's layers its GPU computes, decided before anything is taken of the GPU's
// memory.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "compute/backend.h"
#include "compute/scratch.h"
#include "model/model_file.h"

namespace hearth::node {

// Of a GPU's memory, this much is left for what is not accounted: its kernels, and what else uses it.
inline constexpr std::uint64_t kGpuReserve = std::uint64_t{256} << 20;

// What the user gives a device's GPU.
struct GpuUse {
  compute::Backend* backend = nullptr;  // nullptr: nothing
  // Layers of this device, the last ones of its share; on the head the output head counts as one, before
  // them, as in llama.cpp. Nothing: as many as fit.
  std::optional<std::uint32_t> n_layers = std::nullopt;
  // Most of its memory that may be taken; what is free, but for kGpuReserve, is another limit.
  std::uint64_t memory_bytes = std::numeric_limits<std::uint64_t>::max();
};
inline constexpr std::uint32_t kAllLayers = std::numeric_limits<std::uint32_t>::max();

// What a user says of the device's GPU.
struct GpuOptions {
  std::string device;                                    // its name; "": the first one of its own memory
  std::optional<std::uint32_t> n_layers = std::nullopt;  // see GpuUse
  std::uint64_t memory_bytes = std::numeric_limits<std::uint64_t>::max();
};

// The GPU as it was asked for; `use` is empty where none is wanted, or where none is there and nobody asked
// for one.
struct DeviceGpu {
  std::unique_ptr<compute::Backend> backend;
  GpuUse use;
};
// kNotFound: a GPU that was asked for, by name or for a number of layers, and is not there.
[[nodiscard]] Result<DeviceGpu> open_gpu(const GpuOptions& options);

struct GpuShare {
  std::vector<model::SegmentId> segments;                          // that the GPU has
  std::uint64_t weight_bytes = 0, kv_bytes = 0, buffer_bytes = 0;  // of its memory
  std::vector<std::string> notices;                                // for the user
  [[nodiscard]] std::uint64_t bytes() const { return weight_bytes + kv_bytes + buffer_bytes; }
  [[nodiscard]] std::uint32_t n_layers() const;
  [[nodiscard]] bool has(model::SegmentId id) const;
};

// `segments`: the device's, in the order of use; `max_outputs`: as of Head::create. Layers with an operation
// that the GPU does not have stay with the processor. kOutOfMemory when the layers that were asked for do not
// fit, with how many would.
struct GpuNeeds {
  compute::GpuNeeds of_layers, of_output;
};
[[nodiscard]] Result<GpuNeeds> gpu_needs(compute::Backend& cpu, compute::Backend& gpu,
                                         const model::ModelFile& model,
                                         const compute::ScratchOptions& options, std::uint32_t max_outputs);
[[nodiscard]] Result<GpuShare> gpu_share(const GpuUse& use, const GpuNeeds& needs,
                                         const model::ModelFile& model,
                                         const compute::ScratchOptions& options,
                                         std::span<const model::SegmentId> segments);
// By what the GPU needs for these options.
[[nodiscard]] Result<GpuShare> gpu_share(const GpuUse& use, compute::Backend& cpu,
                                         const model::ModelFile& model,
                                         const compute::ScratchOptions& options, std::uint32_t max_outputs,
                                         std::span<const model::SegmentId> segments);

}  // namespace hearth::node
