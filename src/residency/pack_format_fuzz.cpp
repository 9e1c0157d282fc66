// Any bytes as the beginning of a pack; seeds in src/residency/corpus/pack_format_fuzz.
#include "residency/test_pack_check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace test = hearth::residency::test;
  const std::span<const std::uint8_t> bytes(data, size);
  test::check_pack_bytes(bytes, size);
  for (const std::size_t record : {std::size_t{0}, size / 2}) {
    const auto fixed = test::repaired(bytes, record);
    // The size that the header itself gives, so that weights need not be in the input.
    if (fixed.size() >= 24) test::check_pack_bytes(fixed, test::number_at(fixed, 16, 8));
  }
  return 0;
}
