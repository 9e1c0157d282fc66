#include "plan/milp_solver.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <new>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <Highs.h>

namespace hearth::plan {
namespace {

constexpr double kMs = 1000;         // ms, layers and units are numbers near one another
constexpr double kTolerance = 1e-5;  // relative, between the program's seconds and those of ring_terms.h

// A sum of columns, each times a factor.
struct Sum {
  std::map<HighsInt, double> factors = {};  // by column
  double constant = 0;
};

Sum operator+(Sum left, const Sum& right) {
  for (const auto& [column, factor] : right.factors) left.factors[column] += factor;
  left.constant += right.constant;
  return left;
}
Sum operator+(Sum sum, double constant) {
  sum.constant += constant;
  return sum;
}
Sum operator*(double factor, Sum sum) {
  for (auto& [column, of_column] : sum.factors) of_column *= factor;
  sum.constant *= factor;
  return sum;
}
Sum operator-(const Sum& left, const Sum& right) {
  return left + (-1.0) * right;
}

// The columns and rows of a program, and the columns' values once it is solved. Columns are >= 0.
class Program {
 public:
  Sum real(double most = kHighsInf) { return column(most, HighsVarType::kContinuous); }
  Sum whole(double most) { return column(most, HighsVarType::kInteger); }
  Sum binary() { return whole(1); }

  void at_least(const Sum& left, const Sum& right) {
    const Sum difference = left - right;
    for (const auto& [index, factor] : difference.factors) {
      if (factor == 0) continue;
      lp_.a_matrix_.index_.push_back(index);
      lp_.a_matrix_.value_.push_back(factor);
    }
    lp_.a_matrix_.start_.push_back(static_cast<HighsInt>(lp_.a_matrix_.index_.size()));
    lp_.row_lower_.push_back(-difference.constant);
    lp_.row_upper_.push_back(kHighsInf);
    ++lp_.num_row_;
  }
  void at_least(const Sum& sum, double bound) { at_least(sum, Sum{.constant = bound}); }
  void at_most(const Sum& left, const Sum& right) { at_least(right, left); }
  void at_most(const Sum& sum, double bound) { at_least(Sum{.constant = bound}, sum); }
  void equal(const Sum& sum, double value) {
    at_least(sum, value);
    at_most(sum, value);
  }

  HighsModelStatus minimise(const Sum& cost, const MilpOptions& options) {
    for (const auto& [index, factor] : cost.factors) lp_.col_cost_[index] = factor;
    lp_.a_matrix_.format_ = MatrixFormat::kRowwise;
    lp_.a_matrix_.num_col_ = lp_.num_col_;
    lp_.a_matrix_.num_row_ = lp_.num_row_;
    Highs::resetGlobalScheduler(true);  // this thread's, which may have had another number of threads
    highs_.setOptionValue("output_flag", false);
    highs_.setOptionValue("threads", static_cast<HighsInt>(options.threads));
    highs_.setOptionValue("time_limit", options.time_limit_s);
    highs_.setOptionValue("mip_rel_gap", options.relative_gap);
    highs_.setOptionValue("mip_abs_gap", 0.0);
    // With them HiGHS 1.14 calls plans optimal that are 5 to 13 % worse (its issues 2995, 3043, 3073, 3094),
    // and restarts can fail an assertion.
    highs_.setOptionValue("presolve", "off");
    highs_.setOptionValue("mip_allow_restart", false);
    if (highs_.passModel(lp_) == HighsStatus::kError || highs_.run() == HighsStatus::kError)
      return HighsModelStatus::kSolveError;
    return highs_.getModelStatus();
  }

  [[nodiscard]] bool has_values() const {
    return highs_.getInfo().primal_solution_status == kSolutionStatusFeasible;
  }
  [[nodiscard]] double value(const Sum& sum) const {
    double value = sum.constant;
    for (const auto& [index, factor] : sum.factors) value += factor * highs_.getSolution().col_value[index];
    return value;
  }
  [[nodiscard]] std::uint32_t count(const Sum& sum) const {
    return static_cast<std::uint32_t>(std::lround(std::max(0.0, value(sum))));
  }
  [[nodiscard]] double gap() const { return highs_.getInfo().mip_gap; }
  [[nodiscard]] std::string text_of(HighsModelStatus status) const {
    return highs_.modelStatusToString(status);
  }

