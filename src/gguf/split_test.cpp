// Models in several files: found, joined in order, and refused when the parts do not belong together.
#include <filesystem>
#include <format>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "gguf/file.h"
#include "gguf/test_image.h"

namespace hearth::gguf {
namespace {

std::string part_name(int number, int count) {
  return std::format("model-{:05}-of-{:05}.gguf", number, count);
}

// Part `index` of `count` with one tensor "t<index>" of 16 bytes. split.no, split.count and
// split.tensors.count are the last three keys.
TestFile part(std::uint16_t index, std::uint16_t count) {
  TestFile file;
  if (index == 0) file.keys.push_back(string_key("general.architecture", "llama"));
  file.keys.push_back(u16_key("split.no", index));
  file.keys.push_back(u16_key("split.count", count));
  file.keys.push_back(i32_key("split.tensors.count", count));
  file.tensors = {{std::format("t{}", index), {4}, 0, 0}};
  file.data_bytes = 16;
  return file;
}

using Parts = std::vector<TestFile>;

Parts three_parts() {
  return {part(0, 3), part(1, 3), part(2, 3)};
}

class Split : public testing::Test {
 protected:
  // Writes the parts under the names they should have; returns the path of part `open`.
  std::filesystem::path write(const Parts& parts, int open = 1) {
    const int count = static_cast<int>(parts.size());
    for (int i = 0; i < count; ++i)
      dir_.write(part_name(i + 1, count), build(parts[static_cast<std::size_t>(i)]).bytes);
    return dir_.path() / part_name(open, count);
  }

  static void expect_refused(const std::filesystem::path& path, ErrorCode code,
                             const std::vector<std::string>& words) {
    const auto file = File::open(path);
    ASSERT_FALSE(file.has_value()) << "accepted";
    EXPECT_EQ(name(file.error().code), name(code)) << file.error().message;
    for (const std::string& word : words)
      EXPECT_NE(file.error().message.find(word), std::string::npos)
          << "expected \"" << word << "\" in: " << file.error().message;
  }
  // three_parts() after `change`.
  void expect_refused(const std::function<void(Parts&)>& change, const std::vector<std::string>& words,
                      ErrorCode code = ErrorCode::kInvalidFile) {
    Parts parts = three_parts();
    change(parts);
    expect_refused(write(parts), code, words);
  }

