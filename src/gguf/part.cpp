#include "gguf/part.h"

#include <algorithm>
#include <bit>
#include <concepts>
#include <format>
#include <limits>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>

#include <blake3.h>

#include "base/text.h"
#include "gguf/limits.h"

namespace hearth::gguf {
namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
// The least bytes an entry takes in the file: what a count is judged by before memory is taken for it.
constexpr std::uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;  // length, one letter, type, a u8
constexpr std::uint64_t kMinTensorBytes =
    8 + 1 + 4 + 8 + 4 + 8;  // length, one letter, n_dims, ne[0], type, offset
constexpr std::uint64_t kMinStringBytes = 8;

struct Counts {
  std::uint64_t tensors;
  std::uint64_t keys;
};

// What a file that is no GGUF most likely is; empty when unknown.
std::string_view guess(std::string_view start) {
  constexpr std::pair<std::string_view, std::string_view> kKnown[] = {
      {"vers", "this looks like a Git LFS pointer: the model itself was not downloaded"},
      {"<!DO", "this is a web page: download the file itself, not the page about it"},
      {"<htm", "this is a web page: download the file itself, not the page about it"},
      {"PK\x03\x04", "this is a zip archive or a PyTorch file: convert it to GGUF first"},
      {"tjgg", "this is the older ggjt format: get a GGUF of the model"},
      {"lmgg", "this is the older ggml format: get a GGUF of the model"},
      {"fmgg", "this is the older ggmf format: get a GGUF of the model"},
      {"FUGG", "this is a GGUF with its bytes swapped"},
  };
  for (const auto& [magic, meaning] : kKnown)
    if (start == magic) return meaning;
  return "is it another format, or an incomplete download?";
}

Result<std::uint32_t> read_magic_and_version(HeaderReader& reader) {
  if (reader.file_bytes() == 0)
    return reader.error(ErrorCode::kInvalidFile, 0, "the file is empty, expected a GGUF header");
  HEARTH_TRY(const auto magic_bytes, reader.take(4, "the magic"));
  const std::string_view magic(reinterpret_cast<const char*>(magic_bytes.data()), 4);
  if (HeaderReader::decode<std::uint32_t>(magic_bytes.data()) != kMagic)
    return reader.error(ErrorCode::kInvalidFile, 0, "not a GGUF file: expected the magic 'GGUF', got {}; {}",
                        quote(magic), guess(magic));
  HEARTH_TRY(const auto version, reader.number<std::uint32_t>("the version"));
  if (version == 2 || version == 3) return version;
  if (version == 1)
    return reader.error(ErrorCode::kUnsupported, 4,
                        "GGUF version 1 (2023) is not supported, expected 2 or 3; convert the model again");
  const std::uint32_t swapped = std::byteswap(version);
  if (swapped >= 1 && swapped <= 3)
    return reader.error(
        ErrorCode::kUnsupported, 4,
        "GGUF version {} in big-endian byte order is not supported; get the little-endian file", swapped);
  if (version == 0) return reader.error(ErrorCode::kInvalidFile, 4, "GGUF version is 0, expected 2 or 3");
  return reader.error(ErrorCode::kUnsupported, 4,
                      "GGUF version {} is not supported, expected 2 or 3; a newer hearth may read it",
                      version);
}

Result<Counts> read_counts(HeaderReader& reader) {
  Counts counts;
  HEARTH_TRY(counts.tensors, reader.number<std::uint64_t>("the tensor count"));
  if (counts.tensors > kMaxTensors)
    return reader.error(ErrorCode::kInvalidFile, reader.position() - 8,
                        "the tensor count is {}, expected at most {}", counts.tensors, kMaxTensors);
  HEARTH_TRY(counts.keys, reader.number<std::uint64_t>("the key count"));
  if (counts.keys > kMaxKeys)
    return reader.error(ErrorCode::kInvalidFile, reader.position() - 8,
                        "the key count is {}, expected at most {}", counts.keys, kMaxKeys);
  // The sum cannot overflow: both counts are bounded.
  const std::uint64_t least_bytes = counts.keys * kMinKeyBytes + counts.tensors * kMinTensorBytes;
  HEARTH_TRY_VOID(reader.expect(
      least_bytes, 1, std::format("a header of {} keys and {} tensors", counts.keys, counts.tensors)));
  return counts;
}

// A key or tensor name: 1 to `max_bytes` bytes of UTF-8 without control characters. Those are refused because
// a zero byte would make two names equal to libraries that use C strings, and the rest could fake lines in a
// log.
Result<std::string> read_name(HeaderReader& reader, std::uint64_t max_bytes, const std::string& what) {
  const std::uint64_t at = reader.position();
  HEARTH_TRY(const auto name, reader.string(max_bytes, what));
  if (name.empty()) return reader.error(ErrorCode::kInvalidFile, at, "{} is empty", what);
  if (!is_valid_utf8(name))
    return reader.error(ErrorCode::kInvalidFile, at, "{} is not valid UTF-8: {}", what, quote(name));
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  if (std::ranges::any_of(name, is_control))
    return reader.error(ErrorCode::kInvalidFile, at, "{} has a control character: {}", what, quote(name));
  return std::string(name);
}

Result<bool> read_bool(HeaderReader& reader, std::string_view what) {
  HEARTH_TRY(const auto byte, reader.number<std::uint8_t>(what));
  if (byte > 1)
    return reader.error(ErrorCode::kInvalidFile, reader.position() - 1,
                        "{} is a bool with value {}, expected 0 or 1", what, byte);
  return byte == 1;
}

template <class T>
Result<Value> read_scalar_array(HeaderReader& reader, std::uint64_t count, std::string_view what) {
  HEARTH_TRY_VOID(reader.expect(count, sizeof(T), what));
  HEARTH_TRY(const auto bytes, reader.take(count * sizeof(T), what));
  std::vector<T> values(count);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = HeaderReader::decode<T>(&bytes[i * sizeof(T)]);
  return Value(std::move(values));
}

Result<Value> read_bool_array(HeaderReader& reader, std::uint64_t count, std::string_view what) {
  HEARTH_TRY_VOID(reader.expect(count, 1, what));
  std::vector<bool> values(count);
  for (std::size_t i = 0; i < values.size(); ++i) {
    HEARTH_TRY(const bool value, read_bool(reader, what));
    values[i] = value;
  }
  return Value(std::move(values));
}

Result<Value> read_string_array(HeaderReader& reader, std::uint64_t count, std::string_view what) {
  HEARTH_TRY_VOID(reader.expect(count, kMinStringBytes, what));
  StringArray values;
  values.reserve(count);
  const std::string what_string = std::format("a string of {}", what);
  for (std::uint64_t i = 0; i < count; ++i) {
    HEARTH_TRY(const auto text, reader.string(kMaxStringBytes, what_string));
    values.push_back(text);
  }
  values.shrink_to_fit();
  return Value(std::move(values));
}

Result<Value> read_array(HeaderReader& reader, std::string_view what) {
  const std::uint64_t at = reader.position();
  HEARTH_TRY(const auto type, reader.number<std::uint32_t>(what));
  HEARTH_TRY(const auto count, reader.number<std::uint64_t>(what));
  switch (static_cast<ValueType>(type)) {
    case ValueType::kU8:
      return read_scalar_array<std::uint8_t>(reader, count, what);
    case ValueType::kI8:
      return read_scalar_array<std::int8_t>(reader, count, what);
    case ValueType::kU16:
      return read_scalar_array<std::uint16_t>(reader, count, what);
    case ValueType::kI16:
      return read_scalar_array<std::int16_t>(reader, count, what);
    case ValueType::kU32:
      return read_scalar_array<std::uint32_t>(reader, count, what);
    case ValueType::kI32:
      return read_scalar_array<std::int32_t>(reader, count, what);
    case ValueType::kU64:
      return read_scalar_array<std::uint64_t>(reader, count, what);
    case ValueType::kI64:
      return read_scalar_array<std::int64_t>(reader, count, what);
    case ValueType::kF32:
      return read_scalar_array<float>(reader, count, what);
    case ValueType::kF64:
      return read_scalar_array<double>(reader, count, what);
    case ValueType::kBool:
      return read_bool_array(reader, count, what);
    case ValueType::kString:
      return read_string_array(reader, count, what);
    case ValueType::kArray:
      return reader.error(ErrorCode::kUnsupported, at, "{} is an array of arrays, which hearth does not read",
                          what);
  }
  return reader.error(ErrorCode::kInvalidFile, at, "{} is an array of unknown type {}, expected 0 to 12",
                      what, type);
}

template <class T>
Result<Value> read_scalar(HeaderReader& reader, std::string_view what) {
  HEARTH_TRY(const auto value, reader.number<T>(what));
  return Value(value);
}

Result<Value> read_value(HeaderReader& reader, std::string_view what) {
  const std::uint64_t at = reader.position();
  HEARTH_TRY(const auto type, reader.number<std::uint32_t>(what));
  switch (static_cast<ValueType>(type)) {
    case ValueType::kU8:
      return read_scalar<std::uint8_t>(reader, what);
    case ValueType::kI8:
      return read_scalar<std::int8_t>(reader, what);
    case ValueType::kU16:
      return read_scalar<std::uint16_t>(reader, what);
    case ValueType::kI16:
      return read_scalar<std::int16_t>(reader, what);
    case ValueType::kU32:
      return read_scalar<std::uint32_t>(reader, what);
    case ValueType::kI32:
      return read_scalar<std::int32_t>(reader, what);
    case ValueType::kU64:
      return read_scalar<std::uint64_t>(reader, what);
    case ValueType::kI64:
      return read_scalar<std::int64_t>(reader, what);
    case ValueType::kF32:
      return read_scalar<float>(reader, what);
    case ValueType::kF64:
      return read_scalar<double>(reader, what);
    case ValueType::kBool: {
      HEARTH_TRY(const bool value, read_bool(reader, what));
      return Value(value);
    }
    case ValueType::kString: {
      HEARTH_TRY(const auto text, reader.string(kMaxStringBytes, what));
      return Value(std::string(text));
    }
    case ValueType::kArray:
      return read_array(reader, what);
  }
  return reader.error(ErrorCode::kInvalidFile, at, "{} has unknown type {}, expected 0 to 12", what, type);
}

// general.alignment, where it is given, else the default. `at` is where its value stands.
Result<std::uint32_t> judge_alignment(const HeaderReader& reader, std::uint64_t at, const Value& value) {
  const auto* alignment = std::get_if<std::uint32_t>(&value);
  if (alignment == nullptr)
    return reader.error(ErrorCode::kInvalidFile, at, "key 'general.alignment' has type {}, expected u32",
                        type_name(value));
  if (!std::has_single_bit(*alignment) || *alignment < kMinAlignment || *alignment > kMaxAlignment)
    return reader.error(ErrorCode::kInvalidFile, at,
                        "key 'general.alignment' is {}, expected a power of two from {} to {}", *alignment,
                        kMinAlignment, kMaxAlignment);
  return *alignment;
}

// Fills ne and n_dims. All products up to the count of values fit an int64.
Result<> read_shape(HeaderReader& reader, const std::string& what, Tensor& tensor) {
  const std::uint64_t at = reader.position();
  HEARTH_TRY(tensor.n_dims, reader.number<std::uint32_t>(what));
  if (tensor.n_dims < 1 || tensor.n_dims > kMaxDims)
    return reader.error(ErrorCode::kInvalidFile, at, "{} has {} dimensions, expected 1 to {}", what,
                        tensor.n_dims, kMaxDims);
  tensor.ne = {1, 1, 1, 1};
  std::int64_t n_values = 1;
  for (std::uint32_t i = 0; i < tensor.n_dims; ++i) {
    const std::uint64_t ne_at = reader.position();
    HEARTH_TRY(const auto ne, reader.number<std::int64_t>(what));
    if (ne < 1)
      return reader.error(ErrorCode::kInvalidFile, ne_at, "{} has ne[{}] = {}, expected >= 1", what, i, ne);
    if (ne > std::numeric_limits<std::int64_t>::max() / n_values)
      return reader.error(ErrorCode::kInvalidFile, ne_at,
                          "{} has ne[{}] = {}: more values than 63 bits can count", what, i, ne);
    n_values *= ne;
    tensor.ne[i] = ne;
  }
  return {};
}

Result<> read_type(HeaderReader& reader, const std::string& what, Tensor& tensor) {
  const std::uint64_t at = reader.position();
  HEARTH_TRY(const auto type, reader.number<std::uint32_t>(what));
  const TypeInfo* info = type_info(type);
  if (info == nullptr)
    return reader.error(
        ErrorCode::kUnsupported, at,
        "{} has type {}, which hearth does not know (removed from the format, or newer than this "
        "build); get the model in another quantization",
        what, type);
  tensor.type = static_cast<TensorType>(type);
  if (tensor.ne[0] % info->block_values != 0)
    return reader.error(ErrorCode::kInvalidFile, at,
                        "{} has rows of {} values, expected a multiple of {} for type {}", what, tensor.ne[0],
                        info->block_values, info->name);
  const auto n_blocks = static_cast<std::uint64_t>(tensor.n_values() / info->block_values);
  if (n_blocks > std::numeric_limits<std::uint64_t>::max() / info->block_bytes)
    return reader.error(ErrorCode::kInvalidFile, at,
                        "{} has {} values of type {}: more bytes than 64 bits can count", what,
                        tensor.n_values(), info->name);
  tensor.bytes = n_blocks * info->block_bytes;
  return {};
}

// `tensor.offset` counts from the start of the data section until place_tensors().
Result<Tensor> read_tensor(HeaderReader& reader, std::uint64_t index, std::uint32_t alignment) {
  Tensor tensor{};
  HEARTH_TRY(tensor.name,
             read_name(reader, kMaxTensorNameBytes, std::format("the name of tensor {}", index)));
  const std::string what = "tensor " + quote(tensor.name);
  HEARTH_TRY_VOID(read_shape(reader, what, tensor));
  HEARTH_TRY_VOID(read_type(reader, what, tensor));
  const std::uint64_t at = reader.position();
  HEARTH_TRY(tensor.offset, reader.number<std::uint64_t>(what));
  if (tensor.offset % alignment != 0)
    return reader.error(ErrorCode::kInvalidFile, at,
                        "{} has offset {}, expected a multiple of the alignment {}", what, tensor.offset,
                        alignment);
  return tensor;
}

// Turns offsets into bytes from the start of the file; every tensor must lie inside it, and no two overlap.
Result<> place_tensors(const HeaderReader& reader, std::uint64_t data_begin, std::vector<Tensor>& tensors) {
  const std::uint64_t file_bytes = reader.file_bytes();
  const std::uint64_t data_bytes = file_bytes > data_begin ? file_bytes - data_begin : 0;
  for (Tensor& tensor : tensors) {
    if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset)
      return reader.error(
          ErrorCode::kInvalidFile, data_begin,
          "tensor {} takes {} bytes at offset {} of the data, but the file has {} bytes of data; it is "
          "damaged or incomplete, fetch it again",
          quote(tensor.name), tensor.bytes, tensor.offset, data_bytes);
    tensor.offset += data_begin;
  }
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::sort(order, {}, [&](std::uint32_t i) { return tensors[i].offset; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const Tensor& before = tensors[order[i - 1]];
    const Tensor& after = tensors[order[i]];
    if (after.offset - before.offset < before.bytes)
      return reader.error(ErrorCode::kInvalidFile, after.offset,
                          "tensor {} overlaps tensor {}, which ends at byte {}", quote(after.name),
                          quote(before.name), before.offset + before.bytes);
  }
  return {};
}

std::array<std::uint8_t, 32> fingerprint(const HeaderReader& reader) {
  std::array<std::uint8_t, 8> size;
  for (std::size_t i = 0; i < size.size(); ++i)
    size[i] = static_cast<std::uint8_t>(reader.file_bytes() >> (8 * i));
  const auto header = reader.bytes_read();
  std::array<std::uint8_t, 32> hash;
  blake3_hasher hasher;
  blake3_hasher_init(&hasher);
  blake3_hasher_update(&hasher, size.data(), size.size());
  blake3_hasher_update(&hasher, header.data(), header.size());
  blake3_hasher_finalize(&hasher, hash.data(), hash.size());
  return hash;
}

}  // namespace

