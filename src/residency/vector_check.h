// Norms, biases and RoPE factors are few, and a NaN in one need not show in what a layer gives: quantizing
// the activations for the next matrix can swallow it. So they are looked at when they are loaded or packed.
// Pure; any thread.
#pragma once

#include <string>

#include "base/result.h"
#include "gguf/file.h"

namespace hearth::residency {

// kInvalidFile when one of the F32 values of `tensor` at `data` is NaN or infinite; `path` names the file.
[[nodiscard]] Result<> check_vector(const gguf::Tensor& tensor, const void* data, const std::string& path);

}  // namespace hearth::residency
