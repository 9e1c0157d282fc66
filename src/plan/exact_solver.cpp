#include "plan/exact_solver.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "base/result.h"

namespace hearth::plan {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// How a device runs a number of layers in one kind of visit, but for how much it streams through how many
// slots: each slot more takes one unit more to stream.
struct Way {
  DeviceShare share;           // streaming the least, through kLeastSlots or nothing
  std::uint64_t room = 0;      // units of weights that RAM holds
  std::uint64_t streamed = 0;  // the most that brings anything: the device waits no less for more
  double busy_s = 0;           // its stage if it never waited for its disk
  double upload_s = 0;         // transfers to its GPU
};

// Uploads of `all` units to a GPU with `room` for them, slots included; nullopt: too little for slots that
// hold what one visit uploads.
std::optional<std::uint64_t> least_uploaded(std::uint64_t all, std::uint64_t room, bool every_round,
                                            std::uint32_t rounds) {
  if (all <= room) return 0;
  const std::uint64_t excess = all - room;
  std::uint64_t uploaded = excess + kLeastSlots;
  // rounds * (uploaded - excess) >= uploaded + rounds
  if (every_round)
    uploaded = std::max(uploaded, (rounds * (excess + 1) + rounds - 2) / (rounds - std::uint64_t{1}));
  if (uploaded > all) return std::nullopt;
  return uploaded;
}

// The share with so much streamed.
DeviceShare streaming(const Way& way, std::uint64_t streamed) {
  DeviceShare share = way.share;
  share.slots += streamed - share.streamed;
  share.streamed = streamed;
  return share;
}

std::optional<Way> way_of(const RingTerms& terms, std::size_t device, const DeviceShare& layers,
                          std::uint32_t rounds) {
  const DeviceTerms& own = terms.devices[device];
  Way way = {.share = layers};
  DeviceShare& share = way.share;
  std::uint64_t in_ram =
      std::uint64_t{terms.units} * share.cpu_layers + (device == 0 ? terms.output_units : 0);
  if (own.unified) {
    in_ram += std::uint64_t{terms.units} * share.gpu_layers;
  } else if (share.gpu_layers > 0) {
    const std::uint64_t all = std::uint64_t{terms.units} * share.gpu_layers;
    const auto room = terms.units_in(own.vram_bytes, share.gpu_layers);
    if (!room) return std::nullopt;
    const auto uploaded = least_uploaded(all, *room, share.every_round, rounds);
    if (!uploaded) return std::nullopt;
    share.uploaded = *uploaded;
    if (*uploaded > 0) share.gpu_slots = *uploaded - (all - *room);
    in_ram += share.uploaded;
  }
  way.busy_s = stage_s(terms, device, share, rounds);
  way.upload_s = transfer_s(terms, device, share);
  const auto room = terms.units_in(own.ram_bytes, own.unified ? share.layers() : share.cpu_layers);
  if (!room) return std::nullopt;
  way.room = *room;
  if (in_ram <= *room) return way;
  if (*room < kLeastSlots) return std::nullopt;
  const std::uint64_t excess = in_ram - *room;
  share.slots = kLeastSlots;
  share.streamed = way.streamed = excess + kLeastSlots;
  if (!share.every_round || own.disk_s <= 0) return way;
  // The fewest slots X with (excess + X) - rounds * (X - 1) units, for which it waits, read while it is busy.
  const double hidden = way.busy_s * terms.units / own.disk_s;
  const double slots = std::ceil((static_cast<double>(excess + rounds) - hidden) / (rounds - 1.0));
  way.streamed = excess + static_cast<std::uint64_t>(std::clamp(slots, static_cast<double>(kLeastSlots),
                                                                static_cast<double>(*room)));
  return way;
}

// The share with the least chain whose transfers take at most `bound`.
std::optional<DeviceShare> within(const RingTerms& terms, std::size_t device, const Way& way, double bound) {
  if (way.upload_s > bound) return std::nullopt;
  if (way.share.streamed == 0) return way.share;
  const double disk_s = terms.devices[device].disk_s;
  if (terms.units_s(disk_s, way.share.streamed) > bound) return std::nullopt;
  if (terms.units_s(disk_s, way.streamed) <= bound) return streaming(way, way.streamed);
  auto streamed = static_cast<std::uint64_t>(bound * terms.units / disk_s);
  // Whatever the division rounded.
  while (terms.units_s(disk_s, streamed) > bound) --streamed;
  while (terms.units_s(disk_s, streamed + 1) <= bound) ++streamed;
  return streaming(way, streamed);
}

// Ways of one device by its number of layers, those of one visit and those of a visit in every round.
using Table = std::array<std::vector<std::vector<Way>>, 2>;

struct Choice {
  DeviceShare share;
  double chain_s = kNever;
};

// The least chain of all ways.
Choice best_within(const RingTerms& terms, std::size_t device, const std::vector<Way>& ways,
                   std::uint32_t rounds, double bound, double most_stage_s) {
  Choice best;
  for (const Way& way : ways) {
    const auto share = within(terms, device, way, std::min(bound, most_stage_s));
    if (!share || stage_s(terms, device, *share, rounds) > most_stage_s) continue;
    const double chain = chain_s(terms, device, *share, rounds);
    if (chain < best.chain_s) best = {.share = *share, .chain_s = chain};
  }
  return best;
}

// The least sum of chains with transfers of at most `bound`, and what each device has then.
struct Knapsack {
  double chain_s = kNever;
  std::vector<DeviceShare> shares;  // by device
};

// Devices so far that are visited in every round: none, one, more.
constexpr std::size_t kStates = 3;

Knapsack least_chain(const RingTerms& terms, const std::vector<Table>& tables, std::uint32_t rounds,
                     double bound, double most_stage_s) {
  const std::uint32_t n_layer = terms.n_layer;
  struct Cell {
    double chain_s = kNever;
    std::uint32_t layers = 0;  // of the device
    std::uint8_t kind = 0;     // of its visits
    std::uint8_t before = 0;   // the state before it
  };
  using Row = std::vector<Cell>;  // [layers so far]
  std::vector<std::array<Row, kStates>> rows(tables.size() + 1);
  for (auto& states : rows) states.fill(Row(n_layer + 1));
  rows[0][0][0].chain_s = 0;
  std::vector<std::array<std::vector<Choice>, 2>> choices(tables.size());
  for (std::size_t m = 0; m < tables.size(); ++m) {
    for (std::size_t kind = 0; kind < 2; ++kind) {
      for (std::uint32_t n = 0; n <= n_layer; ++n) {
        const Choice& choice = choices[m][kind].emplace_back(
            best_within(terms, m, tables[m][kind][n], rounds, bound, most_stage_s));
        if (choice.chain_s == kNever) continue;
        for (std::size_t state = 0; state < kStates; ++state) {
          const Row& from = rows[m][state];
          Row& to = rows[m + 1][std::min(state + kind, kStates - 1)];
          for (std::uint32_t before = 0; before + n <= n_layer; ++before) {
            if (const double sum = from[before].chain_s + choice.chain_s; sum < to[before + n].chain_s)
              to[before + n] = {sum, n, static_cast<std::uint8_t>(kind), static_cast<std::uint8_t>(state)};
          }
        }
      }
    }
  }
  Knapsack found;
  std::size_t state = 0;
  for (const std::size_t last : {std::size_t{0}, kStates - 1}) {
    if (rows.back()[last][n_layer].chain_s >= found.chain_s) continue;
    found.chain_s = rows.back()[last][n_layer].chain_s;
    state = last;
  }
  if (found.chain_s == kNever) return found;
  found.shares.resize(tables.size());
  std::uint32_t left = n_layer;
  for (std::size_t m = tables.size(); m-- > 0;) {
    const Cell& cell = rows[m + 1][state][left];
    found.shares[m] = choices[m][cell.kind][cell.layers].share;
    left -= cell.layers;
    state = cell.before;
  }
  return found;
}

// All ways of a device to run `layers` layers that no other one beats in everything.
std::vector<Way> ways_of(const RingTerms& terms, std::size_t device, std::uint32_t layers,
                         std::uint32_t rounds, bool every_round, const Limits& limits) {
  std::vector<Way> kept;
  if (!limits.least_layers.empty() && layers < limits.least_layers[device]) return kept;
  if (!limits.most_layers.empty() && layers > limits.most_layers[device]) return kept;
  if (every_round && (rounds == 1 || layers < rounds)) return kept;
  const auto beats = [](const Way& a, const Way& b) {
    return a.busy_s <= b.busy_s && a.upload_s <= b.upload_s && a.share.streamed <= b.share.streamed &&
           (a.share.streamed == 0 || a.room >= b.room);
  };
  const std::uint32_t most_gpu = terms.devices[device].has_gpu() ? layers : 0;
  for (std::uint32_t gpu = 0; gpu <= most_gpu; ++gpu) {
    const auto way = way_of(
        terms, device, {.cpu_layers = layers - gpu, .gpu_layers = gpu, .every_round = every_round}, rounds);
    if (!way || std::ranges::any_of(kept, [&](const Way& other) { return beats(other, *way); })) continue;
    std::erase_if(kept, [&](const Way& other) { return beats(*way, other); });
    kept.push_back(*way);
  }
  return kept;
}

}  // namespace

