#include "plan/planner.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <span>

#include "plan/fullest_ring.h"
#include "plan/ring_order.h"
#include "plan/ring_terms.h"
#include "plan/shortage.h"

namespace hearth::plan {
namespace {

// Of the solver's optima for each number of rounds, those within this of the best are played through.
constexpr double kMayTurnOutBest = 1.15;
// More rounds, smaller batches, and moves of a layer must be worth it.
constexpr double kWorthIt = 0.99, kWorthMoving = 0.999;
// Larger batches may cost this much of a token's time: they are faster for prompts.
constexpr double kLargerBatches = 1.02;
// A plan that streams must be this much better than one that does not: reading takes power, and the disk from
// other programs.
constexpr double kStreamingCosts = 1.03;
constexpr std::uint32_t kMostUnits = 32;
// What --rounds takes; and after so many numbers of rounds in a row that the solver finds no better, no
// further one is tried: beyond the best number each costs a hop of every device.
constexpr std::uint32_t kMostRounds = 128, kEnoughRounds = 8;
// So many of the best plans are where searches for better neighbours start; each plays so many through, at
// most.
constexpr std::size_t kMostStarts = 3;
constexpr std::uint32_t kMostMoves = 400;
// Rings of more devices are not tried without each of them.
constexpr std::size_t kMostTriedWithout = 8;
// Weights of seconds of the prompt against seconds of a token, for a limit on the time to the first token.
constexpr double kPromptWeights[] = {0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1};

std::uint32_t clamped(double value, std::uint32_t least, std::uint32_t most) {
  return static_cast<std::uint32_t>(std::clamp<double>(std::round(value), least, most));
}

double cost_s(const Prediction& of) {
  return (of.streams() ? kStreamingCosts : 1) * of.period_s;
}

// What the solvers see, for one number of rounds.
RingTerms terms_of(const RingProfile& ring, const PlanRequest& request, const BatchNeeds& batch,
                   std::uint32_t rounds, std::span<const double> hop_s, bool streams, double prompt_weight) {
  const ModelProfile& model = ring.model;
  const double layer = static_cast<double>(model.weight_bytes() - model.output_bytes) / model.n_layer();
  RingTerms terms = {.n_layer = model.n_layer(),
                     .units = clamped(layer / static_cast<double>(model.parts.mean_bytes), 1, kMostUnits),
                     .layer_bytes = static_cast<std::uint64_t>(std::ceil(layer)),
                     .kv_bytes = model.kv_bytes,
                     .devices = {}};
  terms.output_units =
      static_cast<std::uint32_t>(std::ceil(static_cast<double>(model.output_bytes) * terms.units / layer));
  const std::uint32_t users = request.traffic.users;
  const std::uint32_t prompt = std::min(request.traffic.prompt_tokens, batch.n_tokens);
  const double batches = std::ceil(static_cast<double>(request.traffic.prompt_tokens) / prompt);
  const auto layer_s = [&](const ComputeProfile& on) {
    double seconds = on.pass_s(layer, users);
    if (prompt_weight > 0) seconds += prompt_weight * batches * on.pass_s(layer, prompt);
    return seconds;
  };
  terms.output_s = ring.devices[0].cpu.pass_s(static_cast<double>(model.output_bytes), users);
  for (std::size_t m = 0; m < ring.devices.size(); ++m) {
    const DeviceProfile& device = ring.devices[m];
    const std::uint64_t buffers = model.buffer_bytes(batch, m, std::min(rounds, model.n_layer()));
    std::uint64_t ram = device.memory_bytes - std::min(device.memory_bytes, buffers);
    if (streams) ram -= batch.group.bytes_in(ram);
    DeviceTerms own = {.cpu_s = layer_s(device.cpu),
                       .disk_s = layer / device.disk_bytes_per_s,
                       .hop_s = hop_s[m],
                       .ram_bytes = ram};
    if (request.gpus && device.gpu) {
      own.gpu_s = layer_s(device.gpu->compute);
      own.unified = device.gpu->unified;
      if (!own.unified) {
        own.vram_bytes = device.gpu->memory_bytes - std::min(device.gpu->memory_bytes, batch.worker_bytes);
        own.upload_s = layer / std::max(device.gpu->upload_bytes_per_s, 1.0);
      }
    }
    terms.devices.push_back(own);
  }
  return terms;
}

// Which devices run how much, before it is laid out.
struct Shape {
  std::vector<std::size_t> order;     // devices of the ring, the head first
  std::vector<std::uint32_t> layers;  // by device
  std::vector<std::uint32_t> gpu_layers;
  std::vector<bool> every_round;
  std::uint32_t rounds = 1;
  friend bool operator==(const Shape&, const Shape&) = default;
};

// Windows as even as whole layers allow; devices that are visited once are spread over the rounds. Windows of
// one device that follow each other are one.
Plan lay_out(const RingProfile& ring, const Shape& shape) {
  const auto in_once = [&](std::size_t m) { return !shape.every_round[m] && shape.layers[m] > 0; };
  const auto n_once = static_cast<std::uint32_t>(std::ranges::count_if(shape.order, in_once));
  std::vector<std::uint32_t> round_of(shape.layers.size(), 0);  // of those visited once
  std::uint32_t nth = 0;
  for (const std::size_t m : shape.order)
    if (in_once(m)) round_of[m] = nth++ * shape.rounds / std::max(n_once, 1U);
  Plan plan = {.n_layer = ring.model.n_layer(), .devices = {}, .steps = {}};
  for (const DeviceProfile& device : ring.devices) plan.devices.push_back(device.name);
  std::uint32_t next = 0;
  for (std::uint32_t r = 0; r < shape.rounds; ++r) {
    for (const std::size_t m : shape.order) {
      const std::uint64_t n = shape.layers[m];
      const auto size =
          static_cast<std::uint32_t>(shape.every_round[m] ? (r + 1) * n / shape.rounds - r * n / shape.rounds
                                     : round_of[m] == r   ? n
                                                          : 0);
      if (size == 0) continue;
      if (!plan.steps.empty() && plan.steps.back().device == m)
        plan.steps.back().layers.end += size;
      else
        plan.steps.push_back({static_cast<std::uint16_t>(m), {next, next + size}});
      next += size;
    }
  }
  return plan;
}

// Whether `a` is better than `b`: keeping the limit on the first token comes first.
bool better(const PlanRequest& request, const Prediction& a, const Prediction& b, double worth_it) {
  const bool keeps_a = a.ttft_s <= request.max_ttft_s, keeps_b = b.ttft_s <= request.max_ttft_s;
  if (keeps_a != keeps_b) return keeps_a;
  if (!keeps_a) return a.ttft_s < worth_it * b.ttft_s;
  return cost_s(a) < worth_it * cost_s(b);
}

std::uint32_t rounds_of(const Prediction& made) {
  std::uint32_t most = 1;
  for (const DeviceUse& use : made.devices) most = std::max(most, use.n_visits);
  return most;
}

// One search: for one batch size.
class Search {
 public:
  Search(const RingProfile& ring, const PlanRequest& request, const BatchNeeds& batch,
         std::vector<std::uint32_t> least_layers)
      : ring_(ring), request_(request), batch_(batch), hop_s_(ring.devices.size(), 0) {
    limits_.least_layers = std::move(least_layers);
    for (std::size_t m = 0; m < ring.devices.size(); ++m)
      limits_.most_layers.push_back(request.excludes(m) || !has_slots(m) ? 0 : ring.model.n_layer());
    // Until the order is known, a hop is the mean one.
    const std::size_t n = ring.devices.size();
    for (std::size_t from = 0; from < n && n > 1; ++from) {
      for (std::size_t to = 0; to < n; ++to)
        if (from != to) hop_s_[from] += hop(from, to) / static_cast<double>(n - 1);
    }
  }

