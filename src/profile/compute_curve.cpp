#include "profile/compute_curve.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "base/median.h"
#include "base/os_cpu.h"
#include "base/units.h"
#include "compute/kv_storage.h"
#include "compute/scratch.h"
#include "compute/window.h"
#include "plan/plan.h"
#include "residency/resident_source.h"
#include "wire/batch.h"
#include "wire/limits.h"

namespace hearth::profile {
namespace {

using Clock = std::chrono::steady_clock;

// Counts take turns, so that what else the machine does meets all of them: each turn is so long, or one pass.
constexpr double kTurn_s = 0.1;
// More do not make the median better than what the machine does meanwhile.
constexpr std::size_t kMostPasses = 31, kMostWidePasses = 5;
// Of which there are enough when they agree so well.
constexpr std::size_t kFewPasses = 9;
constexpr double kSmallSpread = 0.005;

// Of the time, so much is left to passes however long loading took: one part of four.
constexpr int kLeastForPasses = 4;

constexpr wire::KvType kKvType = wire::KvType::kF16;

constexpr std::uint64_t kLeastWeights = std::uint64_t{64} << 20, kMostWeights = std::uint64_t{1} << 30;
// Caches do not forget strictly in turn: of twice their size they would still serve a good part.
constexpr std::uint64_t kTimesTheCache = 4;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::uint64_t bytes_of(const model::ModelFile& model, plan::LayerRange layers) {
  std::uint64_t bytes = 0;
  for (std::uint32_t il = layers.begin; il < layers.end; ++il)
    bytes += model.segment_bytes(model::SegmentId::of_layer(il));
  return bytes;
}

// Of the ranges of n layers within `within` that take at most `room`, the one whose size is nearest to n mean
// layers of the model; nothing when none fits.
std::optional<plan::LayerRange> typical_layers(const model::ModelFile& model, plan::LayerRange within,
                                               std::uint32_t n, std::uint64_t room) {
  const std::uint32_t n_layer = model.params().n_layer;
  const double wanted = static_cast<double>(bytes_of(model, {0, n_layer})) * n / n_layer;
  std::optional<plan::LayerRange> best;
  double best_distance = 0;
  for (std::uint32_t first = within.begin; first + n <= within.end; ++first) {
    const std::uint64_t bytes = bytes_of(model, {first, first + n});
    const double distance = std::abs(static_cast<double>(bytes) - wanted);
    if (bytes > room || (best && distance >= best_distance)) continue;
    best = plan::LayerRange{first, first + n};
    best_distance = distance;
  }
  return best;
}

// So many layers that they have `weight_bytes`; of a mix at least two, so that both kinds are there.
std::uint32_t layers_wanted(const model::ModelFile& model, std::uint64_t weight_bytes) {
  const std::uint32_t n_layer = model.params().n_layer;
  const std::uint64_t all = bytes_of(model, {0, n_layer}), first = bytes_of(model, {0, 1});
  const auto n =
      static_cast<std::uint32_t>(std::min<std::uint64_t>((weight_bytes * n_layer + all - 1) / all, n_layer));
  const bool is_mix = all != first * n_layer;
  return std::min(std::max(n, is_mix ? 2U : 1U), n_layer);
}

// What fits: the counts, the buffers for the largest of them, and the layers.
struct Setup {
  std::vector<std::uint32_t> tokens;
  std::unique_ptr<compute::Scratch> scratch;
  plan::LayerRange layers;
};

// Small batches are what weights are measured for: large counts go before layers do.
Result<Setup> fit(const model::ModelFile& model, compute::Backend& backend, const ComputeOptions& options,
                  std::vector<std::uint32_t> tokens) {
  const std::uint32_t n_layer = model.params().n_layer;
  const std::uint64_t weight_bytes =
      options.weight_bytes != 0
          ? options.weight_bytes
          : std::clamp(kTimesTheCache * last_level_cache_bytes(), kLeastWeights, kMostWeights);
  const std::uint32_t n_wanted = layers_wanted(model, weight_bytes);
  for (;; tokens.pop_back()) {
    const std::uint32_t n_cells = compute::pad_cells(tokens.back());
    auto scratch = compute::Scratch::create(
        backend, model, {.n_cells = n_cells, .n_ubatch = tokens.back(), .flash_attention = true});
    if (!scratch && (scratch.error().code != ErrorCode::kOutOfMemory || tokens.size() == 1))
      return pass(std::move(scratch));
    if (!scratch) continue;
    const std::uint64_t buffers =
        (*scratch)->bytes() +
        tokens.size() * (compute::KvStorage::bytes(model.params(), n_wanted, kKvType, n_cells) +
                         compute::Window::table_bytes(n_cells));
    const std::uint64_t room = options.memory_bytes - std::min(options.memory_bytes, buffers);
    std::optional<plan::LayerRange> layers;
    for (std::uint32_t n = n_wanted; n > 0 && !layers; --n)
      layers = typical_layers(model, {0, n_layer}, n, room);
    if (layers && (layers->size() == n_wanted || tokens.back() <= kDecodeTokens))
      return Setup{.tokens = std::move(tokens), .scratch = *std::move(scratch), .layers = *layers};
    if (tokens.size() == 1)
      return fail(
          ErrorCode::kOutOfMemory, "a layer takes {} and its buffers {}, there are {} to measure it in",
          format_bytes(bytes_of(model, {0, 1})), format_bytes(buffers), format_bytes(options.memory_bytes));
  }
}

// Passes of one number of tokens.
struct Count {
  std::uint32_t n_tokens = 0;
  std::unique_ptr<compute::Window> window;  // its own, so that its graphs are kept
  double bytes = 0;                         // of its layers
  double pass_s = 0;                        // of the last one
  std::vector<double> rates{};
  std::uint64_t last_batch = 0;