  TestDir dir_;
};

TEST_F(Split, PartsAreJoinedInOrder) {
  const auto path = write(three_parts());
  const auto file = File::open(path);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  ASSERT_EQ(file->paths().size(), 3U);
  EXPECT_EQ(file->paths()[0], path);
  EXPECT_EQ(file->paths()[2], dir_.path() / part_name(3, 3));
  ASSERT_EQ(file->tensors().size(), 3U);
  for (std::uint16_t i = 0; i < 3; ++i) {
    const Tensor& tensor = file->tensors()[i];
    EXPECT_EQ(tensor.name, std::format("t{}", i));
    EXPECT_EQ(tensor.file_index, i);
    EXPECT_EQ(tensor.offset, build(part(i, 3)).at.at("data"));
    EXPECT_EQ(file->find_tensor(tensor.name), &tensor);
  }
  EXPECT_EQ(file->tensor_bytes(), 48U);
  EXPECT_EQ(file->string("general.architecture").value(), "llama");
}

// Writers put the metadata alone into the first part when they are asked to.
TEST_F(Split, FirstPartMayHaveNoTensors) {
  Parts parts = {part(0, 2), part(1, 2)};
  parts[0].tensors.clear();
  for (TestFile& file : parts) file.keys.back() = i32_key("split.tensors.count", 1);
  const auto file = File::open(write(parts));
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(file->tensors().size(), 1U);
}

TEST_F(Split, PartsMayHaveTheirOwnAlignment) {
  Parts parts = three_parts();
  parts[1].keys.push_back(u32_key("general.alignment", 64));
  parts[1].alignment = 64;
  const auto file = File::open(write(parts));
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(file->tensors()[1].offset, build(parts[1]).at.at("data"));
}

TEST_F(Split, FingerprintCoversEveryPart) {
  const auto original = File::open(write(three_parts()))->fingerprint();
  Parts parts = three_parts();
  parts[2].tensors[0].name = "x2";
  const auto changed = File::open(write(parts))->fingerprint();
  EXPECT_NE(original, changed);
  EXPECT_EQ(File::open(write(three_parts()))->fingerprint(), original);
}

// Merging parts leaves split.count = 0 behind.
TEST_F(Split, CountOf0Or1IsOneFile) {
  for (const std::uint16_t count : {std::uint16_t{0}, std::uint16_t{1}}) {
    TestFile file = part(0, count);
    file.keys.back() = i32_key("split.tensors.count", 1);
    const auto opened = File::open(dir_.write("any-name.gguf", build(file).bytes));
    ASSERT_TRUE(opened.has_value()) << opened.error().message;
    EXPECT_EQ(opened->paths().size(), 1U);
  }
}

TEST_F(Split, MissingPartIsNamed) {
  const auto path = write(three_parts());
  std::filesystem::remove(dir_.path() / part_name(2, 3));
  expect_refused(path, ErrorCode::kNotFound, {part_name(2, 3), "part 2 of 3", "missing", "one folder"});
}

TEST_F(Split, LaterPartNamesTheFirst) {
  expect_refused(
      write(three_parts(), 2), ErrorCode::kInvalidArgument,
      {part_name(2, 3), "part 2 of 3", "open the first part", (dir_.path() / part_name(1, 3)).string()});
  const auto renamed = dir_.write("renamed.gguf", build(part(2, 3)).bytes);
  expect_refused(renamed, ErrorCode::kInvalidArgument, {"part 3 of 3", "...-00001-of-00003.gguf"});
}

TEST_F(Split, NameMustSayWhichPart) {
  for (const std::string_view name :
       {"renamed.gguf", "-00001-of-00003.gguf", "model-0001-of-0003.gguf", "model-00001-of-00004.gguf",
        "model-00002-of-00003.gguf", "model-0000x-of-00003.gguf", "model-00001-of-00003.bin"})
    expect_refused(dir_.write(name, build(part(0, 3)).bytes), ErrorCode::kInvalidFile,
                   {std::string(name), "part 1 of 3", "must end in -00001-of-00003.gguf"});
}

TEST_F(Split, FirstPartMustHaveAllKeys) {
  expect_refused([](Parts& parts) { parts[0].keys.erase(parts[0].keys.begin() + 1); },
                 {part_name(1, 3), "key 'split.no' is missing"});
  expect_refused([](Parts& parts) { parts[0].keys.pop_back(); }, {"key 'split.tensors.count' is missing"});
}

TEST_F(Split, KeysMustBeNumbers) {
  expect_refused([](Parts& parts) { parts[0].keys[1] = string_key("split.no", "0"); },
                 {"key 'split.no' has type string, expected an integer"});
  expect_refused([](Parts& parts) { parts[0].keys[2] = string_key("split.count", "3"); },
                 {"key 'split.count' has type string"});
  expect_refused([](Parts& parts) { parts[0].keys[3] = i32_key("split.tensors.count", -3); },
                 {"key 'split.tensors.count' is -3"});
}

TEST_F(Split, NumberMustBeBelowCount) {
  expect_refused([](Parts& parts) { parts[0].keys[1] = u16_key("split.no", 3); },
                 {"key 'split.no' is 3, expected less than 'split.count', 3"});
}

TEST_F(Split, TooManyPartsAreRefused) {
  expect_refused([](Parts& parts) { parts[0].keys[2] = u16_key("split.count", 65'535); },
                 {"key 'split.count' is 65535, expected at most 1024"});
}

TEST_F(Split, PartsOutOfOrderAreRefused) {
  expect_refused([](Parts& parts) { std::swap(parts[1], parts[2]); },
                 {part_name(2, 3), "key 'split.no' is 2, expected 1 in part 2 of 3"});
}

TEST_F(Split, SamePartTwiceIsRefused) {
  expect_refused([](Parts& parts) { parts[2] = parts[1]; },
                 {part_name(3, 3), "key 'split.no' is 1, expected 2"});
}

TEST_F(Split, PartOfAnotherModelIsRefused) {
  expect_refused([](Parts& parts) { parts[1] = part(1, 4); },
                 {part_name(2, 3), "key 'split.count' is 4, expected 3", "parts of one model"});
  expect_refused([](Parts& parts) { parts[2].keys.back() = i32_key("split.tensors.count", 9); },
                 {part_name(3, 3), "key 'split.tensors.count' is 9, expected 3"});
  expect_refused([](Parts& parts) { parts[1].keys.clear(); }, {part_name(2, 3), "key 'split.no' is missing"});
}

TEST_F(Split, TensorCountMustBeThatOfAllParts) {
  expect_refused(
      [](Parts& parts) {
        for (TestFile& file : parts) file.keys.back() = i32_key("split.tensors.count", 4);
      },
      {"3 of 3 parts have 3 tensors, expected the 4"});
  // Found as soon as there are too many: the third part is not read.
  expect_refused(
      [](Parts& parts) {
        for (TestFile& file : parts) file.keys.back() = i32_key("split.tensors.count", 1);
      },
      {"2 of 3 parts have 2 tensors, expected the 1"});
}

TEST_F(Split, TensorInTwoPartsIsRefused) {
  expect_refused(
      [](Parts& parts) { parts[2].tensors[0].name = "t0"; },
      {part_name(3, 3), "tensor 't0' appears twice", "of " + (dir_.path() / part_name(1, 3)).string()});
}

TEST_F(Split, KeyTwiceInALaterPartIsRefused) {
  expect_refused([](Parts& parts) { parts[1].keys.push_back(u16_key("split.no", 1)); },
                 {part_name(2, 3), "key 'split.no' appears twice"});
}

TEST_F(Split, BrokenPartIsNamed) {
  expect_refused([](Parts& parts) { parts[1].version = 9; }, {part_name(2, 3), "version 9"},
                 ErrorCode::kUnsupported);
  expect_refused([](Parts& parts) { parts[2].data_bytes = 15; }, {part_name(3, 3), "'t2' takes 16 bytes"});
}

TEST_F(Split, FolderInPlaceOfAPartIsRefused) {
  const auto path = write(three_parts());
  std::filesystem::remove(dir_.path() / part_name(3, 3));
  std::filesystem::create_directory(dir_.path() / part_name(3, 3));
  expect_refused(path, ErrorCode::kInvalidArgument, {part_name(3, 3), "is a directory"});
}

}  // namespace
}  // namespace hearth::gguf
