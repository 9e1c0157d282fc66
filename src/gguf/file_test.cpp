// What a valid file holds is what File gives back; paths that are no files are refused.
#include "gguf/file.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <format>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/test_dir.h"
#include "gguf/test_image.h"
#include "gguf/test_invariants.h"

namespace hearth::gguf {
namespace {

using namespace std::string_literals;

Result<File> parse(const Image& image) {
  return File::parse(image.span(), image.bytes.size());
}

File parse_keys(std::vector<TestKey> keys) {
  TestFile file;
  file.keys = std::move(keys);
  auto parsed = parse(build(file));
  HEARTH_CHECK(parsed.has_value(), parsed ? "" : parsed.error().message);
  return *std::move(parsed);
}

template <class T>
void expect_error(const Result<T>& result, std::string_view words) {
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidFile);
  EXPECT_NE(result.error().message.find(words), std::string::npos) << result.error().message;
}

TEST(File, HoldsEveryTypeOfValue) {
  const File file = parse_keys({
      {"u8", 0, "\xFF"s},
      {"i8", 1, "\xFF"s},
      {"u16", 2, "\xFE\xFF"s},
      {"i16", 3, "\xFE\xFF"s},
      {"u32", 4, "\xFD\xFF\xFF\xFF"s},
      {"i32", 5, "\xFD\xFF\xFF\xFF"s},
      {"f32", 6, "\x00\x00\x20\x40"s},
      {"bool", 7, "\x01"s},
      string_key("string", "text"),
      {"u64", 10, "\xFC\xFF\xFF\xFF\xFF\xFF\xFF\xFF"s},
      {"i64", 11, "\xFC\xFF\xFF\xFF\xFF\xFF\xFF\xFF"s},
      {"f64", 12, "\x00\x00\x00\x00\x00\x00\x04\xC0"s},
  });
  ASSERT_EQ(file.metadata().size(), 12U);
  EXPECT_EQ(*file.find("u8"), Value(std::uint8_t{255}));
  EXPECT_EQ(*file.find("i8"), Value(std::int8_t{-1}));
  EXPECT_EQ(*file.find("u16"), Value(std::uint16_t{65'534}));
  EXPECT_EQ(*file.find("i16"), Value(std::int16_t{-2}));
  EXPECT_EQ(*file.find("u32"), Value(std::uint32_t{4'294'967'293}));
  EXPECT_EQ(*file.find("i32"), Value(std::int32_t{-3}));
  EXPECT_EQ(*file.find("f32"), Value(2.5F));
  EXPECT_EQ(*file.find("bool"), Value(true));
  EXPECT_EQ(*file.find("string"), Value("text"s));
  EXPECT_EQ(*file.find("u64"), Value(std::uint64_t{18'446'744'073'709'551'612U}));
  EXPECT_EQ(*file.find("i64"), Value(std::int64_t{-4}));
  EXPECT_EQ(*file.find("f64"), Value(-2.5));
  EXPECT_EQ(file.find("absent"), nullptr);
  EXPECT_EQ(file.find(""), nullptr);
}

TEST(File, HoldsEveryTypeOfArray) {
  const File file = parse_keys({
      array_key("u8", 0, 2, "\x01\xFF"),
      array_key("i8", 1, 2, "\x01\xFF"),
      array_key("u16", 2, 2, "\x01\x00\xFF\xFF"s),
      array_key("i16", 3, 2, "\x01\x00\xFF\xFF"s),
      array_key("u32", 4, 1, "\x01\x02\x03\x04"),
      array_key("i32", 5, 1, "\xFF\xFF\xFF\xFF"),
      array_key("f32", 6, 1, "\x00\x00\x20\x40"s),
      array_key("bool", 7, 3, "\x01\x00\x01"s),
      string_array_key("string", {"", "two", "\xFF"}),
      array_key("u64", 10, 1, "\x01\x02\x03\x04\x05\x06\x07\x08"),
      array_key("i64", 11, 1, "\xFE\xFF\xFF\xFF\xFF\xFF\xFF\xFF"),
      array_key("f64", 12, 1, "\x00\x00\x00\x00\x00\x00\x04\xC0"s),
      array_key("none", 8, 0, ""),
  });
  EXPECT_EQ(*file.find("u8"), Value(std::vector<std::uint8_t>{1, 255}));
  EXPECT_EQ(*file.find("i8"), Value(std::vector<std::int8_t>{1, -1}));
  EXPECT_EQ(*file.find("u16"), Value(std::vector<std::uint16_t>{1, 65'535}));
  EXPECT_EQ(*file.find("i16"), Value(std::vector<std::int16_t>{1, -1}));
  EXPECT_EQ(*file.find("u32"), Value(std::vector<std::uint32_t>{0x04030201}));
  EXPECT_EQ(*file.find("i32"), Value(std::vector<std::int32_t>{-1}));
  EXPECT_EQ(*file.find("f32"), Value(std::vector<float>{2.5F}));
  EXPECT_EQ(*file.find("bool"), Value(std::vector<bool>{true, false, true}));
  EXPECT_EQ(*file.find("u64"), Value(std::vector<std::uint64_t>{0x0807060504030201}));
  EXPECT_EQ(*file.find("i64"), Value(std::vector<std::int64_t>{-2}));
  EXPECT_EQ(*file.find("f64"), Value(std::vector<double>{-2.5}));
  StringArray strings;
  strings.push_back("");
  strings.push_back("two");
  strings.push_back("\xFF");  // a piece of a vocabulary need not be UTF-8
  EXPECT_EQ(*file.find("string"), Value(strings));
  EXPECT_EQ(*file.find("none"), Value(StringArray()));
}

TEST(File, KeepsFileOrder) {
  const File file = parse_keys({u32_key("b", 1), u32_key("a", 2), u32_key("c", 3)});
  EXPECT_EQ(file.metadata()[0].key, "b");
  EXPECT_EQ(file.metadata()[1].key, "a");
  EXPECT_EQ(file.metadata()[2].key, "c");
}

TEST(File, HoldsTensors) {
  const Image image = build(small_file());
  const auto file = parse(image);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  check_invariants(*file, image.bytes.size());
  EXPECT_EQ(file->version(), 3U);
  EXPECT_TRUE(file->paths().empty());
  ASSERT_EQ(file->tensors().size(), 2U);
  const Tensor& weight = file->tensors()[0];
  EXPECT_EQ(weight.name, "tok.weight");
  EXPECT_EQ(weight.type, TensorType::kQ8_0);
  EXPECT_EQ(weight.n_dims, 2U);
  EXPECT_EQ(weight.ne, (std::array<std::int64_t, 4>{32, 2, 1, 1}));
  EXPECT_EQ(weight.n_values(), 64);
  EXPECT_EQ(weight.bytes, 68U);
  EXPECT_EQ(weight.offset, image.at.at("data"));
  const Tensor* bias = file->find_tensor("out.bias");
  ASSERT_EQ(bias, &file->tensors()[1]);
  EXPECT_EQ(bias->n_dims, 1U);
  EXPECT_EQ(bias->ne, (std::array<std::int64_t, 4>{5, 1, 1, 1}));
  EXPECT_EQ(bias->bytes, 20U);
  EXPECT_EQ(bias->offset, image.at.at("data") + 96);
  EXPECT_EQ(file->find_tensor("out"), nullptr);
  EXPECT_EQ(file->tensor_bytes(), 88U);
}

TEST(File, ReadsVersion2) {
  TestFile description = small_file();
  description.version = 2;
  const auto file = parse(build(description));
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(file->version(), 2U);
  EXPECT_EQ(file->tensors().size(), 2U);
}

TEST(File, ReadsFourDimensionsAndANameOf63Bytes) {
  TestFile description;
  description.tensors = {{std::string(63, 'n'), {2, 3, 4, 5}, 1, 0}};
  description.data_bytes = 240;
  const auto file = parse(build(description));
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(file->tensors()[0].n_dims, 4U);
  EXPECT_EQ(file->tensors()[0].bytes, 240U);
}

TEST(File, TensorsMayHaveGapsAndAnyOrder) {
  TestFile description;
  description.tensors = {{"late", {4}, 0, 1024}, {"early", {4}, 0, 64}};
  description.data_bytes = 1040;
  const auto file = parse(build(description));
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(file->tensors()[0].offset - file->tensors()[1].offset, 960U);
}

TEST(File, AlignmentMovesTheData) {
  for (const std::uint32_t alignment : {8U, 64U, 4'096U, 65'536U}) {
    TestFile description;
    description.alignment = alignment;
    description.keys = {u32_key("general.alignment", alignment)};
    description.tensors = {{"a", {1}, 0, 0}, {"b", {1}, 0, alignment}};
    description.data_bytes = alignment + 4;
    const Image image = build(description);
    const auto file = parse(image);
    ASSERT_TRUE(file.has_value()) << file.error().message;
    EXPECT_EQ(file->tensors()[0].offset, image.at.at("data"));
    EXPECT_EQ(file->tensors()[1].offset, image.at.at("data") + alignment);
  }
}

TEST(File, WithoutKeysAndTensorsIsValid) {
  const auto file = parse(build(TestFile{}));
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_TRUE(file->metadata().empty());
  EXPECT_TRUE(file->tensors().empty());
  EXPECT_EQ(file->tensor_bytes(), 0U);
}

TEST(File, ParseTakesTheSizeOfTheWholeFile) {
  const Image image = build(small_file());
  const auto header = image.span().first(image.at.at("header_end"));
  const auto whole = File::parse(header, image.bytes.size());
  ASSERT_TRUE(whole.has_value()) << whole.error().message;
  EXPECT_EQ(whole->fingerprint(), parse(image)->fingerprint());
  expect_error(File::parse(header.first(100), image.bytes.size()), "only 100 bytes of it were given");
}

// The header as it really is in a file that was cut off: never accepted, always a place named.
TEST(File, EveryTruncationIsRefused) {
  const Image image = build(small_file());
  for (std::size_t size = 0; size < image.bytes.size(); ++size) {
    const auto file = File::parse(image.span().first(size), size);
    ASSERT_FALSE(file.has_value()) << size;
    EXPECT_EQ(file.error().code, ErrorCode::kInvalidFile) << size;
    EXPECT_NE(file.error().message.find("byte "), std::string::npos) << file.error().message;
  }
}

TEST(File, OpensFromDiskAsFromMemory) {
  const Image image = build(small_file());
  const TestDir dir;
  const auto path = dir.write("model.gguf", image.bytes);
  const auto file = File::open(path);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  const auto memory = parse(image);
  ASSERT_EQ(file->paths().size(), 1U);
  EXPECT_EQ(file->paths()[0], path);
  EXPECT_EQ(file->fingerprint(), memory->fingerprint());
  ASSERT_EQ(file->metadata().size(), memory->metadata().size());
  for (std::size_t i = 0; i < file->metadata().size(); ++i)
    EXPECT_EQ(file->metadata()[i], memory->metadata()[i]);
}

// More than one read of the header, and values that cross the borders between the reads.
TEST(File, OpensAHeaderOfSeveralMegabytes) {
  std::vector<std::string> pieces;
  std::vector<std::string> merges;
  for (int i = 0; i < 100'000; ++i) {
    pieces.push_back(std::format("piece {}", i));
    merges.push_back(std::format("pie ce{}", i));
  }
  TestFile description;
  description.keys = {string_array_key("tokenizer.ggml.tokens", pieces),
                      string_key("tokenizer.chat_template", std::string(300'000, 'x')),
                      string_array_key("tokenizer.ggml.merges", merges)};
  const TestDir dir;
  const auto file = File::open(dir.write("model.gguf", build(description).bytes));
  ASSERT_TRUE(file.has_value()) << file.error().message;
  const auto& read = std::get<StringArray>(*file->find("tokenizer.ggml.tokens"));
  ASSERT_EQ(read.size(), pieces.size());
  EXPECT_TRUE(std::ranges::equal(read, pieces));
  EXPECT_TRUE(std::ranges::equal(std::get<StringArray>(*file->find("tokenizer.ggml.merges")), merges));
  EXPECT_EQ(file->string("tokenizer.chat_template").value(), std::string(300'000, 'x'));
}

// A file larger than a header may be, whose array claims to fill it: the limit holds, not the size of the
// file.
TEST(File, HeaderLimitHoldsInAHugeFile) {
  TestFile description;
  description.keys = {array_key("bytes", 0, std::uint64_t{1} << 34, "")};
  const Image image = build(description);
  expect_error(File::parse(image.span(), std::uint64_t{1} << 40),
               "key 'bytes' needs 17179869184 bytes, but a header may have 134217728 bytes in all");
}

TEST(File, FingerprintTellsHeadersAndSizesApart) {
  const Image image = build(small_file());
  const auto original = parse(image)->fingerprint();
  EXPECT_EQ(parse(image)->fingerprint(), original);

  Image other_value = image;
  other_value.put("k4.value", std::uint8_t{0});
  EXPECT_NE(parse(other_value)->fingerprint(), original);

  TestFile other_name = small_file();
  other_name.tensors[1].name = "out.bigs";
  EXPECT_NE(parse(build(other_name))->fingerprint(), original);

  EXPECT_NE(File::parse(image.span(), image.bytes.size() + 32)->fingerprint(), original);
}

TEST(FileGetters, U32TakesAnyIntegerThatFits) {
  const File file = parse_keys({
      {"u8", 0, "\xFF"s},
      u16_key("u16", 65'535),
      u32_key("u32", 4'294'967'295),
      {"u64", 10, encoded(std::uint64_t{4'294'967'295})},
      {"i64", 11, encoded(std::int64_t{7})},
      i32_key("i32", 7),
      i32_key("negative", -1),
      {"large", 10, encoded(std::uint64_t{4'294'967'296})},
      bool_key("bool", 1),
      f32_key("f32", 1.0F),
      string_key("string", "1"),
      array_key("array", 4, 1, encoded(1U)),
  });
  EXPECT_EQ(file.u32("u8").value(), 255U);
  EXPECT_EQ(file.u32("u16").value(), 65'535U);
  EXPECT_EQ(file.u32("u32").value(), 4'294'967'295U);
  EXPECT_EQ(file.u32("u64").value(), 4'294'967'295U);
  EXPECT_EQ(file.u32("i64").value(), 7U);
  EXPECT_EQ(file.optional_u32("i32").value(), 7U);
  expect_error(file.u32("negative"), "key 'negative' is -1, expected 0 to 4294967295");
  expect_error(file.u32("large"), "key 'large' is 4294967296");
  expect_error(file.u32("bool"), "key 'bool' has type bool, expected an integer");
  expect_error(file.u32("f32"), "key 'f32' has type f32, expected an integer");
  expect_error(file.u32("string"), "key 'string' has type string");
  expect_error(file.optional_u32("array"), "key 'array' has type array of u32");
  expect_error(file.u32("absent"), "key 'absent' is missing");
  EXPECT_EQ(file.optional_u32("absent").value(), std::nullopt);
}

TEST(FileGetters, F32TakesFiniteNumbersThatFit) {
  const File file = parse_keys({
      f32_key("f32", 1e-5F),
      f64_key("f64", 0.5),
      f64_key("large", 1e39),
      f32_key("nan", std::numeric_limits<float>::quiet_NaN()),
      f64_key("inf", -std::numeric_limits<double>::infinity()),
      u32_key("u32", 1),
  });
  EXPECT_EQ(file.f32("f32").value(), 1e-5F);
  EXPECT_EQ(file.optional_f32("f64").value(), 0.5F);
  expect_error(file.f32("large"), "key 'large' is 1e+39, expected a finite number");
  expect_error(file.f32("nan"), "key 'nan' is nan");
  expect_error(file.optional_f32("inf"), "key 'inf' is -inf");
  expect_error(file.f32("u32"), "key 'u32' has type u32, expected f32");
  expect_error(file.f32("absent"), "key 'absent' is missing");
  EXPECT_EQ(file.optional_f32("absent").value(), std::nullopt);
}

TEST(FileGetters, BoolAndStringTakeTheirTypeOnly) {
  const File file = parse_keys({bool_key("bool", 0), string_key("string", "text"), u32_key("u32", 1)});
  EXPECT_EQ(file.optional_bool("bool").value(), false);
  EXPECT_EQ(file.optional_bool("absent").value(), std::nullopt);
  expect_error(file.optional_bool("u32"), "key 'u32' has type u32, expected bool");
  EXPECT_EQ(file.string("string").value(), "text");
  EXPECT_EQ(file.optional_string("string").value(), "text");
  EXPECT_EQ(file.optional_string("absent").value(), std::nullopt);
  expect_error(file.string("absent"), "key 'absent' is missing");
  expect_error(file.string("u32"), "key 'u32' has type u32, expected string");
  expect_error(file.optional_string("bool"), "key 'bool' has type bool, expected string");
}

void expect_refused(const std::filesystem::path& path, ErrorCode code, std::string_view words) {
  const auto file = File::open(path);
  ASSERT_FALSE(file.has_value());
  EXPECT_EQ(name(file.error().code), name(code)) << file.error().message;
  EXPECT_NE(file.error().message.find(words), std::string::npos) << file.error().message;
  EXPECT_NE(file.error().message.find(path.string()), std::string::npos) << file.error().message;
}

TEST(FilePaths, ThatAreNoRegularFilesAreRefused) {
  const TestDir dir;
  expect_refused(dir.path(), ErrorCode::kInvalidArgument, "is a directory, expected a regular file");
  expect_refused("/dev/zero", ErrorCode::kInvalidArgument, "is a device");
  const auto pipe = dir.path() / "pipe.gguf";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_refused(pipe, ErrorCode::kInvalidArgument, "is a pipe");  // and does not wait for a writer
  expect_refused(dir.path() / "absent.gguf", ErrorCode::kNotFound, "no such file");
  expect_refused(dir.write("file", "x") / "below.gguf", ErrorCode::kNotFound, "no such file");
  expect_refused(dir.write("empty.gguf", ""), ErrorCode::kInvalidFile, "the file is empty");
  std::filesystem::create_symlink(dir.path(), dir.path() / "link.gguf");
  expect_refused(dir.path() / "link.gguf", ErrorCode::kInvalidArgument, "is a directory");
}

}  // namespace
}  // namespace hearth::gguf
