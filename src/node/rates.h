// What this device does with weights, measured at its start.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "compute/backend.h"
#include "engine/actions.h"
#include "engine/handshake.h"
#include "model/model_file.h"

namespace hearth::node {

// Whether the device may have to stream: its memory does not hold the whole model and a quarter more, for KV
// cache and buffers.
[[nodiscard]] bool may_stream(const model::ModelFile& model, std::uint64_t memory_bytes);

// A rate that cannot be measured is 0, and `log` hears why. `cache_dir`: of packs; empty: the user's. Takes a
// second or two, and the time to load a layer. `cancelled` may be asked by another thread.
[[nodiscard]] engine::DeviceSpeed measure_rates(
    const model::ModelFile& model, compute::Backend& backend, std::uint64_t memory_bytes,
    const std::filesystem::path& cache_dir,
    const std::function<void(engine::LogLevel, const std::string&)>& log,
    const std::function<bool()>& cancelled = {});

}  // namespace hearth::node
