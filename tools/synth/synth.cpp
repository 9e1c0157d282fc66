#include "synth/synth.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <format>
#include <memory>
#include <system_error>
#include <thread>

#include <ggml.h>
#include <gguf.h>

#include "synth/metadata.h"
#include "synth/row_maker.h"
#include "synth/tensor_plan.h"

namespace hearth::synth {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kBlockBytes = 4u << 20;          // per thread and write
constexpr std::uint64_t kPoolFromWeights = 150'000'000;  // the quantizers take seconds from here on
constexpr std::uint64_t kSpareBytes = 64u << 20;         // left free on the disk

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// A file under a temporary name that gets its own by commit() and disappears otherwise.
class PendingFile {
 public:
  [[nodiscard]] static Result<PendingFile> create(const fs::path& path) {
    PendingFile result;
    result.path_ = path;
    result.partial_ = fs::path(path).concat(".part");
    result.file_.reset(std::fopen(result.partial_.c_str(), "wb"));
    if (!result.file_) {
      return fail(ErrorCode::kIo, "cannot create {}: {}", result.partial_.string(), std::strerror(errno));
    }
    return result;
  }
  PendingFile(PendingFile&& other) noexcept
      : path_(std::move(other.path_)),
        partial_(std::exchange(other.partial_, {})),
        file_(std::move(other.file_)) {}
  PendingFile& operator=(PendingFile&&) = delete;
  ~PendingFile() {
    file_.reset();
    std::error_code ignored;
    if (!partial_.empty()) fs::remove(partial_, ignored);
  }

  [[nodiscard]] Result<> write(const void* data, std::size_t n) {
    if (n != 0 && std::fwrite(data, 1, n, file_.get()) != n) {
      return fail(ErrorCode::kIo, "cannot write {}: {}", partial_.string(), std::strerror(errno));
    }
    return {};
  }

  [[nodiscard]] Result<> commit() {
    if (std::fclose(file_.release()) != 0) {
      return fail(ErrorCode::kIo, "cannot write {}: {}", partial_.string(), std::strerror(errno));
    }
    std::error_code error;
    fs::rename(partial_, path_, error);
    if (error) return fail(ErrorCode::kIo, "cannot name {}: {}", path_.string(), error.message());
    partial_.clear();
    return {};
  }

 private:
  PendingFile() = default;
  fs::path path_, partial_;
  std::unique_ptr<std::FILE, FileCloser> file_;
};

// The part of the tensor list that goes into one file.
struct FileRange {
  std::size_t first = 0, end = 0;
};

// Cuts the list into n files of about equal bytes, none empty.
std::vector<FileRange> split_tensors(const std::vector<PlannedTensor>& tensors, std::uint32_t n) {
  std::uint64_t total = 0;
  for (const PlannedTensor& t : tensors) total += t.bytes();
  std::vector<FileRange> files;
  std::uint64_t done = 0;
  std::size_t first = 0;
  for (std::uint32_t f = 0; f < n; ++f) {
    std::size_t end = first;
    const std::size_t last_possible = tensors.size() - (n - 1 - f);
    do {
      done += tensors[end++].bytes();
    } while (end < last_possible && done < total * (f + 1) / n);
    if (f + 1 == n) end = tensors.size();
    files.push_back({first, end});
    first = end;
  }
  return files;
}

void add_tensor(gguf_context* gguf, const PlannedTensor& planned) {
  ggml_tensor tensor{};
  tensor.type = planned.type;
  tensor.ne[0] = planned.n_in;
  tensor.ne[1] = planned.n_out / planned.n_matrices;
  tensor.ne[2] = planned.n_matrices;
  tensor.ne[3] = 1;
  tensor.nb[0] = ggml_type_size(planned.type);
  tensor.nb[1] = ggml_row_size(planned.type, planned.n_in);
  tensor.nb[2] = tensor.nb[1] * static_cast<std::size_t>(tensor.ne[1]);
  tensor.nb[3] = tensor.nb[2] * static_cast<std::size_t>(tensor.ne[2]);
  ggml_set_name(&tensor, planned.name.c_str());
  gguf_add_tensor(gguf, &tensor);
}

// Makes a tensor in blocks of rows, one per thread at a time, and writes them in order.
class TensorWriter {
 public:
  TensorWriter(RowMaker& maker, std::uint32_t n_threads) : maker_(maker), workers_(n_threads) {}

  [[nodiscard]] Result<> write(const PlannedTensor& tensor, PendingFile& file) {
    maker_.prepare(tensor);
    const std::uint64_t row_bytes = ggml_row_size(tensor.type, tensor.n_in);
    const auto rows_per_block =
        static_cast<std::int64_t>(std::max<std::uint64_t>(1, kBlockBytes / row_bytes));
    std::int64_t row = 0;
    while (row < tensor.n_out) {
      std::size_t used = 0;
      {
        std::vector<std::jthread> threads;
        for (; used < workers_.size() && row < tensor.n_out; ++used) {
          const std::int64_t count = std::min(rows_per_block, tensor.n_out - row);
          Worker& worker = workers_[used];
          worker.bytes.resize(row_bytes * static_cast<std::uint64_t>(count));
          const auto make = [this, &tensor, &worker, row, count] {
            maker_.make(tensor, row, count, worker.bytes, worker.scratch);
          };
          row += count;
          if (row < tensor.n_out && used + 1 < workers_.size()) {
            threads.emplace_back(make);
          } else {
            make();  // the last block of this wave on this thread
          }
        }
      }
      for (std::size_t i = 0; i < used; ++i) {
        HEARTH_TRY_VOID(file.write(workers_[i].bytes.data(), workers_[i].bytes.size()));
      }
    }
    return {};
  }

