#include "residency/pack.h"

#include <algorithm>
#include <format>
#include <set>
#include <system_error>
#include <vector>

#include "base/os_file.h"
#include "base/units.h"
#include "residency/pack_cache.h"
#include "residency/pack_layout.h"
#include "residency/pack_source.h"
#include "residency/pack_writer.h"
#include "residency/repack.h"
#include "residency/vector_check.h"

namespace hearth::residency {
namespace {

using model::SegmentId;

constexpr std::size_t kCopyBytes = 4U << 20;
// Another try is needed when the model file's weights changed, or another process removed the pack, between
// two looks at it.
constexpr int kAttempts = 3;

// One call of ensure_pack().
class Maker {
 public:
  Maker(const model::ModelFile& model, const PackHeader& layout, ggml_backend_device* device,
        const PackOptions& options, PackSource source)
      : model_(model), layout_(layout), device_(device), options_(options), source_(std::move(source)) {}

  // What a pack lacks of `wanted` (indices of segments).
  struct Judgement {
    std::vector<std::size_t> missing;
    std::string other_source;  // "" or why its present layers are of other weights
  };
  Result<Judgement> judge(const PackFile& pack, std::span<const std::size_t> wanted) {
    Judgement out;
    std::uint64_t done = 0, total = 0;
    for (const std::size_t i : wanted)
      if (pack.segments()[i].present) total += pack.segments()[i].bytes;
    const auto progress = [&](std::uint64_t bytes) {
      done += bytes;
      if (options_.verify_progress) options_.verify_progress(done, total);
      return !cancelled();
    };
    for (const std::size_t i : wanted) {
      const PackSegment& segment = pack.segments()[i];
      if (!segment.present) {
        out.missing.push_back(i);
        continue;
      }
      HEARTH_TRY(const std::uint64_t sample, source_.sample(segment.id));
      if (sample != segment.source_sample) {
        out.other_source = std::format("{}: the weights of {} are not those in the model file any more",
                                       pack.path().string(), segment_text(segment.id));
        return out;
      }
      if (!options_.verify) continue;
      if (auto whole = pack.verify(segment.id, progress); !whole) {
        if (whole.error().code != ErrorCode::kInvalidFile) return pass(std::move(whole));
        notice(whole.error().message + "; it will be made anew");
        out.missing.push_back(i);
      }
    }
    return out;
  }

  Result<> build(PackWriter& writer, std::span<const std::size_t> missing) {
    std::uint64_t needed = 0;
    done_ = total_ = 0;
    for (const std::size_t i : missing) {
      HEARTH_TRY(const std::uint64_t space, writer.clear(layout_.segments[i]));
      needed += space;
      total_ += layout_.segments[i].bytes;
    }
    HEARTH_TRY(const std::uint64_t free, writer.free_bytes());
    if (needed > free - std::min(free, options_.reserve_bytes))
      return fail(
          ErrorCode::kIo,
          "{}: packing {} needs {}, the disk has {} free of which {} stay free: free some space, remove "
          "packs (hearth cache), or choose another folder (--cache-dir)",
          writer.path().parent_path().string(), describe(missing), format_bytes(needed), format_bytes(free),
          format_bytes(options_.reserve_bytes));
    for (const std::size_t i : missing) {
      if (auto built = build_segment(writer, i); !built) {
        // Half a layer is of no use to anybody.
        (void)writer.clear(layout_.segments[i]);
        return built;
      }
    }
    return {};
  }

  void notice(const std::string& text) const {
    if (options_.notice) options_.notice(text);
  }

 private:
  // "layer 7", "12 layers and the output head".
  [[nodiscard]] std::string describe(std::span<const std::size_t> segments) const {
    if (segments.size() == 1) return segment_text(layout_.segments[segments[0]].id);
    const bool output = std::ranges::any_of(
        segments, [&](std::size_t i) { return layout_.segments[i].id.kind == SegmentId::Kind::kOutput; });
    const std::size_t layers = segments.size() - (output ? 1 : 0);
    return std::format("{} layer{}{}", layers, layers == 1 ? "" : "s", output ? " and the output head" : "");
  }
  [[nodiscard]] bool cancelled() const { return options_.cancelled && options_.cancelled(); }

  Result<> build_segment(PackWriter& writer, std::size_t index) {
    PackHeader header = layout_;
    PackSegment& segment = header.segments[index];
    HEARTH_TRY(segment.source_sample, source_.sample(segment.id));
    HEARTH_TRY_VOID(writer.reserve(segment));
    Blake3 hash;
    for (PackTensor& tensor : segment.tensors) {
      const gguf::Tensor& source = source_of(model_, segment.id, tensor);
      HEARTH_TRY(tensor.xxh3, tensor.layout.empty() ? copy(writer, tensor, source, hash)
                                                    : repack(writer, tensor, source, hash));
      const std::vector<std::uint8_t> padding(pack_padded(tensor.bytes) - tensor.bytes);
      HEARTH_TRY_VOID(put(writer, tensor.offset + tensor.bytes, padding, hash));
    }
    // A layer of a file that is still being fetched may have holes, which nobody would find later.
    HEARTH_TRY_VOID(source_.unchanged());
    segment.blake3 = hash.digest();
    return writer.commit(header, index);
  }

