// Plans and devices for the tests of engine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <format>
#include <string>
#include <vector>

#include "wire/messages.h"

namespace hearth::engine {

inline DeviceKey test_key(int device) {
  DeviceKey key;
  key.bytes.fill(static_cast<std::uint8_t>(0x10 + device));
  return key;
}

inline std::string test_name(int device) {
  return device == 0 ? "head" : std::format("worker{}", device);
}

inline wire::Address test_address(int device) {
  return {.host = std::format("10.0.0.{}", device + 1),
          .control_port = static_cast<std::uint16_t>(7000 + device),
          .data_port = static_cast<std::uint16_t>(8000 + device)};
}

inline wire::ModelId test_model() {
  wire::ModelId model{};
  model.fill(0xab);
  return model;
}

// `steps[i]` is the device of step i; one layer each.
inline wire::Prepare test_plan(std::uint32_t epoch, int n_devices, const std::vector<std::uint16_t>& steps) {
  wire::Prepare plan{.epoch = epoch,
                     .model = test_model(),
                     .n_layer = static_cast<std::uint32_t>(steps.size()),
                     .n_ctx = 32,
                     .n_ubatch = 4};
  for (int i = 0; i < n_devices; ++i) plan.members.push_back({test_name(i), test_key(i), test_address(i)});
  for (std::uint32_t i = 0; i < steps.size(); ++i)
    plan.steps.push_back({.device = steps[i], .layer_begin = i, .layer_end = i + 1});
  return plan;
}

// How many schedules a simulation runs: HEARTH_SIM_FACTOR=50 makes a long night of it.
inline std::uint64_t schedules(std::uint64_t usual) {
  const char* factor = std::getenv("HEARTH_SIM_FACTOR");
  return usual * (factor == nullptr ? 1 : std::max(1ull, std::strtoull(factor, nullptr, 10)));
}

}  // namespace hearth::engine
