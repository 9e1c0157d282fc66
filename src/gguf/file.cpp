#include "gguf/file.h"

#include <algorithm>
#include <cmath>
#include <concepts>
#include <format>
#include <limits>
#include <numeric>
#include <utility>

#include <blake3.h>

#include "base/os_file.h"
#include "base/text.h"
#include "gguf/limits.h"
#include "gguf/part.h"
#include "gguf/reader.h"

namespace hearth::gguf {
namespace {

constexpr std::string_view kSplitNo = "split.no";
constexpr std::string_view kSplitCount = "split.count";
constexpr std::string_view kSplitTensors = "split.tensors.count";

template <class NameOf>
std::vector<std::uint32_t> sorted_indices(std::size_t n, NameOf name_of) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0U);
  // Stable: of two equal names the first in the file comes first, and messages can say which is which.
  std::ranges::stable_sort(order, {}, name_of);
  return order;
}

// "dir/model-00002-of-00003.gguf" taken apart.
struct SplitName {
  std::filesystem::path stem;  // "dir/model"
  std::uint32_t number;        // 1-based
  std::uint32_t count;
};

std::optional<std::uint32_t> five_digits(std::string_view text) {
  std::uint32_t number = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + static_cast<std::uint32_t>(c - '0');
  }
  return number;
}

std::optional<SplitName> split_name(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  constexpr std::string_view kShape = "-00000-of-00000.gguf";
  if (name.size() <= kShape.size()) return std::nullopt;
  const std::string_view tail = std::string_view(name).substr(name.size() - kShape.size());
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf") return std::nullopt;
  const auto number = five_digits(tail.substr(1, 5));
  const auto count = five_digits(tail.substr(10, 5));
  if (!number || !count) return std::nullopt;
  return SplitName{path.parent_path() / name.substr(0, name.size() - kShape.size()), *number, *count};
}

std::filesystem::path part_path(const SplitName& split, std::uint32_t number, std::uint32_t count) {
  std::filesystem::path path = split.stem;
  path += std::format("-{:05}-of-{:05}.gguf", number, count);
  return path;
}

Result<Part> read_part(const std::filesystem::path& path) {
  HEARTH_TRY(const auto file, InputFile::open(path));
  HeaderReader reader(file, path.string());
  return parse_part(reader);
}

}  // namespace

Result<File> File::open(const std::filesystem::path& path) {
  HEARTH_TRY(auto first, read_part(path));
  HEARTH_TRY(auto file, from_part(std::move(first), path));
  HEARTH_TRY(const auto count, file.optional_u32(kSplitCount));
  // Merging a split model leaves the key behind with the value 0.
  if (count.value_or(0) > 1) HEARTH_TRY_VOID(file.open_other_parts(*count));
  return file;
}

Result<File> File::parse(std::span<const std::uint8_t> header, std::uint64_t file_bytes) {
  HeaderReader reader(header, file_bytes, "GGUF header");
  HEARTH_TRY(auto part, parse_part(reader));
  return from_part(std::move(part), {});
}

Result<File> File::from_part(Part part, const std::filesystem::path& path) {
  File file;
  if (!path.empty()) file.paths_.push_back(path);
  file.version_ = part.version;
  file.fingerprint_ = part.fingerprint;
  file.metadata_ = std::move(part.metadata);
  file.tensors_ = std::move(part.tensors);
  const auto key_of = [&](std::uint32_t i) -> const std::string& { return file.metadata_[i].key; };
  file.metadata_by_key_ = sorted_indices(file.metadata_.size(), key_of);
  const auto twice = std::ranges::adjacent_find(file.metadata_by_key_, {}, key_of);
  if (twice != file.metadata_by_key_.end())
    return fail(ErrorCode::kInvalidFile, "{}: key {} appears twice, as entries {} and {}; expected it once",
                file.label(0), quote(key_of(twice[0])), twice[0], twice[1]);
  HEARTH_TRY_VOID(file.index_tensors());
  return file;
}