std::optional<Solution> solve_exactly(const RingTerms& terms, std::uint32_t rounds, const Limits& limits) {
  HEARTH_CHECK(rounds > 0 && terms.n_layer > 0 && terms.units > 0 && terms.layer_bytes > 0 &&
               !terms.devices.empty());
  std::vector<Table> tables(terms.devices.size());
  std::vector<double> bounds = {0};
  for (std::size_t m = 0; m < tables.size(); ++m) {
    std::uint64_t least = std::numeric_limits<std::uint64_t>::max(), most = 0;  // that it can stream
    for (std::size_t kind = 0; kind < 2; ++kind) {
      for (std::uint32_t n = 0; n <= terms.n_layer; ++n) {
        for (const Way& way : tables[m][kind].emplace_back(ways_of(terms, m, n, rounds, kind == 1, limits))) {
          bounds.push_back(way.upload_s);
          if (way.share.streamed == 0) continue;
          least = std::min(least, way.share.streamed);
          most = std::max(most, way.streamed);
        }
      }
    }
    for (std::uint64_t streamed = least; streamed <= most; ++streamed)
      bounds.push_back(terms.units_s(terms.devices[m].disk_s, streamed));
  }
  std::ranges::sort(bounds);
  bounds.erase(std::ranges::unique(bounds).begin(), bounds.end());

  // The first bound that is no less than the chains it allows; it, or the one before, is the best.
  const auto solve = [&](double bound) { return least_chain(terms, tables, rounds, bound, limits.stage_s); };
  std::size_t low = 0, high = bounds.size();
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (solve(bounds[middle]).chain_s <= bounds[middle])
      high = middle;
    else
      low = middle + 1;
  }
  std::optional<Solution> best;
  const auto consider = [&](std::vector<DeviceShare> shares) {
    const double period = period_s(terms, shares, rounds);
    if (!best || period < best->period_s)
      best = Solution{.period_s = period, .rounds = rounds, .shares = std::move(shares)};
  };
  for (const std::size_t i : {low, low - 1}) {
    if (i >= bounds.size()) continue;
    if (Knapsack found = solve(bounds[i]); found.chain_s < kNever) consider(std::move(found.shares));
  }
  // The head alone makes no hop, which the knapsack does not know.
  const auto may_be_empty = [](const Table& table) { return !table[0][0].empty(); };
  if (std::all_of(tables.begin() + 1, tables.end(), may_be_empty)) {
    for (const Way& way : tables[0][0][terms.n_layer]) {
      std::vector<DeviceShare> alone(tables.size());
      alone[0] = way.share;
      const double seconds = std::max(stage_s(terms, 0, alone[0], rounds), transfer_s(terms, 0, alone[0]));
      if (seconds <= limits.stage_s) consider(std::move(alone));
    }
  }
  return best;
}

std::optional<Solution> solve_exactly_for_any(const RingTerms& terms, std::uint32_t most_rounds,
                                              const Limits& limits) {
  std::optional<Solution> best;
  for (std::uint32_t rounds = 1; rounds <= most_rounds; ++rounds)
    if (auto found = solve_exactly(terms, rounds, limits);
        found && (!best || found->period_s < best->period_s))
      best = std::move(found);
  return best;
}

}  // namespace hearth::plan
