// ResidentSource: all weights of the given segments stay in memory for as long as the source lives.
//
// Plain tensors are used straight from a mapping of the model file (clean pages that the kernel can take
// back); matrices that the device has a faster layout for are repacked into memory of their own when loaded,
// exactly those that libllama repacks. A file that becomes shorter while it is used, or a disk that fails, is
// an error of still_good(), not a signal.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/model_file.h"
#include "residency/weight_source.h"

struct ggml_backend_device;

namespace hearth::residency {

// What a load does that takes time: writes a pack, reads weights into memory.
enum class LoadStage : std::uint8_t { kPack, kRead };
[[nodiscard]] constexpr std::string_view name(LoadStage stage) {
  return stage == LoadStage::kPack ? "packing" : "loading";
}
using LoadProgress = std::function<void(LoadStage, std::uint64_t done_bytes, std::uint64_t total_bytes)>;

struct LoadOptions {
  bool repack = true;
  // Most memory that may be taken for repacked weights. Beyond it: kOutOfMemory, nothing is taken.
  std::uint64_t anonymous_limit = std::numeric_limits<std::uint64_t>::max();
  // Called after each tensor that was repacked, and after each piece of one that was read in.
  LoadProgress progress;
  // Asked before each of these; true ends the load with kCancelled.
  std::function<bool()> cancelled;
};

// What loading would take, computed from the file's header alone.
struct LoadCost {
  std::uint64_t mapped_bytes = 0;    // used through the page cache
  std::uint64_t repacked_bytes = 0;  // anonymous memory
};

class ResidentSource final : public WeightSource {
 public:
  // `model` must outlive the source. Errors: kIo, kInvalidFile (cut short, or a norm or bias that is no
  // number), kOutOfMemory, kCancelled, kUnsupported (of more files than FaultGuard::kMaxGuards).
  [[nodiscard]] static Result<std::unique_ptr<ResidentSource>> load(
      const model::ModelFile& model, std::span<const model::SegmentId> segments, ggml_backend_device* device,
      const LoadOptions& options);
  ~ResidentSource() override;

  // Every segment is one part.
  [[nodiscard]] std::span<const Part> parts(model::SegmentId id) const override;
  [[nodiscard]] Result<std::span<const TensorPlace>> acquire(model::SegmentId id,
                                                             std::uint32_t part) override;
  void release(model::SegmentId id, std::uint32_t part) override;
  [[nodiscard]] Result<> still_good() override;
  [[nodiscard]] std::uint64_t resident_bytes() const override;
  [[nodiscard]] std::uint64_t anonymous_bytes() const override;
  [[nodiscard]] const LoadCost& cost() const;

 private:
  struct Impl;
  explicit ResidentSource(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::residency
