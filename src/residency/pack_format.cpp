#include "residency/pack_format.h"

#include <algorithm>
#include <concepts>
#include <format>
#include <limits>
#include <string_view>
#include <tuple>
#include <utility>

#include "base/text.h"
#include "model/limits.h"

namespace hearth::residency {
namespace {

using model::Role;
using model::SegmentId;

constexpr std::string_view kMagic = "HEARTHPK";
constexpr std::string_view kRecordMagic = "HEARTHRC";
constexpr std::string_view kOpenRecordMagic = "HEARTHRB";
// Magic, version, size: what header_bytes() reads.
constexpr std::size_t kFirstBytes = 16;
// Magic, index, count of tensors, sample, hash of the segment, hash of the header's key and layout.
constexpr std::size_t kRecordFixedBytes = 8 + 4 + 4 + 8 + 32 + 32;
// What stands in a pack for each role: its place here. The order is the format's own, model::Role may change
// its.
constexpr Role kRoles[] = {
    Role::kTokenEmbedding, Role::kOutputNorm,    Role::kOutput,         Role::kRopeFactors,
    Role::kAttnNorm,       Role::kAttnQ,         Role::kAttnK,          Role::kAttnV,
    Role::kAttnQBias,      Role::kAttnKBias,     Role::kAttnVBias,      Role::kAttnQNorm,
    Role::kAttnKNorm,      Role::kAttnOutput,    Role::kAttnOutputBias, Role::kFfnNorm,
    Role::kFfnGate,        Role::kFfnUp,         Role::kFfnDown,        Role::kAttnQkv,
    Role::kRopeLong,       Role::kRopeShort,     Role::kAttnSinks,      Role::kAttnPostNorm,
    Role::kRouter,         Role::kRouterBias,    Role::kExpertsGate,    Role::kExpertsGateBias,
    Role::kExpertsUp,      Role::kExpertsUpBias, Role::kExpertsDown,    Role::kExpertsDownBias,
    Role::kSharedRouter,   Role::kSharedGate,    Role::kSharedUp,       Role::kSharedDown,
    Role::kFfnPostNorm,
};

std::uint32_t code_of(Role role) {
  const auto* const found = std::ranges::find(kRoles, role);
  HEARTH_CHECK(found != std::end(kRoles), "a role that packs have no number for");
  return static_cast<std::uint32_t>(found - std::begin(kRoles));
}

class Writer {
 public:
  template <std::unsigned_integral T>
  void number(std::type_identity_t<T> value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) bytes_.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  }
  void raw(std::span<const std::uint8_t> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void raw(std::string_view text) { bytes_.insert(bytes_.end(), text.begin(), text.end()); }
  void text(std::string_view text) {
    number<std::uint32_t>(static_cast<std::uint32_t>(text.size()));
    raw(text);
  }
  [[nodiscard]] std::vector<std::uint8_t>& bytes() { return bytes_; }

 private:
  std::vector<std::uint8_t> bytes_;
};

// Never reads outside its bytes. The first failure sticks; later reads give zeros.
class Reader {
 public:
  explicit Reader(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  template <std::unsigned_integral T>
  [[nodiscard]] T number(std::string_view field, T low = 0, T high = std::numeric_limits<T>::max()) {
    const auto from = raw(field, sizeof(T));
    if (error_) return 0;
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i)
      value = static_cast<T>(value | (static_cast<T>(from[i]) << (8 * i)));
    if (value < low || value > high) {
      at_ -= sizeof(T);
      refuse(std::format("{} is {}, expected {} to {}", field, value, low, high));
      return 0;
    }
    return value;
  }
  [[nodiscard]] std::span<const std::uint8_t> raw(std::string_view field, std::size_t n) {
    if (!error_ && bytes_.size() - at_ < n)
      refuse(std::format("{} is cut off: {} bytes needed, {} left", field, n, bytes_.size() - at_));
    if (error_) return {};
    at_ += n;
    return bytes_.subspan(at_ - n, n);
  }
  [[nodiscard]] std::string text(std::string_view field, std::size_t low = 0) {
    const auto length = number<std::uint32_t>(field, static_cast<std::uint32_t>(low), kMaxPackText);
    const auto from = raw(field, length);
    std::string text(from.begin(), from.end());
    // It will be printed; a zero byte would make two names equal to libraries.
    const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 32 || c == 127; };
    if (!is_valid_utf8(text) || std::ranges::any_of(text, is_control))
      refuse(std::format("{} is no printable text: {}", field, quote(text)));
    return text;
  }
  void expect(bool condition, std::string_view why) {
    if (!condition) refuse(std::string(why));
  }
  void refuse(std::string why) {
    if (!error_) error_ = Error{ErrorCode::kInvalidFile, std::format("byte {}: {}", at_, why)};
  }
  [[nodiscard]] bool failed() const { return error_.has_value(); }
  [[nodiscard]] std::size_t left() const { return bytes_.size() - at_; }
  [[nodiscard]] std::unexpected<Error> error() const { return std::unexpected(*error_); }

