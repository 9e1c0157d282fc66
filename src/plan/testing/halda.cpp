#include "plan/testing/halda.h"

#include <algorithm>
#include <cmath>
#include <format>
#include <limits>
#include <numeric>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

namespace hearth::plan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Objectives closer than this are one: sums of the same numbers in another order.
constexpr double kRounding = 1e-12;

double as_double(std::uint64_t n) {
  return static_cast<double>(n);
}

HaldaOs os_of(const HaldaDevice& device, HaldaTerms terms) {
  const bool taken_for_linux = terms == HaldaTerms::kAsCoded && device.os == HaldaOs::kAndroid;
  return taken_for_linux ? HaldaOs::kLinux : device.os;
}

// d^avail + d^swapout.
std::uint64_t ram_and_swap(const HaldaDevice& device, HaldaTerms terms) {
  return device.ram_bytes + (os_of(device, terms) == HaldaOs::kAndroid ? device.swap_bytes : 0);
}

// What layers are in proportion to at first.
std::uint64_t budget_bytes(const HaldaDevice& device, HaldaTerms terms) {
  return device.metal() ? device.metal_bytes : ram_and_swap(device, terms);
}

// b'
std::uint64_t layer_and_kv_bytes(const HaldaModel& model) {
  return model.layer_bytes + model.kv_bytes;
}

// b_i / V: one token's row of the embedding table.
std::uint64_t row_bytes(const HaldaModel& model) {
  return model.embedding_bytes / model.n_vocab;
}

// For layers in the memory that the device's set is about; negative: not even what comes with them fits.
std::int64_t layers_budget_bytes(const HaldaCluster& cluster, std::size_t m, HaldaTerms terms) {
  const HaldaDevice& device = cluster.devices[m];
  const std::uint64_t of_head = m == 0 ? row_bytes(cluster.model) + cluster.model.output_bytes : 0;
  const std::uint64_t taken =
      of_head + device.cpu_buffer_bytes + (device.metal() ? device.gpu_buffer_bytes : 0);
  return static_cast<std::int64_t>(budget_bytes(device, terms)) - static_cast<std::int64_t>(taken);
}

// Layers that fit the GPU, of all rounds.
std::uint64_t gpu_capacity(const HaldaCluster& cluster, std::size_t m) {
  const HaldaDevice& device = cluster.devices[m];
  const std::uint64_t has = device.metal() ? device.metal_bytes : device.cuda_bytes;
  const std::uint64_t taken =
      device.gpu_buffer_bytes + (device.metal() && m == 0 ? cluster.model.output_bytes : 0);
  return has > taken ? (has - taken) / layer_and_kv_bytes(cluster.model) : 0;
}

bool overloaded(const HaldaCluster& cluster, std::size_t m, std::uint32_t rounds, const HaldaWindow& window,
                HaldaTerms terms) {
  const bool all_count = os_of(cluster.devices[m], terms) == HaldaOs::kMacos;
  const std::uint64_t layers =
      std::uint64_t{rounds} * (all_count ? window.layers : window.layers - window.gpu_layers);
  return static_cast<std::int64_t>(layers * layer_and_kv_bytes(cluster.model)) >
         layers_budget_bytes(cluster, m, terms);
}

Result<> validate(const HaldaCluster& cluster, HaldaTerms terms) {
  const HaldaModel& model = cluster.model;
  if (model.n_layer == 0 || model.layer_bytes == 0 || model.n_vocab == 0)
    return fail(ErrorCode::kInvalidArgument,
                "halda: the model has {} layers of {} bytes and {} tokens in its vocabulary; expected more "
                "than 0 of each",
                model.n_layer, model.layer_bytes, model.n_vocab);
  if (cluster.devices.empty()) return fail(ErrorCode::kInvalidArgument, "halda: no device");
  const bool paper = terms == HaldaTerms::kPaper;
  for (const HaldaDevice& device : cluster.devices) {
    const std::tuple<std::string_view, double, bool> rates[] = {
        {"cpu_flops", device.cpu_flops, true},
        {"disk_bytes_per_s", device.disk_bytes_per_s, true},
        {"ram_bytes_per_s", device.ram_bytes_per_s, paper},
        {"gpu_flops", device.gpu_flops, device.has_gpu()},
        {"vram_bytes_per_s", device.vram_bytes_per_s, paper && device.has_gpu()}};
    for (const auto& [field, rate, needed] : rates)
      if (needed && !(rate > 0))
        return fail(ErrorCode::kInvalidArgument, "halda: {}: {} is {}, expected more than 0", device.name,
                    field, rate);
    if (device.os == HaldaOs::kMacos && device.cuda_bytes > 0)
      return fail(ErrorCode::kInvalidArgument, "halda: {}: cuda_bytes is {} on macOS, expected 0",
                  device.name, device.cuda_bytes);
  }
  return {};
}

