// What a model's pack looks like on a device: every segment, tensor, layout and offset, from the model's
// header alone. The same model on the same kind of device always gives the same layout, so that a pack can
// grow by layers that a later plan needs.
// Any thread, one at a time per device.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "model/model_file.h"
#include "residency/division.h"
#include "residency/pack_format.h"

struct ggml_backend_device;

namespace hearth::residency {

[[nodiscard]] PackKey pack_key(const model::ModelFile& model, ggml_backend_device* device, bool repack);

// All layers and the output head in pieces (division.h), placed, all absent. kUnsupported when it would be
// beyond the format's limits.
[[nodiscard]] Result<PackHeader> pack_layout(const model::ModelFile& model, ggml_backend_device* device,
                                             bool repack, std::uint64_t max_block_bytes = kBlockBytes);

// The tensor of the model that `tensor` of segment `id` holds rows of.
[[nodiscard]] const gguf::Tensor& source_of(const model::ModelFile& model, model::SegmentId id,
                                            const PackTensor& tensor);

}  // namespace hearth::residency
