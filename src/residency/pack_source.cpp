#include "residency/pack_source.h"

#include <algorithm>
#include <array>

#include <fcntl.h>

#include "residency/pack_hash.h"

namespace hearth::residency {

Result<PackSource> PackSource::open(const model::ModelFile& model) {
  PackSource source(model);
  for (const auto& path : model.file().paths()) {
    HEARTH_TRY(InputFile file, InputFile::open(path));
    source.states_.push_back(file.state());
    source.files_.push_back(std::move(file));
  }
  return source;
}

PackSource::~PackSource() {
  for (const InputFile& file : files_) (void)::posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_DONTNEED);
}

Result<> PackSource::unchanged() const {
  for (std::size_t i = 0; i < files_.size(); ++i)
    if (files_[i].state() != states_[i])
      return fail(ErrorCode::kInvalidFile,
                  "{}: was written to while it was packed: is it still being fetched? Start again when it is "
                  "complete",
                  files_[i].path().string());
  return {};
}

std::string PackSource::path_of(const gguf::Tensor& tensor) const {
  return model_->file().paths()[tensor.file_index].string();
}

Result<> PackSource::read(const gguf::Tensor& tensor, std::uint64_t begin,
                          std::span<std::uint8_t> bytes) const {
  HEARTH_CHECK(begin <= tensor.bytes && bytes.size() <= tensor.bytes - begin, "a read past the tensor");
  const InputFile& file = files_[tensor.file_index];
  if (tensor.offset + tensor.bytes > file.size())
    return fail(
        ErrorCode::kInvalidFile,
        "{}: tensor '{}' ends at byte {} but the file has {} now: it was cut short after it was opened; "
        "fetch it again",
        path_of(tensor), tensor.name, tensor.offset + tensor.bytes, file.size());
  HEARTH_TRY_VOID(file.read_at(tensor.offset + begin, bytes));
  // Read once, not needed again; pages that somebody has mapped stay.
  (void)::posix_fadvise(file.descriptor(), static_cast<off_t>(tensor.offset + begin),
                        static_cast<off_t>(bytes.size()), POSIX_FADV_DONTNEED);
  return {};
}

Result<std::uint64_t> PackSource::sample(model::SegmentId id) const {
  constexpr std::uint64_t kPiece = 4096;
  Xxh3 hash;
  std::vector<std::uint8_t> bytes;
  const auto add = [&](const gguf::Tensor& tensor, std::uint64_t begin, std::uint64_t n) -> Result<> {
    bytes.resize(n);
    HEARTH_TRY_VOID(read(tensor, begin, bytes));
    hash.add(bytes);
    return {};
  };
  for (const model::SegmentTensor& t : model_->segment(id)) {
    const std::uint64_t all = t.tensor->bytes;
    if (model::is_vector(t.role) || all <= 3 * kPiece) {
      HEARTH_TRY_VOID(add(*t.tensor, 0, all));
      continue;
    }
    for (const std::uint64_t begin : {std::uint64_t{0}, (all - kPiece) / 2, all - kPiece})
      HEARTH_TRY_VOID(add(*t.tensor, begin, kPiece));
  }
  return hash.digest();
}

}  // namespace hearth::residency