// T as the choice sees it: a layer on the head counts less.
double weighted_s(const HaldaCluster& cluster, std::span<const HaldaSet> sets, std::uint32_t rounds,
                  std::span<const HaldaWindow> windows, HaldaTerms terms, double head_priority) {
  double round_s = 0, constant_s = 0;
  for (std::size_t m = 0; m < windows.size(); ++m) {
    const HaldaCosts costs = halda_costs(cluster, m, sets[m], terms);
    const double weight = m == 0 ? 1 / head_priority : 1;
    round_s += weight * costs.layer_s * windows[m].layers + costs.gpu_layer_s * windows[m].gpu_layers +
               costs.round_s;
    constant_s += costs.constant_s;
  }
  return rounds * round_s + constant_s;
}

std::vector<std::uint32_t> round_counts(const HaldaCluster& cluster, const HaldaOptions& options) {
  if (options.rounds > 0) return {options.rounds};
  std::vector<std::uint32_t> counts = {1};
  for (std::uint32_t k = 2; k <= cluster.model.n_layer / 2; ++k)
    if (cluster.model.n_layer % k == 0) counts.push_back(k);
  return counts;
}

// The best windows of all k for these sets; a larger k has to be better than the smaller ones.
Result<HaldaPlan> best_of_rounds(const HaldaCluster& cluster, const std::vector<HaldaSet>& sets,
                                 const HaldaOptions& options) {
  std::optional<HaldaPlan> best;
  double best_s = kInfinity;
  for (const std::uint32_t k : round_counts(cluster, options)) {
    auto windows = halda_windows(cluster, sets, k, options);
    if (!windows) continue;
    const double found_s = weighted_s(cluster, sets, k, *windows, options.terms, options.head_priority);
    if (best && !(found_s < best_s - kRounding * std::abs(best_s))) continue;
    best_s = found_s;
    const double objective_s = halda_objective_s(cluster, sets, k, *windows, options.terms);
    best = {.rounds = k, .windows = *std::move(windows), .sets = sets, .objective_s = objective_s};
  }
  if (!best)
    return fail(ErrorCode::kOutOfMemory,
                "halda: no windows of {} layers on {} devices keep the bounds of "
                "their sets, for any number of rounds",
                cluster.model.n_layer, cluster.devices.size());
  return *std::move(best);
}

// The device whose disk is to be spared: VRAM is unused somewhere, while layers are on a processor or read
// from a disk elsewhere, and no device is weak. nullopt: nothing to spare.
std::optional<std::size_t> device_to_force(const HaldaCluster& cluster, const HaldaPlan& plan) {
  bool weak = false, unused_vram = false, could_use_it = false;
  std::optional<std::size_t> slowest;
  for (std::size_t m = 0; m < plan.windows.size(); ++m) {
    const HaldaWindow& window = plan.windows[m];
    const bool has_gpu = cluster.devices[m].has_gpu(), reloads = plan.sets[m] != HaldaSet::kM4;
    weak |= window == HaldaWindow{.layers = 1, .gpu_layers = 0};
    unused_vram |= has_gpu && window.gpu_layers < gpu_capacity(cluster, m) / plan.rounds;
    could_use_it |= has_gpu ? window.gpu_layers < window.layers : reloads;
    if (reloads &&
        (!slowest || cluster.devices[m].disk_bytes_per_s < cluster.devices[*slowest].disk_bytes_per_s))
      slowest = m;
  }
  return !weak && unused_vram && could_use_it ? slowest : std::nullopt;
}

Result<std::vector<HaldaWindow>> first_windows(const HaldaCluster& cluster, HaldaTerms terms) {
  std::vector<std::uint64_t> budgets;
  for (const HaldaDevice& device : cluster.devices) budgets.push_back(budget_bytes(device, terms));
  HEARTH_TRY(const auto layers, memory_split(cluster.model.n_layer, budgets));
  std::vector<HaldaWindow> windows;
  for (std::size_t m = 0; m < layers.size(); ++m) {
    const bool on_gpu = terms == HaldaTerms::kAsCoded && cluster.devices[m].has_gpu();
    windows.push_back({.layers = layers[m], .gpu_layers = on_gpu ? layers[m] : 0});
  }
  return windows;
}

