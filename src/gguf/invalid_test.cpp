// Every broken file is refused with the right code and a message that says what is wrong and where.
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "gguf/file.h"
#include "gguf/invalid_cases.h"

namespace hearth::gguf {
namespace {

// "byte {t0.ne0}" -> "byte 214: ": the colon keeps 21 from matching 214.
std::string with_offsets(std::string words, const Image& image) {
  const std::size_t open = words.find('{');
  if (open == std::string::npos) return words;
  const std::size_t close = words.find('}', open);
  const auto field = image.at.find(words.substr(open + 1, close - open - 1));
  HEARTH_CHECK(field != image.at.end(), "the case names a field that the image does not have");
  return words.replace(open, close - open + 1, std::to_string(field->second));
}

void expect_refused(const InvalidCase& broken, const Result<File>& file, std::string_view label) {
  ASSERT_FALSE(file.has_value()) << "accepted";
  EXPECT_EQ(name(file.error().code), name(broken.code)) << file.error().message;
  EXPECT_TRUE(file.error().message.starts_with(std::string(label) + ": ")) << file.error().message;
  for (const std::string& words : broken.words)
    EXPECT_NE(file.error().message.find(with_offsets(words, broken.image)), std::string::npos)
        << "expected \"" << with_offsets(words, broken.image) << "\" in: " << file.error().message;
}

class Invalid : public testing::TestWithParam<InvalidCase> {};

TEST_P(Invalid, IsRefusedInMemory) {
  const auto bytes = GetParam().image.span();
  expect_refused(GetParam(), File::parse(bytes, bytes.size()), "GGUF header");
}

TEST_P(Invalid, IsRefusedFromDisk) {
  const TestDir dir;
  const auto path = dir.write("model.gguf", GetParam().image.bytes);
  expect_refused(GetParam(), File::open(path), path.string());
}

INSTANTIATE_TEST_SUITE_P(Cases, Invalid, testing::ValuesIn(invalid_cases()),
                         [](const auto& param) { return param.param.name; });

TEST(InvalidCases, AreManyAndHaveTheirOwnNames) {
  std::set<std::string> names;
  for (const InvalidCase& broken : invalid_cases()) names.insert(broken.name);
  EXPECT_EQ(names.size(), invalid_cases().size());
  EXPECT_GE(names.size(), 60U);
}

// The file all cases are made from is valid, so each is refused for its own change.
TEST(InvalidCases, BaseFileIsAccepted) {
  const Image image = build(small_file());
  const auto file = File::parse(image.span(), image.bytes.size());
  ASSERT_TRUE(file.has_value()) << file.error().message;
}

}  // namespace
}  // namespace hearth::gguf