 private:
  std::span<const std::uint8_t> bytes_;
  std::size_t at_ = 0;
  std::optional<Error> error_;
};

// In the order of their first use, as they are listed.
std::vector<std::string_view> layouts_of(const PackHeader& header) {
  std::vector<std::string_view> layouts;
  for (const PackSegment& segment : header.segments)
    for (const PackTensor& tensor : segment.tensors)
      if (!tensor.layout.empty() && !std::ranges::contains(layouts, tensor.layout))
        layouts.push_back(tensor.layout);
  return layouts;
}

// Everything before the header's hash. Its own size is known only when it is written: see encode_header().
Writer header_body(const PackHeader& header) {
  const std::vector<std::string_view> layouts = layouts_of(header);
  Writer w;
  w.raw(kMagic);
  w.number<std::uint32_t>(kPackVersion);
  w.number<std::uint32_t>(0);  // the size, below
  w.number<std::uint64_t>(header.file_bytes);
  w.raw(header.key.model);
  w.number<std::uint32_t>(header.key.repack ? 1 : 0);
  w.text(header.key.ggml);
  w.text(header.key.cpu);
  w.text(header.model_name);
  w.number<std::uint32_t>(static_cast<std::uint32_t>(layouts.size()));
  for (const std::string_view layout : layouts) w.text(layout);
  w.number<std::uint32_t>(static_cast<std::uint32_t>(header.segments.size()));
  for (const PackSegment& segment : header.segments) {
    w.number<std::uint32_t>(segment.id.kind == SegmentId::Kind::kLayer ? 1 : 2);
    w.number<std::uint32_t>(segment.id.layer);
    w.number<std::uint64_t>(segment.record_offset);
    w.number<std::uint64_t>(segment.offset);
    w.number<std::uint64_t>(segment.bytes);
    w.number<std::uint32_t>(static_cast<std::uint32_t>(segment.tensors.size()));
    for (const PackTensor& tensor : segment.tensors) {
      const auto layout = std::ranges::find(layouts, tensor.layout);
      w.number<std::uint32_t>(code_of(tensor.role));
      w.number<std::uint32_t>(tensor.ggml_type);
      w.number<std::uint32_t>(
          tensor.layout.empty() ? 0 : static_cast<std::uint32_t>(layout - layouts.begin()) + 1);
      w.number<std::uint64_t>(tensor.offset);
      w.number<std::uint64_t>(tensor.bytes);
      w.number<std::uint64_t>(tensor.row_values);
      w.number<std::uint64_t>(tensor.row_begin);
      w.number<std::uint64_t>(tensor.row_end);
      w.number<std::uint32_t>(tensor.n_matrices);
    }
  }
  const std::uint64_t size = w.bytes().size() + std::tuple_size_v<Digest>;
  for (std::size_t i = 0; i < 4; ++i) w.bytes()[12 + i] = static_cast<std::uint8_t>(size >> (8 * i));
  return w;
}

// Rows, and values of a row: four times the largest vocabulary, and no product overflows.
constexpr std::uint64_t kMaxPackRows = std::uint64_t{1} << 24;

// What one tensor and one segment without its tensors take in a header.
constexpr std::size_t kTensorBytes = 4 * 4 + 5 * 8;
constexpr std::size_t kSegmentBytes = 3 * 4 + 3 * 8;

PackTensor read_tensor(Reader& r, std::span<const std::string> layouts, SegmentId id) {
  PackTensor t{.role = kRoles[r.number<std::uint32_t>("role of a tensor", 0, std::size(kRoles) - 1)],
               .layout = {}};
  t.ggml_type = r.number<std::uint32_t>("type of a tensor");
  const auto layout =
      r.number<std::uint32_t>("layout of a tensor", 0, static_cast<std::uint32_t>(layouts.size()));
  t.offset = r.number<std::uint64_t>("offset of a tensor", 0, kMaxPackBytes);
  t.bytes = r.number<std::uint64_t>("size of a tensor", 1, kMaxPackBytes);
  t.row_values = r.number<std::uint64_t>("row of a tensor", 1, kMaxPackRows);
  t.row_begin = r.number<std::uint64_t>("first row of a tensor", 0, kMaxPackRows);
  t.row_end = r.number<std::uint64_t>("end of the rows of a tensor", t.row_begin + 1, kMaxPackRows);
  t.n_matrices = r.number<std::uint32_t>("number of matrices of a tensor", 1, model::kMaxExperts);
  if (r.failed()) return t;
  if (layout != 0) t.layout = layouts[layout - 1];
  r.expect(std::ranges::contains(model::roles_of(id.kind), t.role),
           std::format("role {} has no place in a segment of this kind", code_of(t.role)));
  const gguf::TypeInfo* info = gguf::type_info(t.ggml_type);
  r.expect(info != nullptr, std::format("type {} is unknown", t.ggml_type));
  if (r.failed()) return t;
  const std::uint64_t row_bytes = t.row_values / info->block_values * info->block_bytes;
  const std::uint64_t plain = row_bytes * (t.row_end - t.row_begin);
  r.expect(t.row_values % info->block_values == 0,
           std::format("a row of {} values is no whole number of {} blocks", t.row_values, info->name));
  if (model::is_vector(t.role))
    r.expect(info->name == "F32" && t.layout.empty() && t.row_begin == 0, "a vector must be plain F32");
  if (model::is_experts(t.role))
    r.expect(t.row_begin == 0 && t.n_matrices > 1 && t.row_end % t.n_matrices == 0,
             std::format("{} rows from row {} are no matrices of {} experts", t.row_end, t.row_begin,
                         t.n_matrices));
  else
    r.expect(t.n_matrices == 1,
             std::format("a tensor is {} matrices, but only experts have several", t.n_matrices));
  if (t.layout.empty())
    r.expect(t.bytes == plain,
             std::format("a plain tensor has {} bytes, its shape needs {}", t.bytes, plain));
  return t;
}

// Tensors of a segment come in the order of Role; a matrix may come in several blocks of rows.
void check_order(Reader& r, const PackTensor* before, const PackTensor& t) {
  const bool is_next_block =
      before != nullptr && before->role == t.role && !model::is_vector(t.role) && !model::is_experts(t.role);
  if (is_next_block)
    r.expect(t.row_begin == before->row_end && t.ggml_type == before->ggml_type &&
                 t.row_values == before->row_values,
             "a block of rows does not continue the one before it");
  else
    r.expect(t.row_begin == 0 && (before == nullptr || before->role < t.role),
             "tensors are not in the order of their roles, or one is there twice");
}

}  // namespace

