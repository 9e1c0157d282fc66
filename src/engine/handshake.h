// What head and worker both check when they meet, and how they name each other in messages.
//
// Pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "plan/profiles.h"
#include "wire/messages.h"

namespace hearth::engine {

// One side of a handshake, as its Hello or Welcome says.
struct Party {
  std::string name;
  std::uint16_t major = wire::kProtocolMajor;
  std::uint16_t minor = wire::kProtocolMinor;
  std::string version;  // of the program
  wire::ModelId model{};
};

// kVersionMismatch names both protocol versions when the majors differ; kModelMismatch the first 8 digits of
// both fingerprints when the models do.
[[nodiscard]] Result<> check_party(const Party& theirs, const Party& ours);
[[nodiscard]] Result<> check_model(const std::string& their_name, const wire::ModelId& theirs,
                                   const std::string& our_name, const wire::ModelId& ours);

// What a device measured of itself at its start; its Welcome carries it.
struct DeviceSpeed {
  plan::ComputeProfile cpu{};
  double disk_bytes_per_s = 0;  // 0: not measured, or there is none
  double disk_spread = 0;       // half the distance of the quartiles, relative to the rate
  friend bool operator==(const DeviceSpeed&, const DeviceSpeed&) = default;
};
// Rates keep whole bytes, spreads four digits. What the wire has no place for is left out: passes without a
// rate or out of order, and those beyond wire::kMaxPasses.
void put_speed(const DeviceSpeed& speed, wire::Welcome& welcome);
[[nodiscard]] DeviceSpeed speed_of(const wire::Welcome& welcome);

// "kitchen (192.168.1.7:7000)".
[[nodiscard]] std::string describe_peer(const std::string& name, const wire::Address& address);

}  // namespace hearth::engine
