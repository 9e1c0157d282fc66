// How fast this device computes one token, measured through the real window runner with real layers of the
// model.
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "compute/backend.h"
#include "model/model_file.h"

namespace hearth::profile {

// Bytes of weights a second, repacked and with flash attention: layers from the model file, as many as take
// up to `most_bytes` (one at least), are passed by single tokens; the median of several passes counts.
// kOutOfMemory when one layer takes more than `memory_bytes`; kCancelled when `cancelled` says so while they
// are loaded; the errors of ResidentSource::load. Blocks; the caller's thread is the one that computes.
[[nodiscard]] Result<std::uint64_t> measure_decode(const model::ModelFile& model, compute::Backend& backend,
                                                   std::uint64_t memory_bytes,
                                                   const std::function<bool()>& cancelled = {},
                                                   std::uint64_t most_bytes = std::uint64_t{64} << 20);

}  // namespace hearth::profile