// The inner loop: sets from windows, windows for the sets, until they stay. It ends: windows within the
// bounds of their sets lead to the same sets, and each device is forced once at most.
Result<HaldaPlan> halda_for_all_devices(const HaldaCluster& cluster, const HaldaOptions& options) {
  HEARTH_TRY(std::vector<HaldaWindow> windows, first_windows(cluster, options.terms));
  std::uint32_t rounds = 1;
  std::vector<bool> forced(cluster.devices.size());
  std::vector<HaldaSet> sets;
  std::optional<HaldaPlan> accepted;
  for (;;) {
    std::vector<HaldaSet> now;
    for (std::size_t m = 0; m < windows.size(); ++m)
      now.push_back(forced[m] ? HaldaSet::kM4 : halda_set(cluster, m, rounds, windows[m], options.terms));
    if (now == sets) break;
    sets = now;
    auto found = best_of_rounds(cluster, sets, options);
    if (!found) {
      if (!accepted) return found;
      break;  // back to the solution before
    }
    accepted = *found;
    if (const auto device = device_to_force(cluster, *found)) {
      forced[*device] = true;
      continue;
    }
    if (found->windows == windows && found->rounds == rounds) break;
    windows = found->windows;
    rounds = found->rounds;
  }
  return *std::move(accepted);
}

std::string_view name_of(HaldaSet set) {
  constexpr std::string_view kNames[] = {"M1", "M2", "M3", "M4"};
  return kNames[static_cast<std::size_t>(set)];
}

}  // namespace

// --- splits -----------------------------------------------------------------------------------------------

std::vector<std::uint32_t> even_split(std::uint32_t n_layer, std::size_t n_devices) {
  HEARTH_CHECK(n_devices > 0);
  std::vector<std::uint32_t> layers;
  for (std::size_t m = 0; m < n_devices; ++m)
    layers.push_back(static_cast<std::uint32_t>(n_layer / n_devices + (m < n_layer % n_devices ? 1 : 0)));
  return layers;
}

Result<std::vector<std::uint32_t>> memory_split(std::uint32_t n_layer,
                                                std::span<const std::uint64_t> memory_bytes) {
  if (memory_bytes.empty() || n_layer < memory_bytes.size())
    return fail(
        ErrorCode::kInvalidArgument,
        "{} layers cannot be split over {} devices; expected at least one device, and a layer for each",
        n_layer, memory_bytes.size());
  double total = 0;
  for (const std::uint64_t bytes : memory_bytes) total += as_double(bytes);
  if (!(total > 0))
    return fail(ErrorCode::kInvalidArgument, "{} devices have no memory to split {} layers by",
                memory_bytes.size(), n_layer);

  std::vector<std::uint32_t> layers;
  for (const std::uint64_t bytes : memory_bytes)
    layers.push_back(
        std::max(1U, static_cast<std::uint32_t>(std::llround(n_layer * (as_double(bytes) / total)))));
  std::uint64_t sum = std::accumulate(layers.begin(), layers.end(), std::uint64_t{0});
  const auto most = std::ranges::max_element(memory_bytes) - memory_bytes.begin();
  for (; sum < n_layer; ++sum) ++layers[static_cast<std::size_t>(most)];
  for (; sum > n_layer; --sum) {
    std::optional<std::size_t> least;
    for (std::size_t m = 0; m < layers.size(); ++m)
      if (layers[m] > 1 && (!least || memory_bytes[m] < memory_bytes[*least])) least = m;
    --layers[*least];
  }
  return layers;
}

// --- its parts --------------------------------------------------------------------------------------------

