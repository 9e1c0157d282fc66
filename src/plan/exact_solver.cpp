#include "plan/exact_solver.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "base/result.h"

namespace hearth::plan {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

struct Streaming {
  std::uint64_t streamed = 0, slots = 0;  // units
};

// The least that is streamed of `all` units where `room` are in memory, slots included; nullopt: there is no
// room for the slots that it takes. slots = streamed - (all - room).
std::optional<Streaming> least_streamed(std::uint64_t all, std::uint64_t room, bool every_round,
                                        std::uint32_t rounds) {
  if (all <= room) return Streaming{};
  const std::uint64_t excess = all - room;
  std::uint64_t streamed = excess + kLeastSlots;
  if (every_round) {
    // rounds * (streamed - excess) >= streamed + rounds
    if (rounds < 2) return std::nullopt;
    streamed = std::max(streamed, (rounds * (excess + 1) + rounds - 2) / (rounds - 1));
  }
  if (streamed > all) return std::nullopt;
  return Streaming{.streamed = streamed, .slots = streamed - excess};
}

std::optional<DeviceShare> best_share(const RingTerms& terms, std::size_t device, std::uint32_t cpu_layers,
                                      std::uint32_t gpu_layers, bool every_round, std::uint32_t rounds) {
  const DeviceTerms& own = terms.devices[device];
  DeviceShare share = {.cpu_layers = cpu_layers, .gpu_layers = gpu_layers, .every_round = every_round};
  std::uint64_t in_ram = std::uint64_t{terms.units} * cpu_layers + (device == 0 ? terms.output_units : 0);
  if (own.unified) {
    in_ram += std::uint64_t{terms.units} * gpu_layers;
  } else if (gpu_layers > 0) {
    const auto room = terms.units_in(own.vram_bytes, gpu_layers);
    if (!room) return std::nullopt;
    const auto uploads = least_streamed(std::uint64_t{terms.units} * gpu_layers, *room, every_round, rounds);
    if (!uploads) return std::nullopt;
    share.uploaded = uploads->streamed;
    share.gpu_slots = uploads->slots;
    in_ram += share.uploaded;
  }
  const auto room = terms.units_in(own.ram_bytes, own.unified ? share.layers() : cpu_layers);
  if (!room) return std::nullopt;
  const auto reads = least_streamed(in_ram, *room, every_round, rounds);
  if (!reads) return std::nullopt;
  share.streamed = reads->streamed;
  share.slots = reads->slots;
  return share;
}

// A device's share with its seconds of a token.
struct Choice {
  DeviceShare share;
  double chain_s = 0, transfer_s = 0;
};

// Choices of one device by its number of layers, those of one visit and those of a visit in every round.
using Table = std::array<std::vector<std::vector<Choice>>, 2>;

// The least chain with a transfer of at most `bound`.
const Choice* within(const std::vector<Choice>& choices, double bound) {
  const auto after = std::ranges::upper_bound(choices, bound, {}, &Choice::transfer_s);
  return after == choices.begin() ? nullptr : &*std::prev(after);
}

// The least sum of chains with transfers of at most `bound`, and what each device has then.
struct Knapsack {
  struct Item {
    std::uint32_t layers = 0;
    bool every_round = false;
  };
  double chain_s = kNever;
  std::vector<Item> items;  // by device
};

// Devices so far that are visited in every round: none, one, more.
constexpr std::size_t kStates = 3;

Knapsack least_chain(const std::vector<Table>& tables, std::uint32_t n_layer, double bound) {
  struct Cell {
    double chain_s = kNever;
    Knapsack::Item item;
    std::uint8_t before = 0;  // the state before the device
  };
  using Row = std::vector<Cell>;  // [layers so far]
  std::vector<std::array<Row, kStates>> rows(tables.size() + 1);
  for (auto& states : rows) states.fill(Row(n_layer + 1));
  rows[0][0][0].chain_s = 0;
  for (std::size_t m = 0; m < tables.size(); ++m) {
    for (std::size_t kind = 0; kind < 2; ++kind) {
      for (std::uint32_t n = 0; n <= n_layer; ++n) {
        const Choice* choice = within(tables[m][kind][n], bound);
        if (choice == nullptr) continue;
        for (std::size_t state = 0; state < kStates; ++state) {
          const Row& from = rows[m][state];
          Row& to = rows[m + 1][std::min(state + kind, kStates - 1)];
          for (std::uint32_t before = 0; before + n <= n_layer; ++before) {
            if (const double sum = from[before].chain_s + choice->chain_s; sum < to[before + n].chain_s)
              to[before + n] = {sum, {n, kind == 1}, static_cast<std::uint8_t>(state)};
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
  found.items.resize(tables.size());
  std::uint32_t left = n_layer;
  for (std::size_t m = tables.size(); m-- > 0;) {
    const Cell& cell = rows[m + 1][state][left];
    found.items[m] = cell.item;
    left -= cell.item.layers;
    state = cell.before;
  }
  return found;
}

// All shares of a device with `layers` layers that no other one beats in both chain and transfer, by
// ascending transfer.
std::vector<Choice> choices_of(const RingTerms& terms, std::size_t device, std::uint32_t layers,
                               std::uint32_t rounds, bool every_round, const Limits& limits) {
  std::vector<Choice> all;
  if (!limits.least_layers.empty() && layers < limits.least_layers[device]) return all;
  if (!limits.most_layers.empty() && layers > limits.most_layers[device]) return all;
  if (every_round && (rounds == 1 || layers < rounds)) return all;
  const std::uint32_t most_gpu = terms.devices[device].has_gpu() ? layers : 0;
  for (std::uint32_t gpu = 0; gpu <= most_gpu; ++gpu) {
    const auto share = best_share(terms, device, layers - gpu, gpu, every_round, rounds);
    if (!share) continue;
    const Choice choice = {.share = *share,
                           .chain_s = chain_s(terms, device, *share, rounds),
                           .transfer_s = transfer_s(terms, device, *share)};
    if (std::max(stage_s(terms, device, *share), choice.transfer_s) <= limits.stage_s) all.push_back(choice);
  }
  std::ranges::sort(all, {}, [](const Choice& c) { return std::pair(c.transfer_s, c.chain_s); });
  std::vector<Choice> front;
  for (const Choice& choice : all)
    if (front.empty() || choice.chain_s < front.back().chain_s) front.push_back(choice);
  return front;
}

}  // namespace

std::optional<Solution> solve_exactly(const RingTerms& terms, std::uint32_t rounds, const Limits& limits) {
  HEARTH_CHECK(rounds > 0 && terms.n_layer > 0 && terms.units > 0 && terms.layer_bytes > 0 &&
               !terms.devices.empty());
  std::vector<Table> tables(terms.devices.size());
  std::vector<double> bounds = {0};
  for (std::size_t m = 0; m < tables.size(); ++m) {
    for (std::size_t kind = 0; kind < 2; ++kind) {
      for (std::uint32_t n = 0; n <= terms.n_layer; ++n) {
        tables[m][kind].push_back(choices_of(terms, m, n, rounds, kind == 1, limits));
        for (const Choice& choice : tables[m][kind].back()) bounds.push_back(choice.transfer_s);
      }
    }
  }
  std::ranges::sort(bounds);
  bounds.erase(std::ranges::unique(bounds).begin(), bounds.end());

  // The first bound that is no less than the chains it allows; it, or the one before, is the best.
  std::size_t low = 0, high = bounds.size();
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (least_chain(tables, terms.n_layer, bounds[middle]).chain_s <= bounds[middle])
      high = middle;
    else
      low = middle + 1;
  }
  std::optional<Solution> best;
  const auto consider = [&](double bound, const std::vector<Knapsack::Item>& items) {
    Solution found = {.period_s = 0, .rounds = rounds, .shares = {}};
    for (std::size_t m = 0; m < tables.size(); ++m)
      found.shares.push_back(within(tables[m][items[m].every_round ? 1 : 0][items[m].layers], bound)->share);
    found.period_s = period_s(terms, found.shares, rounds);
    if (!best || found.period_s < best->period_s) best = std::move(found);
  };
  for (const std::size_t i : {low, low - 1}) {
    if (i >= bounds.size()) continue;
    if (const Knapsack found = least_chain(tables, terms.n_layer, bounds[i]); found.chain_s < kNever)
      consider(bounds[i], found.items);
  }
  // The head alone makes no hop, which the knapsack does not know.
  const auto may_be_empty = [](const Table& table) { return !table[0][0].empty(); };
  if (std::all_of(tables.begin() + 1, tables.end(), may_be_empty)) {
    std::vector<Knapsack::Item> alone(tables.size());
    alone[0].layers = terms.n_layer;
    for (const Choice& choice : tables[0][0][terms.n_layer]) consider(choice.transfer_s, alone);
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