  // The best that keeps max_ttft_s; without one, the one with the least time to the first token.
  std::optional<Proposal> run() {
    for (const double weight : kPromptWeights) {
      solve_and_play(weight);
      if (!fits()) break;
      // Hops as they are in that order.
      if (ring_.devices.size() > 2 && use_hops_of_best()) solve_and_play(weight);
      if (best_->prediction.ttft_s <= request_.max_ttft_s) break;
    }
    if (!fits()) start_from_the_fullest();
    for (const Played& start : starts_) move_layers(start);
    if (!fits()) return std::nullopt;
    return Proposal{.plan = lay_out(ring_, best_->shape),
                    .rounds = rounds_of(best_->prediction),
                    .n_ubatch = batch_.n_tokens,
                    .gpu_layers = std::move(best_->shape.gpu_layers),
                    .prediction = std::move(best_->prediction),
                    .optimum = std::move(best_->from),
                    .assumed = {}};
  }

 private:
  // Optima are of mean parts; whether the largest can pass through is told apart by no term of theirs.
  [[nodiscard]] bool has_slots(std::size_t m) const {
    const std::uint64_t windows = std::clamp(request_.rounds, 1U, ring_.model.n_layer());
    return m == 0 || ring_.devices[m].memory_bytes >=
                         ring_.model.buffer_bytes(batch_, m, windows) + ring_.model.parts.least_slots();
  }
  [[nodiscard]] std::uint32_t least_layers(std::size_t m) const {
    return limits_.least_layers.empty() ? 0 : limits_.least_layers[m];
  }
  [[nodiscard]] double hop(std::size_t from, std::size_t to) const {
    return ring_.hop_s(from, to, request_.traffic.users);
  }
  [[nodiscard]] RingTerms terms(std::uint32_t rounds, bool streams, double prompt_weight) const {
    return terms_of(ring_, request_, batch_, rounds, hop_s_, streams, prompt_weight);
  }
  static bool streams(const Solution& of) {
    return std::ranges::any_of(of.shares, [](const DeviceShare& share) { return share.streamed > 0; });
  }
  void solve_and_play(double prompt_weight) {
    struct Solved {
      Solution solution;
      RingTerms terms;
    };
    std::vector<Solved> all;
    const std::uint32_t n_layer = ring_.model.n_layer();
    const std::uint32_t least_rounds = std::clamp(request_.rounds, 1U, n_layer);
    const std::uint32_t most_rounds =
        request_.rounds > 0 || ring_.devices.size() == 1 ? least_rounds : std::min(n_layer, kMostRounds);
    double least = std::numeric_limits<double>::infinity();
    std::uint32_t in_vain = 0;  // numbers of rounds in a row that were no better
    for (std::uint32_t rounds = least_rounds; rounds <= most_rounds && in_vain < kEnoughRounds; ++rounds) {
      if (request_.is_cancelled()) return;
      const auto solve = [&](bool streams) -> std::optional<Solved> {
        RingTerms seen = terms(rounds, streams, prompt_weight);
        auto solution = solve_exactly(seen, rounds, limits_);
        if (!solution) return std::nullopt;
        return Solved{*std::move(solution), std::move(seen)};
      };
      auto found = solve(false);
      if (!found) break;  // more rounds take more memory
      ++in_vain;
      const bool streaming = streams(found->solution);
      if (streaming) {
        if (auto with_groups = solve(true)) found = std::move(with_groups);
      } else if (rounds > least_rounds) {
        continue;  // more rounds bring nothing but hops
      }
      double& period = found->solution.period_s;
      if (prompt_weight > 0) period = period_s(terms(rounds, streaming, 0), found->solution.shares, rounds);
      if (period < least) in_vain = 0;
      least = std::min(least, period);
      all.push_back(*std::move(found));
    }
    for (const auto& [solution, seen] : all) {
      if (solution.period_s > kMayTurnOutBest * least) continue;
      Shape shape = {
          .order = {}, .layers = {}, .gpu_layers = {}, .every_round = {}, .rounds = solution.rounds};
      for (const DeviceShare& share : solution.shares) {
        shape.layers.push_back(share.layers());
        shape.gpu_layers.push_back(share.gpu_layers);
        shape.every_round.push_back(share.every_round || solution.rounds == 1 || request_.rounds > 0);
      }
      shape.order = order_of(shape);
      start_from(play(
          shape,
          Optimum{
              .terms = seen, .rounds = solution.rounds, .limits = limits_, .period_s = solution.period_s}));
    }
    std::ranges::stable_sort(starts_, [&](const Played& a, const Played& b) { return is_better(a, b, 1); });
    if (starts_.size() > kMostStarts) starts_.resize(kMostStarts);
  }