  // Writes, hashes, reports; asks whether to go on.
  Result<> put(PackWriter& writer, std::uint64_t offset, std::span<const std::uint8_t> bytes, Blake3& hash) {
    if (cancelled())
      return fail(ErrorCode::kCancelled, "packing was ended at {} of {}; the complete layers are kept",
                  format_bytes(done_), format_bytes(total_));
    HEARTH_TRY_VOID(writer.write(offset, bytes));
    hash.add(bytes);
    done_ += bytes.size();
    if (options_.progress && !bytes.empty()) options_.progress(done_, total_);
    return {};
  }

  // Where the rows of `tensor` begin in its source, and their bytes there.
  static std::pair<std::uint64_t, std::uint64_t> rows_in(const gguf::Tensor& source,
                                                         const PackTensor& tensor) {
    return {tensor.row_begin * source.row_bytes(), (tensor.row_end - tensor.row_begin) * source.row_bytes()};
  }

  Result<std::uint64_t> copy(PackWriter& writer, const PackTensor& tensor, const gguf::Tensor& source,
                             Blake3& hash) {
    const auto [begin, size] = rows_in(source, tensor);
    Xxh3 xxh3;
    // A vector is looked at as a whole; it is small.
    const bool is_vector = model::is_vector(tensor.role);
    for (std::uint64_t done = 0; done < size;) {
      plain_.resize(is_vector ? size : std::min<std::uint64_t>(kCopyBytes, size - done));
      HEARTH_TRY_VOID(source_.read(source, begin + done, plain_));
      if (is_vector) HEARTH_TRY_VOID(check_vector(source, plain_.data(), source_.path_of(source)));
      HEARTH_TRY_VOID(put(writer, tensor.offset + done, plain_, hash));
      xxh3.add(plain_);
      done += plain_.size();
    }
    return xxh3.digest();
  }

  Result<std::uint64_t> repack(PackWriter& writer, const PackTensor& tensor, const gguf::Tensor& source,
                               Blake3& hash) {
    const auto [begin, size] = rows_in(source, tensor);
    plain_.resize(size);
    HEARTH_TRY_VOID(source_.read(source, begin, plain_));
    HEARTH_TRY(const auto bytes, repacker_.repack(find_layout(device_, tensor.layout), tensor.ggml_type,
                                                  tensor.shape(), plain_));
    HEARTH_CHECK(bytes.size() == tensor.bytes, "the layout has another size than it was planned with");
    HEARTH_TRY_VOID(put(writer, tensor.offset, bytes, hash));
    return xxh3(bytes);
  }

  const model::ModelFile& model_;
  const PackHeader& layout_;
  ggml_backend_device* device_;
  const PackOptions& options_;
  PackSource source_;
  Repacker repacker_;
  std::vector<std::uint8_t> plain_;
  std::uint64_t done_ = 0, total_ = 0;
};

}  // namespace

Result<PackFile> ensure_pack(const model::ModelFile& model, std::span<const SegmentId> segments,
                             ggml_backend_device* device, const PackOptions& options) {
  std::filesystem::path folder = options.cache_dir;
  if (folder.empty()) {
    HEARTH_TRY(folder, default_cache_dir());
  }
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return fail(ErrorCode::kIo, "{}: cannot make this folder: {}", folder.string(), error.message());

  if (is_in_memory(folder) && options.notice)
    options.notice(std::format(
        "{}: a file system in memory: packs there take memory beside what is lent; choose a folder on a disk "
        "(--cache-dir)",
        folder.string()));

  HEARTH_TRY(const PackHeader layout, pack_layout(model, device, options.repack, options.max_block_bytes));
  std::set<std::size_t> indices;
  for (const SegmentId id : segments) {
    const PackSegment* segment = layout.find(id);
    HEARTH_CHECK(segment != nullptr, "a segment that packs do not have");
    indices.insert(static_cast<std::size_t>(segment - layout.segments.data()));
  }
  const std::vector<std::size_t> wanted(indices.begin(), indices.end());
  const std::filesystem::path path = folder / pack_name(layout);
  HEARTH_TRY(PackSource source, PackSource::open(model));
  Maker maker(model, layout, device, options, std::move(source));

  // A pack that has it all is used without its lock, also while another process adds layers.
  if (auto pack = PackFile::open(path, layout)) {
    HEARTH_TRY(const auto found, maker.judge(*pack, wanted));
    if (found.missing.empty() && found.other_source.empty()) return pack;
  }
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    HEARTH_TRY(PackWriter writer,
               PackWriter::open(
                   path, layout,
                   {.waiting = options.waiting, .cancelled = options.cancelled, .notice = options.notice}));
    for (const std::string& name : remove_stale(folder, layout.key))
      maker.notice(std::format("{}: removed, it was made for another ggml or CPU", (folder / name).string()));
    HEARTH_TRY(const PackFile before, PackFile::open(path, layout));
    HEARTH_TRY(const auto found, maker.judge(before, wanted));
    if (!found.other_source.empty()) {
      // Never in place: a process that runs from the old layers would compute with new ones among them.
      maker.notice(found.other_source + "; the pack will be made anew");
      HEARTH_TRY_VOID(writer.discard());
      continue;
    }
    HEARTH_TRY_VOID(maker.build(writer, found.missing));
    HEARTH_TRY(PackFile pack, PackFile::open(path, layout));
    const auto is_present = [&](std::size_t i) { return pack.segments()[i].present; };
    if (std::ranges::all_of(wanted, is_present)) return pack;
  }
  return fail(ErrorCode::kIo, "{}: the pack or its model file keeps changing while it is made; start again",
              path.string());
}

}  // namespace hearth::residency
