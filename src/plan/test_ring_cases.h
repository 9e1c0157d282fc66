// Random questions for the solvers, and what must hold of every answer.
#pragma once

#include <cstdint>
#include <format>
#include <random>
#include <string>

#include <gtest/gtest.h>

#include "plan/exact_solver.h"

namespace hearth::plan {

inline constexpr std::uint64_t kLayer = 1'000'000;

inline double between(std::mt19937& draw, double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(draw);
}
inline std::uint32_t up_to(std::mt19937& draw, std::uint32_t most) {
  return std::uniform_int_distribution<std::uint32_t>(0, most)(draw);
}

// Rates of all ratios, memory from nothing to more than everything; a GPU on every third device.
inline RingTerms random_terms(std::mt19937& draw, std::uint32_t most_devices, std::uint32_t most_layers) {
  RingTerms terms = {.n_layer = 1 + up_to(draw, most_layers - 1),
                     .units = 1 + up_to(draw, 1),
                     .layer_bytes = kLayer,
                     .kv_bytes = up_to(draw, 2) * kLayer / 10,
                     .output_units = up_to(draw, 3),
                     .output_s = between(draw, 0, 0.05),
                     .devices = {}};
  const std::uint32_t n_devices = 1 + up_to(draw, most_devices - 1);
  for (std::uint32_t m = 0; m < n_devices; ++m) {
    DeviceTerms device = {.cpu_s = between(draw, 0.005, 0.1),
                          .gpu_s = between(draw, 0.001, 0.05),
                          .disk_s = between(draw, 0.005, 0.5),
                          .upload_s = between(draw, 0.001, 0.1),
                          .hop_s = between(draw, 0, 0.02),
                          .ram_bytes = static_cast<std::uint64_t>(between(draw, 0.5, 0.8 * most_layers) *
                                                                  static_cast<double>(kLayer)),
                          .vram_bytes = 0,
                          .unified = false};
    switch (up_to(draw, 5)) {
      case 0:
        device.unified = true;
        device.upload_s = 0;
        break;
      case 1:
        device.vram_bytes = static_cast<std::uint64_t>(between(draw, 1, most_layers) * kLayer);
        break;
      default:
        break;
    }
    terms.devices.push_back(device);
  }
  return terms;
}

inline std::string text_of(const RingTerms& terms) {
  std::string text = std::format("{} layers of {} units, kv {}, output {} units {:.4f} s\n", terms.n_layer,
                                 terms.units, terms.kv_bytes, terms.output_units, terms.output_s);
  for (const DeviceTerms& d : terms.devices)
    text += std::format("cpu {:.4f} gpu {:.4f} disk {:.4f} upload {:.4f} hop {:.4f} ram {} vram {}{}\n",
                        d.cpu_s, d.gpu_s, d.disk_s, d.upload_s, d.hop_s, d.ram_bytes, d.vram_bytes,
                        d.unified ? " unified" : "");
  return text;
}

inline void expect_consistent(const RingTerms& terms, const Solution& found) {
  std::uint32_t layers = 0;
  for (std::size_t m = 0; m < found.shares.size(); ++m) {
    EXPECT_TRUE(fits(terms, m, found.shares[m], found.rounds)) << m;
    layers += found.shares[m].layers();
  }
  EXPECT_EQ(layers, terms.n_layer);
  EXPECT_DOUBLE_EQ(found.period_s, period_s(terms, found.shares, found.rounds));
}

}  // namespace hearth::plan