 private:
  struct Worker {
    std::vector<std::byte> bytes;
    std::vector<float> scratch;
  };
  RowMaker& maker_;
  std::vector<Worker> workers_;
};

Result<> write_padding(PendingFile& file, std::uint64_t written) {
  constexpr std::byte kZeros[GGUF_DEFAULT_ALIGNMENT]{};
  return file.write(kZeros,
                    (GGUF_DEFAULT_ALIGNMENT - written % GGUF_DEFAULT_ALIGNMENT) % GGUF_DEFAULT_ALIGNMENT);
}

Result<> check_space(const fs::path& path, std::uint64_t needed) {
  std::error_code error;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (!fs::is_directory(folder, error)) return fail(ErrorCode::kIo, "there is no folder {}", folder.string());
  const fs::space_info space = fs::space(folder, error);
  if (!error && space.available < needed + kSpareBytes) {
    return fail(ErrorCode::kIo, "{} needs {} bytes but {} are free in {}", path.filename().string(), needed,
                space.available, folder.string());
  }
  return {};
}

}  // namespace

fs::path split_path(const fs::path& path, std::uint32_t index, std::uint32_t count) {
  if (count <= 1) return path;
  fs::path prefix = path;
  if (prefix.extension() == ".gguf") prefix.replace_extension();
  return prefix.concat(std::format("-{:05}-of-{:05}.gguf", index + 1, count));
}

Result<SynthReport> write_model(const SynthSpec& spec, const fs::path& path) {
  // The plan is checked before the tokenizer is read; a vocabulary size does not change what can be wrong.
  HEARTH_TRY_VOID(plan_tensors(spec, 1));
  HEARTH_TRY(Metadata metadata, make_metadata(spec));
  const model::HyperParams params = metadata.model.params;
  HEARTH_TRY(const std::vector<PlannedTensor> tensors, plan_tensors(spec, params.n_vocab));
  if (spec.split_files > tensors.size()) {
    return fail(ErrorCode::kInvalidArgument, "--split-files is {} but the model has {} tensors",
                spec.split_files, tensors.size());
  }

  SynthReport report;
  std::uint64_t data_bytes = 0;
  for (const PlannedTensor& t : tensors) {
    report.n_weights += t.weights();
    data_bytes += t.bytes();
  }
  report.pooled =
      spec.pool == Pool::kOn || (spec.pool == Pool::kAuto && report.n_weights >= kPoolFromWeights);
  HEARTH_TRY_VOID(check_space(path, data_bytes));

  RowMaker maker(spec, params.rope_freq_base, report.pooled);
  const std::uint32_t cores = std::max(1u, std::thread::hardware_concurrency());
  TensorWriter writer(maker, spec.n_threads == 0 ? cores : spec.n_threads);
  std::vector<PendingFile> files;
  const std::vector<FileRange> ranges = split_tensors(tensors, spec.split_files);
  for (std::uint32_t f = 0; f < ranges.size(); ++f) {
    // The first file has all keys, the others only their place in the split.
    GgufPtr gguf = f == 0 ? std::move(metadata.gguf) : GgufPtr(gguf_init_empty());
    if (spec.split_files > 1) {
      gguf_set_val_u16(gguf.get(), "split.no", static_cast<std::uint16_t>(f));
      gguf_set_val_u16(gguf.get(), "split.count", static_cast<std::uint16_t>(spec.split_files));
      gguf_set_val_i32(gguf.get(), "split.tensors.count", static_cast<std::int32_t>(tensors.size()));
    }
    for (std::size_t i = ranges[f].first; i < ranges[f].end; ++i) add_tensor(gguf.get(), tensors[i]);

    const fs::path name = split_path(path, f, spec.split_files);
    HEARTH_TRY(PendingFile file, PendingFile::create(name));
    std::vector<std::byte> header(gguf_get_meta_size(gguf.get()));
    gguf_get_meta_data(gguf.get(), header.data());
    HEARTH_TRY_VOID(file.write(header.data(), header.size()));
    report.file_bytes += header.size();
    for (std::size_t i = ranges[f].first; i < ranges[f].end; ++i) {
      HEARTH_TRY_VOID(writer.write(tensors[i], file));
      HEARTH_TRY_VOID(write_padding(file, tensors[i].bytes()));
      report.file_bytes += GGML_PAD(tensors[i].bytes(), GGUF_DEFAULT_ALIGNMENT);
    }
    files.push_back(std::move(file));
    report.files.push_back(name);
  }
  for (PendingFile& file : files) HEARTH_TRY_VOID(file.commit());
  return report;
}

}  // namespace hearth::synth
