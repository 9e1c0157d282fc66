#include "residency/vector_check.h"

#include <cmath>
#include <span>

namespace hearth::residency {

Result<> check_vector(const gguf::Tensor& tensor, const void* data, const std::string& path) {
  const std::span<const float> values(static_cast<const float*>(data), tensor.bytes / sizeof(float));
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      return fail(ErrorCode::kInvalidFile,
                  "{}: value {} of tensor '{}' is {}: the file is damaged; fetch it again", path, i,
                  tensor.name, values[i]);
  return {};
}

}  // namespace hearth::residency
