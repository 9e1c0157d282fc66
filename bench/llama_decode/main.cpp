// llama-decode: what a token costs libllama on a GGUF, measured inside its process.
//
// One JSON object per line on standard output, each written as soon as it is known, so that what was measured
// before an OOM kill is not lost: first {"event": "model", …}, then "loaded", one "token" per decode (the
// first ones are warm-up), at last "done" or "capped". Bytes read and major faults are the kernel's counts
// for this process.
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <memory>
#include <print>
#include <string>
#include <thread>

#include <CLI/CLI.hpp>
#include <gguf.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <unistd.h>

#include "oracle_lib/oracle.h"

namespace hearth::bench {
namespace {

struct Options {
  std::string model;
  bool mmap = true;
  bool repack = true;
  std::uint32_t n_threads = std::max(1u, std::thread::hardware_concurrency());
  std::uint32_t n_ctx = 512;
  std::uint32_t n_warm_up = 2;
  std::uint32_t n_tokens = 4;
  std::uint32_t cap_s = 60;
  bool describe = false;
};

void print_line(const nlohmann::ordered_json& line) {
  std::println("{}", line.dump());
  std::fflush(stdout);
}

// Bytes this process made the disk deliver; 0 where the kernel does not count them.
std::uint64_t disk_bytes_read() {
  std::ifstream file("/proc/self/io");
  std::string key;
  std::uint64_t value = 0;
  while (file >> key >> value) {
    if (key == "read_bytes:") return value;
  }
  return 0;
}

std::uint64_t major_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_majflt);
}

// Bytes of all weights a token needs: every tensor but an embedding table that has an output head beside it,
// of which a token reads one row.
Result<std::uint64_t> weight_bytes(const std::string& model) {
  const std::unique_ptr<gguf_context, decltype(&gguf_free)> file(
      gguf_init_from_file(model.c_str(), {.no_alloc = true, .ctx = nullptr}), gguf_free);
  if (file == nullptr) return fail(ErrorCode::kInvalidFile, "{} is no GGUF file ggml can read", model);
  const bool untied = gguf_find_tensor(file.get(), "output.weight") >= 0;
  std::uint64_t bytes = 0;
  for (std::int64_t i = 0; i < gguf_get_n_tensors(file.get()); ++i) {
    if (untied && std::string(gguf_get_tensor_name(file.get(), i)) == "token_embd.weight") continue;
    bytes += gguf_get_tensor_size(file.get(), i);
  }
  return bytes;
}

// A token that takes longer than the cap is not waited for: its decode cannot be ended from outside
// otherwise.
void end_at_cap(int) {
  static constexpr std::string_view kLine = "{\"event\": \"capped\"}\n";
  [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, kLine.data(), kLine.size());
  _exit(0);
}

Result<> run(const Options& options) {
  HEARTH_TRY(const std::uint64_t bytes, weight_bytes(options.model));
  print_line({{"event", "model"}, {"weight_bytes", bytes}});
  if (options.describe) return {};
  const auto start = std::chrono::steady_clock::now();
  HEARTH_TRY(oracle::Oracle llama,
             oracle::Oracle::open(options.model,
                                  {.n_ctx = options.n_ctx,
                                   .n_batch = 32,
                                   .n_ubatch = 32,
                                   .n_threads = static_cast<std::int32_t>(options.n_threads),
                                   .repack = options.repack,
                                   .load = options.mmap ? oracle::Load::kMmap : oracle::Load::kRead}));
  print_line({{"event", "loaded"},
              {"load_s", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()}});

  std::signal(SIGALRM, end_at_cap);
  std::array<oracle::BatchToken, 1> batch;
  for (std::uint32_t i = 0; i < options.n_warm_up + options.n_tokens; ++i) {
    batch[0].token = static_cast<std::int32_t>((i * 7919 + 17) % llama.n_vocab());
    batch[0].pos = static_cast<std::int32_t>(i);
    batch[0].output = true;
    const std::uint64_t read_before = disk_bytes_read(), faults_before = major_faults();
    alarm(options.cap_s);
    HEARTH_TRY(const double seconds, llama.timed_decode(batch));
    alarm(0);
    print_line({{"event", "token"},
                {"warm_up", i < options.n_warm_up},
                {"s", seconds},
                {"read_bytes", disk_bytes_read() - read_before},
                {"major_faults", major_faults() - faults_before}});
  }
  print_line({{"event", "done"}});
  return {};
}

int main_of(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Decodes a few tokens with libllama and prints what each cost, one JSON object per line.\n"
      "Example: llama-decode -m model.gguf --no-repack -n 4",
      "llama-decode"};
  app.add_option("-m,--model", options.model, "GGUF file")->required()->check(CLI::ExistingFile);
  app.add_flag("--mmap,!--no-mmap", options.mmap, "map the file, or copy it into memory (default: map)");
  app.add_flag("--repack,!--no-repack", options.repack,
               "let libllama repack weights into memory of its own, as it does by default");
  app.add_option("-t,--threads", options.n_threads, "threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("-c,--ctx-size", options.n_ctx, "context")
      ->check(CLI::Range(32, 1 << 20))
      ->capture_default_str();
  app.add_option("--warm-up", options.n_warm_up, "tokens before those that count")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("-n,--tokens", options.n_tokens, "tokens that count")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--cap", options.cap_s, "seconds after which a token is given up")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_flag("--describe", options.describe, "print the line of the model and load nothing");
  CLI11_PARSE(app, argc, argv);
  const Result<> done = run(options);
  if (done) return 0;
  std::println(stderr, "llama-decode: {}", done.error().message);
  return 1;
}

}  // namespace
}  // namespace hearth::bench

int main(int argc, char** argv) {
  try {
    return hearth::bench::main_of(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "llama-decode: %s\n", e.what());
    return 1;
  }
}
