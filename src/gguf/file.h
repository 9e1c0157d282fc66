// A hostile-safe view of a GGUF model file (versions 2 and 3, split files included).
//
// open() reads and validates every header byte before anything else uses it: after it succeeded, all names
// are unique and valid UTF-8, all numbers are within the limits of gguf/limits.h, every tensor has ne >= 1, a
// known type, an aligned offset and bytes that lie wholly inside its file. Tensor data is never read here.
// Immutable after open(); any thread may read.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/types.h"
#include "gguf/value.h"

namespace hearth::gguf {

struct Part;  // gguf/part.h

struct Tensor {
  std::string name;
  TensorType type;
  std::uint32_t n_dims;            // 1..4
  std::array<std::int64_t, 4> ne;  // ggml order: ne[0] is the contiguous dimension; unused ones are 1
  std::uint16_t file_index;        // which split file
  std::uint64_t offset;            // bytes from the start of that file
  std::uint64_t bytes;             // size of the data

  [[nodiscard]] std::int64_t n_values() const { return ne[0] * ne[1] * ne[2] * ne[3]; }
  [[nodiscard]] std::int64_t n_rows() const { return ne[1] * ne[2] * ne[3]; }
  [[nodiscard]] std::uint64_t row_bytes() const { return bytes / static_cast<std::uint64_t>(n_rows()); }
};

class File {
 public:
  // Opens `path`; when it is the first part "...-00001-of-000NN.gguf" of a split model, all parts. Metadata
  // are those of the first part, tensors those of all. Errors: kNotFound, kIo, kInvalidArgument (a directory
  // or device, a part that is not the first), kInvalidFile (what, at which byte, expected and got),
  // kUnsupported (version 1, big endian, unknown tensor type, nested arrays).
  [[nodiscard]] static Result<File> open(const std::filesystem::path& path);
  // Parses one complete header held in memory, as if it began a file of `file_bytes` bytes (fuzzing and
  // tests). Other parts of a split model are not looked for.
  [[nodiscard]] static Result<File> parse(std::span<const std::uint8_t> header, std::uint64_t file_bytes);

  [[nodiscard]] std::span<const Tensor> tensors() const { return tensors_; }
  [[nodiscard]] const Tensor* find_tensor(std::string_view name) const;
  // In file order.
  [[nodiscard]] std::span<const KeyValue> metadata() const { return metadata_; }
  [[nodiscard]] const Value* find(std::string_view key) const;

  // Typed reads. kInvalidFile when the key is missing or of another type (any integer type that fits is
  // accepted; f32 accepts f64 in range, and refuses NaN and Inf). The optional forms return nullopt when the
  // key is missing and an error when it has the wrong type.
  [[nodiscard]] Result<std::uint32_t> u32(std::string_view key) const;
  [[nodiscard]] Result<float> f32(std::string_view key) const;
  [[nodiscard]] Result<std::string_view> string(std::string_view key) const;
  [[nodiscard]] Result<std::optional<std::uint32_t>> optional_u32(std::string_view key) const;
  [[nodiscard]] Result<std::optional<float>> optional_f32(std::string_view key) const;
  [[nodiscard]] Result<std::optional<bool>> optional_bool(std::string_view key) const;
  [[nodiscard]] Result<std::optional<std::string_view>> optional_string(std::string_view key) const;

  [[nodiscard]] std::span<const std::filesystem::path> paths() const { return paths_; }
  [[nodiscard]] std::uint32_t version() const { return version_; }
  // Sum of the tensors' bytes.
  [[nodiscard]] std::uint64_t tensor_bytes() const;
  // BLAKE3 over all headers (metadata and tensor tables of all parts) and the parts' sizes: two devices hold
  // the same model, split the same way, when it is equal. It does not prove that the tensor data are equal.
  [[nodiscard]] const std::array<std::uint8_t, 32>& fingerprint() const { return fingerprint_; }

 private:
  // A File of one part; `path` may be empty.
  [[nodiscard]] static Result<File> from_part(Part part, const std::filesystem::path& path);
  // Part `index` (0-based) of `count`, which must say so itself.
  [[nodiscard]] static Result<File> open_part(const std::filesystem::path& path, std::uint32_t index,
                                              std::uint32_t count, std::uint32_t n_tensors);
  // Adds the tensors of parts 1 .. count - 1 to those of part 0.
  [[nodiscard]] Result<> open_other_parts(std::uint32_t count);
  // Fills tensors_by_name_; an error when a name appears twice.
  [[nodiscard]] Result<> index_tensors();
  // What messages call file `file_index`.
  [[nodiscard]] std::string label(std::size_t file_index) const;
  template <class T>
  [[nodiscard]] Result<T> required(std::string_view key, Result<std::optional<T>> value) const;
  [[nodiscard]] std::unexpected<Error> wrong_type(std::string_view key, const Value& value,
                                                  std::string_view expected) const;

  std::vector<std::filesystem::path> paths_;
  std::uint32_t version_ = 0;
  std::vector<KeyValue> metadata_;
  std::vector<Tensor> tensors_;
  std::vector<std::uint32_t> tensors_by_name_;  // indices, sorted by name
  std::vector<std::uint32_t> metadata_by_key_;  // indices, sorted by key
  std::array<std::uint8_t, 32> fingerprint_{};
};

}  // namespace hearth::gguf
