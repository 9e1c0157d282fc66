// Console: what the verbs share when they talk to people: errors, progress on a terminal, option groups.
//
// Results go to standard output, everything else to standard error.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/result.h"
#include "engine/actions.h"
#include "engine/plan_rules.h"
#include "net/keys.h"
#include "node/head.h"

namespace hearth::cli {

// Exit codes of the program, documented in `hearth --help`.
enum ExitCode : int {
  kOk = 0,
  kError = 1,     // anything without a number of its own
  kUsage = 2,     // a flag or value that cannot be, a file that is not there
  kBadModel = 3,  // the model file is damaged, unsupported or not the ring's
  kNoMemory = 4,  // it would not fit
  kRing = 5,      // a device is gone, silent, refused or not allowed
  kInterrupted = 130,
};

[[nodiscard]] int exit_code(ErrorCode code);
// Prints "hearth: MESSAGE" and gives the exit code.
[[nodiscard]] int report(const Error& error);

// Prints log lines at or above `least`.
void print_log(engine::LogLevel level, const std::string& text, engine::LogLevel least);

// Writes text to standard output at once; false when that is not possible any more.
[[nodiscard]] bool put(std::string_view text);
// At the end of a verb: when standard output did not take everything, says so (not when a pipe's reader has
// gone, which is its right) and gives kError instead of kOk.
[[nodiscard]] int finish_output(int exit);

// A bar with rate and time left on a terminal's standard error; nothing elsewhere.
class ProgressBar {
 public:
  ProgressBar() = default;
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  // Another `what`, or fewer bytes than before, starts it anew; the end takes it away.
  void update(std::string_view what, std::uint64_t done_bytes, std::uint64_t total_bytes);
  // Before something else is written to the line.
  void clear();

 private:
  std::string what_;
  bool shown_ = false;
  std::uint64_t done_ = 0;
  std::chrono::steady_clock::time_point start_, last_;
};

// Options that run, bench and worker share.
struct ModelFlags {
  std::string model;
  std::uint32_t n_threads = 0;  // 0: one per core
  std::string memory;           // "", or a size
  std::string pin = "cache";
  std::string cache_dir;
  std::string priority = "low";
  std::string gpu_layers = "auto";  // or "all", or a number
  std::string gpu;                  // name
  std::string gpu_memory;           // "", or a size
  void add(CLI::App& app);
  void add_computing(CLI::App& app);  // for verbs that compute: priority, GPU
  // Before threads are started: other programs come first, unless the user says otherwise.
  void set_priority() const;
  [[nodiscard]] std::uint32_t threads() const;
  [[nodiscard]] Result<std::uint64_t> memory_bytes() const;
  [[nodiscard]] Result<node::GpuOptions> gpu_options() const;
  [[nodiscard]] residency::WeightOptions weights(std::function<void(const std::string&)> notice) const;
};

// Options of a head: context, split, workers.
struct RingFlags {
  std::uint32_t n_ctx = 4096;
  std::uint32_t n_ubatch = 0;  // 0: by memory
  std::string k_type = "f16", v_type = "f16";
  std::string link_type = "auto";
  bool no_repack = false;
  bool no_flash_attention = false;
  std::vector<std::string> workers;  // KEY@HOST:PORT
  std::string key_file;
  std::string listen;        // HOST[:PORT]
  std::string windows;       // "8,8,4", "4,2,2/1,3,4"
  std::uint32_t rounds = 0;  // 0: the best
  std::vector<std::string> excluded;
  std::uint32_t users = 1;
  std::uint32_t prompt_tokens = 512;  // of the prompt that max_ttft_s is for
  double max_ttft_s = 0;              // 0: any
  bool verbose = false;
  void add(CLI::App& app);
  void add_members(CLI::App& app);  // of these: who is in the ring, and --verbose
  [[nodiscard]] wire::KvTypes kv_type() const;
  // Of the link type: the encoding, and whether small frames have it too.
  [[nodiscard]] std::pair<wire::HiddenEncoding, bool> hidden() const;
  // Fills a head's options; kInvalidArgument names the flag.
  [[nodiscard]] Result<node::HeadNodeOptions> head_options(const ModelFlags& model) const;
  // The head's identity: its key file, or a fresh one for a ring of one.
  [[nodiscard]] Result<net::KeyPair> key() const;
};

// "HOST:PORT", "[v6]:PORT"; the port may be missing when `default_port` is given.
struct HostPort {
  std::string host;
  std::uint16_t port = 0;
};
[[nodiscard]] Result<HostPort> parse_host_port(std::string_view text, int default_port = -1);
// "KEY@HOST:PORT"
[[nodiscard]] Result<node::WorkerAddress> parse_worker(std::string_view text);
// "8,8,4", or of several rounds "4,2,2/1,3,4": as many in each.
struct LayerWindows {
  std::vector<std::uint32_t> layers;  // [n_rounds][devices]
  std::uint32_t n_rounds = 1;
};
[[nodiscard]] Result<LayerWindows> parse_windows(std::string_view text);

// "ring of 3: …" as people read it.
[[nodiscard]] std::string describe(const node::RingReport& ring);
[[nodiscard]] std::string describe(const node::Timings& timings);
// What to do about it, too.
[[nodiscard]] std::string context_is_full(std::uint32_t n_ctx, bool shifts);

}  // namespace hearth::cli
