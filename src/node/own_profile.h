// What this device can do, for a plan: measured once and kept (profile/profile_cache.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "compute/backend.h"
#include "engine/actions.h"
#include "engine/handshake.h"
#include "model/model_file.h"
#include "profile/profile_cache.h"

namespace hearth::node {

struct OwnProfileOptions {
  std::uint64_t memory_bytes = 0;   // of this device, for epochs
  std::filesystem::path cache_dir;  // of packs; empty: the user's
  profile::Parts parts = {.cpu = true, .disk = true};
  bool fresh = false;  // measure again, whatever is kept
  std::function<void(engine::LogLevel, const std::string&)> log;
  std::function<bool()> cancelled;  // may be asked by another thread
};

// What cannot be measured is absent, and `log` hears why. Up to 20 s for a device that was not measured with
// this model's layers; a millisecond later. Blocks; any thread.
[[nodiscard]] profile::Profile own_profile(const model::ModelFile& model, compute::Backend& backend,
                                           const OwnProfileOptions& options);

[[nodiscard]] engine::DeviceSpeed speed_of(const profile::Measured& rates);

}  // namespace hearth::node
