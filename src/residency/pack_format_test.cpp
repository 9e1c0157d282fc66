#include "residency/pack_format.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include <blake3.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include "residency/test_pack_check.h"

namespace hearth::residency {
namespace {

using model::Role;
using model::SegmentId;
using Bytes = std::vector<std::uint8_t>;

// A pack's header written by hand after docs/reference/pack.md, so that each field can be wrong on its own.
struct Tensor {
  std::uint32_t role, type, layout;
  std::uint64_t offset, bytes, row_values, begin, end;
  std::uint32_t n_matrices = 1;
};
struct Segment {
  std::uint32_t kind, layer;
  std::uint64_t record, offset, bytes;
  std::vector<Tensor> tensors;
  std::uint32_t n_tensors = 0;  // 0: as many as there are
};
struct Image {
  std::string magic = "HEARTHPK";
  std::uint32_t version = 2;
  std::uint32_t size = 0;  // 0: the right one
  std::uint64_t file_bytes = 36864;
  std::uint32_t repack = 1;
  std::string ggml = "0.27.0 (abc)", cpu = "CPU AVX2=1", name = "Tiny";
  std::uint32_t text_bytes = 0;  // length given for `ggml`; 0: the right one
  std::vector<std::string> layouts = {"CPU_REPACK"};
  std::uint32_t n_layouts = 0, n_segments = 0;  // 0: as many as there are
  // Two segments: layer 3 with a norm (64 F32) and attn_q (Q4_0, 64 x 64: 2304 bytes), and an output head
  // with a norm and two blocks of rows (F16, 64 values: 64 rows 8192 bytes, 32 rows 4096).
  // Block 0 is the header, 1 and 2 the records, 3.. the weights.
  std::vector<Segment> segments = {
      {1, 3, 4096, 12288, 8192, {{4, 0, 0, 12288, 256, 64, 0, 1}, {5, 2, 1, 16384, 2304, 64, 0, 64}}},
      {2,
       0,
       8192,
       20480,
       16384,
       {{1, 0, 0, 20480, 256, 64, 0, 1},
        {2, 1, 0, 24576, 8192, 64, 0, 64},
        {2, 1, 0, 32768, 4096, 64, 64, 96}}}};
  std::string tail;  // before the checksum
  bool right_checksum = true;