std::uint64_t PackSegment::record_bytes() const {
  return pack_padded(kRecordFixedBytes + 8 * tensors.size() + std::tuple_size_v<Digest>);
}

const PackSegment* PackHeader::find(SegmentId id) const {
  const auto found = std::ranges::find(segments, id, &PackSegment::id);
  return found == segments.end() ? nullptr : &*found;
}

Result<> place_segments(PackHeader& header) {
  const std::size_t header_size = header_body(header).bytes().size() + std::tuple_size_v<Digest>;
  if (header_size > kMaxPackHeaderBytes)
    return fail(ErrorCode::kUnsupported,
                "the model has too many tensors for a pack: its header would take {} bytes", header_size);
  std::uint64_t at = pack_padded(header_size);
  for (PackSegment& segment : header.segments) {
    segment.record_offset = at;
    at += segment.record_bytes();
  }
  for (PackSegment& segment : header.segments) {
    segment.offset = at;
    for (PackTensor& tensor : segment.tensors) {
      tensor.offset = at;
      at += pack_padded(std::min(tensor.bytes, kMaxPackBytes));
      if (at > kMaxPackBytes) return fail(ErrorCode::kUnsupported, "the model is larger than a pack can be");
    }
    segment.bytes = at - segment.offset;
  }
  header.file_bytes = at;
  header.identity = blake3(header_body(header).bytes());
  return {};
}

