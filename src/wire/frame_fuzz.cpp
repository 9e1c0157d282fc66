// Any bytes as a batch frame; seeds in src/wire/corpus/frame_fuzz.
#include "wire/fuzz_check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace test = hearth::wire::test;
  test::check_frame_bytes({data, size});
  test::check_frame_bytes(test::repaired({data, size}));
  return 0;
}