  // The head and all that have layers, so that hops cost the least.
  [[nodiscard]] std::vector<std::size_t> order_of(const Shape& shape) const {
    std::vector<std::size_t> members = {0};
    for (std::size_t m = 1; m < shape.layers.size(); ++m)
      if (shape.layers[m] > 0) members.push_back(m);
    HopSeconds hops;
    for (const std::size_t from : members) {
      std::vector<double>& row = hops.emplace_back();
      for (const std::size_t to : members) row.push_back(from == to ? 0 : hop(from, to));
    }
    std::vector<std::size_t> order;
    for (const std::size_t at : cheapest_ring(hops)) order.push_back(members[at]);
    return order;
  }

  // A plan that was played, and where it comes from.
  struct Played {
    Shape shape;
    std::uint64_t lacks_bytes = 0;  // of memory; more than 0: there is no prediction
    Prediction prediction;
    std::optional<Optimum> from;
  };
  [[nodiscard]] Played play(const Shape& shape, const std::optional<Optimum>& from) const {
    const Plan plan = lay_out(ring_, shape);
    if (auto prediction = predict(ring_, request_.traffic, batch_, plan, shape.gpu_layers))
      return {.shape = shape, .prediction = *std::move(prediction), .from = from};
    return {.shape = shape,
            .lacks_bytes = lacking_bytes(ring_, batch_, plan, shape.gpu_layers),
            .prediction = {},
            .from = from};
  }
  // What does not fit comes last, the less it lacks the better: that leads to what fits.
  [[nodiscard]] bool is_better(const Played& a, const Played& b, double worth_it) const {
    if (a.lacks_bytes > 0 || b.lacks_bytes > 0) return a.lacks_bytes < b.lacks_bytes;
    return better(request_, a.prediction, b.prediction, worth_it);
  }
  [[nodiscard]] bool fits() const { return best_ && best_->lacks_bytes == 0; }
  // Takes it when it is better.
  void consider(const Played& played, double worth_it) {
    if (!best_ || is_better(played, *best_, worth_it)) best_ = played;
  }
  void start_from(Played played) {
    consider(played, kWorthIt);
    if (!std::ranges::contains(starts_, played.shape, &Played::shape)) starts_.push_back(std::move(played));
  }