 private:
  Sum column(double most, HighsVarType kind) {
    lp_.col_cost_.push_back(0);
    lp_.col_lower_.push_back(0);
    lp_.col_upper_.push_back(most);
    lp_.integrality_.push_back(kind);
    return {.factors = {{lp_.num_col_++, 1.0}}};
  }

  HighsLp lp_;
  Highs highs_;
};

// What moves for every token through slots: S and X from the disk, or U and Y to the GPU. Each is the sum of
// one column for a device that is visited once and one for a device that is visited in every round, of which
// one is 0. So no row needs a constant that switches it off, through which a fraction of a visit would slip.
struct Stream {
  Sum moved, slots;  // units
  Sum missing_once;  // what slots do not hold when the token comes
  Sum missing;       // in every round: what all but one do not hold before each visit; may be negative
};

// `hold_a_visit`: in every round nothing may be missing.
Stream add_stream(Program& program, const Sum& every_round, std::uint32_t rounds, double most,
                  bool hold_a_visit) {
  const double k = rounds, most_in_rounds = rounds > 1 ? most : 0;
  const Sum once = program.whole(most), slots_once = program.whole(most);
  const Sum in_rounds = program.whole(most_in_rounds), slots_in_rounds = program.whole(most_in_rounds);
  const Sum some_once = program.binary(), some_in_rounds = program.binary();
  program.at_most(some_once + every_round, 1);
  program.at_most(some_in_rounds, every_round);
  program.at_most(once, most * some_once);
  program.at_most(in_rounds, most * some_in_rounds);
  program.at_most(slots_once, once);
  program.at_most(slots_in_rounds, in_rounds);
  program.at_least(slots_once, kLeastSlots * some_once);
  program.at_least(slots_in_rounds, kLeastSlots * some_in_rounds);
  const Sum missing = in_rounds + k * some_in_rounds - k * slots_in_rounds;
  if (hold_a_visit) program.at_most(missing, 0);
  return {.moved = once + in_rounds,
          .slots = slots_once + slots_in_rounds,
          .missing_once = once - slots_once,
          .missing = missing};
}

// The layers whose KV cache alone fits.
std::uint32_t most_layers(const RingTerms& terms, std::uint64_t bytes) {
  if (terms.kv_bytes == 0) return terms.n_layer;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(terms.n_layer, bytes / terms.kv_bytes));
}

// units + the KV cache of `layers` <= bytes, in units. The right side is moved to the middle of all that says
// the same as RingTerms::units_in() for every number of layers, so that no tolerance decides what fits.
void fit(Program& program, const RingTerms& terms, const Sum& units, const Sum& layers, std::uint64_t bytes) {
  std::uint64_t least = terms.layer_bytes, most = 0;  // what is left over of a unit, times units
  for (std::uint64_t n = 0; n <= most_layers(terms, bytes); ++n) {
    const std::uint64_t rest = (bytes - terms.kv_bytes * n) * terms.units % terms.layer_bytes;
    least = std::min(least, rest);
    most = std::max(most, rest);
  }
  const double layer = static_cast<double>(terms.layer_bytes);
  const double middle = static_cast<double>(terms.layer_bytes - (most - least)) / 2;
  const double room = (static_cast<double>(bytes * terms.units - least) + middle) / layer;
  program.at_most(units + static_cast<double>(terms.kv_bytes * terms.units) / layer * layers, room);
}

// The columns of a DeviceShare, and its seconds in ms.
struct Device {
  Sum cpu_layers, gpu_layers;
  Sum in_ring;  // of the head: others are, and it hops
  Sum every_round;
  Stream reads, uploads;
  Sum stage, transfer;
  [[nodiscard]] Sum layers() const { return cpu_layers + gpu_layers; }
};

Device add_device(Program& program, const RingTerms& terms, std::size_t index, std::uint32_t rounds,
                  const Limits& limits) {
  const DeviceTerms& own = terms.devices[index];
  const double u = terms.units;
  const double output = index == 0 ? terms.output_units : 0, output_s = index == 0 ? terms.output_s : 0;
  const std::uint32_t most_cpu = most_layers(terms, own.ram_bytes);
  const std::uint32_t most_vram = own.unified ? 0 : own.has_gpu() ? most_layers(terms, own.vram_bytes) : 0;
  const std::uint32_t most_gpu = own.unified ? most_cpu : most_vram;
  const std::uint32_t most = std::min(terms.n_layer, most_cpu + most_vram);

  Device device;
  device.cpu_layers = program.whole(most_cpu);
  device.gpu_layers = program.whole(most_gpu);
  device.in_ring = program.binary();
  device.every_round = program.whole(rounds > 1 ? 1 : 0);
  device.reads = add_stream(program, device.every_round, rounds, u * most + output, false);
  device.uploads = add_stream(program, device.every_round, rounds, u * most_vram, true);
  device.stage = program.real(kMs * limits.stage_s);
  device.transfer = program.real(kMs * limits.stage_s);
  const auto& [cpu, gpu, in_ring, every_round, reads, uploads, stage, transfer] = device;

  program.at_most(every_round, in_ring);
  program.at_least(device.layers(), static_cast<double>(rounds) * every_round);
  if (index > 0) program.at_most(device.layers(), most * in_ring);
  if (!limits.least_layers.empty()) program.at_least(device.layers(), limits.least_layers[index]);
  if (!limits.most_layers.empty()) program.at_most(device.layers(), limits.most_layers[index]);

  const double read_ms = kMs * own.disk_s / u, upload_ms = kMs * own.upload_s / u;
  program.at_least(stage, kMs * own.cpu_s * cpu + kMs * own.gpu_s * gpu + kMs * output_s);
  program.at_least(stage, read_ms * reads.missing_once);
  program.at_least(stage, read_ms * reads.missing);
  program.at_least(stage, upload_ms * uploads.missing_once);
  program.at_least(transfer, read_ms * reads.moved);
  program.at_least(transfer, upload_ms * uploads.moved);

  const Sum in_ram = own.unified ? device.layers() : cpu;  // layers whose KV cache is there
  const Sum all = u * in_ram + uploads.moved + output;
  program.at_most(reads.moved, all);
  fit(program, terms, all - reads.moved + reads.slots, in_ram, own.ram_bytes);
  if (most_vram > 0) {
    program.at_most(uploads.moved, u * gpu);
    fit(program, terms, u * gpu - uploads.moved + uploads.slots, gpu, own.vram_bytes);
  }
  return device;
}

bool equal_devices(const RingTerms& terms, const Limits& limits, std::size_t a, std::size_t b) {
  const auto all_of = [&](std::size_t m) {
    const DeviceTerms& d = terms.devices[m];
    return std::tuple(d.cpu_s, d.gpu_s, d.disk_s, d.upload_s, d.hop_s, d.ram_bytes, d.vram_bytes, d.unified,
                      limits.least_layers.empty() ? 0 : limits.least_layers[m],
                      limits.most_layers.empty() ? 0 : limits.most_layers[m]);
  };
  return all_of(a) == all_of(b);
}

DeviceShare share_of(const Program& program, const Device& device) {
  return {.cpu_layers = program.count(device.cpu_layers),
          .gpu_layers = program.count(device.gpu_layers),
          .every_round = program.count(device.every_round) == 1,
          .streamed = program.count(device.reads.moved),
          .slots = program.count(device.reads.slots),
          .uploaded = program.count(device.uploads.moved),
          .gpu_slots = program.count(device.uploads.slots)};
}

// What the program says of the plan, by ring_terms.h.
Result<Solution> checked(const RingTerms& terms, std::uint32_t rounds, const Limits& limits,
                         std::vector<DeviceShare> shares, double program_s) {
  const auto exceeds = [](double seconds, double limit_s) { return seconds > limit_s * (1 + kTolerance); };
  std::uint32_t layers = 0;
  for (std::size_t m = 0; m < shares.size(); ++m) {
    layers += shares[m].layers();
    if (!fits(terms, m, shares[m], rounds))
      return fail(ErrorCode::kNumeric, "HiGHS's share of device {} does not fit its memory: {} layers", m,
                  shares[m].layers());
    const double seconds = std::max(stage_s(terms, m, shares[m], rounds), transfer_s(terms, m, shares[m]));
    if (exceeds(seconds, limits.stage_s))
      return fail(ErrorCode::kNumeric, "HiGHS's share of device {} takes {} s, the limit is {} s", m, seconds,
                  limits.stage_s);
    const bool too_few = !limits.least_layers.empty() && shares[m].layers() < limits.least_layers[m];
    const bool too_many = !limits.most_layers.empty() && shares[m].layers() > limits.most_layers[m];
    if (too_few || too_many)
      return fail(ErrorCode::kNumeric, "HiGHS's share of device {} has {} layers, not what its limits allow",
                  m, shares[m].layers());
  }
  if (!take_turns(shares))
    return fail(ErrorCode::kNumeric, "HiGHS's plan visits one device alone in every round");
  if (layers != terms.n_layer)
    return fail(ErrorCode::kNumeric, "HiGHS's plan has {} layers of {}", layers, terms.n_layer);
  const double period = period_s(terms, shares, rounds);
  if (exceeds(period, program_s))
    return fail(ErrorCode::kNumeric, "HiGHS's plan takes {} s a token, not {} s", period, program_s);
  return Solution{.period_s = period, .rounds = rounds, .shares = std::move(shares)};
}

Result<MilpResult> solve(const RingTerms& terms, std::uint32_t rounds, const Limits& limits,
                         const MilpOptions& options) {
  Program program;
  const Sum period = program.real();
  std::vector<Device> devices;
  Sum layers, chain;
  for (std::size_t m = 0; m < terms.devices.size(); ++m) {
    const Device& device = devices.emplace_back(add_device(program, terms, m, rounds, limits));
    const Sum visits = device.in_ring + (rounds - 1.0) * device.every_round;
    layers = layers + device.layers();
    chain = chain + device.stage + kMs * terms.devices[m].hop_s * visits;
    program.at_least(period, device.transfer);
    if (m > 0) program.at_most(device.in_ring, devices[0].in_ring);
    for (std::size_t other = m; other-- > 1;) {
      if (!equal_devices(terms, limits, other, m)) continue;
      program.at_most(device.layers(), devices[other].layers());
      break;
    }
  }
  // A device that is visited in every round is so beside another one.
  Sum in_every_round;
  for (const Device& device : devices) in_every_round = in_every_round + device.every_round;
  for (const Device& device : devices) program.at_least(in_every_round, 2 * device.every_round);
  program.at_least(period, chain);
  program.equal(layers, terms.n_layer);
  // A head that does not hop has all layers.
  program.at_least(devices[0].layers() + terms.n_layer * devices[0].in_ring, terms.n_layer);

  const HighsModelStatus status = program.minimise(period, options);
  if (status == HighsModelStatus::kInfeasible || status == HighsModelStatus::kUnboundedOrInfeasible)
    return MilpResult{.solution = std::nullopt, .gap = 0, .proven = true};  // the period is never unbounded
  const bool proven = status == HighsModelStatus::kOptimal;
  if (!proven && status != HighsModelStatus::kTimeLimit)
    return fail(ErrorCode::kNumeric, "HiGHS ended with: {}", program.text_of(status));
  if (!program.has_values())
    return fail(ErrorCode::kTimeout, "HiGHS found no plan within {} s; allow it more", options.time_limit_s);

  std::vector<DeviceShare> shares;
  for (const Device& device : devices) shares.push_back(share_of(program, device));
  HEARTH_TRY(Solution solution,
             checked(terms, rounds, limits, std::move(shares), program.value(period) / kMs));
  return MilpResult{.solution = std::move(solution), .gap = program.gap(), .proven = proven};
}

}  // namespace

Result<MilpResult> solve_milp(const RingTerms& terms, std::uint32_t rounds, const Limits& limits,
                              const MilpOptions& options) {
  HEARTH_CHECK(rounds > 0 && terms.n_layer > 0 && terms.units > 0 && terms.layer_bytes > 0 &&
               !terms.devices.empty() && options.threads > 0);
  try {
    return solve(terms, rounds, limits, options);
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::kOutOfMemory, "HiGHS ran out of memory with {} layers on {} devices",
                terms.n_layer, terms.devices.size());
  }
}

}  // namespace hearth::plan
