// What holds for every File that was accepted, whatever bytes it came from. Used by tests and fuzzers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"

namespace hearth::gguf {

// Aborts when `file`, one part of `file_bytes` bytes, breaks a promise of gguf/file.h.
inline void check_invariants(const File& file, std::uint64_t file_bytes) {
  HEARTH_CHECK(file.version() == 2 || file.version() == 3);
  std::set<std::string_view> keys;
  for (const KeyValue& entry : file.metadata()) {
    HEARTH_CHECK(!entry.key.empty() && keys.insert(entry.key).second);
    HEARTH_CHECK(file.find(entry.key) == &entry.value);
    HEARTH_CHECK(!to_text(entry.value).empty());
  }
  std::set<std::string_view> names;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> extents;
  std::uint64_t sum = 0;
  for (const Tensor& tensor : file.tensors()) {
    HEARTH_CHECK(!tensor.name.empty() && tensor.name.size() < 64 && names.insert(tensor.name).second);
    HEARTH_CHECK(file.find_tensor(tensor.name) == &tensor);
    HEARTH_CHECK(tensor.n_dims >= 1 && tensor.n_dims <= 4);
    for (std::size_t i = 0; i < 4; ++i)
      HEARTH_CHECK(tensor.ne[i] >= 1 && (i < tensor.n_dims || tensor.ne[i] == 1));
    const TypeInfo* type = type_info(static_cast<std::uint32_t>(tensor.type));
    HEARTH_CHECK(type != nullptr && tensor.ne[0] % type->block_values == 0);
    HEARTH_CHECK(tensor.bytes / type->block_bytes ==
                 static_cast<std::uint64_t>(tensor.n_values()) / type->block_values);
    HEARTH_CHECK(tensor.offset % 8 == 0 && tensor.offset < file_bytes &&
                 tensor.bytes <= file_bytes - tensor.offset);
    extents.emplace_back(tensor.offset, tensor.bytes);
    sum += tensor.bytes;
  }
  std::ranges::sort(extents);
  for (std::size_t i = 1; i < extents.size(); ++i)
    HEARTH_CHECK(extents[i - 1].first + extents[i - 1].second <= extents[i].first);
  HEARTH_CHECK(file.tensor_bytes() == sum);
}

}  // namespace hearth::gguf
