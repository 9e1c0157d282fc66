#include "profile/decode_rate.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

#include "base/units.h"
#include "compute/scratch.h"
#include "compute/window.h"
#include "residency/resident_source.h"
#include "wire/batch.h"

namespace hearth::profile {
namespace {

// The first pass builds graphs and makes pages; the median of the others is not moved by one disturbance.
constexpr std::size_t kPasses = 5;

}  // namespace

Result<std::uint64_t> measure_decode(const model::ModelFile& model, compute::Backend& backend,
                                     std::uint64_t memory_bytes, const std::function<bool()>& cancelled,
                                     std::uint64_t most_bytes) {
  const std::uint64_t first = model.segment_bytes(model::SegmentId::of_layer(0));
  if (first > memory_bytes)
    return fail(ErrorCode::kOutOfMemory, "a layer takes {}, there are {} to measure it in",
                format_bytes(first), format_bytes(memory_bytes));
  std::vector<model::SegmentId> segments;
  std::uint64_t bytes = 0;
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il) {
    const auto id = model::SegmentId::of_layer(il);
    const std::uint64_t with = bytes + model.segment_bytes(id);
    if (il > 0 && with > std::min(most_bytes, memory_bytes)) break;
    segments.push_back(id);
    bytes = with;
  }
  HEARTH_TRY(const auto weights, residency::ResidentSource::load(model, segments, backend.device(),
                                                                 {.progress = {}, .cancelled = cancelled}));
  HEARTH_TRY(const auto scratch,
             compute::Scratch::create(
                 backend, model, {.n_cells = compute::kCellPadding, .n_ubatch = 1, .flash_attention = true}));
  HEARTH_TRY(const auto window,
             compute::Window::create(*scratch, model, {0, static_cast<std::uint32_t>(segments.size())},
                                     *weights, wire::KvType::kF16));
  std::array<double, kPasses> seconds{};
  for (std::size_t pass = 0; pass < kPasses + 1; ++pass) {
    const auto position = static_cast<std::int32_t>(pass);
    const wire::Batch batch = {.id = pass + 1,
                               .operations_only = false,
                               .operations = {},
                               .tokens = {{.position = position,
                                           .cell = static_cast<std::uint32_t>(position),
                                           .sequences = wire::SequenceSet::of(0),
                                           .output = true}}};
    std::ranges::fill(window->input(1), 1.0F);
    const auto start = std::chrono::steady_clock::now();
    HEARTH_TRY_VOID(window->run(batch));
    const double spent = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (pass > 0) seconds[pass - 1] = spent;
  }
  std::ranges::sort(seconds);
  return static_cast<std::uint64_t>(static_cast<double>(bytes) / std::max(seconds[kPasses / 2], 1e-9));
}

}  // namespace hearth::profile
