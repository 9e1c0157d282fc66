#include "residency/open_weights.h"

#include <algorithm>
#include <format>
#include <vector>

#include "base/units.h"
#include "residency/pack.h"
#include "residency/streamed_source.h"

namespace hearth::residency {

Result<std::unique_ptr<WeightSource>> open_weights(const model::ModelFile& model,
                                                   std::span<const model::SegmentId> segments,
                                                   ggml_backend_device* device, const LoadOptions& load,
                                                   const WeightUse& use, const WeightOptions& options) {
  std::uint64_t bytes = 0;
  std::vector<model::SegmentId> packed;
  for (const model::SegmentId id : segments) {
    // Only the rows that are looked up count.
    if (id.kind == model::SegmentId::Kind::kEmbedding) continue;
    bytes += model.segment_bytes(id);
    packed.push_back(id);
  }
  std::uint64_t budget = load.anonymous_limit - std::min(load.anonymous_limit, use.later_bytes);
  if (bytes <= budget) return ResidentSource::load(model, segments, device, load);
  budget -= std::min(budget, use.streaming_bytes);
  const auto tell = [&](const std::string& text) {
    if (options.notice) options.notice(text);
  };
  tell(std::format(
      "{} of weights do not fit into {}: a part stays in memory, the rest is read for every token",
      format_bytes(bytes), format_bytes(budget)));
  const auto stage = [&load](LoadStage what) -> std::function<void(std::uint64_t, std::uint64_t)> {
    if (!load.progress) return {};
    return [&load, what](std::uint64_t done, std::uint64_t total) { load.progress(what, done, total); };
  };
  HEARTH_TRY(PackFile pack,
             ensure_pack(model, packed, device,
                         {.repack = load.repack,
                          .cache_dir = options.cache_dir,
                          .progress = stage(LoadStage::kPack),
                          .verify_progress = {},
                          .cancelled = load.cancelled,
                          .waiting =
                              [&](const std::filesystem::path& path) {
                                tell(std::format("another process builds {}; waiting for it", path.string()));
                              },
                          .notice = tell}));
  return StreamedSource::open(model, segments, device, std::move(pack),
                              {.budget_bytes = budget,
                               .visit_of = use.visit_of,
                               .lock_pins = options.lock_pins,
                               .progress = stage(LoadStage::kRead),
                               .cancelled = load.cancelled});
}

}  // namespace hearth::residency