std::vector<std::uint8_t> encode_header(const PackHeader& header) {
  Writer w = header_body(header);
  HEARTH_CHECK(blake3(w.bytes()) == header.identity, "a header that was changed after it was placed");
  w.raw(header.identity);
  w.bytes().resize(pack_padded(w.bytes().size()));
  return std::move(w.bytes());
}

Result<std::uint32_t> header_bytes(std::span<const std::uint8_t> first, std::uint64_t file_bytes) {
  Reader r(first);
  const auto magic = r.raw("magic", kMagic.size());
  if (r.failed() || !std::ranges::equal(magic, kMagic))
    return fail(ErrorCode::kInvalidFile, "byte 0: this is no pack of hearth's");
  const auto version = r.number<std::uint32_t>("version");
  if (!r.failed() && version != kPackVersion)
    return fail(ErrorCode::kVersionMismatch, "pack version {}, this hearth reads {}", version, kPackVersion);
  const auto bytes = r.number<std::uint32_t>("size of the header", kFirstBytes + std::tuple_size_v<Digest>,
                                             kMaxPackHeaderBytes);
  r.expect(bytes <= file_bytes,
           std::format("the header has {} bytes but the file only {}", bytes, file_bytes));
  if (r.failed()) return r.error();
  return bytes;
}

