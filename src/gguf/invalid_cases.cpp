#include "gguf/invalid_cases.h"

#include <cstdint>
#include <functional>
#include <limits>
#include <string_view>
#include <utility>

namespace hearth::gguf {
namespace {

using namespace std::string_literals;

constexpr std::uint64_t kMaxU64 = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t k2To63 = std::uint64_t{1} << 63;
constexpr std::int64_t kMinI64 = std::numeric_limits<std::int64_t>::min();

class Cases {
 public:
  // small_file() with one number overwritten.
  template <class T>
  void put(std::string name, std::string_view field, T number, std::vector<std::string> words,
           ErrorCode code = ErrorCode::kInvalidFile) {
    add(std::move(name), build(small_file()).put(field, number), std::move(words), code);
  }
  // small_file() with its description changed before it is written.
  void edit(std::string name, const std::function<void(TestFile&)>& change, std::vector<std::string> words,
            ErrorCode code = ErrorCode::kInvalidFile) {
    TestFile file = small_file();
    change(file);
    add(std::move(name), build(file), std::move(words), code);
  }
  // small_file() with one more key, k5.
  void key(std::string name, TestKey key, std::vector<std::string> words,
           ErrorCode code = ErrorCode::kInvalidFile) {
    edit(
        std::move(name), [&](TestFile& file) { file.keys.push_back(std::move(key)); }, std::move(words),
        code);
  }
  // small_file() with another general.alignment, k1.
  void alignment(std::string name, TestKey key, std::vector<std::string> words) {
    edit(std::move(name), [&](TestFile& file) { file.keys[1] = std::move(key); }, std::move(words));
  }
  // A file that begins with `start` and has 200 more bytes.
  void start(std::string name, std::string_view start, std::vector<std::string> words) {
    Image image;
    image.bytes = std::string(start) + std::string(200, 'x');
    add(std::move(name), std::move(image), std::move(words), ErrorCode::kInvalidFile);
  }
  // small_file() cut before `field`, plus `more` bytes.
  void cut(std::string name, std::string_view field, std::int64_t more, std::vector<std::string> words) {
    Image image = build(small_file());
    image.bytes.resize(image.at.find(field)->second + static_cast<std::size_t>(more));
    add(std::move(name), std::move(image), std::move(words), ErrorCode::kInvalidFile);
  }
  // A file of one key and no tensors, without its last `missing` bytes.
  void cut_key(std::string name, TestKey key, std::size_t missing, std::vector<std::string> words) {
    TestFile file;
    file.keys.push_back(std::move(key));
    Image image = build(file);
    image.bytes.resize(image.bytes.size() - missing);
    add(std::move(name), std::move(image), std::move(words), ErrorCode::kInvalidFile);
  }
  [[nodiscard]] std::vector<InvalidCase> take() { return std::move(cases_); }

