// vs-libllama: hearth's computing and libllama's, on the same file, in one process, in turn.
//
// Both sides run on this thread with the same number of threads, the same batches, f16 KV and flash
// attention, so they share the OpenMP team and its environment. Before anything is timed the logits are
// compared bit by bit.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <print>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/units.h"
#include "oracle_lib/oracle.h"
#include "profile/memory_rate.h"
#include "support/interleave.h"
#include "support/record.h"
#include "support/statistics.h"
#include "vs_libllama/hearth_side.h"

namespace hearth::bench {
namespace {

struct Options {
  std::string model;
  std::string results = HEARTH_SOURCE_DIR "/bench/results/vs_libllama.jsonl";
  std::vector<std::string> weights = {"repacked", "plain"};
  std::vector<std::string> works = {"decode", "prefill128", "prefill512"};
  std::uint32_t n_threads = std::max(1u, std::thread::hardware_concurrency());
  std::size_t n_pairs = 30;
  std::size_t max_tries = 300;
  double max_taken_percent = 5;
  std::uint32_t n_steps = 16;  // tokens of one decode round
  std::uint32_t depth = 64;    // positions before them
  bool no_record = false;
};

// What one round does: `n_before` tokens once, untimed, then n_steps calls of n_tokens each.
struct Work {
  std::string name;
  std::uint32_t n_before = 0, n_tokens = 1, n_steps = 1;
};

class LibllamaSide {
 public:
  [[nodiscard]] static Result<LibllamaSide> create(const Options& options, bool repack) {
    HEARTH_TRY(oracle::Oracle oracle,
               oracle::Oracle::open(options.model, {.n_ctx = 1024,
                                                    .n_batch = 512,
                                                    .n_ubatch = 512,
                                                    .n_threads = static_cast<std::int32_t>(options.n_threads),
                                                    .repack = repack,
                                                    .flash = oracle::Flash::kOn}));
    return LibllamaSide(std::move(oracle));
  }

  // As HearthSide::decode.
  [[nodiscard]] Result<double> decode(std::span<const std::int32_t> tokens, std::int32_t first) {
    if (oracle_.seq_pos_max(0) >= first && !oracle_.seq_rm(0, first, -1)) {
      return fail(ErrorCode::kUnsupported, "libllama cannot forget positions from {}", first);
    }
    batch_.resize(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      batch_[i].token = tokens[i];
      batch_[i].pos = first + static_cast<std::int32_t>(i);
      batch_[i].output = i + 1 == tokens.size();
    }
    return oracle_.timed_decode(batch_);
  }
  [[nodiscard]] Result<std::vector<float>> logits_of(std::span<const std::int32_t> tokens) {
    oracle_.clear();
    std::vector<oracle::BatchToken> batch;
    for (const std::int32_t token : tokens) {
      batch.push_back({.token = token, .pos = static_cast<std::int32_t>(batch.size())});
    }
    batch.back().output = true;
    HEARTH_TRY(oracle::Logits logits, oracle_.decode(batch));
    return std::move(logits.values);
  }

