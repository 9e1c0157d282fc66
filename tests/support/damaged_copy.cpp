#include "support/damaged_copy.h"

#include <fstream>

#include <ggml.h>

#include "model/model_file.h"
#include "support/value_of.h"

namespace hearth::testing {

std::filesystem::path damaged_copy(const std::filesystem::path& path, const std::filesystem::path& copy,
                                   const std::string& tensor_name, float value) {
  const auto model = value_of(model::ModelFile::open(path));
  const gguf::Tensor* tensor = model.file().find_tensor(tensor_name);
  HEARTH_CHECK(tensor != nullptr);
  std::filesystem::copy_file(path, copy, std::filesystem::copy_options::overwrite_existing);
  std::fstream file(copy, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(tensor->offset));
  if (tensor->type == gguf::TensorType::kF32) {
    file.write(reinterpret_cast<const char*>(&value), sizeof value);
  } else {
    const ggml_fp16_t half = ggml_fp32_to_fp16(value);
    file.write(reinterpret_cast<const char*>(&half), sizeof half);
  }
  HEARTH_CHECK(file.good());
  return copy;
}

}  // namespace hearth::testing
