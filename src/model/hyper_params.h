// Reading hyper-parameters from a file's metadata. Internal to model; others use ModelFile.
#pragma once

#include "base/result.h"
#include "model/model_file.h"

namespace hearth::model {

// The row of architecture.h that the file names; kUnsupported lists those that can be run.
[[nodiscard]] Result<const ArchTraits*> read_architecture(const gguf::File& file);

// Every number present, within limits.h and consistent with the others, or an error that names the key.
[[nodiscard]] Result<HyperParams> read_params(const gguf::File& file, const ArchTraits& arch);

}  // namespace hearth::model
