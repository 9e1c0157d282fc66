// The fuzzer's corpus, the shipped models cut at many places, and single-byte damage: never a crash, always
// the same answer, and what is accepted keeps the promises of gguf/file.h.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "gguf/file.h"
#include "gguf/test_image.h"
#include "gguf/test_invariants.h"

namespace hearth::gguf {
namespace {

std::vector<std::uint8_t> read_all(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  HEARTH_CHECK(!stream.bad(), "cannot read a file of the test");
  return bytes;
}

std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::ranges::sort(paths);
  return paths;
}

// Parses twice; returns whether it was accepted.
bool parse_twice(std::span<const std::uint8_t> bytes, std::uint64_t file_bytes) {
  const auto first = File::parse(bytes, file_bytes);
  const auto second = File::parse(bytes, file_bytes);
  EXPECT_EQ(first.has_value(), second.has_value());
  if (!first) {
    EXPECT_EQ(first.error().code, second.error().code);
    EXPECT_EQ(first.error().message, second.error().message);
    return false;
  }
  check_invariants(*first, file_bytes);
  EXPECT_EQ(first->fingerprint(), second->fingerprint());
  EXPECT_EQ(first->tensor_bytes(), second->tensor_bytes());
  EXPECT_EQ(first->metadata().size(), second->metadata().size());
  return true;
}

TEST(Corpus, ParsesTheSameWayTwice) {
  int n_accepted = 0;
  int n_refused = 0;
  for (const auto& path : files_in(HEARTH_SOURCE_DIR "/src/gguf/corpus/file_fuzz")) {
    SCOPED_TRACE(path.string());
    const auto bytes = read_all(path);
    (parse_twice(bytes, bytes.size()) ? n_accepted : n_refused) += 1;
    parse_twice(bytes, bytes.size() + (1U << 20));
  }
  EXPECT_GE(n_accepted, 5);
  EXPECT_GE(n_refused, 60);
}

TEST(Corpus, ModelsCutAnywhereAreRefused) {
  int n_models = 0;
  for (const auto& path : files_in(HEARTH_SOURCE_DIR "/models")) {
    if (path.extension() != ".gguf") continue;
    SCOPED_TRACE(path.string());
    const std::vector<std::uint8_t> bytes = read_all(path);
    EXPECT_TRUE(parse_twice(bytes, bytes.size()));
    // Every place of the first 2 KiB, then about 300 others; an odd step meets every alignment.
    for (std::size_t size = 0; size < bytes.size(); size += size < 2048 ? 1 : bytes.size() / 300 | 1)
      EXPECT_FALSE(parse_twice(std::span(bytes).first(size), size)) << size;
    EXPECT_FALSE(parse_twice(std::span(bytes).first(bytes.size() - 33), bytes.size() - 33));
    ++n_models;
  }
  EXPECT_GT(n_models, 0);
}

TEST(Corpus, AnySingleByteMayBeWrong) {
  const Image image = build(small_file());
  int n_accepted = 0;
  for (std::size_t at = 0; at < image.at.at("header_end"); ++at) {
    const auto byte = static_cast<std::uint8_t>(image.bytes[at]);
    std::vector<std::uint8_t> values = {0, 0xFF};
    for (int bit = 0; bit < 8; ++bit) values.push_back(byte ^ static_cast<std::uint8_t>(1 << bit));
    Image broken = image;
    for (const std::uint8_t value : values) {
      broken.bytes[at] = static_cast<char>(value);
      n_accepted += parse_twice(broken.span(), broken.bytes.size());
    }
  }
  // Letters of names and the values of test.numbers may be almost anything.
  EXPECT_GT(n_accepted, 100);
}

}  // namespace
}  // namespace hearth::gguf