  // Real layers may fit where mean ones do not. What no device holds goes to the last one, until it is moved.
  void start_from_the_fullest() {
    const std::uint32_t rounds = std::clamp(request_.rounds, 1U, ring_.model.n_layer());
    FullestRing filled = fullest_ring(ring_, batch_, rounds, request_.excluded);
    const auto last =
        std::ranges::find_last_if(filled.order, [&](std::size_t m) { return !request_.excludes(m); });
    if (last.empty()) return;
    filled.layers[last.front()] += ring_.model.n_layer() - filled.n_layers;
    for (std::size_t m = 0; m < filled.layers.size(); ++m)
      if (filled.layers[m] < least_layers(m)) return;
    std::erase_if(filled.order, [&](std::size_t m) { return m > 0 && filled.layers[m] == 0; });
    const std::size_t n = filled.layers.size();
    start_from(play({.order = std::move(filled.order),
                     .layers = std::move(filled.layers),
                     .gpu_layers = std::vector<std::uint32_t>(n, 0),
                     .every_round = std::vector<bool>(n, true),
                     .rounds = rounds},
                    std::nullopt));
  }

  // Whether any differs by more than a tenth from what was supposed.
  bool use_hops_of_best() {
    bool differs = false;
    const std::vector<std::size_t>& order = best_->shape.order;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const std::size_t from = order[i], to = order[(i + 1) % order.size()];
      if (from == to) continue;
      const double is = hop(from, to);
      differs |= std::abs(is - hop_s_[from]) > 0.1 * hop_s_[from];
      hop_s_[from] = is;
    }
    return differs;
  }

