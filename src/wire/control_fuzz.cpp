// Any bytes as a control message; seeds in src/wire/corpus/control_fuzz.
#include "wire/fuzz_check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace test = hearth::wire::test;
  test::check_control_bytes({data, size});
  test::check_control_bytes(test::repaired({data, size}));
  return 0;
}
