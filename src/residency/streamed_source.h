// StreamedSource: weights that do not fit in memory: a fixed set stays there, the rest passes through a few
// buffers, read from the pack past the page cache while other parts are computed with.
//
// Pinned parts are clean pages of the pack's mapping: other programs can have them. A part whose pages were
// taken is streamed from then on instead of being faulted in page by page, and pinned again when there is
// memory for it (PinPolicy); a thread of its own sees to that. Another one reads what will be needed next,
// all the time, also while other devices compute. Bytes are compared with their checksum each time they are
// read; a pack that is changed, cut short or unreadable is an error, never a wrong number.
//
// Thread contract: as WeightSource; statistics() from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/direct_reader.h"
#include "base/os_memory.h"
#include "base/result.h"
#include "model/model_file.h"
#include "residency/division.h"
#include "residency/pack_file.h"
#include "residency/pin_policy.h"
#include "residency/stream_plan.h"
#include "residency/weight_source.h"

struct ggml_backend_device;

namespace hearth::residency {

struct StreamOptions {
  std::uint64_t budget_bytes = 0;  // pins and slots
  // Of each segment, in which visit of this device it is used, see StreamRequest; empty: all in one.
  std::vector<std::uint32_t> visit_of = {};
  bool lock_pins = false;                 // keep pinned pages from being taken back (mlock)
  std::uint64_t part_bytes = kPartBytes;  // smaller tensors are taken together up to this
  DirectReader::Options reader = {};
  PinPolicy::Options pins = {};
  // While pins are read, which may take minutes: told after each part; asked before each, true ends it with
  // kCancelled.
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress = {};
  std::function<bool()> cancelled = {};
  // Tests give other numbers than the machine's.
  std::function<MemoryStatus()> memory = {};
};

class StreamedSource final : public WeightSource {
 public:
  // `segments` in the order of use; layers and the output head are in `pack`, the embedding is read from the
  // model file row by row. `model` must outlive the source. Errors: kOutOfMemory (plan_stream), kIo,
  // kInvalidFile, kCancelled.
  [[nodiscard]] static Result<std::unique_ptr<StreamedSource>> open(
      const model::ModelFile& model, std::span<const model::SegmentId> segments, ggml_backend_device* device,
      PackFile pack, const StreamOptions& options);
  ~StreamedSource() override;

  [[nodiscard]] std::span<const Part> parts(model::SegmentId id) const override;
  // kIo, kInvalidFile: also when the pack was changed since it was opened.
  [[nodiscard]] Result<std::span<const TensorPlace>> acquire(model::SegmentId id,
                                                             std::uint32_t part) override;
  void release(model::SegmentId id, std::uint32_t part) override;
  [[nodiscard]] Result<> still_good() override;
  [[nodiscard]] bool streams() const override;
  [[nodiscard]] bool can_hold(model::SegmentId id) const override;
  [[nodiscard]] std::uint64_t resident_bytes() const override;
  [[nodiscard]] std::uint64_t anonymous_bytes() const override;

  [[nodiscard]] StreamStatistics statistics() const override;
  // What was planned; statistics() says what is pinned now.
  [[nodiscard]] const StreamPlan& plan() const;

 private:
  struct Impl;
  explicit StreamedSource(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::residency