  // Layers of one size and evenly spaced visits are not what happens: plans that differ in one thing are
  // tried as long as one is better. The ring keeps its members where anything else helps.
  void move_layers(const Played& start) {
    Played now = start;
    std::uint32_t tried = 0;
    const auto attempt = [&](const auto& change) {
      if (++tried > kMostMoves || request_.is_cancelled()) return false;
      Shape shape = now.shape;
      change(shape);
      Played played = play(shape, now.from);
      if (!is_better(played, now, kWorthMoving)) return false;
      now = std::move(played);
      return true;
    };
    for (bool moved = true, members_change = false; (moved || !members_change) && tried < kMostMoves;) {
      members_change = !moved;
      moved = false;
      // Windows of other layers, which may fit better.
      for (std::size_t i = 0; i + 1 < now.shape.order.size() && now.shape.order.size() > 2; ++i)
        moved |= attempt([&](Shape& shape) { std::swap(shape.order[i], shape.order[i + 1]); });
      if (request_.rounds == 0 && now.shape.order.size() > 1) {
        moved |= attempt([](Shape& shape) { ++shape.rounds; });
        if (now.shape.rounds > 1) moved |= attempt([](Shape& shape) { --shape.rounds; });
        for (std::size_t m = 0; m < ring_.devices.size(); ++m)
          if (now.shape.rounds > 1 && now.shape.layers[m] > 1)
            moved |= attempt([&](Shape& shape) { shape.every_round[m] = !shape.every_round[m]; });
      }
      for (std::size_t from = 0; from < ring_.devices.size(); ++from) {
        if (now.shape.gpu_layers[from] > 0) moved |= attempt([&](Shape& shape) { --shape.gpu_layers[from]; });
        for (std::size_t to = 0; to < ring_.devices.size(); ++to) {
          if (from == to || now.shape.layers[to] >= limits_.most_layers[to]) continue;
          if (now.shape.layers[from] <= std::max(least_layers(from), now.shape.gpu_layers[from])) break;
          if (!members_change && (now.shape.layers[from] == 1 || now.shape.layers[to] == 0)) continue;
          moved |= attempt([&](Shape& shape) {
            --shape.layers[from];
            ++shape.layers[to];
            if (!std::ranges::contains(shape.order, to)) shape.order.push_back(to);
          });
        }
      }
    }
    consider(now, 1);
  }

