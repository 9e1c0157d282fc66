// What a GPU would take to compute something, and what of it it cannot: known before anything is taken.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "compute/backend.h"

struct ggml_cgraph;

namespace hearth::compute {

struct GpuNeeds {
  std::uint64_t bytes = 0;  // of the GPU's memory, besides weights and KV cache
  // By layer the operation that it does not have, "MUL_MAT of iq1_s"; of the output head under kOutput.
  std::map<std::uint32_t, std::string> unsupported{};
  static constexpr std::uint32_t kOutput = ~std::uint32_t{0};
};

// Of the nodes of a graph, "MUL_MAT of iq1_s"; nothing when the device has them all.
[[nodiscard]] std::optional<std::string> first_unsupported(const Backend& device, ggml_cgraph* graph);

}  // namespace hearth::compute