Result<PackHeader> decode_header(std::span<const std::uint8_t> bytes, std::uint64_t file_bytes) {
  HEARTH_TRY(const std::uint32_t size,
             header_bytes(bytes.first(std::min(bytes.size(), kFirstBytes)), file_bytes));
  if (bytes.size() < size)
    return fail(ErrorCode::kInvalidFile, "byte {}: the header is cut off, it has {} bytes", bytes.size(),
                size);
  const auto body = bytes.first(size - std::tuple_size_v<Digest>);
  const Digest identity = blake3(body);
  if (!std::ranges::equal(identity, bytes.subspan(body.size(), identity.size())))
    return fail(ErrorCode::kInvalidFile, "the header does not have its checksum");

  Reader r(body);
  (void)r.raw("prefix", kFirstBytes);
  PackHeader h;
  h.identity = identity;
  h.file_bytes = r.number<std::uint64_t>("size of the file", 0, kMaxPackBytes);
  r.expect(h.file_bytes == file_bytes,
           std::format("the file has {} bytes, its header says {}", file_bytes, h.file_bytes));
  std::ranges::copy(r.raw("fingerprint", h.key.model.size()), h.key.model.begin());
  h.key.repack = r.number<std::uint32_t>("repack", 0, 1) == 1;
  h.key.ggml = r.text("version of ggml");
  h.key.cpu = r.text("CPU features");
  h.model_name = r.text("name of the model");
  std::vector<std::string> layouts(r.number<std::uint32_t>("number of layouts", 0, kMaxPackLayouts));
  for (std::string& layout : layouts) layout = r.text("name of a layout", 1);
  const auto n_segments = r.number<std::uint32_t>(
      "number of segments", 1,
      static_cast<std::uint32_t>(std::min<std::size_t>(r.left() / kSegmentBytes, 1U << 20)));
  std::uint64_t data_end = 0;
  for (std::uint32_t i = 0; i < n_segments && !r.failed(); ++i) {
    PackSegment s;
    s.id.kind = r.number<std::uint32_t>("kind of a segment", 1, 2) == 1 ? SegmentId::Kind::kLayer
                                                                        : SegmentId::Kind::kOutput;
    s.id.layer = r.number<std::uint32_t>("layer of a segment", 0, model::kMaxLayers - 1);
    r.expect(s.id.kind == SegmentId::Kind::kLayer || s.id.layer == 0, "the output head has a layer number");
    r.expect(h.segments.empty() || h.segments.back().id < s.id,
             "segments are not in order, or one is there twice");
    s.record_offset = r.number<std::uint64_t>("offset of a record", 0, kMaxPackBytes);
    s.offset = r.number<std::uint64_t>("offset of a segment", 0, kMaxPackBytes);
    s.bytes = r.number<std::uint64_t>("size of a segment", 0, kMaxPackBytes);
    const auto n_tensors =
        r.number<std::uint32_t>("number of tensors", 1, static_cast<std::uint32_t>(r.left() / kTensorBytes));
    std::uint64_t at = s.offset;
    for (std::uint32_t j = 0; j < n_tensors && !r.failed(); ++j) {
      PackTensor t = read_tensor(r, layouts, s.id);
      check_order(r, s.tensors.empty() ? nullptr : &s.tensors.back(), t);
      r.expect(t.offset == at, std::format("a tensor begins at {}, expected {}", t.offset, at));
      // A file of at most kMaxPackBytes; so `at` stays far below the end of 64 bits.
      at += pack_padded(t.bytes);
      r.expect(at <= file_bytes, std::format("a tensor ends at {}, the file at {}", at, file_bytes));
      if (!r.failed()) s.tensors.push_back(std::move(t));
    }
    r.expect(s.bytes == at - s.offset,
             std::format("a segment has {} bytes, its tensors {}", s.bytes, at - s.offset));
    r.expect(h.segments.empty() || s.offset == data_end,
             std::format("a segment begins at {}, expected {}", s.offset, data_end));
    data_end = at;
    if (!r.failed()) h.segments.push_back(std::move(s));
  }
  r.expect(r.left() == 0, std::format("{} bytes too many in the header", r.left()));
  if (r.failed()) return r.error();

  std::uint64_t at = pack_padded(size);
  for (const PackSegment& segment : h.segments) {
    r.expect(segment.record_offset == at, std::format("the record of {} is at {}, expected {}",
                                                      segment_text(segment.id), segment.record_offset, at));
    at += segment.record_bytes();
  }
  r.expect(h.segments.front().offset == at,
           std::format("the weights begin at {}, expected {}", h.segments.front().offset, at));
  r.expect(data_end == file_bytes,
           std::format("the weights end at {}, the file at {}", data_end, file_bytes));
  r.expect(std::ranges::equal(layouts_of(h), layouts),
           "layouts are listed that no tensor has, twice, or not in the order of their use");
  if (r.failed()) return r.error();
  return h;
}

