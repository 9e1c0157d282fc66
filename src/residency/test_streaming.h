// What the tests of StreamedSource share: a model's pack cut into small parts, and sources that read it. For
// tests only.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "residency/streamed_source.h"
#include "residency/test_packs.h"
#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::residency::test {

struct Unit {
  model::SegmentId segment;
  std::uint32_t part = 0;
  std::vector<PackTensor> tensors;
  std::uint64_t bytes = 0;  // in whole blocks
};

// Whether a reader that works in its own time gets there.
inline bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // polls; the deadline decides
  }
  return true;
}

// A model's whole pack, and sources that read it with small parts.
class Streaming {
 public:
  explicit Streaming(const synth::SynthSpec& spec, bool repack = true,
                     std::uint64_t max_block_bytes = kBlockBytes)
      : packing(testing::test_model(spec)) {
    packing.options.repack = repack;
    packing.options.max_block_bytes = max_block_bytes;
    const PackFile pack = packing.make();
    path = pack.path();
    // The clock of a file system is coarse: a change during the test is a later one for sure.
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) - std::chrono::hours(1));
    original = read_file(path);
    ids = packing.all();
    options.part_bytes = 1;
    // Exact numbers are expected: what other programs do to this machine's memory stays out of it.
    options.memory = [] {
      MemoryStatus status;
      status.available = kNoLimit;
      return status;
    };
    cut(pack);
    ids.insert(ids.begin(), model::SegmentId::embedding());
  }

  Result<std::unique_ptr<StreamedSource>> try_open(std::uint64_t budget, std::uint32_t visits = 1) {
    auto pack = ensure_pack(packing.model, packing.all(), packing.backend->device(), packing.options);
    if (!pack) return std::unexpected(pack.error());
    options.budget_bytes = budget;
    options.visit_of.clear();  // of about equally many segments; the embedding's does not matter
    for (std::size_t i = 0; i < ids.size(); ++i)
      options.visit_of.push_back(
          static_cast<std::uint32_t>((i == 0 ? 0 : i - 1) * visits / (ids.size() - 1)));
    return StreamedSource::open(packing.model, ids, packing.backend->device(), *std::move(pack), options);
  }
  std::unique_ptr<StreamedSource> open(std::uint64_t budget, std::uint32_t visits = 1) {
    return testing::value_of(try_open(budget, visits));
  }

  // Whether these are the bytes that the file had when it was made.
  [[nodiscard]] bool same(const Unit& unit, std::span<const TensorPlace> places) const {
    if (places.size() != unit.tensors.size()) return false;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const PackTensor& tensor = unit.tensors[i];
      if (places[i].buffer == nullptr || (places[i].extra != nullptr) != !tensor.layout.empty()) return false;
      if (std::memcmp(places[i].data, original.data() + tensor.offset, tensor.bytes) != 0) return false;
    }
    return true;
  }
  // Acquires it, looks at its bytes, releases it. False when it is there with other bytes.
  Result<bool> look(StreamedSource& source, const Unit& unit) const {
    HEARTH_TRY(const auto places, source.acquire(unit.segment, unit.part));
    const bool good = same(unit, places);
    source.release(unit.segment, unit.part);
    return good;
  }
  void pass(StreamedSource& source) const { pass(source, units); }
  void pass(StreamedSource& source, std::span<const Unit> part) const {
    for (const Unit& unit : part)
      EXPECT_TRUE(testing::value_of(look(source, unit)))
          << segment_text(unit.segment) << ", part " << unit.part;
  }
  // Passes until something fails; what is there until then is right.
  [[nodiscard]] Error passes_until_error(StreamedSource& source) const {
    for (int i = 0; i < 5; ++i) {
      for (const Unit& unit : units) {
        const auto good = look(source, unit);
        if (!good) return good.error();
        EXPECT_TRUE(*good || !source.still_good()) << segment_text(unit.segment);
      }
      if (const auto good = source.still_good(); !good) return good.error();
    }
    return {ErrorCode::kNotFound, "nothing failed"};
  }
  [[nodiscard]] std::vector<Unit> streamed(const StreamedSource& source) const {
    std::vector<Unit> list;
    for (std::size_t i = 0; i < units.size(); ++i)
      if (!source.plan().pinned[i]) list.push_back(units[i]);
    return list;
  }
  // Those of `list` that the slots hold together, from its beginning on.
  [[nodiscard]] static std::span<const Unit> fit(const StreamedSource& source, std::span<const Unit> list) {
    std::uint64_t bytes = 0;
    std::size_t n = 0;
    while (n < list.size() && bytes + list[n].bytes <= source.anonymous_bytes()) bytes += list[n++].bytes;
    return list.first(n);
  }
  [[nodiscard]] std::vector<Unit> planned_pins(const StreamedSource& source) const {
    std::vector<Unit> list;
    for (std::size_t i = 0; i < units.size(); ++i)
      if (source.plan().pinned[i]) list.push_back(units[i]);
    return list;
  }

  Packing packing;
  std::filesystem::path path;
  Bytes original;
  std::vector<model::SegmentId> ids;
  StreamOptions options;
  std::vector<Unit> units;  // of layers and output head, in the order of use
  std::uint64_t total = 0, largest = 0;

 private:
  // Parts follow each other and cover their segment.
  void cut(const PackFile& pack) {
    const auto source = open(~std::uint64_t{0});
    for (const model::SegmentId id : ids) {
      const auto& tensors = pack.segment(id).tensors;
      std::size_t next = 0;
      for (const Part& part : source->parts(id)) {
        Unit unit;
        unit.segment = id;
        unit.part = static_cast<std::uint32_t>(&part - source->parts(id).data());
        for (std::uint32_t i = 0; i < part.n_tensors; ++i) {
          unit.tensors.push_back(tensors.at(next++));
          unit.bytes += pack_padded(unit.tensors.back().bytes);
        }
        if (part.row_end != 0) {
          EXPECT_EQ(part.row_begin, unit.tensors.back().row_begin);
          EXPECT_EQ(part.row_end, unit.tensors.back().row_end);
        }
        if (id.kind != model::SegmentId::Kind::kEmbedding) {
          const model::SegmentTensor& first = packing.model.segment(id)[part.first_tensor];
          EXPECT_EQ(unit.tensors.front().role, first.role);
        }
        total += unit.bytes;
        largest = std::max(largest, unit.bytes);
        units.push_back(std::move(unit));
      }
      EXPECT_EQ(next, tensors.size());
    }
  }
};

}  // namespace hearth::residency::test
