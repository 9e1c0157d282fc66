// Every share of every device, tried: what the solvers are compared with. Nothing of theirs is used but the
// period of given shares, and whether they fit.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "plan/ring_terms.h"

namespace hearth::plan {

// All shares of a device with `layers` layers that fit, with as many slots as anything could need.
inline std::vector<DeviceShare> all_shares(const RingTerms& terms, std::size_t device, std::uint32_t layers,
                                           std::uint32_t rounds) {
  const DeviceTerms& own = terms.devices[device];
  const std::uint64_t output = device == 0 ? terms.output_units : 0;
  std::vector<DeviceShare> found;
  for (std::uint32_t gpu = 0; gpu <= (own.has_gpu() ? layers : 0); ++gpu) {
    const std::uint64_t most_uploaded = own.unified ? 0 : std::uint64_t{terms.units} * gpu;
    for (std::uint64_t uploaded = 0; uploaded <= most_uploaded; ++uploaded) {
      for (std::uint64_t gpu_slots = 0; gpu_slots <= uploaded; ++gpu_slots) {
        const std::uint64_t most = std::uint64_t{terms.units} * layers + output;
        for (std::uint64_t streamed = 0; streamed <= most; ++streamed) {
          for (std::uint64_t slots = 0; slots <= streamed; ++slots) {
            for (const bool every_round : {false, true}) {
              const DeviceShare share = {.cpu_layers = layers - gpu,
                                         .gpu_layers = gpu,
                                         .every_round = every_round,
                                         .streamed = streamed,
                                         .slots = slots,
                                         .uploaded = uploaded,
                                         .gpu_slots = gpu_slots};
              if ((rounds > 1 || !every_round) && fits(terms, device, share, rounds)) found.push_back(share);
            }
          }
        }
      }
    }
  }
  return found;
}

// Those that no other one of their kind of visit beats in all that counts: only the sum of chains and the
// longest transfer do.
inline std::vector<DeviceShare> useful_shares(const RingTerms& terms, std::size_t device,
                                              std::uint32_t layers, std::uint32_t rounds) {
  const auto rank = [&](const DeviceShare& share) {
    return std::pair(chain_s(terms, device, share, rounds), transfer_s(terms, device, share));
  };
  std::vector<DeviceShare> kept;
  for (const DeviceShare& share : all_shares(terms, device, layers, rounds)) {
    const auto [chain, transfer] = rank(share);
    const bool beaten = std::ranges::any_of(kept, [&](const DeviceShare& other) {
      return other.every_round == share.every_round && rank(other).first <= chain &&
             rank(other).second <= transfer;
    });
    if (beaten) continue;
    std::erase_if(kept, [&](const DeviceShare& other) {
      return other.every_round == share.every_round && chain <= rank(other).first &&
             transfer <= rank(other).second;
    });
    kept.push_back(share);
  }
  return kept;
}

// The least period of all combinations; nullopt: none fits.
inline std::optional<double> brute_force(const RingTerms& terms, std::uint32_t rounds) {
  std::vector<std::vector<std::vector<DeviceShare>>> useful(terms.devices.size());  // [device][layers]
  for (std::size_t m = 0; m < useful.size(); ++m)
    for (std::uint32_t n = 0; n <= terms.n_layer; ++n)
      useful[m].push_back(useful_shares(terms, m, n, rounds));
  std::optional<double> best;
  std::vector<DeviceShare> shares;
  const auto extend = [&](const auto& self, std::uint32_t left) -> void {
    const std::size_t m = shares.size();
    if (m == useful.size()) {
      if (left == 0 && take_turns(shares))
        if (const double period = period_s(terms, shares, rounds); !best || period < *best) best = period;
      return;
    }
    for (std::uint32_t n = 0; n <= left; ++n) {
      for (const DeviceShare& share : useful[m][n]) {
        shares.push_back(share);
        self(self, left - n);
        shares.pop_back();
      }
    }
  };
  extend(extend, terms.n_layer);
  return best;
}

}  // namespace hearth::plan
