// A model file with one wrong number in it.
#pragma once

#include <filesystem>
#include <string>

namespace hearth::testing {

// Copies the model at `path` to `copy` and replaces the first value of `tensor` (F32, F16), or the scale of
// its first block (Q8_0, whose blocks begin with it), by `value`. Returns `copy`.
std::filesystem::path damaged_copy(const std::filesystem::path& path, const std::filesystem::path& copy,
                                   const std::string& tensor, float value);

}  // namespace hearth::testing