HaldaCosts halda_costs(const HaldaCluster& cluster, std::size_t m, HaldaSet set, HaldaTerms terms) {
  const HaldaModel& model = cluster.model;
  const HaldaDevice& device = cluster.devices[m];
  const bool paper = terms == HaldaTerms::kPaper;
  const double kept = as_double(layer_and_kv_bytes(model)), row = as_double(row_bytes(model));
  const double disk = device.disk_bytes_per_s;
  const double alpha = model.layer_flop / device.cpu_flops + device.kv_append_cpu_s +
                       (paper ? kept / device.ram_bytes_per_s : 0);
  double beta = 0;
  if (device.has_gpu())
    beta = model.layer_flop / device.gpu_flops + device.kv_append_gpu_s +
           (paper ? kept / device.vram_bytes_per_s : 0) - alpha;

  HaldaCosts costs = {.layer_s = alpha, .gpu_layer_s = beta, .round_s = 0, .constant_s = 0};
  if (paper) costs.round_s = (device.unified ? 0 : device.copy_s) + device.hop_s;
  if (m == 0) {
    costs.constant_s = (paper ? model.output_flop : model.layer_flop) / device.cpu_flops + row / disk;
    if (paper) costs.constant_s += (row + as_double(model.output_bytes)) / device.ram_bytes_per_s;
    if (set != HaldaSet::kM4) costs.constant_s += as_double(model.output_bytes) / disk;
  }
  // What is over the budget is all but the budget.
  const double over_s = (as_double(device.cpu_buffer_bytes) - as_double(ram_and_swap(device, terms))) / disk;
  switch (set) {
    case HaldaSet::kM1:
      costs.layer_s += kept / disk;
      costs.gpu_layer_s = 0;
      costs.constant_s += over_s;
      break;
    case HaldaSet::kM2:
      costs.layer_s += as_double(model.layer_bytes) / disk;
      break;
    case HaldaSet::kM3:
      costs.layer_s += kept / disk;
      costs.gpu_layer_s -= kept / disk;
      costs.constant_s += over_s;
      break;
    case HaldaSet::kM4:
      break;
  }
  return costs;
}

double halda_objective_s(const HaldaCluster& cluster, std::span<const HaldaSet> sets, std::uint32_t rounds,
                         std::span<const HaldaWindow> windows, HaldaTerms terms) {
  return weighted_s(cluster, sets, rounds, windows, terms, 1);
}

HaldaSet halda_set(const HaldaCluster& cluster, std::size_t m, std::uint32_t rounds,
                   const HaldaWindow& window, HaldaTerms terms) {
  const HaldaDevice& device = cluster.devices[m];
  if (device.disk_bytes_per_s < kHaldaSlowDisk || !overloaded(cluster, m, rounds, window, terms))
    return HaldaSet::kM4;
  if (device.metal()) return HaldaSet::kM2;
  return device.os == HaldaOs::kMacos ? HaldaSet::kM1 : HaldaSet::kM3;
}

bool halda_allows(const HaldaCluster& cluster, std::size_t m, HaldaSet set, std::uint32_t rounds,
                  const HaldaWindow& window, HaldaTerms terms) {
  if (window.layers < 1 || window.layers > cluster.model.n_layer || window.gpu_layers > window.layers)
    return false;
  if (window.gpu_layers > 0 && !cluster.devices[m].has_gpu()) return false;
  if (std::uint64_t{rounds} * window.gpu_layers > gpu_capacity(cluster, m)) return false;
  return overloaded(cluster, m, rounds, window, terms) == (set != HaldaSet::kM4);
}

// Devices depend on each other only by the sum of their layers: the least cost of each number of layers on
// each device, then of each sum on the first devices.
Result<std::vector<HaldaWindow>> halda_windows(const HaldaCluster& cluster, std::span<const HaldaSet> sets,
                                               std::uint32_t rounds, const HaldaOptions& options) {
  const std::size_t n_devices = cluster.devices.size();
  const std::uint32_t per_round = cluster.model.n_layer / rounds;
  struct Best {
    double sum_s = kInfinity;  // of the devices so far
    HaldaWindow window;        // of the last of them
  };
  std::vector<std::vector<Best>> best(n_devices + 1, std::vector<Best>(per_round + 1));
  best[0][0].sum_s = 0;
  for (std::size_t m = 0; m < n_devices; ++m) {
    const HaldaCosts costs = halda_costs(cluster, m, sets[m], options.terms);
    const double layer_s = costs.layer_s / (m == 0 ? options.head_priority : 1);
    for (HaldaWindow window = {.layers = 1}; window.layers <= per_round; ++window.layers) {
      std::optional<HaldaWindow> cheapest;  // of so many layers; its cost is linear in those on the GPU
      for (window.gpu_layers = 0; window.gpu_layers <= window.layers; ++window.gpu_layers) {
        if (!halda_allows(cluster, m, sets[m], rounds, window, options.terms)) continue;
        if (!cheapest || costs.gpu_layer_s < 0) cheapest = window;
      }
      if (!cheapest) continue;
      const double window_s = layer_s * cheapest->layers + costs.gpu_layer_s * cheapest->gpu_layers;
      for (std::uint32_t sum = window.layers; sum <= per_round; ++sum) {
        const double sum_s = best[m][sum - window.layers].sum_s + window_s;
        if (sum_s < best[m + 1][sum].sum_s) best[m + 1][sum] = {sum_s, *cheapest};
      }
    }
  }
  if (best[n_devices][per_round].sum_s == kInfinity)
    return fail(ErrorCode::kOutOfMemory, "halda: no windows of {} layers on {} devices keep the bounds",
                per_round, n_devices);
  std::vector<HaldaWindow> windows(n_devices);
  std::uint32_t left = per_round;
  for (std::size_t m = n_devices; m-- > 0;) {
    windows[m] = best[m + 1][left].window;
    left -= windows[m].layers;
  }
  return windows;
}