std::vector<std::uint8_t> encode_record(const PackHeader& header, std::size_t index) {
  const PackSegment& segment = header.segments[index];
  Writer w;
  w.raw(kRecordMagic);
  w.number<std::uint32_t>(static_cast<std::uint32_t>(index));
  w.number<std::uint32_t>(static_cast<std::uint32_t>(segment.tensors.size()));
  w.number<std::uint64_t>(segment.source_sample);
  w.raw(segment.blake3);
  w.raw(header.identity);
  for (const PackTensor& tensor : segment.tensors) w.number<std::uint64_t>(tensor.xxh3);
  w.raw(blake3(w.bytes()));
  w.bytes().resize(segment.record_bytes());
  return std::move(w.bytes());
}

std::vector<std::uint8_t> open_record(const PackSegment& segment) {
  std::vector<std::uint8_t> bytes(segment.record_bytes());
  std::ranges::copy(kOpenRecordMagic, bytes.begin());
  return bytes;
}

Result<> decode_record(PackHeader& header, std::size_t index, std::span<const std::uint8_t> bytes) {
  PackSegment& segment = header.segments[index];
  segment.present = false;
  if (bytes.size() != segment.record_bytes())
    return fail(ErrorCode::kInvalidFile, "the record of {} is cut off", segment_text(segment.id));
  if (std::ranges::all_of(bytes, [](std::uint8_t byte) { return byte == 0; })) return {};
  const std::size_t body_bytes = kRecordFixedBytes + 8 * segment.tensors.size();
  const auto body = bytes.first(body_bytes);
  const auto rest = bytes.subspan(body_bytes);
  if (!std::ranges::equal(blake3(body), rest.first(std::tuple_size_v<Digest>)))
    return fail(ErrorCode::kInvalidFile, "the record of {} does not have its checksum",
                segment_text(segment.id));
  Reader r(body);
  r.expect(std::ranges::equal(r.raw("magic", kRecordMagic.size()), kRecordMagic), "the magic is wrong");
  r.expect(r.number<std::uint32_t>("index") == index, "it is that of another segment");
  r.expect(r.number<std::uint32_t>("tensors") == segment.tensors.size(), "it has another number of tensors");
  const auto sample = r.number<std::uint64_t>("sample");
  const auto digest = r.raw("hash", segment.blake3.size());
  r.expect(std::ranges::equal(r.raw("identity", std::tuple_size_v<Digest>), header.identity),
           "it is that of another pack");
  r.expect(
      std::ranges::all_of(rest.subspan(std::tuple_size_v<Digest>), [](std::uint8_t b) { return b == 0; }),
      "there are bytes after its checksum");
  if (r.failed())
    return fail(ErrorCode::kInvalidFile, "the record of {}: {}", segment_text(segment.id),
                r.error().error().message);
  segment.source_sample = sample;
  std::ranges::copy(digest, segment.blake3.begin());
  for (PackTensor& tensor : segment.tensors) tensor.xxh3 = r.number<std::uint64_t>("hash of a tensor");
  segment.present = true;
  return {};
}

std::string segment_text(SegmentId id) {
  switch (id.kind) {
    case SegmentId::Kind::kLayer:
      return std::format("layer {}", id.layer);
    case SegmentId::Kind::kOutput:
      return "output head";
    case SegmentId::Kind::kEmbedding:
      break;
  }
  return "embedding";
}

std::string key_difference(const PackKey& found, const PackKey& wanted) {
  if (found.model != wanted.model) return "it holds another model";
  if (found.ggml != wanted.ggml)
    return std::format("it was made with ggml {}, this is {}", found.ggml, wanted.ggml);
  if (found.cpu != wanted.cpu)
    return std::format("it was made for a CPU with {}, this is one with {}", found.cpu, wanted.cpu);
  if (found.repack != wanted.repack)
    return found.repack ? "it holds repacked weights, plain ones are wanted"
                        : "it holds plain weights, repacked ones are wanted";
  return "";
}

}  // namespace hearth::residency