  const RingProfile& ring_;
  const PlanRequest& request_;
  const BatchNeeds& batch_;
  Limits limits_;
  std::vector<double> hop_s_;  // by device, to the next one
  std::optional<Played> best_;
  std::vector<Played> starts_;  // where better ones are looked for
};

std::unexpected<Error> first_token_unknown() {
  return fail(ErrorCode::kUnsupported,
              "the time to the first token is not known: a device was measured with few tokens only; measure "
              "it, or do not limit that (--max-ttft)");
}

Result<Proposal> by_hand(const RingProfile& ring, const PlanRequest& request) {
  const std::size_t n_devices = ring.devices.size();
  const bool by_visit = request.n_window_rounds > 1;
  if (request.windows.size() != n_devices * request.n_window_rounds)
    return fail(
        ErrorCode::kInvalidArgument,
        "--layer-window names {} devices{}, the ring has {}: the head first, then the workers in order",
        request.windows.size() / request.n_window_rounds, by_visit ? " in each round" : "", n_devices);
  if (by_visit && request.rounds > 0 && request.rounds != request.n_window_rounds)
    return fail(ErrorCode::kInvalidArgument,
                "--layer-window names the windows of {} rounds, --rounds asks for {}; leave --rounds out",
                request.n_window_rounds, request.rounds);
  for (std::size_t i = 0; i < request.windows.size(); ++i)
    if (request.excludes(i % n_devices) && request.windows[i] > 0)
      return fail(ErrorCode::kInvalidArgument,
                  "{} is excluded (--exclude) and has a window of {} (--layer-window)",
                  ring.devices[i % n_devices].name, request.windows[i]);
  const std::uint64_t per_round = std::max<std::uint64_t>(
      1, std::reduce(request.windows.begin(), request.windows.end(), std::uint64_t{0}));
  Proposal made;
  made.rounds = by_visit ? request.n_window_rounds
                : request.rounds > 0
                    ? request.rounds
                    : static_cast<std::uint32_t>((ring.model.n_layer() + per_round - 1) / per_round);
  std::vector<std::string> names;
  for (const DeviceProfile& device : ring.devices) names.push_back(device.name);
  HEARTH_TRY(made.plan, split_by_windows(ring.model.n_layer(), names, request.windows, made.rounds));
  std::optional<Prediction> best;
  for (const BatchNeeds& batch : ring.model.batches) {
    auto prediction = predict(ring, request.traffic, batch, made.plan);
    if (!prediction || (best && kLargerBatches * cost_s(*prediction) > cost_s(*best))) continue;
    best = std::move(prediction);
    made.n_ubatch = batch.n_tokens;
  }
  if (!best) return share_does_not_fit(ring, made.plan);
  if (std::isinf(best->ttft_s) && std::isfinite(request.max_ttft_s)) return first_token_unknown();
  if (best->ttft_s > request.max_ttft_s)
    return fail(ErrorCode::kUnsupported,
                "with these windows (--layer-window) the first token of a prompt of {} tokens takes {:.3g} "
                "s, allowed are {:.3g} s (--max-ttft)",
                request.traffic.prompt_tokens, best->ttft_s, request.max_ttft_s);
  made.prediction = *std::move(best);
  return made;
}

// How well plans are searched for.
enum class Effort : std::uint8_t {
  kOnce,     // from the solver's optima: for explanations
  kThorough  // and without each device as long as that is better: the optimum may not be that of real layers
};

// The best for one batch size.
std::optional<Proposal> best_for(const RingProfile& ring, PlanRequest request, const BatchNeeds& batch,
                                 const std::vector<std::uint32_t>& least_layers, Effort effort) {
  auto best = Search(ring, request, batch, least_layers).run();
  if (!best || effort == Effort::kOnce || ring.devices.size() > kMostTriedWithout) return best;
  request.excluded.resize(ring.devices.size(), false);
  for (bool found = true; found;) {
    found = false;
    for (std::size_t m = 1; m < ring.devices.size() && !found; ++m) {
      if (best->prediction.devices[m].n_layers == 0 || (!least_layers.empty() && least_layers[m] > 0))
        continue;
      request.excluded[m] = true;
      auto without = Search(ring, request, batch, least_layers).run();
      found = without && better(request, without->prediction, best->prediction, kWorthIt);
      if (found)
        best = std::move(without);
      else
        request.excluded[m] = false;
    }
  }
  return best;
}

Result<Proposal> search(const RingProfile& ring, const PlanRequest& request,
                        const std::vector<std::uint32_t>& least_layers, std::span<const BatchNeeds> batches,
                        Effort effort) {
  std::vector<Proposal> found;
  const auto attempt = [&](const BatchNeeds& batch) {
    auto made = best_for(ring, request, batch, least_layers, effort);
    if (made) found.push_back(*std::move(made));
  };
  // Buffers of smaller batches leave more memory for weights, on the fast devices too. Those between are
  // worth trying where the smallest are better than the largest.
  attempt(batches.front());
  if (batches.size() > 1) attempt(batches.back());
  const bool largest_will_do = found.size() == 2 && found[0].prediction.ttft_s <= request.max_ttft_s &&
                               !better(request, found[1].prediction, found[0].prediction, 1 / kLargerBatches);
  if (largest_will_do) found.pop_back();
  for (std::size_t i = 1; i + 1 < batches.size() && !largest_will_do; ++i) attempt(batches[i]);
  if (found.empty()) return does_not_fit(ring, request.rounds, request.excluded);
  // The largest of which none is better by more than that.
  std::ranges::sort(found, std::greater{}, &Proposal::n_ubatch);
  const auto is_beaten = [&](const Proposal& by, const Proposal& one) {
    return better(request, by.prediction, one.prediction, 1 / kLargerBatches);
  };
  Proposal* best = &found.back();
  for (Proposal& one : found) {
    if (std::ranges::any_of(found, [&](const Proposal& by) { return is_beaten(by, one); })) continue;
    best = &one;
    break;
  }
  if (best->prediction.ttft_s <= request.max_ttft_s) return std::move(*best);
  if (std::isinf(best->prediction.ttft_s)) return first_token_unknown();
  return fail(ErrorCode::kUnsupported,
              "no plan was found that gives the first token of a prompt of {} tokens within {:.3g} s; the "
              "least found is {:.3g} s: allow more (--max-ttft), or add a device",
              request.traffic.prompt_tokens, request.max_ttft_s, best->prediction.ttft_s);
}

// The ring with what is missing assumed, and with the batches that hold a token of each user: that is one
// pass.
Assumptions completed(const RingProfile& ring, std::uint32_t users) {
  Assumptions made = with_assumptions(ring);
  std::erase_if(made.ring.model.batches, [&](const BatchNeeds& batch) { return batch.n_tokens < users; });
  return made;
}

// A plan under other conditions, of which only the time counts: with the batches that were chosen, or where
// nothing fits with those, with any. Infinite: the first token comes too late; nullopt: nothing fits.
std::optional<double> period_of(const RingProfile& ring, const PlanRequest& request, const Proposal& proposal,
                                const std::vector<std::uint32_t>& least_layers = {}) {
  auto found = search(ring, request, least_layers, std::span(&ring.model.batch_of(proposal.n_ubatch), 1),
                      Effort::kOnce);
  if (!found) found = search(ring, request, least_layers, ring.model.batches, Effort::kOnce);
  if (found) return found->prediction.period_s;
  if (found.error().code == ErrorCode::kUnsupported) return std::numeric_limits<double>::infinity();
  return std::nullopt;
}

}  // namespace