// --- Halda ------------------------------------------------------------------------------------------------

Result<HaldaPlan> halda(const HaldaCluster& cluster, const HaldaOptions& options) {
  HEARTH_TRY_VOID(validate(cluster, options.terms));
  if (options.rounds > 0 && cluster.model.n_layer % options.rounds != 0)
    return fail(ErrorCode::kInvalidArgument, "halda: {} rounds do not divide {} layers", options.rounds,
                cluster.model.n_layer);
  HEARTH_CHECK(options.head_priority > 0);
  HaldaCluster ring = cluster;
  std::vector<std::size_t> kept(cluster.devices.size());  // [ring.devices] -> [cluster.devices]
  std::iota(kept.begin(), kept.end(), 0UZ);
  HaldaPlan plan = {.rounds = 1,
                    .windows = std::vector<HaldaWindow>(kept.size()),
                    .sets = std::vector<HaldaSet>(kept.size(), HaldaSet::kM4),
                    .objective_s = 0};
  for (;;) {
    HEARTH_TRY(const HaldaPlan found, halda_for_all_devices(ring, options));
    plan.rounds = found.rounds;
    plan.objective_s = found.objective_s;
    HaldaCluster rest = {.model = ring.model, .devices = {}};
    std::vector<std::size_t> still_kept;
    for (std::size_t m = 0; m < kept.size(); ++m) {
      const bool drop = options.drop_devices && m > 0 && found.windows[m].layers <= 1;
      plan.windows[kept[m]] = drop ? HaldaWindow{} : found.windows[m];
      plan.sets[kept[m]] = found.sets[m];
      if (drop) continue;
      rest.devices.push_back(ring.devices[m]);
      still_kept.push_back(kept[m]);
    }
    if (still_kept.size() == kept.size()) return plan;
    ring = std::move(rest);
    kept = std::move(still_kept);
  }
}

Result<HaldaPlan> halda_without_solver(const HaldaCluster& cluster, HaldaTerms terms) {
  HEARTH_TRY_VOID(validate(cluster, terms));
  HEARTH_TRY(std::vector<HaldaWindow> windows, first_windows(cluster, terms));
  std::vector<HaldaSet> sets;
  for (std::size_t m = 0; m < windows.size(); ++m) {
    if (cluster.devices[m].has_gpu())
      windows[m].gpu_layers =
          static_cast<std::uint32_t>(std::min<std::uint64_t>(windows[m].layers, gpu_capacity(cluster, m)));
    sets.push_back(halda_set(cluster, m, 1, windows[m], terms));
  }
  const double objective_s = halda_objective_s(cluster, sets, 1, windows, terms);
  return HaldaPlan{
      .rounds = 1, .windows = std::move(windows), .sets = std::move(sets), .objective_s = objective_s};
}

std::string HaldaPlan::describe(const HaldaCluster& cluster) const {
  std::string text =
      std::format("{} round{}, {:.3f} s a token\n", rounds, rounds == 1 ? "" : "s", objective_s);
  for (std::size_t m = 0; m < windows.size(); ++m) {
    const HaldaWindow& window = windows[m];
    if (window.layers == 0)
      text += std::format("{:<10} dropped\n", cluster.devices[m].name);
    else
      text += std::format("{:<10} {:>3} layers a round, {:>3} on its GPU, {}\n", cluster.devices[m].name,
                          window.layers, window.gpu_layers, name_of(sets[m]));
  }
  return text;
}

}  // namespace hearth::plan