Result<> File::index_tensors() {
  const auto name_of = [&](std::uint32_t i) -> const std::string& { return tensors_[i].name; };
  tensors_by_name_ = sorted_indices(tensors_.size(), name_of);
  const auto twice = std::ranges::adjacent_find(tensors_by_name_, {}, name_of);
  if (twice == tensors_by_name_.end()) return {};
  const Tensor& first = tensors_[twice[0]];
  const Tensor& second = tensors_[twice[1]];
  return fail(ErrorCode::kInvalidFile,
              "{}: tensor {} appears twice, at byte {}{} and at byte {}; expected it once",
              label(second.file_index), quote(first.name), first.offset,
              first.file_index == second.file_index ? "" : " of " + label(first.file_index), second.offset);
}

Result<File> File::open_part(const std::filesystem::path& path, std::uint32_t index, std::uint32_t count,
                             std::uint32_t n_tensors) {
  auto part = read_part(path);
  if (!part && part.error().code == ErrorCode::kNotFound)
    return fail(ErrorCode::kNotFound,
                "{}: part {} of {} of the split model is missing; all parts must be in one folder",
                path.string(), index + 1, count);
  if (!part) return pass(std::move(part));
  HEARTH_TRY(auto file, from_part(std::move(*part), path));
  const std::pair<std::string_view, std::uint32_t> kExpected[] = {
      {kSplitNo, index}, {kSplitCount, count}, {kSplitTensors, n_tensors}};
  for (const auto& [key, expected] : kExpected) {
    HEARTH_TRY(const auto got, file.u32(key));
    if (got != expected)
      return fail(ErrorCode::kInvalidFile,
                  "{}: key '{}' is {}, expected {} in part {} of {}; are the parts of one model?",
                  path.string(), key, got, expected, index + 1, count);
  }
  return file;
}

Result<> File::open_other_parts(std::uint32_t count) {
  const std::string name = paths_[0].string();
  if (count > kMaxParts)
    return fail(ErrorCode::kInvalidFile, "{}: key 'split.count' is {}, expected at most {}", name, count,
                kMaxParts);
  HEARTH_TRY(const auto number, u32(kSplitNo));
  HEARTH_TRY(const auto n_tensors, u32(kSplitTensors));
  const auto split = split_name(paths_[0]);
  if (number >= count)
    return fail(ErrorCode::kInvalidFile, "{}: key 'split.no' is {}, expected less than 'split.count', {}",
                name, number, count);
  if (number != 0)
    return fail(ErrorCode::kInvalidArgument,
                "{}: this is part {} of {} of a split model; open the first part, {}", name, number + 1,
                count,
                split ? part_path(*split, 1, count).string() : std::format("...-00001-of-{:05}.gguf", count));
  if (!split || split->number != 1 || split->count != count)
    return fail(ErrorCode::kInvalidFile,
                "{}: this is part 1 of {} of a split model, so its name must end in -00001-of-{:05}.gguf for "
                "the other "
                "parts to be found; give all parts the names they came with",
                name, count, count);

  blake3_hasher hasher;
  blake3_hasher_init(&hasher);
  blake3_hasher_update(&hasher, fingerprint_.data(), fingerprint_.size());
  for (std::uint32_t i = 1; i < count && tensors_.size() <= n_tensors; ++i) {
    HEARTH_TRY(auto part, open_part(part_path(*split, i + 1, count), i, count, n_tensors));
    blake3_hasher_update(&hasher, part.fingerprint_.data(), part.fingerprint_.size());
    paths_.push_back(std::move(part.paths_[0]));
    for (Tensor& tensor : part.tensors_) {
      tensor.file_index = static_cast<std::uint16_t>(i);
      tensors_.push_back(std::move(tensor));
    }
  }
  blake3_hasher_finalize(&hasher, fingerprint_.data(), fingerprint_.size());
  if (tensors_.size() != n_tensors)
    return fail(ErrorCode::kInvalidFile,
                "{}: {} of {} parts have {} tensors, expected the {} of 'split.tensors.count'", name,
                paths_.size(), count, tensors_.size(), n_tensors);
  return index_tensors();
}

