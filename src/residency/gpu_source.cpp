#include "residency/gpu_source.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/os_file.h"
#include "base/units.h"
#include "residency/ggml_tensors.h"
#include "residency/vector_check.h"

namespace hearth::residency {
namespace {

// Through memory of the processor, so many bytes at once.
constexpr std::size_t kPieceBytes = GpuSource::kLoadBytes / 2;

// The segments' tensors, without data, each once: RoPE factors are in every layer.
struct Declared {
  ContextPtr ctx;
  std::map<const gguf::Tensor*, ggml_tensor*> tensors;
};

Declared declare_all(const model::ModelFile& model, std::span<const model::SegmentId> segments) {
  Declared declared;
  std::size_t n_tensors = 0;
  for (const model::SegmentId id : segments) n_tensors += model.segment(id).size();
  declared.ctx = make_context(n_tensors);
  for (const model::SegmentId id : segments)
    for (const model::SegmentTensor& tensor : model.segment(id))
      if (ggml_tensor*& slot = declared.tensors[tensor.tensor]; slot == nullptr)
        slot = declare(declared.ctx.get(), *tensor.tensor);
  return declared;
}

// Copies tensors of the model to the GPU.
class Upload {
 public:
  Upload(const model::ModelFile& model, const LoadOptions& options, std::uint64_t total)
      : model_(model), options_(options), total_(total), files_(model.file().paths().size()) {}

  Result<> copy(const model::SegmentTensor& from, ggml_tensor* to) {
    const gguf::Tensor& source = *from.tensor;
    HEARTH_TRY(const OpenFile* file, open(source.file_index));
    const std::string path = file->file.path().string();
    for (std::uint64_t at = 0; at < source.bytes;) {
      if (options_.cancelled && options_.cancelled())
        return fail(ErrorCode::kCancelled, "loading was ended at {} of {}", format_bytes(done_),
                    format_bytes(total_));
      // A vector is checked whole.
      const std::uint64_t n = model::is_vector(from.role)
                                  ? source.bytes
                                  : std::min<std::uint64_t>(kPieceBytes, source.bytes - at);
      piece_.resize(n);
      HEARTH_TRY_VOID(file->file.read_at(source.offset + at, piece_));
      if (model::is_vector(from.role)) HEARTH_TRY_VOID(check_vector(source, piece_.data(), path));
      HEARTH_TRY_VOID(guarded([&] { ggml_backend_tensor_set(to, piece_.data(), at, n); }));
      at += n;
      done_ += n;
      if (options_.progress) options_.progress(LoadStage::kRead, done_, total_);
    }
    return {};
  }

  // After the last tensor: what was read was one file.
  Result<> check_files() const {
    for (const std::optional<OpenFile>& file : files_)
      if (file && file->file.state() != file->state)
        return fail(ErrorCode::kInvalidFile,
                    "{}: was written to while its weights were read; start again when it is complete",
                    file->file.path().string());
    return {};
  }

 private:
  struct OpenFile {
    InputFile file;
    FileState state;
  };
  Result<const OpenFile*> open(std::size_t index) {
    std::optional<OpenFile>& slot = files_[index];
    if (!slot) {
      HEARTH_TRY(InputFile file, InputFile::open(model_.file().paths()[index]));
      const FileState state = file.state();
      slot.emplace(std::move(file), state);
    }
    return &*slot;
  }

  const model::ModelFile& model_;
  const LoadOptions& options_;
  std::uint64_t total_ = 0, done_ = 0;
  std::vector<std::optional<OpenFile>> files_;
  std::vector<std::uint8_t> piece_;
};

}  // namespace

struct GpuSource::Impl {
  ContextPtr ctx;
  BufferPtr buffer;
  struct Segment {
    std::vector<TensorPlace> places;
    Part whole;
  };
  std::map<model::SegmentId, Segment> segments;
  std::unique_ptr<WeightSource> others;