bool Proposal::any_assumed() const {
  for (std::size_t m = 0; m < assumed.size(); ++m)
    if (assumed[m] && prediction.devices[m].n_visits > 0) return true;
  const auto in_ring =
      std::ranges::count_if(prediction.devices, [](const DeviceUse& use) { return use.n_visits > 0; });
  return links_assumed && in_ring > 1;
}

Assumptions with_assumptions(RingProfile ring) {
  HEARTH_CHECK(!ring.devices.empty());
  const ComputeProfile* slowest = nullptr;
  double disk = 0;
  for (const DeviceProfile& device : ring.devices) {
    if (device.cpu.known() && (slowest == nullptr || device.cpu.pass_s(1, 1) > slowest->pass_s(1, 1)))
      slowest = &device.cpu;
    if (device.disk_bytes_per_s > 0)
      disk = disk > 0 ? std::min(disk, device.disk_bytes_per_s) : device.disk_bytes_per_s;
  }
  const ComputeProfile cpu =
      slowest != nullptr ? *slowest
                         : ComputeProfile{.passes = {{.n_tokens = 1, .bytes_per_s = kAssumedBytesPerS}}};
  if (disk <= 0) disk = kAssumedDiskBytesPerS;
  Assumptions made;
  for (DeviceProfile& device : ring.devices) {
    made.assumed.push_back(!device.cpu.known() || device.disk_bytes_per_s <= 0);
    if (!device.cpu.known()) device.cpu = cpu;
    if (device.disk_bytes_per_s <= 0) device.disk_bytes_per_s = disk;
    if (device.gpu && !device.gpu->compute.known()) device.gpu.reset();
  }
  made.ring = std::move(ring);
  return made;
}

