// A source that says it streams, for tests of what executors do then: a MovingSource with weights of its own.
// For programs that link hearth_node.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <utility>

#include "node/executor.h"
#include "support/moving_source.h"

namespace hearth::testing {

class StreamingSource final : public residency::WeightSource {
 public:
  StreamingSource(std::unique_ptr<residency::ResidentSource> resident, const model::ModelFile& model,
                  Division division)
      : resident_(std::move(resident)), moving_(*resident_, model, {.division = division, .streams = true}) {}

  [[nodiscard]] const MovingSource& moving() const { return moving_; }
  [[nodiscard]] std::span<const residency::Part> parts(model::SegmentId id) const override {
    return moving_.parts(id);
  }
  [[nodiscard]] Result<std::span<const residency::TensorPlace>> acquire(model::SegmentId id,
                                                                        std::uint32_t part) override {
    return moving_.acquire(id, part);
  }
  void release(model::SegmentId id, std::uint32_t part) override { moving_.release(id, part); }
  [[nodiscard]] bool streams() const override { return moving_.streams(); }
  [[nodiscard]] std::uint64_t resident_bytes() const override { return moving_.resident_bytes(); }

 private:
  std::unique_ptr<residency::ResidentSource> resident_;
  MovingSource moving_;
};

// Such sources, whole layers at a time, or one part of a layer. `opened` sees each; what it gets lives as
// long as its epoch.
inline node::OpenWeights open_streaming(std::function<void(const MovingSource* source)> opened = {},
                                        Division division = Division::kWhole) {
  return [opened = std::move(opened), division](
             const model::ModelFile& model, std::span<const model::SegmentId> segments,
             ggml_backend_device* device, const residency::LoadOptions& options,
             const residency::WeightUse&) -> Result<std::unique_ptr<residency::WeightSource>> {
    // Memory is not what is tested with it: the origin stands for a disk.
    residency::LoadOptions all = options;
    all.anonymous_limit = std::numeric_limits<std::uint64_t>::max();
    HEARTH_TRY(auto resident, residency::ResidentSource::load(model, segments, device, all));
    auto source = std::make_unique<StreamingSource>(std::move(resident), model, division);
    if (opened) opened(&source->moving());
    return std::unique_ptr<residency::WeightSource>(std::move(source));
  };
}

}  // namespace hearth::testing