 private:
  void add(std::string name, Image image, std::vector<std::string> words, ErrorCode code) {
    cases_.push_back({std::move(name), std::move(image), code, std::move(words)});
  }
  std::vector<InvalidCase> cases_;
};

void add_start_cases(Cases& cases) {
  cases.cut("Empty", "magic", 0, {"byte 0", "the file is empty"});
  cases.cut("ThreeBytes", "magic", 3, {"byte 0", "the magic needs 4 bytes", "the file has 3 more"});
  cases.start("WrongMagic", "GGUX", {"byte 0", "not a GGUF file", "expected the magic 'GGUF', got 'GGUX'"});
  cases.start("UnprintableMagic", "\x1b[2J", {"byte 0", "got '\\x1b[2J'"});
  cases.start("GitLfsPointer", "version https://git-lfs", {"byte 0", "Git LFS pointer"});
  cases.start("WebPage", "<!DOCTYPE html>", {"byte 0", "web page"});
  cases.start("ZipArchive", "PK\x03\x04", {"byte 0", "zip archive"});
  cases.start("OlderFormat", "tjgg", {"byte 0", "older ggjt format"});
  cases.start("SwappedMagic", "FUGG", {"byte 0", "bytes swapped"});
  cases.cut("EndsInVersion", "n_tensors", -1, {"byte {version}", "the version needs 4 bytes", "has 3 more"});
  cases.put("Version0", "version", std::uint32_t{0}, {"byte {version}", "version is 0", "expected 2 or 3"});
  cases.put("Version1", "version", std::uint32_t{1}, {"byte {version}", "version 1", "expected 2 or 3"},
            ErrorCode::kUnsupported);
  cases.put("Version4", "version", std::uint32_t{4}, {"byte {version}", "version 4", "expected 2 or 3"},
            ErrorCode::kUnsupported);
  cases.put("VersionMax", "version", ~std::uint32_t{0}, {"byte {version}", "version 4294967295"},
            ErrorCode::kUnsupported);
  cases.put("BigEndianVersion2", "version", std::uint32_t{0x02000000},
            {"byte {version}", "version 2", "big-endian"}, ErrorCode::kUnsupported);
  cases.put("BigEndianVersion3", "version", std::uint32_t{0x03000000},
            {"byte {version}", "version 3", "big-endian"}, ErrorCode::kUnsupported);
}

void add_count_cases(Cases& cases) {
  cases.cut("EndsInTensorCount", "n_keys", -4, {"byte {n_tensors}", "the tensor count needs 8 bytes"});
  cases.put("TensorCountMax", "n_tensors", kMaxU64,
            {"byte {n_tensors}", "tensor count is 18446744073709551615", "at most 262144"});
  cases.put("TensorCountNegative", "n_tensors", kMinI64,
            {"byte {n_tensors}", "tensor count is 9223372036854775808"});
  cases.put("TensorCountAboveLimit", "n_tensors", std::uint64_t{262'145},
            {"byte {n_tensors}", "tensor count is 262145", "at most 262144"});
  cases.put("TensorCountBeyondFile", "n_tensors", std::uint64_t{200'000},
            {"byte {k0.length}", "5 keys and 200000 tensors"});
  cases.put("TensorCountOneTooMany", "n_tensors", std::uint64_t{3},
            {"byte {header_end}", "tensor 2 is empty"});
  cases.cut("EndsInKeyCount", "k0.length", -1, {"byte {n_keys}", "the key count needs 8 bytes"});
  cases.put("KeyCountMax", "n_keys", kMaxU64,
            {"byte {n_keys}", "key count is 18446744073709551615", "at most 16384"});
  cases.put("KeyCountNegative", "n_keys", std::int64_t{-5},
            {"byte {n_keys}", "key count is 18446744073709551611"});
  cases.put("KeyCountAboveLimit", "n_keys", std::uint64_t{16'385}, {"byte {n_keys}", "key count is 16385"});
  cases.put("KeyCountBeyondFile", "n_keys", std::uint64_t{10'000},
            {"byte {k0.length}", "10000 keys and 2 tensors"});
  cases.put("KeyCountOneTooFew", "n_keys", std::uint64_t{4},
            {"byte {k4.type}", "tensor 'test.flag' has 7 dimensions", "expected 1 to 4"});
  // Tensor 0 read as a key: n_dims 2 is type u16, its value the first two bytes of ne[0]; the next length is
  // then the rest of ne[0], 0, and the first two bytes of ne[1], 2: 2 * 2^48.
  cases.put("KeyCountOneTooMany", "n_keys", std::uint64_t{6},
            {"the name of tensor 0 says it has 562949953421312 bytes", "at most 63"});
}

void add_key_cases(Cases& cases) {
  cases.put("KeyEmpty", "k0.length", std::uint64_t{0}, {"byte {k0.length}", "key 0 is empty"});
  cases.put("KeyLength2To63", "k0.length", k2To63,
            {"byte {k0.length}", "key 0 says it has 9223372036854775808 bytes", "at most 65535"});
  cases.put("KeyLengthMax", "k0.length", kMaxU64,
            {"byte {k0.length}", "key 0 says it has 18446744073709551615 bytes"});
  cases.put("KeyLengthAboveLimit", "k0.length", std::uint64_t{65'536},
            {"byte {k0.length}", "65536 bytes", "at most 65535"});
  cases.put("KeyLengthBeyondFile", "k0.length", std::uint64_t{60'000},
            {"byte {k0.name}", "key 0 needs 60000 bytes"});
  cases.put("KeyInvalidUtf8", "k2.name", std::uint8_t{0xFF},
            {"byte {k2.length}", "key 2 is not valid UTF-8", "'\\xffest.numbers'"});
  cases.put("KeyOverlongUtf8", "k2.name", std::uint16_t{0x80C0}, {"byte {k2.length}", "not valid UTF-8"});
  cases.put("KeySurrogate", "k2.name", std::uint32_t{0x6180A0ED}, {"byte {k2.length}", "not valid UTF-8"});
  cases.put("KeyZeroByte", "k2.name", std::uint8_t{0},
            {"byte {k2.length}", "control character", "'\\x00est.numbers'"});
  cases.put("KeyEscape", "k2.name", std::uint8_t{0x1B}, {"byte {k2.length}", "control character", "\\x1b"});
  cases.put("KeyNewline", "k2.name", std::uint8_t{'\n'}, {"byte {k2.length}", "control character", "\\x0a"});
  cases.key("KeyTwice", u32_key("test.flag", 1), {"key 'test.flag' appears twice", "entries 4 and 5"});
  cases.cut_key("EndsInKeyName", u32_key("a.key.of.20.bytes.xx", 1), 9,
                {"byte {k0.name}", "key 0 needs 20 bytes", "has 19 more"});
}

void add_value_cases(Cases& cases) {
  cases.put("ValueType13", "k4.type", std::uint32_t{13},
            {"byte {k4.type}", "key 'test.flag'", "unknown type 13", "expected 0 to 12"});
  cases.put("ValueTypeMax", "k4.type", ~std::uint32_t{0}, {"byte {k4.type}", "unknown type 4294967295"});
  cases.put("Bool2", "k4.value", std::uint8_t{2},
            {"byte {k4.value}", "key 'test.flag'", "value 2", "expected 0 or 1"});
  cases.put("Bool255", "k4.value", std::uint8_t{255}, {"byte {k4.value}", "value 255"});
  cases.put(
      "StringLength2To63", "k0.value", k2To63,
      {"byte {k0.value}", "key 'general.architecture'", "9223372036854775808 bytes", "at most 67108864"});
  cases.put("StringLengthMax", "k0.value", kMaxU64, {"byte {k0.value}", "18446744073709551615 bytes"});
  cases.put("StringLengthAboveLimit", "k0.value", (std::uint64_t{64} << 20) + 1,
            {"byte {k0.value}", "67108865 bytes", "at most 67108864"});
  cases.put("StringLengthBeyondFile", "k0.value", std::uint64_t{5'000},
            {"key 'general.architecture' needs 5000 bytes", "damaged or incomplete"});
  cases.cut_key("EndsInValueType", u32_key("some.key", 1), 6,
                {"byte {k0.type}", "'some.key' needs 4 bytes", "has 2"});
  cases.cut_key("EndsInNumber", u32_key("some.key", 1), 3,
                {"byte {k0.value}", "'some.key' needs 4 bytes", "has 1 more"});
  cases.cut_key("EndsInStringValue", string_key("some.key", "llama"), 2,
                {"'some.key' needs 5 bytes", "has 3 more"});
  cases.cut_key("EndsInArrayType", string_array_key("some.key", {"text"}), 21,
                {"byte {k0.value}", "'some.key' needs 4 bytes", "has 3 more"});
  cases.cut_key("EndsInArrayCount", string_array_key("some.key", {"text"}), 14,
                {"byte {k0.count}", "'some.key' needs 8 bytes", "has 6 more"});
  cases.cut_key("EndsInArray", array_key("some.key", 5, 2, "12345678"), 1,
                {"byte {k0.items}", "'some.key' needs 2 items of at least 4 bytes", "has 7 more"});
  cases.cut_key("EndsInArrayString", string_array_key("some.key", {"text"}), 1,
                {"a string of key 'some.key' needs 4 bytes", "has 3 more"});
  cases.put("ArrayItemType13", "k2.value", std::uint32_t{13},
            {"byte {k2.value}", "key 'test.numbers' is an array of unknown type 13"});
  cases.put("ArrayOfArrays", "k2.value", std::uint32_t{9},
            {"byte {k2.value}", "'test.numbers' is an array of arrays"}, ErrorCode::kUnsupported);
  cases.put("ArrayCountMax", "k2.count", kMaxU64,
            {"byte {k2.items}", "key 'test.numbers' needs 18446744073709551615 items of at least 4 bytes"});
  // 2^62 items of 4 bytes are 2^64 bytes: 0 in 64 bits.
  cases.put("ArrayCountWraps", "k2.count", std::uint64_t{1} << 62, {"needs 4611686018427387904 items"});
  cases.put("ArrayCountBeyondFile", "k2.count", std::uint64_t{1'000},
            {"needs 1000 items of at least 4 bytes"});
  cases.key("WideArrayCountWraps", array_key("wide", 10, std::uint64_t{1} << 61, "12345678"),
            {"byte {k5.items}", "'wide' needs 2305843009213693952 items of at least 8 bytes"});
  cases.put("StringArrayCountMax", "k3.count", kMaxU64,
            {"byte {k3.items}", "'test.strings' needs 18446744073709551615 items of at least 8 bytes"});
  cases.put("StringArrayCountWraps", "k3.count", std::uint64_t{1} << 61, {"needs 2305843009213693952 items"});
  cases.put("StringArrayItemLength2To63", "k3.items", k2To63,
            {"byte {k3.items}", "a string of key 'test.strings' says it has 9223372036854775808 bytes"});
  cases.put("StringArrayItemBeyondFile", "k3.items", std::uint64_t{9'000},
            {"a string of key 'test.strings' needs 9000 bytes"});
  // Four-byte numbers 1, 2, 2^32-1 read as three bools: the bytes 1, 0, 0, and the next key is misread.
  cases.put("NumbersAsBools", "k2.value", std::uint32_t{7}, {"key 3"});
  cases.put("NumbersAsStrings", "k2.value", std::uint32_t{8},
            {"byte {k2.items}", "a string of key 'test.numbers'"});
  cases.key("BoolArrayWith2", array_key("flags", 7, 3, "\x00\x01\x02"s),
            {"key 'flags'", "value 2", "expected 0 or 1"});
  cases.key("BoolArrayCount2To63", array_key("flags", 7, k2To63, "\x00"s),
            {"byte {k5.items}", "'flags' needs 9223372036854775808 bytes"});
}

void add_alignment_cases(Cases& cases) {
  const std::string key = "general.alignment";
  cases.alignment("AlignmentString", string_key(key, "32"), {"byte {k1.type}", "type string, expected u32"});
  cases.alignment("AlignmentU64", {key, 10, encoded(std::uint64_t{32})},
                  {"byte {k1.type}", "type u64, expected u32"});
  cases.alignment("AlignmentI32", i32_key(key, 32), {"byte {k1.type}", "type i32, expected u32"});
  cases.alignment("AlignmentArray", array_key(key, 4, 1, encoded(std::uint32_t{32})),
                  {"array of u32, expected u32"});
  const auto value = [&](std::string name, std::uint32_t number) {
    cases.alignment(std::move(name), u32_key(key, number),
                    {"'general.alignment' is " + std::to_string(number), "power of two from 8 to 65536"});
  };
  value("Alignment0", 0);
  value("Alignment1", 1);
  value("Alignment4", 4);
  value("Alignment33", 33);
  value("Alignment131072", 131'072);
  value("Alignment2To31", std::uint32_t{1} << 31);
  value("AlignmentMax", ~std::uint32_t{0});
  cases.put("OffsetNotOfLargerAlignment", "k1.value", std::uint32_t{64},
            {"byte {t1.offset}", "tensor 'out.bias' has offset 96", "multiple of the alignment 64"});
}

void add_tensor_name_cases(Cases& cases) {
  cases.put("NameEmpty", "t0.length", std::uint64_t{0},
            {"byte {t0.length}", "the name of tensor 0 is empty"});
  cases.edit("Name64Bytes", [](TestFile& file) { file.tensors[1].name = std::string(64, 'n'); },
             {"byte {t1.length}", "the name of tensor 1 says it has 64 bytes", "at most 63"});
  cases.put("NameLength2To63", "t1.length", k2To63,
            {"byte {t1.length}", "9223372036854775808 bytes", "at most 63"});
  cases.put("NameInvalidUtf8", "t1.name", std::uint8_t{0x80},
            {"byte {t1.length}", "the name of tensor 1 is not valid UTF-8", "'\\x80ut.bias'"});
  cases.put("NameZeroByte", "t1.name", std::uint8_t{0}, {"byte {t1.length}", "control character"});
  cases.put("NameDelete", "t1.name", std::uint8_t{0x7F}, {"byte {t1.length}", "control character", "\\x7f"});
  cases.edit("NameTwice", [](TestFile& file) { file.tensors[1].name = file.tensors[0].name; },
             {"tensor 'tok.weight' appears twice", "at byte {data}"});
}

void add_shape_cases(Cases& cases) {
  cases.put("Dims0", "t0.n_dims", std::uint32_t{0},
            {"byte {t0.n_dims}", "tensor 'tok.weight' has 0 dimensions", "expected 1 to 4"});
  cases.put("Dims5", "t0.n_dims", std::uint32_t{5}, {"byte {t0.n_dims}", "5 dimensions"});
  cases.put("DimsMax", "t0.n_dims", ~std::uint32_t{0}, {"byte {t0.n_dims}", "4294967295 dimensions"});
  cases.put("Ne0Is0", "t0.ne0", std::int64_t{0},
            {"byte {t0.ne0}", "'tok.weight' has ne[0] = 0", "expected >= 1"});
  cases.put("Ne0Negative", "t0.ne0", std::int64_t{-32}, {"byte {t0.ne0}", "ne[0] = -32"});
  cases.put("Ne0Min", "t0.ne0", kMinI64, {"byte {t0.ne0}", "ne[0] = -9223372036854775808"});
  cases.put("Ne1Is0", "t0.ne1", std::int64_t{0}, {"byte {t0.ne1}", "ne[1] = 0"});
  cases.put("Ne1Negative", "t0.ne1", std::int64_t{-1}, {"byte {t0.ne1}", "ne[1] = -1"});
  // 32 * 2^58 = 2^63.
  cases.put("ValuesOverflow63Bits", "t0.ne1", std::int64_t{1} << 58,
            {"byte {t0.ne1}", "ne[1] = 288230376151711744", "63 bits"});
  cases.edit("ValuesWrapTo0",
             [](TestFile& file) { file.tensors[1].ne = {std::int64_t{1} << 32, std::int64_t{1} << 32}; },
             {"byte {t1.ne1}", "63 bits"});
  // 2^62 values of 4 bytes are 2^64 bytes.
  cases.put("BytesOverflow64Bits", "t1.ne0", std::int64_t{1} << 62,
            {"byte {t1.type}", "type F32", "64 bits"});
  cases.put("BytesBeyondFile", "t1.ne0", std::int64_t{6},
            {"byte {data}", "'out.bias' takes 24 bytes at offset 96", "116 bytes of data"});
  cases.put("RowNotWholeBlocks", "t0.ne0", std::int64_t{33},
            {"byte {t0.type}", "'tok.weight' has rows of 33 values", "multiple of 32 for type Q8_0"});
  cases.put("RowBelowBlock", "t0.ne0", std::int64_t{1},
            {"byte {t0.type}", "rows of 1 values", "multiple of 32"});
  cases.put("RowNotWholeSuperBlocks", "t0.type", std::uint32_t{12},
            {"byte {t0.type}", "rows of 32 values", "multiple of 256 for type Q4_K"});
  for (const std::uint32_t type : {4U, 5U, 31U, 36U, 43U, ~0U})
    cases.put("Type" + std::to_string(type), "t1.type", type,
              {"byte {t1.type}", "tensor 'out.bias' has type " + std::to_string(type)},
              ErrorCode::kUnsupported);
  cases.cut("EndsInTensorTable", "t1.offset", 3, {"byte {t1.offset}", "tensor 'out.bias' needs 8 bytes"});
}

void add_data_cases(Cases& cases) {
  cases.put("OffsetOdd", "t0.offset", std::uint64_t{1},
            {"byte {t0.offset}", "'tok.weight' has offset 1", "multiple of the alignment 32"});
  cases.put("OffsetHalfAligned", "t1.offset", std::uint64_t{80}, {"byte {t1.offset}", "offset 80"});
  cases.put("OffsetBeyondFile", "t1.offset", std::uint64_t{4'096},
            {"byte {data}", "'out.bias' takes 20 bytes at offset 4096", "116 bytes of data"});
  cases.put("OffsetMax", "t1.offset", kMaxU64 - 31, {"byte {data}", "at offset 18446744073709551584"});
  cases.put("OffsetAtEnd", "t1.offset", std::uint64_t{128}, {"byte {data}", "at offset 128"});
  cases.put("TensorsOverlap", "t1.offset", std::uint64_t{64},
            {"tensor 'out.bias' overlaps tensor 'tok.weight'", "ends at byte"});
  cases.put("TensorsAtOneOffset", "t1.offset", std::uint64_t{0}, {"byte {data}", "overlaps tensor"});
  cases.cut("DataEndsEarly", "end", -1,
            {"byte {data}", "'out.bias' takes 20 bytes", "115 bytes of data", "incomplete"});
  cases.cut("NoData", "data", 0,
            {"byte {data}", "'tok.weight' takes 68 bytes at offset 0", "0 bytes of data"});
  cases.cut("EndsWithHeader", "header_end", 0, {"byte {data}", "'tok.weight'", "0 bytes of data"});
}

}  // namespace

std::vector<InvalidCase> invalid_cases() {
  Cases cases;
  add_start_cases(cases);
  add_count_cases(cases);
  add_key_cases(cases);
  add_value_cases(cases);
  add_alignment_cases(cases);
  add_tensor_name_cases(cases);
  add_shape_cases(cases);
  add_data_cases(cases);
  return cases.take();
}

}  // namespace hearth::gguf