Result<std::vector<bool>> named(const RingProfile& ring, const std::vector<std::string>& names) {
  std::vector<bool> found;
  if (names.empty()) return found;
  found.resize(ring.devices.size(), false);
  for (const std::string& name : names) {
    const auto at = std::ranges::find(ring.devices, name, &DeviceProfile::name);
    if (std::ranges::count(ring.devices, name, &DeviceProfile::name) > 1)
      return fail(
          ErrorCode::kInvalidArgument,
          "more than one device is called '{}': which one to exclude is not clear; give them names of "
          "their own (hearth worker --name, or in the file)",
          name);
    if (at == ring.devices.end()) {
      std::string all;
      for (const DeviceProfile& device : ring.devices) all += (all.empty() ? "" : ", ") + device.name;
      return fail(ErrorCode::kInvalidArgument, "there is no device '{}' to exclude; the devices are {}", name,
                  all);
    }
    found[static_cast<std::size_t>(at - ring.devices.begin())] = true;
  }
  return found;
}

Result<Proposal> propose(const RingProfile& ring, const PlanRequest& request) {
  HEARTH_CHECK(!ring.model.layer_bytes.empty() && !ring.model.batches.empty() && !ring.devices.empty() &&
               (request.excluded.empty() || request.excluded.size() == ring.devices.size()));
  Assumptions complete = completed(ring, request.traffic.users);
  if (complete.ring.model.batches.empty())
    return fail(ErrorCode::kInvalidArgument,
                "a token of each of {} users is more than a batch of {} tokens: ask for larger batches (-ub) "
                "or fewer users (--users)",
                request.traffic.users, ring.model.batches.front().n_tokens);
  auto made = request.windows.empty()
                  ? search(complete.ring, request, {}, complete.ring.model.batches, Effort::kThorough)
                  : by_hand(complete.ring, request);
  if (request.is_cancelled()) return fail(ErrorCode::kCancelled, "interrupted while the plan was made");
  if (made) {
    made->assumed = std::move(complete.assumed);
    made->links_assumed = !ring.links_known;
  }
  return made;
}

std::vector<Alternatives> alternatives(const RingProfile& ring, const PlanRequest& request,
                                       const Proposal& proposal) {
  const Assumptions complete = completed(ring, request.traffic.users);
  const std::size_t n = ring.devices.size();
  std::vector<Alternatives> all(n);
  if (!request.windows.empty()) return all;
  const auto n_used = std::ranges::count_if(proposal.prediction.devices,
                                            [](const DeviceUse& use) { return use.n_layers > 0; });
  const bool memory_matters = proposal.prediction.streams() || n_used > 1;
  for (std::size_t m = 0; m < n && !request.is_cancelled(); ++m) {
    Alternatives& other = all[m];
    const DeviceUse& use = proposal.prediction.devices[m];
    const bool in_ring = use.n_layers > 0;
    if (in_ring && n > 1 && m > 0) {
      PlanRequest without = request;
      without.excluded.resize(n, false);
      without.excluded[m] = true;
      other.without_it_s = period_of(complete.ring, without, proposal);
    }
    if (!in_ring && !request.excludes(m)) {
      std::vector<std::uint32_t> least(n, 0);
      least[m] = 1;
      other.with_it_s = period_of(complete.ring, request, proposal, least);
    }
    const auto changed = [&](auto change) {
      RingProfile faster = complete.ring;
      change(faster);
      std::optional<double> period = period_of(faster, request, proposal);
      // The same plan may be better there than what is found.
      if (const auto same = predict(faster, request.traffic, faster.model.batch_of(proposal.n_ubatch),
                                    proposal.plan, proposal.gpu_layers))
        period = std::min(period.value_or(same->period_s), same->period_s);
      return period;
    };
    if (memory_matters)
      other.with_more_memory_s = changed([&](RingProfile& r) { r.devices[m].memory_bytes += kMoreMemory; });
    if (use.streamed_bytes > 0)
      other.with_faster_disk_s = changed([&](RingProfile& r) { r.devices[m].disk_bytes_per_s *= 2; });
    if (n > 1)
      other.with_faster_links_s = changed([&](RingProfile& r) {
        if (r.links.empty()) r.links.assign(n, std::vector<LinkProfile>(n, kAssumedLink));
        for (std::size_t to = 0; to < n; ++to)
          for (LinkProfile* link : {&r.links[m][to], &r.links[to][m]}) {
            link->latency_s /= 2;
            link->bytes_per_s *= 2;
          }
      });
  }
  return all;
}

}  // namespace hearth::plan
