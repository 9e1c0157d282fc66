// MovingSource: a WeightSource that puts every segment at another address each time it is acquired and spoils
// the old place, so that whoever keeps a pointer to weights is found out.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <vector>

#include "residency/ggml_tensors.h"
#include "residency/weight_source.h"

namespace hearth::testing {

class MovingSource final : public residency::WeightSource {
 public:
  MovingSource(residency::WeightSource& origin, const model::ModelFile& model)
      : origin_(origin), model_(model) {}

  Result<std::span<const residency::TensorPlace>> acquire(model::SegmentId id) override {
    HEARTH_TRY(const auto places, origin_.acquire(id));
    Copy& copy = copies_[id];
    const auto& tensors = model_.segment(id);
    copy.places.assign(places.begin(), places.end());
    const std::size_t slot = copy.turn++ % 2;
    copy.bytes[slot].resize(tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      // A repacked tensor has the size of the plain one.
      auto& bytes = copy.bytes[slot][i];
      bytes.resize(tensors[i].tensor->bytes + kAlignment);
      auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
      address = (address + kAlignment - 1) / kAlignment * kAlignment;
      std::memcpy(reinterpret_cast<void*>(address), places[i].data, tensors[i].tensor->bytes);
      copy.places[i].data = reinterpret_cast<void*>(address);
    }
    return std::span<const residency::TensorPlace>(copy.places);
  }

  void release(model::SegmentId id) override {
    for (auto& slot : copies_[id].bytes)
      for (auto& bytes : slot) std::ranges::fill(bytes, std::uint8_t{0xFF});  // reads as NaN
    origin_.release(id);
  }

  std::uint64_t resident_bytes() const override { return origin_.resident_bytes(); }

 private:
  static constexpr std::size_t kAlignment = 64;
  struct Copy {
    std::size_t turn = 0;
    std::array<std::vector<std::vector<std::uint8_t>>, 2> bytes;
    std::vector<residency::TensorPlace> places;
  };
  residency::WeightSource& origin_;
  const model::ModelFile& model_;
  std::map<model::SegmentId, Copy> copies_;
};

}  // namespace hearth::testing
