// The weights of a plan's segments on this device: all in memory where they fit, pinned and streamed where
// not.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "residency/resident_source.h"
#include "residency/weight_source.h"

namespace hearth::residency {

struct WeightOptions {
  std::filesystem::path cache_dir;  // of packs; empty: the user's
  bool lock_pins = false;           // see StreamOptions
  // Told what takes a while: that a pack is built, waited for, or was found damaged.
  std::function<void(const std::string& text)> notice;
};

// What else the caller takes of the memory for weights, afterwards.
struct WeightUse {
  std::uint64_t later_bytes = 0;
  std::uint64_t streaming_bytes = 0;         // only if weights are streamed
  std::vector<std::uint32_t> visit_of = {};  // of each segment, see StreamOptions
};

// load.anonymous_limit: memory for all of them, in the page cache or not. A pack is built when weights have
// to be streamed and there is none. Errors: those of ResidentSource::load, ensure_pack, StreamedSource::open.
[[nodiscard]] Result<std::unique_ptr<WeightSource>> open_weights(
    const model::ModelFile& model, std::span<const model::SegmentId> segments, ggml_backend_device* device,
    const LoadOptions& load, const WeightUse& use, const WeightOptions& options);

}  // namespace hearth::residency
