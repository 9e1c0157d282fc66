// What a model's pack looks like on a device: every segment, tensor, layout and offset, from the model's
// header alone. The same model on the same kind of device always gives the same layout, so that a pack can
// grow by layers that a later plan needs.
// Any thread, one at a time per device.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "model/model_file.h"
#include "residency/pack_format.h"

struct ggml_backend_device;

namespace hearth::residency {

// The output head's matrix is cut into blocks of rows that are streamed and computed one after another: the
// largest multiple of kOutputRowMultiple rows that has at most kOutputBlockBytes in the model file, and at
// least that many rows. Layouts interleave up to 16 rows, and 64 leaves room for more. The first block and
// the norm before it take 16 MiB together: whole huge pages of a slot.
inline constexpr std::uint64_t kOutputBlockBytes = (16U << 20) - (64U << 10);
inline constexpr std::uint64_t kOutputRowMultiple = 64;

[[nodiscard]] PackKey pack_key(const model::ModelFile& model, ggml_backend_device* device, bool repack);

// All layers and the output head, placed, all absent. kUnsupported when it would be beyond the format's
// limits.
[[nodiscard]] Result<PackHeader> pack_layout(const model::ModelFile& model, ggml_backend_device* device,
                                             bool repack);

// The tensor of the model that `tensor` of segment `id` holds rows of.
[[nodiscard]] const gguf::Tensor& source_of(const model::ModelFile& model, model::SegmentId id,
                                            const PackTensor& tensor);

}  // namespace hearth::residency
