// How fast this device computes one token, measured through the real window runner with real layers of the
// model.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "compute/backend.h"
#include "model/model_file.h"

namespace hearth::profile {

// Bytes of weights a second: layers from the model file, as many as take up to `most_bytes` (one at least),
// are passed by single tokens; the median of several passes counts. kOutOfMemory when one layer takes more
// than `memory_bytes`; the errors of ResidentSource::load. Blocks; the caller's thread is the one that
// computes.
[[nodiscard]] Result<std::uint64_t> measure_decode(const model::ModelFile& model, compute::Backend& backend,
                                                   std::uint64_t memory_bytes,
                                                   std::uint64_t most_bytes = std::uint64_t{256} << 20);

}  // namespace hearth::profile
