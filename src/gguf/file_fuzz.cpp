// Feeds arbitrary bytes to File::parse, as a whole file and as the header of a larger one (so that tensors
// can be placed without their data being in the input). What is accepted must keep the promises of
// gguf/file.h.
#include <cstddef>
#include <cstdint>
#include <span>

#include "gguf/file.h"
#include "gguf/test_invariants.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using hearth::gguf::File;
  for (const std::uint64_t file_bytes : {std::uint64_t{size}, size + (std::uint64_t{1} << 20)}) {
    const auto file = File::parse(std::span(data, size), file_bytes);
    if (file)
      hearth::gguf::check_invariants(*file, file_bytes);
    else
      HEARTH_CHECK(!file.error().message.empty());
  }
  return 0;
}