Result<Part> parse_part(HeaderReader& reader) {
  Part part;
  HEARTH_TRY(part.version, read_magic_and_version(reader));
  HEARTH_TRY(const auto counts, read_counts(reader));

  std::uint32_t alignment = kDefaultAlignment;
  part.metadata.reserve(counts.keys);
  for (std::uint64_t i = 0; i < counts.keys; ++i) {
    KeyValue entry;
    HEARTH_TRY(entry.key, read_name(reader, kMaxKeyBytes, std::format("key {}", i)));
    const std::uint64_t at = reader.position();
    HEARTH_TRY(entry.value, read_value(reader, "key " + quote(entry.key)));
    if (entry.key == "general.alignment") {
      HEARTH_TRY(alignment, judge_alignment(reader, at, entry.value));
    }
    part.metadata.push_back(std::move(entry));
  }

  part.tensors.reserve(counts.tensors);
  for (std::uint64_t i = 0; i < counts.tensors; ++i) {
    HEARTH_TRY(auto tensor, read_tensor(reader, i, alignment));
    part.tensors.push_back(std::move(tensor));
  }

  part.fingerprint = fingerprint(reader);
  // The header's end is at most kMaxHeaderBytes, so rounding up cannot overflow.
  const std::uint64_t data_begin = (reader.position() + alignment - 1) / alignment * alignment;
  HEARTH_TRY_VOID(place_tensors(reader, data_begin, part.tensors));
  return part;
}

}  // namespace hearth::gguf