  // With the whole file's size if the tensors are as above: 20480 + 16384 = 36864.
  [[nodiscard]] Bytes bytes() const {
    Bytes out;
    const auto number = [&](std::uint64_t value, int n) {
      for (int i = 0; i < n; ++i) out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
    };
    const auto raw = [&](const std::string& text) { out.insert(out.end(), text.begin(), text.end()); };
    const auto text = [&](const std::string& value, std::uint32_t length = 0) {
      number(length != 0 ? length : value.size(), 4);
      raw(value);
    };
    raw(magic);
    number(version, 4);
    number(0, 4);
    number(file_bytes, 8);
    for (int i = 0; i < 32; ++i) out.push_back(static_cast<std::uint8_t>(i));
    number(repack, 4);
    text(ggml, text_bytes);
    text(cpu);
    text(name);
    number(n_layouts != 0 ? n_layouts : layouts.size(), 4);
    for (const auto& layout : layouts) text(layout);
    number(n_segments != 0 ? n_segments : segments.size(), 4);
    for (const Segment& s : segments) {
      number(s.kind, 4);
      number(s.layer, 4);
      for (const std::uint64_t value : {s.record, s.offset, s.bytes}) number(value, 8);
      number(s.n_tensors != 0 ? s.n_tensors : s.tensors.size(), 4);
      for (const Tensor& t : s.tensors) {
        for (const std::uint32_t value : {t.role, t.type, t.layout}) number(value, 4);
        for (const std::uint64_t value : {t.offset, t.bytes, t.row_values, t.begin, t.end}) number(value, 8);
        number(t.n_matrices, 4);
      }
    }
    raw(tail);
    const std::size_t total = size != 0 ? size : out.size() + 32;
    for (int i = 0; i < 4; ++i) out[12 + i] = static_cast<std::uint8_t>(total >> (8 * i));
    blake3_hasher hasher;
    blake3_hasher_init(&hasher);
    blake3_hasher_update(&hasher, out.data(), out.size());
    out.resize(out.size() + 32);
    blake3_hasher_finalize(&hasher, out.data() + out.size() - 32, 32);
    if (!right_checksum) out.back() ^= 1;
    return out;
  }
};

TEST(PackFormat, ReadsAHeaderWrittenByHand) {
  const auto header = decode_header(Image{}.bytes(), 36864);
  ASSERT_TRUE(header) << header.error().message;
  EXPECT_EQ(header->key.ggml, "0.27.0 (abc)");
  EXPECT_EQ(header->key.cpu, "CPU AVX2=1");
  EXPECT_TRUE(header->key.repack);
  EXPECT_EQ(header->key.model[31], 31);
  EXPECT_EQ(header->model_name, "Tiny");
  EXPECT_EQ(header->file_bytes, 36864U);
  ASSERT_EQ(header->segments.size(), 2U);
  const PackSegment& layer = *header->find(SegmentId::of_layer(3));
  EXPECT_EQ(layer.record_offset, 4096U);
  EXPECT_EQ(layer.record_bytes(), 4096U);
  EXPECT_EQ(layer.offset, 12288U);
  EXPECT_EQ(layer.bytes, 8192U);
  EXPECT_FALSE(layer.present);
  ASSERT_EQ(layer.tensors.size(), 2U);
  EXPECT_EQ(layer.tensors[0].role, Role::kAttnNorm);
  EXPECT_EQ(layer.tensors[0].layout, "");
  EXPECT_EQ(layer.tensors[1].role, Role::kAttnQ);
  EXPECT_EQ(layer.tensors[1].layout, "CPU_REPACK");
  EXPECT_EQ(layer.tensors[1].offset, 16384U);
  EXPECT_EQ(layer.tensors[1].bytes, 2304U);
  const PackSegment& head = *header->find(SegmentId::output());
  ASSERT_EQ(head.tensors.size(), 3U);
  EXPECT_EQ(head.tensors[2].row_begin, 64U);
  EXPECT_EQ(head.tensors[2].row_end, 96U);
  EXPECT_EQ(header->find(SegmentId::of_layer(0)), nullptr);
}

TEST(PackFormat, ReadsExpertsAndTheirBiases) {
  Image image;
  // ffn_gate_exps of 4 experts with 16 rows each, then 4 biases of 16 values.
  image.segments[0].tensors[0] = {26, 2, 1, 12288, 2304, 64, 0, 64, 4};
  image.segments[0].tensors[1] = {27, 0, 0, 16384, 256, 16, 0, 4};
  const auto header = decode_header(image.bytes(), 36864);
  ASSERT_TRUE(header) << header.error().message;
  const PackTensor& experts = header->segments[0].tensors[0];
  EXPECT_EQ(experts.role, Role::kExpertsGate);
  EXPECT_EQ(experts.shape().rows, 64U);
  EXPECT_EQ(experts.shape().n_matrices, 4U);
  EXPECT_EQ(header->segments[0].tensors[1].role, Role::kExpertsGateBias);
}

TEST(PackFormat, WritesWhatAHandWouldWrite) {
  PackHeader header;
  for (std::size_t i = 0; i < 32; ++i) header.key.model[i] = static_cast<std::uint8_t>(i);
  header.key.ggml = "0.27.0 (abc)";
  header.key.cpu = "CPU AVX2=1";
  header.model_name = "Tiny";
  const auto tensor = [](Role role, std::uint32_t type, const char* layout, std::uint64_t bytes,
                         std::uint64_t begin, std::uint64_t end) {
    return PackTensor{.role = role,
                      .ggml_type = type,
                      .layout = layout,
                      .bytes = bytes,
                      .row_values = 64,
                      .row_begin = begin,
                      .row_end = end};
  };
  header.segments.resize(2);
  header.segments[0].id = SegmentId::of_layer(3);
  header.segments[0].tensors = {tensor(Role::kAttnNorm, 0, "", 256, 0, 1),
                                tensor(Role::kAttnQ, 2, "CPU_REPACK", 2304, 0, 64)};
  header.segments[1].id = SegmentId::output();
  header.segments[1].tensors = {tensor(Role::kOutputNorm, 0, "", 256, 0, 1),
                                tensor(Role::kOutput, 1, "", 8192, 0, 64),
                                tensor(Role::kOutput, 1, "", 4096, 64, 96)};
  ASSERT_TRUE(place_segments(header));
  Bytes wanted = Image{}.bytes();
  wanted.resize(4096);
  EXPECT_EQ(encode_header(header), wanted);
}

struct BadCase {
  const char* name;
  std::function<void(Image&)> spoil;
  const char* message;
  ErrorCode code = ErrorCode::kInvalidFile;
};

const std::vector<BadCase>& bad_cases() {
  using I = Image;
  static const std::vector<BadCase> cases = {
      {"magic", [](I& i) { i.magic = "HEARTHPX"; }, "no pack"},
      {"gguf", [](I& i) { i.magic = "GGUF\3\0\0\0"; }, "no pack"},
      {"version 0", [](I& i) { i.version = 0; }, "pack version 0", ErrorCode::kVersionMismatch},
      {"version 1", [](I& i) { i.version = 1; }, "pack version 1", ErrorCode::kVersionMismatch},
      {"version 3", [](I& i) { i.version = 3; }, "pack version 3", ErrorCode::kVersionMismatch},
      {"size of the header 0", [](I& i) { i.size = 1; }, "size of the header is 1"},
      {"size of the header beyond the limit", [](I& i) { i.size = (16U << 20) + 1; }, "size of the header"},
      {"size of the header beyond the file", [](I& i) { i.size = 36865; }, "the file only 36864"},
      {"size of the header beyond the bytes", [](I& i) { i.size = 36864; }, "cut off"},
      {"size of the header one too small", [](I& i) { i.size = 503; }, "checksum"},
      {"checksum", [](I& i) { i.right_checksum = false; }, "checksum"},
      {"another file size", [](I& i) { i.file_bytes = 36865; }, "its header says 36865"},
      {"file size beyond the limit", [](I& i) { i.file_bytes = ~std::uint64_t{0}; }, "size of the file"},
      {"repack 2", [](I& i) { i.repack = 2; }, "repack is 2"},
      {"text beyond the header", [](I& i) { i.text_bytes = 2000; }, "cut off"},
      {"text beyond its limit", [](I& i) { i.text_bytes = 0xFFFFFFFF; }, "version of ggml"},
      {"text with a newline", [](I& i) { i.name = "a\nb"; }, "printable"},
      {"text with a zero byte", [](I& i) { i.name = std::string("a\0b", 3); }, "printable"},
      {"text that is no UTF-8", [](I& i) { i.cpu = "\xC0\xAF"; }, "printable"},
      {"layout without a name", [](I& i) { i.layouts = {""}; }, "name of a layout"},
      {"layout that no tensor has", [](I& i) { i.layouts = {"CPU_REPACK", "other"}; }, "no tensor has"},
      {"too many layouts", [](I& i) { i.n_layouts = 17; }, "number of layouts"},
      {"no segments", [](I& i) { i.segments.clear(); }, "number of segments is 0"},
      {"segments that are not there", [](I& i) { i.n_segments = 0xFFFFFFFF; }, "number of segments"},
      {"one segment too many", [](I& i) { i.n_segments = 3; }, "cut off"},
      {"one segment too few", [](I& i) { i.n_segments = 1; }, "too many"},
      {"segment of kind 0", [](I& i) { i.segments[0].kind = 0; }, "kind of a segment"},
      {"segment of kind 3", [](I& i) { i.segments[1].kind = 3; }, "kind of a segment"},
      {"layer 512", [](I& i) { i.segments[0].layer = 512; }, "layer of a segment is 512"},
      {"output head with a layer", [](I& i) { i.segments[1].layer = 1; }, "layer number"},
      {"segment twice", [](I& i) { i.segments[1] = i.segments[0]; }, "in order"},
      {"segments swapped", [](I& i) { std::swap(i.segments[0], i.segments[1]); }, "in order"},
      {"no tensors", [](I& i) { i.segments[0].tensors.clear(); }, "number of tensors is 0"},
      {"tensors that are not there", [](I& i) { i.segments[0].n_tensors = 0xFFFFFFFF; }, "number of tensors"},
      {"record inside the header", [](I& i) { i.segments[0].record = 0; }, "record of layer 3"},
      {"record unaligned", [](I& i) { i.segments[0].record = 4097; }, "record of layer 3"},
      {"two records at one place", [](I& i) { i.segments[1].record = 4096; }, "record of output head"},
      {"record past the end", [](I& i) { i.segments[1].record = 1U << 30; }, "record of output head"},
      {"segment over the records", [](I& i) { i.segments[0].offset = 8192; }, "begins at"},
      {"segment past the end", [](I& i) { i.segments[1].offset = 1U << 30; }, "expected"},
      {"segment at the end of 64 bits", [](I& i) { i.segments[1].offset = ~std::uint64_t{4095}; },
       "offset of a segment"},
      {"segment too large", [](I& i) { i.segments[1].bytes += 4096; }, "a segment has"},
      {"segment too small", [](I& i) { i.segments[0].bytes -= 4096; }, "a segment has"},
      {"segments overlap",
       [](I& i) {
         i.segments[1].offset -= 4096;
         for (Tensor& t : i.segments[1].tensors) t.offset -= 4096;
       },
       "expected 20480"},
      {"role 37", [](I& i) { i.segments[0].tensors[1].role = 37; }, "role of a tensor"},
      {"matrices of no experts", [](I& i) { i.segments[0].tensors[1].n_matrices = 2; },
       "a tensor is 2 matrices, but only experts"},
      {"no matrices", [](I& i) { i.segments[0].tensors[1].n_matrices = 0; }, "number of matrices"},
      {"matrices beyond the limit", [](I& i) { i.segments[0].tensors[1].n_matrices = 4097; },
       "number of matrices"},
      {"experts of one matrix", [](I& i) { i.segments[0].tensors[1].role = 26; }, "no matrices of 1 expert"},
      {"experts that do not share the rows",
       [](I& i) {
         i.segments[0].tensors[1].role = 26;
         i.segments[0].tensors[1].n_matrices = 3;
       },
       "64 rows from row 0 are no matrices of 3 expert"},
      {"embedding in a layer", [](I& i) { i.segments[0].tensors[0].role = 0; }, "no place"},
      {"layer's tensor in the head", [](I& i) { i.segments[1].tensors[0].role = 4; }, "no place"},
      {"role twice", [](I& i) { i.segments[0].tensors[1] = {4, 0, 0, 16384, 256, 64, 0, 1}; },
       "order of their roles"},
      {"unknown type", [](I& i) { i.segments[0].tensors[1].type = 4; }, "type 4 is unknown"},
      {"layout that is not in the list", [](I& i) { i.segments[0].tensors[1].layout = 2; },
       "layout of a tensor"},
      {"norm that is repacked", [](I& i) { i.segments[0].tensors[0].layout = 1; }, "vector"},
      {"norm of F16", [](I& i) { i.segments[0].tensors[0].type = 1; }, "vector"},
      {"norm from row 1",
       [](I& i) {
         i.segments[0].tensors[0].begin = 1;
         i.segments[0].tensors[0].end = 2;
       },
       "vector"},
      {"tensor of 0 bytes", [](I& i) { i.segments[0].tensors[1].bytes = 0; }, "size of a tensor is 0"},
      {"tensor past the end", [](I& i) { i.segments[0].tensors[1].bytes = 1U << 20; }, "the file at 36864"},
      {"tensor of 2^63 bytes", [](I& i) { i.segments[0].tensors[1].bytes = 1ULL << 63; }, "size of a tensor"},
      {"plain tensor of another size", [](I& i) { i.segments[1].tensors[2].bytes = 4095; },
       "its shape needs 4096"},
      {"tensor unaligned", [](I& i) { i.segments[0].tensors[1].offset = 16385; }, "expected 16384"},
      {"tensors overlap", [](I& i) { i.segments[0].tensors[1].offset = 12288; }, "expected 16384"},
      {"tensor at the end of 64 bits", [](I& i) { i.segments[0].tensors[1].offset = ~0ULL; },
       "offset of a tensor"},
      {"row of 0 values", [](I& i) { i.segments[0].tensors[1].row_values = 0; }, "row of a tensor"},
      {"row that is no whole blocks", [](I& i) { i.segments[0].tensors[1].row_values = 33; }, "whole number"},
      {"row beyond the limit", [](I& i) { i.segments[0].tensors[1].row_values = 1ULL << 40; },
       "row of a tensor"},
      {"no rows", [](I& i) { i.segments[0].tensors[1].end = 0; }, "end of the rows"},
      {"first row at the end of 64 bits", [](I& i) { i.segments[1].tensors[2].begin = ~0ULL; }, "first row"},
      {"rows missing between blocks",
       [](I& i) {
         i.segments[1].tensors[2].begin = 65;
         i.segments[1].tensors[2].end = 97;
       },
       "continue"},
      {"rows twice",
       [](I& i) {
         i.segments[1].tensors[2].begin = 63;
         i.segments[1].tensors[2].end = 95;
       },
       "continue"},
      {"blocks of two types", [](I& i) { i.segments[1].tensors[2] = {2, 0, 0, 32768, 8192, 64, 64, 96}; },
       "continue"},
      {"first rows missing",
       [](I& i) {
         i.segments[0].tensors[1].begin = 32;
         i.segments[0].tensors[1].end = 96;
       },
       "order of their roles"},
      {"bytes after the segments", [](I& i) { i.tail = "x"; }, "1 bytes too many"},
  };
  return cases;
}

TEST(PackFormat, RefusesEveryFieldThatIsWrong) {
  for (const BadCase& bad : bad_cases()) {
    SCOPED_TRACE(bad.name);
    Image image;
    bad.spoil(image);
    const auto header = decode_header(image.bytes(), 36864);
    ASSERT_FALSE(header);
    EXPECT_EQ(header.error().code, bad.code);
    EXPECT_NE(header.error().message.find(bad.message), std::string::npos) << header.error().message;
  }
  EXPECT_GE(bad_cases().size(), 25U);
}

TEST(PackFormat, RefusesEveryTruncationAndEveryFlippedBit) {
  const Bytes whole = Image{}.bytes();
  for (std::size_t n = 0; n < whole.size(); ++n)
    EXPECT_FALSE(decode_header(std::span(whole).first(n), 36864)) << n;
  EXPECT_FALSE(decode_header(whole, 36863));
  EXPECT_FALSE(decode_header(whole, whole.size()));
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    Bytes flipped = whole;
    flipped[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
    EXPECT_FALSE(decode_header(flipped, 36864)) << bit;
  }
}

// A record written by hand: magic, index, tensors, sample, hash, the header's hash, hashes of the tensors,
// checksum.
Bytes record_by_hand(const Bytes& header) {
  Bytes out;
  const auto number = [&](std::uint64_t value, int n) {
    for (int i = 0; i < n; ++i) out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  };
  for (const char c : std::string("HEARTHRC")) out.push_back(static_cast<std::uint8_t>(c));
  number(0, 4);
  number(2, 4);
  number(0x1122334455667788, 8);
  for (int i = 0; i < 32; ++i) out.push_back(static_cast<std::uint8_t>(0x40 + i));
  out.insert(out.end(), header.end() - 32, header.end());
  number(0xAAAA, 8);
  number(0xBBBB, 8);
  blake3_hasher hasher;
  blake3_hasher_init(&hasher);
  blake3_hasher_update(&hasher, out.data(), out.size());
  out.resize(out.size() + 32);
  blake3_hasher_finalize(&hasher, out.data() + out.size() - 32, 32);
  out.resize(4096);
  return out;
}

TEST(PackFormat, ReadsAndWritesRecords) {
  const Bytes image = Image{}.bytes();
  auto header = decode_header(image, 36864);
  ASSERT_TRUE(header);
  const Bytes record = record_by_hand(image);
  const auto read = decode_record(*header, 0, record);
  ASSERT_TRUE(read) << read.error().message;
  const PackSegment& segment = header->segments[0];
  EXPECT_TRUE(segment.present);
  EXPECT_EQ(segment.source_sample, 0x1122334455667788U);
  EXPECT_EQ(segment.blake3[31], 0x5F);
  EXPECT_EQ(segment.tensors[0].xxh3, 0xAAAAU);
  EXPECT_EQ(segment.tensors[1].xxh3, 0xBBBBU);
  EXPECT_EQ(encode_record(*header, 0), record);
  EXPECT_TRUE(decode_record(*header, 0, Bytes(4096)));
  EXPECT_FALSE(segment.present) << "zeros mean absent";
}

TEST(PackFormat, RefusesRecordsThatAreWrong) {
  const Bytes image = Image{}.bytes();
  auto header = decode_header(image, 36864);
  ASSERT_TRUE(header);
  const Bytes record = record_by_hand(image);
  for (std::size_t bit = 0; bit < 8 * record.size(); ++bit) {
    Bytes flipped = record;
    flipped[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
    ASSERT_FALSE(decode_record(*header, 0, flipped)) << bit;
    ASSERT_FALSE(header->segments[0].present);
  }
  // Torn: 88 bytes, two hashes and the checksum are 136, and only the first ones were written.
  for (std::size_t n = 1; n < 136; ++n) {
    Bytes torn(record.begin(), record.begin() + static_cast<std::ptrdiff_t>(n));
    torn.resize(4096);
    EXPECT_FALSE(decode_record(*header, 0, torn)) << n;
    EXPECT_FALSE(header->segments[0].present);
  }
  EXPECT_FALSE(decode_record(*header, 0, std::span(record).first(4095)));
  EXPECT_FALSE(decode_record(*header, 1, record)) << "of another segment";
  Image other;
  other.cpu = "CPU AVX2=0";
  auto other_header = decode_header(other.bytes(), 36864);
  ASSERT_TRUE(other_header);
  const auto foreign = decode_record(*other_header, 0, record);
  ASSERT_FALSE(foreign);
  EXPECT_NE(foreign.error().message.find("another pack"), std::string::npos) << foreign.error().message;
}

// Test vectors of the hashes' own projects: BLAKE3 of nothing, XXH3-64 of nothing.
TEST(PackFormat, HashesAreTheOnesOfThePage) {
  const Digest nothing = blake3({});
  EXPECT_EQ(nothing[0], 0xAF);
  EXPECT_EQ(nothing[31], 0x62);
  EXPECT_EQ(xxh3({}), 0x2D06800538D394C2U);
  Bytes bytes(100'000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 7);
  Xxh3 pieces;
  pieces.add(std::span(bytes).first(333));
  pieces.add(std::span(bytes).subspan(333));
  EXPECT_EQ(pieces.digest(), XXH3_64bits(bytes.data(), bytes.size()));
}

TEST(PackFormat, SaysHowKeysDiffer) {
  const PackKey key{.model = {}, .ggml = "1", .cpu = "a", .repack = true};
  PackKey other = key;
  EXPECT_EQ(key_difference(key, other), "");
  other.ggml = "2";
  EXPECT_EQ(key_difference(key, other), "it was made with ggml 1, this is 2");
  other = key;
  other.cpu = "b";
  EXPECT_NE(key_difference(key, other).find("CPU with a, this is one with b"), std::string::npos);
  other = key;
  other.repack = false;
  EXPECT_NE(key_difference(key, other).find("plain ones are wanted"), std::string::npos);
  other = key;
  other.model[3] = 1;
  EXPECT_EQ(key_difference(key, other), "it holds another model");
}

TEST(PackFormat, AModelThatIsTooLargeIsAnError) {
  PackHeader header;
  header.segments.resize(1);
  header.segments[0].tensors.assign(
      1, {.role = Role::kAttnNorm, .layout = {}, .bytes = ~std::uint64_t{0}, .row_values = 1, .row_end = 1});
  EXPECT_EQ(place_segments(header).error().code, ErrorCode::kUnsupported);
  header.segments[0].tensors.assign(
      400'000, {.role = Role::kAttnNorm, .layout = {}, .bytes = 1, .row_values = 1, .row_end = 1});
  EXPECT_EQ(place_segments(header).error().code, ErrorCode::kUnsupported);
}

// The fuzzer's seeds: those called valid are, and none breaks a promise.
TEST(PackFormat, CorpusKeepsThePromises) {
  const std::filesystem::path folder =
      std::filesystem::path(HEARTH_SOURCE_DIR) / "src/residency/corpus/pack_format_fuzz";
  std::size_t n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const Bytes bytes(std::istreambuf_iterator<char>(file), {});
    ASSERT_GE(bytes.size(), 24U) << entry.path();
    const bool accepted = test::check_pack_bytes(bytes, test::number_at(bytes, 16, 8));
    EXPECT_EQ(accepted, entry.path().filename().string().starts_with("valid_")) << entry.path();
    ++n;
  }
  EXPECT_GE(n, 5U);
}

}  // namespace
}  // namespace hearth::residency