std::string File::label(std::size_t file_index) const {
  return paths_.empty() ? "GGUF header" : paths_[file_index].string();
}

const Tensor* File::find_tensor(std::string_view name) const {
  const auto name_of = [&](std::uint32_t i) -> std::string_view { return tensors_[i].name; };
  const auto found = std::ranges::lower_bound(tensors_by_name_, name, {}, name_of);
  if (found == tensors_by_name_.end() || name_of(*found) != name) return nullptr;
  return &tensors_[*found];
}

const Value* File::find(std::string_view key) const {
  const auto key_of = [&](std::uint32_t i) -> std::string_view { return metadata_[i].key; };
  const auto found = std::ranges::lower_bound(metadata_by_key_, key, {}, key_of);
  if (found == metadata_by_key_.end() || key_of(*found) != key) return nullptr;
  return &metadata_[*found].value;
}

std::uint64_t File::tensor_bytes() const {
  // Cannot overflow: tensors lie side by side in files.
  std::uint64_t bytes = 0;
  for (const Tensor& tensor : tensors_) bytes += tensor.bytes;
  return bytes;
}

template <class T>
Result<T> File::required(std::string_view key, Result<std::optional<T>> value) const {
  if (!value) return pass(std::move(value));
  if (!*value) return fail(ErrorCode::kInvalidFile, "{}: key {} is missing", label(0), quote(key));
  return **value;
}

Result<std::uint32_t> File::u32(std::string_view key) const {
  return required(key, optional_u32(key));
}
Result<float> File::f32(std::string_view key) const {
  return required(key, optional_f32(key));
}
Result<std::string_view> File::string(std::string_view key) const {
  return required(key, optional_string(key));
}

Result<std::optional<std::uint32_t>> File::optional_u32(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [&]<class T>(const T& held) -> Result<std::optional<std::uint32_t>> {
        if constexpr (std::integral<T> && !std::same_as<T, bool>) {
          if (std::in_range<std::uint32_t>(held)) return static_cast<std::uint32_t>(held);
          return fail(ErrorCode::kInvalidFile, "{}: key {} is {}, expected 0 to {}", label(0), quote(key),
                      held, std::numeric_limits<std::uint32_t>::max());
        } else {
          return wrong_type(key, *value, "an integer");
        }
      },
      *value);
}

Result<std::optional<float>> File::optional_f32(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  double number;
  if (const auto* as_float = std::get_if<float>(value))
    number = *as_float;
  else if (const auto* as_double = std::get_if<double>(value))
    number = *as_double;
  else
    return wrong_type(key, *value, "f32");
  // Also refuses NaN and Inf: no hyper-parameter is one, and they would spread through a whole model.
  if (!(std::abs(number) <= std::numeric_limits<float>::max()))
    return fail(ErrorCode::kInvalidFile, "{}: key {} is {}, expected a finite number that fits f32", label(0),
                quote(key), number);
  return static_cast<float>(number);
}

Result<std::optional<bool>> File::optional_bool(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* held = std::get_if<bool>(value)) return *held;
  return wrong_type(key, *value, "bool");
}

Result<std::optional<std::string_view>> File::optional_string(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* held = std::get_if<std::string>(value)) return std::string_view(*held);
  return wrong_type(key, *value, "string");
}

std::unexpected<Error> File::wrong_type(std::string_view key, const Value& value,
                                        std::string_view expected) const {
  return fail(ErrorCode::kInvalidFile, "{}: key {} has type {}, expected {}", label(0), quote(key),
              type_name(value), expected);
}

}  // namespace hearth::gguf
