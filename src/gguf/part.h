// Parses and judges the header of one GGUF file: all of a model, or one part of a split one.
//
// What passes has printable UTF-8 names, values of known types, and tensors of known type with ne >= 1 whose
// bytes are aligned, disjoint and inside the file. Whether names are unique is judged by File, over all
// parts. Nothing here knows what keys mean, except general.alignment.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "gguf/reader.h"

namespace hearth::gguf {

struct Part {
  std::uint32_t version = 0;
  std::vector<KeyValue> metadata;  // in file order
  std::vector<Tensor> tensors;     // in file order; file_index is 0
  // BLAKE3 of the file's size (64 bits, little-endian) and the header without the padding after it.
  std::array<std::uint8_t, 32> fingerprint{};
};

// `reader` stands at byte 0. Errors: kInvalidFile, kUnsupported, kIo.
[[nodiscard]] Result<Part> parse_part(HeaderReader& reader);

}  // namespace hearth::gguf
