// PackSource: the tensors of a model file as the pack's makers read them: by positioned reads (a file that is
// cut short or a disk that fails is an error, not a signal), without leaving them in the page cache.
// One thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/os_file.h"
#include "base/result.h"
#include "model/model_file.h"

namespace hearth::residency {

class PackSource {
 public:
  // `model` must outlive it. Errors of InputFile::open.
  [[nodiscard]] static Result<PackSource> open(const model::ModelFile& model);

  // Bytes [begin, begin + bytes.size()) of the tensor. kIo; kInvalidFile when the file has become too short.
  [[nodiscard]] Result<> read(const gguf::Tensor& tensor, std::uint64_t begin,
                              std::span<std::uint8_t> bytes) const;

  // XXH3-64 over a part of the segment's tensors, in order: vectors whole, of matrices 4 KiB at the
  // beginning, in the middle and at the end. It tells a file whose weights were replaced while its header
  // stayed as it was, which the fingerprint does not. Costs a few dozen small reads.
  [[nodiscard]] Result<std::uint64_t> sample(model::SegmentId id) const;

  // Whether the model's files are still as when they were opened: kInvalidFile when somebody writes to one.
  [[nodiscard]] Result<> unchanged() const;

  [[nodiscard]] std::string path_of(const gguf::Tensor& tensor) const;

  PackSource(PackSource&&) = default;
  PackSource& operator=(PackSource&&) = default;
  // What was read ahead of what was read leaves the page cache, as that did.
  ~PackSource();

 private:
  explicit PackSource(const model::ModelFile& model) : model_(&model) {}
  const model::ModelFile* model_;
  std::vector<InputFile> files_;
  std::vector<FileState> states_;  // of each, when it was opened
};

}  // namespace hearth::residency