  [[nodiscard]] const Segment* find(model::SegmentId id) const {
    const auto found = segments.find(id);
    HEARTH_CHECK(found != segments.end() || others != nullptr, "a segment that was not loaded");
    return found == segments.end() ? nullptr : &found->second;
  }
};

GpuSource::GpuSource(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GpuSource::~GpuSource() = default;

std::uint64_t GpuSource::bytes(const model::ModelFile& model, std::span<const model::SegmentId> segments,
                               ggml_backend_device* gpu) {
  return ggml_backend_alloc_ctx_tensors_from_buft_size(declare_all(model, segments).ctx.get(),
                                                       ggml_backend_dev_buffer_type(gpu));
}

Result<std::unique_ptr<GpuSource>> GpuSource::load(const model::ModelFile& model,
                                                   std::span<const model::SegmentId> segments,
                                                   ggml_backend_device* gpu, const LoadOptions& options,
                                                   std::unique_ptr<WeightSource> others) {
  HEARTH_CHECK(!segments.empty());
  auto impl = std::make_unique<Impl>();
  impl->others = std::move(others);
  Declared declared = declare_all(model, segments);
  impl->ctx = std::move(declared.ctx);
  std::uint64_t total = 0;
  for (const auto& [tensor, declared_tensor] : declared.tensors) total += tensor->bytes;
  impl->buffer.reset(
      ggml_backend_alloc_ctx_tensors_from_buft(impl->ctx.get(), ggml_backend_dev_buffer_type(gpu)));
  if (!impl->buffer)
    return fail(ErrorCode::kOutOfMemory,
                "{} of weights do not fit into the memory of {}; give it fewer layers (-ngl)",
                format_bytes(total), ggml_backend_dev_description(gpu));
  ggml_backend_buffer_set_usage(impl->buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
  Upload upload(model, options, total);
  std::set<const ggml_tensor*> copied;
  for (const model::SegmentId id : segments) {
    auto& [places, whole] = impl->segments[id];
    HEARTH_CHECK(places.empty(), "a segment is listed twice");
    for (const model::SegmentTensor& tensor : model.segment(id)) {
      ggml_tensor* const there = declared.tensors.at(tensor.tensor);
      if (copied.insert(there).second) HEARTH_TRY_VOID(upload.copy(tensor, there));
      places.push_back({.data = there->data, .buffer = there->buffer, .extra = there->extra});
    }
    whole.n_tensors = static_cast<std::uint32_t>(places.size());
  }
  HEARTH_TRY_VOID(upload.check_files());
  return std::unique_ptr<GpuSource>(new GpuSource(std::move(impl)));
}

std::span<const Part> GpuSource::parts(model::SegmentId id) const {
  const Impl::Segment* own = impl_->find(id);
  return own != nullptr ? std::span(&own->whole, 1) : impl_->others->parts(id);
}

Result<std::span<const TensorPlace>> GpuSource::acquire(model::SegmentId id, std::uint32_t part) {
  const Impl::Segment* own = impl_->find(id);
  if (own == nullptr) return impl_->others->acquire(id, part);
  HEARTH_CHECK(part == 0);
  return std::span<const TensorPlace>(own->places);
}

void GpuSource::release(model::SegmentId id, std::uint32_t part) {
  if (impl_->find(id) == nullptr) impl_->others->release(id, part);
}

Result<> GpuSource::still_good() {
  return impl_->others ? impl_->others->still_good() : Result<>{};
}

bool GpuSource::streams() const {
  return impl_->others && impl_->others->streams();
}

bool GpuSource::can_hold(model::SegmentId id) const {
  return on_gpu(id) || impl_->others->can_hold(id);
}

bool GpuSource::on_gpu(model::SegmentId id) const {
  return impl_->find(id) != nullptr;
}

std::uint64_t GpuSource::resident_bytes() const {
  return impl_->others ? impl_->others->resident_bytes() : 0;
}

std::uint64_t GpuSource::anonymous_bytes() const {
  return impl_->others ? impl_->others->anonymous_bytes() : 0;
}

StreamStatistics GpuSource::statistics() const {
  return impl_->others ? impl_->others->statistics() : StreamStatistics{};
}

}  // namespace hearth::residency
