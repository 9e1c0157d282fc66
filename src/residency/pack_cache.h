// The folder where a device keeps its packs: where it is, what lies in it, how it is cleaned.
//
// Names are "MODEL-0123456789ab.pack": the model's name for people, then the first 12 digits of the key's
// BLAKE3. Removing a pack that is in use is harmless to its user (see PackFile); one that is being built is
// left alone. Any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "residency/pack_format.h"

struct ggml_backend_device;

namespace hearth::residency {

// $HEARTH_CACHE, else $XDG_CACHE_HOME/hearth/packs, else ~/.cache/hearth/packs. kNotFound when none is set.
[[nodiscard]] Result<std::filesystem::path> default_cache_dir();

[[nodiscard]] std::string pack_name(const PackHeader& header);

enum class PackState : std::uint8_t {
  kComplete,  // all layers and the output head
  kPartial,   // those that a plan needed
  kStale,     // for another ggml or CPU than this device has now
  kDamaged,   // its header cannot be read
  kBusy,      // another process is building it
};
[[nodiscard]] std::string_view name(PackState state);

struct CachedPack {
  std::string name;  // of the file
  PackState state = PackState::kDamaged;
  std::string why;  // for kStale and kDamaged
  std::string model_name;
  bool repack = false;
  std::vector<model::SegmentId> present;
  std::uint32_t n_segments = 0;  // that it has a place for
  std::uint64_t disk_bytes = 0;  // what it takes
  std::uint64_t file_bytes = 0;  // what it would take when complete
  std::chrono::seconds age{0};   // since something was written to it
};

// By name. A folder that is not there is empty. kIo.
[[nodiscard]] Result<std::vector<CachedPack>> list_cache(const std::filesystem::path& folder,
                                                         ggml_backend_device* device);
// `name` as list_cache() gives it. kNotFound; kInvalidArgument (no name of a pack); kIo (being built, or the
// system's reason).
[[nodiscard]] Result<> remove_pack(const std::filesystem::path& folder, const std::string& name);
// What dead processes left half-made. Returns how many.
std::uint32_t remove_leftovers(const std::filesystem::path& folder);
// Packs of the same model for another ggml or CPU, which nothing can use any more. Returns their names.
[[nodiscard]] std::vector<std::string> remove_stale(const std::filesystem::path& folder, const PackKey& key);

}  // namespace hearth::residency
