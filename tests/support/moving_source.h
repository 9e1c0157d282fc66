// MovingSource: a WeightSource that puts every part at another address each time it is acquired and spoils
// the old place, so that whoever keeps a pointer to weights, or reads them when their part is gone, is found
// out.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "base/os_file.h"
#include "residency/ggml_tensors.h"
#include "residency/weight_source.h"

namespace hearth::testing {

enum class Division : std::uint8_t {
  kWhole,    // a segment is one part
  kSmall,    // a few tensors per part, the output in blocks of rows
  kTensors,  // each tensor by itself, the output in blocks of 64 rows
  kBlocks,   // every matrix in blocks of 64 rows, of its own each
};

struct MovingOptions {
  Division division = Division::kWhole;
  bool streams = false;
  std::uint32_t max_parts_held = 1;
};

class MovingSource final : public residency::WeightSource {
 public:
  // `origin` holds the segments whole; it and `model` must outlive this.
  MovingSource(residency::WeightSource& origin, const model::ModelFile& model,
               const MovingOptions& options = {});

  [[nodiscard]] std::span<const residency::Part> parts(model::SegmentId id) const override;
  [[nodiscard]] Result<std::span<const residency::TensorPlace>> acquire(model::SegmentId id,
                                                                        std::uint32_t part) override;
  void release(model::SegmentId id, std::uint32_t part) override;
  [[nodiscard]] bool streams() const override { return options_.streams; }
  [[nodiscard]] bool can_hold(model::SegmentId id) const override {
    return parts(id).size() <= options_.max_parts_held;
  }
  [[nodiscard]] std::uint64_t resident_bytes() const override { return origin_.resident_bytes(); }

  // How often a part was acquired.
  [[nodiscard]] std::uint64_t n_acquired() const { return n_acquired_; }
  // Parts that are held now; no more than max_parts_held ever are.
  [[nodiscard]] std::uint32_t n_held() const { return n_held_; }

 private:
  struct Copy {
    std::size_t turn = 0;
    bool held = false;
    std::array<std::vector<std::vector<std::uint8_t>>, 3> bytes;
    std::vector<residency::TensorPlace> places;
  };
  struct Block {  // repacked rows
    residency::ContextPtr ctx;
    residency::BufferPtr buffer;
    residency::TensorPlace place;
  };
  residency::TensorPlace original(model::SegmentId id, const residency::Part& part, std::uint32_t tensor,
                                  const residency::TensorPlace& whole);

  residency::WeightSource& origin_;
  const model::ModelFile& model_;
  MovingOptions options_;
  mutable std::map<model::SegmentId, std::vector<residency::Part>> parts_;
  std::map<std::pair<model::SegmentId, std::uint32_t>, Copy> copies_;
  // By segment, tensor, first row.
  std::map<std::tuple<model::SegmentId, std::uint32_t, std::uint32_t>, Block> blocks_;
  std::uint64_t n_acquired_ = 0;
  std::uint32_t n_held_ = 0;
};

}  // namespace hearth::testing
