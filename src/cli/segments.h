// Lists of layers as people write and read them: "0-15,20,head".
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"
#include "model/model_file.h"

namespace hearth::cli {

// Layers below n_layer, ranges of them, "head"; "" means all. Sorted, each once. kInvalidArgument.
[[nodiscard]] Result<std::vector<model::SegmentId>> parse_segments(std::string_view text,
                                                                   std::uint32_t n_layer);
// Sorted segments of a pack with places for n_segments: "layers 0-15 of 32", "all 32 layers and the output
// head".
[[nodiscard]] std::string describe_segments(std::span<const model::SegmentId> ids, std::uint32_t n_segments);
// "layers": [0, 1], "output_head": true
void add_segments(nlohmann::ordered_json& j, std::span<const model::SegmentId> ids);

}  // namespace hearth::cli