 private:
  explicit LibllamaSide(oracle::Oracle oracle) : oracle_(std::move(oracle)) {}
  oracle::Oracle oracle_;
  std::vector<oracle::BatchToken> batch_;
};

std::vector<std::int32_t> some_tokens(std::size_t n, std::uint32_t n_vocab) {
  std::vector<std::int32_t> tokens(n);
  for (std::size_t i = 0; i < n; ++i) tokens[i] = static_cast<std::int32_t>((i * 7919 + 17) % n_vocab);
  return tokens;
}

// Seconds of one round.
Result<double> round(auto& side, const Work& work, std::span<const std::int32_t> tokens) {
  double seconds = 0;
  auto first = static_cast<std::int32_t>(work.n_before);
  for (std::uint32_t step = 0; step < work.n_steps; ++step) {
    const std::size_t at = work.n_before + std::size_t{step} * work.n_tokens;
    HEARTH_TRY(const double s, side.decode(tokens.subspan(at, work.n_tokens), first));
    seconds += s;
    first += static_cast<std::int32_t>(work.n_tokens);
  }
  return seconds;
}

Result<Work> parse_work(const std::string& name, const Options& options) {
  if (name == "decode") {
    return Work{.name = name, .n_before = options.depth, .n_tokens = 1, .n_steps = options.n_steps};
  }
  for (const std::uint32_t n : {128u, 512u}) {
    if (name == "prefill" + std::to_string(n)) return Work{.name = name, .n_tokens = n};
  }
  return fail(ErrorCode::kInvalidArgument, "no work '{}'; there are: decode prefill128 prefill512", name);
}

std::string now_utc() {
  return std::format("{:%FT%TZ}", std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()));
}

struct Common {
  nlohmann::ordered_json record;  // what all lines share
  double bandwidth = 0;
};

Result<> measure(const Options& options, const Work& work, HearthSide& hearth, LibllamaSide& libllama,
                 const std::string& weights, const Common& common) {
  const std::vector<std::int32_t> tokens =
      some_tokens(work.n_before + std::size_t{work.n_tokens} * work.n_steps, hearth.model().params().n_vocab);
  if (work.n_before > 0) {
    HEARTH_TRY_VOID(hearth.decode(std::span(tokens).first(work.n_before), 0));
    HEARTH_TRY_VOID(libllama.decode(std::span(tokens).first(work.n_before), 0));
  }
  InterleaveOptions interleaving{.n_pairs = options.n_pairs,
                                 .max_taken = options.max_taken_percent / 100,
                                 .max_tries = options.max_tries};
  interleaving.progress = [&](std::size_t kept, std::size_t discarded) {
    std::print(stderr, "\r{} {}: {} of {} pairs, {} discarded ", weights, work.name, kept, options.n_pairs,
               discarded);
  };
  HEARTH_TRY(const Pairs pairs, interleave(
                                    interleaving, [&] { return round(hearth, work, tokens); },
                                    [&] { return round(libllama, work, tokens); }));
  std::print(stderr, "\r{:60}\r", "");
  if (pairs.a_s.empty()) {
    std::println("{:<9}{:<11} no pair of {} was undisturbed: the machine is busy", weights, work.name,
                 pairs.n_discarded);
    return {};
  }
  const Interval ratio = bootstrap_median(pairs.ratios());
  const double hearth_s = median(pairs.a_s) / work.n_steps, libllama_s = median(pairs.b_s) / work.n_steps;
  nlohmann::ordered_json j = common.record;
  j["weights"] = weights;
  j["work"] = work.name;
  j["pairs"] = pairs.a_s.size();
  j["discarded"] = pairs.n_discarded;
  j["worst_share_taken"] = pairs.worst_kept;
  j["hearth_s"] = hearth_s;
  j["libllama_s"] = libllama_s;
  j["ratio"] = {{"median", ratio.median}, {"low", ratio.low}, {"high", ratio.high}};
  std::string limit;
  if (work.n_tokens == 1) {
    const auto bytes = static_cast<double>(hearth.bytes_per_token(work.n_before + work.n_steps / 2));
    const double limit_s = bytes / common.bandwidth;
    j["bytes_per_token"] = bytes;
    j["limit_s"] = limit_s;
    j["share_of_limit"] = limit_s / hearth_s;
    limit = std::format("limit {:.2f} ms, {:.0f} % of it reached", limit_s * 1e3, 100 * limit_s / hearth_s);
  } else {
    limit = std::format("{:.0f} tokens/s", work.n_tokens / hearth_s);
  }
  std::println(
      "{:<9}{:<11} hearth {:8.2f} ms  libllama {:8.2f} ms  ratio {:.3f} [{:.3f}, {:.3f}]  {} pairs, {} "
      "discarded  {}",
      weights, work.name, hearth_s * 1e3, libllama_s * 1e3, ratio.median, ratio.low, ratio.high,
      pairs.a_s.size(), pairs.n_discarded, limit);
  j["tokens_per_s"] = work.n_tokens / hearth_s;
  return options.no_record ? Result<>() : append_line(options.results, j);
}

Result<> run(const Options& options, const std::vector<std::string>& arguments) {
  std::vector<Work> works;
  for (const std::string& name : options.works) {
    HEARTH_TRY(Work work, parse_work(name, options));
    works.push_back(std::move(work));
  }
  Common common;
  nlohmann::ordered_json& record = common.record;
  record["time"] = now_utc();
  record["bench"] = "vs_libllama";
  record["commit"] = commit(HEARTH_SOURCE_DIR);
  record["command"] = command_line(arguments);
  record["machine"] = machine();
  record["openmp"] = openmp_environment();
  HEARTH_TRY(const std::string hash, file_hash(options.model));
  record["model"] = {{"file", std::filesystem::path(options.model).filename().string()},
                     {"bytes", std::filesystem::file_size(options.model)},
                     {"blake3", hash}};
  // The limit, so the best pass counts.
  HEARTH_TRY(const profile::MemoryRate memory,
             profile::measure_memory(options.n_threads, {.bytes = std::uint64_t{1} << 30}));
  common.bandwidth = static_cast<double>(memory.best_bytes_per_s);
  record["threads"] = options.n_threads;
  record["memory_bytes_per_s"] = common.bandwidth;

  std::println("{} ({}), {} threads; {}", options.model,
               format_bytes(std::filesystem::file_size(options.model)), options.n_threads,
               record["machine"].dump());
  std::println("memory is read at {:.1f} GB/s; OpenMP environment of both sides: {}", common.bandwidth / 1e9,
               record["openmp"].empty() ? "nothing set" : record["openmp"].dump());
  for (const std::string& weights : options.weights) {
    const bool repack = weights == "repacked";
    HEARTH_TRY(const auto hearth,
               HearthSide::create(options.model, {.n_threads = options.n_threads, .repack = repack}));
    HEARTH_TRY(LibllamaSide libllama, LibllamaSide::create(options, repack));

    const std::vector<std::int32_t> probe = some_tokens(33, hearth->model().params().n_vocab);
    HEARTH_TRY_VOID(hearth->decode(probe, 0));
    HEARTH_TRY(const std::vector<float> reference, libllama.logits_of(probe));
    const bool equal =
        hearth->logits().size() == reference.size() &&
        std::memcmp(hearth->logits().data(), reference.data(), hearth->logits().size_bytes()) == 0;
    record["equal_bits"] = equal;
    if (!equal) std::println("{}: the logits of the two sides are NOT equal bit by bit", weights);
    for (const Work& work : works)
      HEARTH_TRY_VOID(measure(options, work, *hearth, libllama, weights, common));
  }
  return {};
}

int main_of(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Times hearth's windows against libllama on the same GGUF, in turn, in one process.\n"
      "Ratios are hearth / libllama, the median of pairs with its 95 % bootstrap interval.\n"
      "Example: vs-libllama -m /tmp/q.gguf -t 2",
      "vs-libllama"};
  app.add_option("-m,--model", options.model, "GGUF file; 600 MB or more say something about real models")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("-t,--threads", options.n_threads, "threads of both sides")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--pairs", options.n_pairs, "pairs that count")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--max-tries", options.max_tries, "pairs at most, discarded ones included")
      ->capture_default_str();
  app.add_option("--max-taken", options.max_taken_percent,
                 "discard a pair that lost more than this percentage of the processor to the hypervisor and "
                 "other processes")
      ->capture_default_str();
  app.add_option("--weights", options.weights, "repacked, plain")
      ->delimiter(',')
      ->check(CLI::IsMember({"repacked", "plain"}))
      ->capture_default_str();
  app.add_option("--work", options.works, "decode, prefill128, prefill512")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--steps", options.n_steps, "tokens of a decode round")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--depth", options.depth, "positions before a decode round")
      ->check(CLI::Range(1, 512))
      ->capture_default_str();
  app.add_option("--results", options.results, "file that gets a line per measurement")
      ->capture_default_str();
  app.add_flag("--no-record", options.no_record, "print only");
  CLI11_PARSE(app, argc, argv);
  const Result<> done = run(options, {argv, argv + argc});
  if (done) return 0;
  std::println(stderr, "vs-libllama: {}", done.error().message);
  return 1;
}

}  // namespace
}  // namespace hearth::bench

int main(int argc, char** argv) {
  try {
    return hearth::bench::main_of(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "vs-libllama: %s\n", e.what());
    return 1;
  }
}