  // A pass through an empty context.
  Result<> run();
  [[nodiscard]] bool is_done() const {
    return rates.size() >= (n_tokens > kDecodeTokens ? kMostWidePasses : kMostPasses) ||
           (rates.size() >= kFewPasses && median_of(rates).spread <= kSmallSpread);
  }
};

Result<> Count::run() {
  wire::Batch batch = {.id = ++last_batch,
                       .operations_only = false,
                       .operations = {{.kind = wire::KvOpKind::kRemove}},
                       .tokens = {}};
  for (std::uint32_t i = 0; i < n_tokens; ++i)
    batch.tokens.push_back({.position = static_cast<std::int32_t>(i),
                            .cell = i,
                            .sequences = wire::SequenceSet::of(0),
                            .output = true});
  std::ranges::fill(window->input(n_tokens), 1.0F);
  const auto start = Clock::now();
  HEARTH_TRY_VOID(window->run(batch));
  pass_s = std::max(seconds_since(start), 1e-9);
  return {};
}

}  // namespace

Result<std::vector<PassRate>> measure_compute(const model::ModelFile& model, compute::Backend& backend,
                                              const ComputeOptions& options,
                                              const std::function<bool()>& cancelled) {
  std::vector<std::uint32_t> tokens = options.tokens;
  tokens.push_back(1);
  std::ranges::sort(tokens);
  tokens.erase(std::ranges::unique(tokens).begin(), tokens.end());
  if (tokens.front() < 1 || tokens.back() > wire::kMaxBatchTokens)
    return fail(ErrorCode::kInvalidArgument, "a pass has 1 to {} tokens, got {}", wire::kMaxBatchTokens,
                tokens.front() < 1 ? tokens.front() : tokens.back());
  HEARTH_TRY(const Setup setup, fit(model, backend, options, std::move(tokens)));
  const auto start = Clock::now();
  std::vector<model::SegmentId> segments;
  for (std::uint32_t il = setup.layers.begin; il < setup.layers.end; ++il)
    segments.push_back(model::SegmentId::of_layer(il));
  HEARTH_TRY(const auto weights, residency::ResidentSource::load(model, segments, backend.device(),
                                                                 {.progress = {}, .cancelled = cancelled}));
  const auto end = std::max(start + options.budget, Clock::now() + options.budget / kLeastForPasses);
  const auto left_s = [&] { return std::chrono::duration<double>(end - Clock::now()).count(); };
  const auto go_on = [&](const Count& count) -> Result<> {
    if (!cancelled || !cancelled()) return {};
    return fail(ErrorCode::kCancelled, "measuring was ended at passes of {} tokens", count.n_tokens);
  };

  // A first pass of each, which builds graphs and makes pages, says what can be measured.
  std::vector<Count> counts;
  for (const std::uint32_t n_tokens : setup.tokens) {
    const plan::LayerRange layers =
        n_tokens > kDecodeTokens ? *typical_layers(model, setup.layers, 1, ~std::uint64_t{0}) : setup.layers;
    const auto bytes = static_cast<double>(bytes_of(model, layers));
    if (!counts.empty()) {
      // At most in proportion to the tokens. The others need time too.
      const Count& before = counts.back();
      const double pass_s = before.pass_s * bytes / before.bytes * n_tokens / before.n_tokens;
      if (2 * pass_s > left_s() / 2) break;
    }
    HEARTH_TRY(auto window, compute::Window::create(*setup.scratch, model, layers, *weights, kKvType));
    Count& count =
        counts.emplace_back(Count{.n_tokens = n_tokens, .window = std::move(window), .bytes = bytes});
    HEARTH_TRY_VOID(go_on(count));
    HEARTH_TRY_VOID(count.run());
  }
  // In the first round each has a pass, later those whose pass fits the time that is left.
  for (bool ran = true; ran;) {
    ran = false;
    for (Count& count : counts) {
      const auto turn = Clock::now();
      for (bool first = true; first || seconds_since(turn) + count.pass_s <= kTurn_s; first = false) {
        if (!count.rates.empty() && (count.is_done() || count.pass_s > left_s())) break;
        HEARTH_TRY_VOID(go_on(count));
        HEARTH_TRY_VOID(count.run());
        count.rates.push_back(count.bytes / count.pass_s);
        ran = true;
      }
    }
  }
  HEARTH_TRY_VOID(weights->still_good());

  std::vector<PassRate> curve;
  for (Count& count : counts) {
    const auto n_passes = static_cast<std::uint32_t>(count.rates.size());
    const Median median = median_of(std::move(count.rates));
    curve.push_back({.n_tokens = count.n_tokens,
                     .bytes_per_s = std::max<std::uint64_t>(static_cast<std::uint64_t>(median.value), 1),
                     .spread = median.spread,
                     .n_passes = n_passes});
  }
  return curve;
}

}  // namespace hearth::profile
