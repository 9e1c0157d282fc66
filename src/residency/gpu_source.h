// GpuSource: the weights of some segments in a GPU's memory, for as long as the source lives; those of the
// others come from another source.
//
// They are copied there once, plain, as they are in the file; afterwards neither the file nor its disk
// matters for them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "model/model_file.h"
#include "residency/resident_source.h"
#include "residency/weight_source.h"

struct ggml_backend_device;

namespace hearth::residency {

class GpuSource final : public WeightSource {
 public:
  // Memory of the processor that load() takes for a moment: a piece of a matrix, and the driver's copy of it.
  static constexpr std::uint64_t kLoadBytes = std::uint64_t{8} << 20;
  // What load() takes of the GPU's memory, paddings included.
  [[nodiscard]] static std::uint64_t bytes(const model::ModelFile& model,
                                           std::span<const model::SegmentId> segments,
                                           ggml_backend_device* gpu);

  // `segments`: of the GPU, at least one; `others`: of the rest, may be null. Of `options` what is told and
  // asked while it loads. Errors: kIo, kInvalidFile (cut short, changed while it was read, or a norm or bias
  // that is no number), kOutOfMemory, kCancelled.
  [[nodiscard]] static Result<std::unique_ptr<GpuSource>> load(const model::ModelFile& model,
                                                               std::span<const model::SegmentId> segments,
                                                               ggml_backend_device* gpu,
                                                               const LoadOptions& options,
                                                               std::unique_ptr<WeightSource> others);
  ~GpuSource() override;

  [[nodiscard]] std::span<const Part> parts(model::SegmentId id) const override;
  [[nodiscard]] Result<std::span<const TensorPlace>> acquire(model::SegmentId id,
                                                             std::uint32_t part) override;
  void release(model::SegmentId id, std::uint32_t part) override;
  [[nodiscard]] Result<> still_good() override;
  [[nodiscard]] bool streams() const override;
  [[nodiscard]] bool can_hold(model::SegmentId id) const override;
  [[nodiscard]] bool on_gpu(model::SegmentId id) const override;
  [[nodiscard]] std::uint64_t resident_bytes() const override;
  [[nodiscard]] std::uint64_t anonymous_bytes() const override;
  [[nodiscard]] StreamStatistics statistics() const override;

 private:
  struct Impl;
  explicit GpuSource(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::residency
