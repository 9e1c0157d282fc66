#include "residency/resident_source.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/os_fault_guard.h"
#include "base/os_file.h"
#include "base/os_memory.h"
#include "base/os_pages.h"
#include "base/units.h"
#include "gguf/limits.h"
#include "residency/ggml_tensors.h"
#include "residency/repack.h"
#include "residency/vector_check.h"

namespace hearth::residency {
namespace {

// The largest split model in two plans at once, and packs.
static_assert(FaultGuard::kMaxGuards > 2 * gguf::kMaxParts + 64);

// Plain tensors are read in so many bytes at once, and whoever waits is asked and told in between.
constexpr std::size_t kReadBytes = std::size_t{16} << 20;

std::size_t pad(std::size_t bytes, std::size_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

struct ResidentSource::Impl {
  std::vector<std::filesystem::path> paths;       // of the model's files
  std::vector<std::optional<InputFile>> files;    // of each that a tensor here is in
  std::vector<FileState> states;                  // of each, when it was opened
  std::vector<MappedFile> maps;                   // of each
  std::vector<BufferPtr> map_buffers;             // ggml's handle of each
  std::vector<std::optional<FaultGuard>> guards;  // of each that a tensor here is in
  std::vector<BufferPtr> repacked;
  ContextPtr tensors;
  struct Segment {
    std::vector<TensorPlace> places;
    Part whole;
  };
  std::map<model::SegmentId, Segment> segments;
  LoadCost cost;

  [[nodiscard]] const Segment& segment(model::SegmentId id) const;
};

ResidentSource::ResidentSource(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ResidentSource::~ResidentSource() = default;

Result<std::unique_ptr<ResidentSource>> ResidentSource::load(const model::ModelFile& model,
                                                             std::span<const model::SegmentId> segments,
                                                             ggml_backend_device* device,
                                                             const LoadOptions& options) {
  auto impl = std::make_unique<Impl>();
  for (const auto& path : model.file().paths()) {
    HEARTH_TRY(InputFile file, InputFile::open(path));
    HEARTH_TRY(MappedFile map, MappedFile::map(file));
    const auto bytes = map.bytes();
    // ggml's interface takes a mutable pointer; a read-only mapping is only ever read.
    BufferPtr buffer(ggml_backend_dev_buffer_from_host_ptr(device, const_cast<std::uint8_t*>(bytes.data()),
                                                           bytes.size(), bytes.size()));
    if (!buffer) return fail(ErrorCode::kIo, "the device cannot use a mapping of {}", path.string());
    impl->guards.emplace_back();
    impl->states.push_back(file.state());
    impl->files.emplace_back(std::move(file));
    impl->paths.push_back(path);
    impl->maps.push_back(std::move(map));
    impl->map_buffers.push_back(std::move(buffer));
  }

  struct Repack {
    ggml_tensor* tensor;
    const gguf::Tensor* source;
    ggml_backend_buffer_type_t type;
    TensorPlace* place;
  };
  std::vector<Repack> repacks;
  std::set<const gguf::Tensor*> mapped;
  std::vector<const gguf::Tensor*> plain;  // of these all but what only rows are looked up of
  std::size_t n_tensors = 0;
  for (const model::SegmentId id : segments) n_tensors += model.segment(id).size();
  impl->tensors = make_context(n_tensors);

  for (const model::SegmentId id : segments) {
    const auto& tensors = model.segment(id);
    auto& [places, whole] = impl->segments[id];
    HEARTH_CHECK(places.empty(), "a segment is listed twice");
    whole.n_tensors = static_cast<std::uint32_t>(tensors.size());
    places.resize(tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const gguf::Tensor& source = *tensors[i].tensor;
      if (const std::size_t size = impl->maps[source.file_index].bytes().size();
          source.offset + source.bytes > size)
        return fail(
            ErrorCode::kInvalidFile,
            "{}: tensor '{}' ends at byte {} but the file has {} now: it was cut short after it was opened; "
            "fetch it again",
            model.file().paths()[source.file_index].string(), source.name, source.offset + source.bytes,
            size);
      if (auto& guard = impl->guards[source.file_index]; !guard) {
        HEARTH_TRY(guard, FaultGuard::watch(impl->maps[source.file_index].bytes()));
      }
      places[i].data =
          const_cast<std::uint8_t*>(impl->maps[source.file_index].bytes().data() + source.offset);
      if (model::is_vector(tensors[i].role))
        HEARTH_TRY_VOID(
            check_vector(source, places[i].data, model.file().paths()[source.file_index].string()));
      places[i].buffer = impl->map_buffers[source.file_index].get();
      ggml_tensor* tensor = declare(impl->tensors.get(), source);
      ggml_backend_buffer_type_t type =
          options.repack && is_matrix(tensors[i].role) ? repack_type(device, tensor) : nullptr;
      if (type != nullptr) {
        repacks.push_back({tensor, &source, type, &places[i]});
        continue;
      }
      // Rope factors are in every layer, a tied embedding table is in two segments, but in memory once.
      impl->cost.mapped_bytes += mapped.insert(&source).second ? source.bytes : 0;
      if (id.kind != model::SegmentId::Kind::kEmbedding && !std::ranges::contains(plain, &source))
        plain.push_back(&source);
    }
  }

  // One buffer per layout, tensors in the order of use.
  std::stable_sort(repacks.begin(), repacks.end(),
                   [](const Repack& a, const Repack& b) { return a.type < b.type; });
  std::uint64_t total = 0, done = 0;
  for (const Repack& repack : repacks) total += repack.source->bytes;
  if (total > options.anonymous_limit)
    return fail(ErrorCode::kOutOfMemory,
                "repacked weights take {}, there are {}; give this device fewer layers, or use --no-repack",
                format_bytes(total), format_bytes(options.anonymous_limit));
  for (const gguf::Tensor* tensor : plain) total += tensor->bytes;
  // Asked before, told after each tensor.
  const auto go_on = [&]() -> Result<> {
    if (!options.cancelled || !options.cancelled()) return {};
    return fail(ErrorCode::kCancelled, "loading was ended at {} of {}", format_bytes(done),
                format_bytes(total));
  };
  const auto advance = [&](std::uint64_t bytes) {
    done += bytes;
    if (options.progress) options.progress(LoadStage::kRead, done, total);
  };
  for (std::size_t first = 0; first < repacks.size();) {
    const ggml_backend_buffer_type_t type = repacks[first].type;
    const std::size_t alignment = ggml_backend_buft_get_alignment(type);
    std::size_t last = first, bytes = 0;
    for (; last < repacks.size() && repacks[last].type == type; ++last)
      bytes += pad(ggml_backend_buft_get_alloc_size(type, repacks[last].tensor), alignment);
    BufferPtr buffer(ggml_backend_buft_alloc_buffer(type, bytes));
    if (!buffer)
      return fail(ErrorCode::kOutOfMemory, "cannot allocate {} bytes for repacked weights of {}", bytes,
                  model.file().paths()[0].string());
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    auto* address = static_cast<std::uint8_t*>(ggml_backend_buffer_get_base(buffer.get()));
    prefer_huge_pages(address, bytes);
    for (; first < last; ++first) {
      const Repack& repack = repacks[first];
      HEARTH_TRY_VOID(go_on());
      if (ggml_backend_tensor_alloc(buffer.get(), repack.tensor, address) != GGML_STATUS_SUCCESS)
        return fail(ErrorCode::kOutOfMemory, "cannot place tensor '{}' in memory", repack.source->name);
      ggml_backend_tensor_set(repack.tensor, repack.place->data, 0, repack.source->bytes);
      *repack.place = {.data = address, .buffer = buffer.get(), .extra = repack.tensor->extra};
      address += pad(ggml_backend_buft_get_alloc_size(type, repack.tensor), alignment);
      advance(repack.source->bytes);
    }
    impl->cost.repacked_bytes += bytes;
    impl->repacked.push_back(std::move(buffer));
  }
  // Plain tensors stay pages of the file, and just these are read in. Left to page faults, which read around
  // them, they would bring neighbours that were repacked along and, where memory is short, push each other
  // out.
  for (const gguf::Tensor* tensor : plain) {
    const auto bytes = impl->maps[tensor->file_index].bytes().subspan(tensor->offset, tensor->bytes);
    for (std::size_t at = 0; at < bytes.size();) {
      HEARTH_TRY_VOID(go_on());
      const auto piece = bytes.subspan(at, std::min(kReadBytes, bytes.size() - at));
      // Without memory for it now, it comes when it is used.
      if (const auto there = populate(piece); !there && there.error().code != ErrorCode::kOutOfMemory)
        return fail(there.error().code, "{}: tensor '{}': {}",
                    model.file().paths()[tensor->file_index].string(), tensor->name, there.error().message);
      at += piece.size();
      advance(piece.size());
    }
  }
  // A model may have as many files as a process may have open.
  for (std::size_t i = 0; i < impl->files.size(); ++i)
    if (!impl->guards[i]) impl->files[i].reset();
  std::unique_ptr<ResidentSource> source(new ResidentSource(std::move(impl)));
  HEARTH_TRY_VOID(source->still_good());  // what was repacked
  return source;
}

const ResidentSource::Impl::Segment& ResidentSource::Impl::segment(model::SegmentId id) const {
  const auto found = segments.find(id);
  HEARTH_CHECK(found != segments.end(), "a segment that was not loaded");
  return found->second;
}

std::span<const Part> ResidentSource::parts(model::SegmentId id) const {
  return {&impl_->segment(id).whole, 1};
}

Result<std::span<const TensorPlace>> ResidentSource::acquire(model::SegmentId id, std::uint32_t part) {
  HEARTH_CHECK(part == 0);
  return std::span<const TensorPlace>(impl_->segment(id).places);
}

void ResidentSource::release(model::SegmentId, std::uint32_t) {}

Result<> ResidentSource::still_good() {
  for (std::size_t i = 0; i < impl_->guards.size(); ++i)
    if (const auto at = impl_->guards[i] ? impl_->guards[i]->first_damage() : std::nullopt)
      return fail(ErrorCode::kIo,
                  "{}: byte {} could not be read when it was needed: the file became shorter, or its disk "
                  "fails; fetch it again and start again",
                  impl_->paths[i].string(), *at);
  for (std::size_t i = 0; i < impl_->files.size(); ++i)
    if (impl_->files[i] && impl_->files[i]->state() != impl_->states[i])
      return fail(
          ErrorCode::kInvalidFile,
          "{}: was written to while its weights were in use, so no result can be relied on; start again "
          "when it is complete",
          impl_->paths[i].string());
  return {};
}

std::uint64_t ResidentSource::resident_bytes() const {
  return impl_->cost.mapped_bytes + impl_->cost.repacked_bytes;
}

std::uint64_t ResidentSource::anonymous_bytes() const {
  return impl_->cost.repacked_bytes;
}

const LoadCost& ResidentSource::cost() const {
  return impl_->cost;
}

}  // namespace hearth::residency
