// The fuzzers' corpus as ordinary tests: seeds (named *.ok: legal) and whatever once broke the codec.
#include <filesystem>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "wire/fuzz_check.h"

namespace hearth::wire {
namespace {

void replay(const char* target, bool (*check)(std::span<const std::uint8_t>)) {
  std::size_t n_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(HEARTH_SOURCE_DIR) /
                                                               "src/wire/corpus" / target)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
    EXPECT_EQ(check(bytes), entry.path().extension() == ".ok") << entry.path();
    ++n_files;
  }
  EXPECT_GE(n_files, 3u) << "the corpus of " << target << " is missing";
}

TEST(Corpus, Control) {
  replay("control_fuzz", test::check_control_bytes);
}
TEST(Corpus, Frame) {
  replay("frame_fuzz", test::check_frame_bytes);
}

}  // namespace
}  // namespace hearth::wire
