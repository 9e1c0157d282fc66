// The GPU of tests: Vulkan in software, or whatever GGML_VK_VISIBLE_DEVICES chooses.
#pragma once

#include <string>

#include <gtest/gtest.h>

#include "compute/backend.h"

namespace hearth::testing {

// Its name. Tests run with GGML_VK_VISIBLE_DEVICES set (label vulkan), so that one is there: ggml takes no
// software device by itself.
[[nodiscard]] inline std::string test_gpu() {
  const auto gpus = compute::list_gpus();
  if (gpus.empty())
    throw std::runtime_error("no GPU, not even in software: is mesa-vulkan-drivers installed?");
  return gpus.front().name;
}

}  // namespace hearth::testing
