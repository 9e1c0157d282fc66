#include "cli/console.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <format>

#include "base/os_memory.h"
#include "base/os_process.h"
#include "base/units.h"
#include "compute/backend.h"
#include "node/gpu_share.h"
#include "node/weights.h"

namespace hearth::cli {

int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kNotFound:
      return kUsage;
    case ErrorCode::kInvalidFile:
    case ErrorCode::kUnsupported:
    case ErrorCode::kModelMismatch:
      return kBadModel;
    case ErrorCode::kOutOfMemory:
      return kNoMemory;
    case ErrorCode::kPeerGone:
    case ErrorCode::kTimeout:
    case ErrorCode::kUnauthorized:
    case ErrorCode::kVersionMismatch:
    case ErrorCode::kProtocol:
      return kRing;
    case ErrorCode::kCancelled:
      return kInterrupted;
    case ErrorCode::kIo:
    case ErrorCode::kNumeric:
      return kError;
  }
  return kError;
}

int report(const Error& error) {
  std::fprintf(stderr, "hearth: %s\n", error.message.c_str());
  return exit_code(error.code);
}

void print_log(engine::LogLevel level, const std::string& text, engine::LogLevel least) {
  if (level < least) return;
  static constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  std::fprintf(stderr, "hearth: %s: %s\n", kNames[static_cast<int>(level)], text.c_str());
}

namespace {
int output_errno = 0;  // of the first write that failed
}

bool put(std::string_view text) {
  if (output_errno == 0 &&
      (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0))
    output_errno = errno;
  return output_errno == 0;
}

int finish_output(int exit) {
  if (put({}) && std::ferror(stdout) == 0) return exit;
  if (output_errno != EPIPE)
    std::fprintf(stderr, "hearth: standard output took only a part: %s\n",
                 std::strerror(output_errno == 0 ? EIO : output_errno));
  return exit == kOk ? kError : exit;
}

void ProgressBar::update(std::string_view what, std::uint64_t done, std::uint64_t total) {
  using namespace std::chrono_literals;
  const auto now = std::chrono::steady_clock::now();
  if (what != what_ || done < done_) {
    clear();
    what_ = what;
    start_ = now;
  }
  done_ = done;
  if (done >= total) clear();
  if (!stderr_is_terminal() || done >= total || (shown_ && now - last_ < 100ms)) return;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const double left = rate > 0 ? static_cast<double>(total - done) / rate : 0;
  constexpr std::size_t kWidth = 30;
  const std::size_t filled = static_cast<std::size_t>(static_cast<double>(kWidth) *
                                                      static_cast<double>(done) / static_cast<double>(total));
  const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, '.');
  std::fprintf(stderr, "\r\x1b[K%s [%s] %s of %s, %s/s, %.0f s left", what_.c_str(), bar.c_str(),
               format_bytes(done).c_str(), format_bytes(total).c_str(),
               format_bytes(static_cast<std::uint64_t>(rate)).c_str(), left);
  std::fflush(stderr);
  shown_ = true;
  last_ = now;
}

void ProgressBar::clear() {
  if (shown_) std::fprintf(stderr, "\r\x1b[K");
  shown_ = false;
}

namespace {

// Options that are added while it lives are listed under a title of their own.
class OptionGroup {
 public:
  OptionGroup(CLI::App& app, const std::string& title)
      : app_(app), before_(app.option_defaults()->get_group()) {
    start(title);
  }
  ~OptionGroup() { start(before_); }
  OptionGroup(const OptionGroup&) = delete;
  OptionGroup& operator=(const OptionGroup&) = delete;
  void start(const std::string& title) { app_.option_defaults()->group(title); }

 private:
  CLI::App& app_;
  std::string before_;
};

std::optional<std::uint32_t> layers_in(std::string_view text) {
  std::uint32_t n = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), n);
  const bool whole = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
  return whole ? std::optional(n) : std::nullopt;
}

// For the machine's user to choose from; ends the program.
void list_devices() {
  std::string text;
  for (const compute::GpuInfo& gpu : compute::list_gpus())
    text += std::format("{}: {}, {} of {} free{}\n", gpu.name, gpu.description, format_bytes(gpu.free_bytes),
                        format_bytes(gpu.total_bytes), gpu.integrated ? ", the machine's memory" : "");
  if (text.empty())
    text = "no GPU: ggml's backend for it (e.g. libggml0-backend-vulkan) or a driver is missing\n";
  (void)put(text);
  throw CLI::Success();
}

}  // namespace

void ModelFlags::add(CLI::App& app) {
  app.add_option("-m,--model", model, "GGUF model file; of a split model the first part")
      ->type_name("FILE.gguf")
      ->required();
  const OptionGroup group(app, "This device");
  app.add_option("-t,--threads", n_threads, "compute threads (default: one per core)")
      ->check(CLI::Range(1, 512));
  app.add_option("--memory", memory,
                 "memory this device lends, this program included, e.g. 6GiB, as far as it is available "
                 "(default: what is available, but for a sixteenth); what does not fit is read from the disk "
                 "for every token")
      ->type_name("SIZE");
  app.add_option("--pin", pin,
                 "how weights that stay in memory are kept there where others are read for every token: "
                 "cache, as pages that other programs can have in an emergency, or lock")
      ->check(CLI::IsMember({"cache", "lock"}))
      ->capture_default_str();
  app.add_option("--cache-dir", cache_dir, "folder of packs (default: $HEARTH_CACHE, then the user's cache)")
      ->type_name("FOLDER");
}

void ModelFlags::add_computing(CLI::App& app) {
  const OptionGroup group(app, "This device");
  app.add_option("--prio", priority,
                 "low: other programs come first where cores are short (nice 5); normal: all alike")
      ->check(CLI::IsMember({"low", "normal"}))
      ->capture_default_str();
  const CLI::Validator layers(
      [](std::string& given) {
        return given == "auto" || given == "all" || layers_in(given)
                   ? std::string()
                   : std::format("expected a number of layers, auto or all, got '{}'", given);
      },
      "{auto,all,N}");
  app.add_option(
         "--gpu-layers", gpu_layers,
         "layers of this device that its GPU computes: the output head first, then the last ones; N, all, or "
         "auto, as many as fit, but none on a GPU without memory of its own")
      ->check(layers)
      ->capture_default_str();
  app.add_option("--device", gpu, "the GPU (default: the first one; --list-devices)")->type_name("NAME");
  app.add_option("--gpu-memory", gpu_memory,
                 "most of the GPU's memory that is taken, e.g. 6GiB (default: what is free, but for 256 MiB)")
      ->type_name("SIZE");
  app.add_flag_callback("--list-devices", list_devices, "list the GPUs of this device, and do nothing else")
      ->trigger_on_parse();
}

Result<node::GpuOptions> ModelFlags::gpu_options() const {
  node::GpuOptions options;
  options.device = gpu;
  if (gpu_layers == "all")
    options.n_layers = node::kAllLayers;
  else
    options.n_layers = layers_in(gpu_layers);
  if (gpu_memory.empty()) return options;
  auto bytes = parse_bytes(gpu_memory);
  if (!bytes) return fail(ErrorCode::kInvalidArgument, "--gpu-memory: {}", bytes.error().message);
  options.memory_bytes = *bytes;
  return options;
}

residency::WeightOptions ModelFlags::weights(std::function<void(const std::string&)> notice) const {
  return {.cache_dir = cache_dir, .lock_pins = pin == "lock", .notice = std::move(notice)};
}

void ModelFlags::set_priority() const {
  // Measured, docs/explanation/busy.md: a program on every core is slowed by a fifth instead of four fifths.
  constexpr int kLow = 5;
  if (priority == "low") give_way(kLow);
}

std::uint32_t ModelFlags::threads() const {
  return n_threads != 0 ? n_threads : compute::default_threads();
}

Result<std::uint64_t> ModelFlags::memory_bytes() const {
  // Too little is said before the vocabulary is loaded, which alone may be more.
  if (memory.empty()) {
    const std::uint64_t usable = memory_status().usable();
    if (usable < node::kLeastMemory)
      return fail(
          ErrorCode::kOutOfMemory,
          "{} of memory can be had here (see MemAvailable in /proc/meminfo, or the limit of the control "
          "group), but hearth needs {} at least; end other programs or raise the limit",
          format_bytes(usable), format_bytes(node::kLeastMemory));
    return 0;
  }
  auto bytes = parse_bytes(memory);
  if (!bytes) return fail(ErrorCode::kInvalidArgument, "--memory: {}", bytes.error().message);
  if (*bytes < node::kLeastMemory)
    return fail(ErrorCode::kOutOfMemory, "--memory: {}, but hearth needs {} at least; lend more",
                format_bytes(*bytes), format_bytes(node::kLeastMemory));
  return bytes;
}

namespace {

// An option that takes 1 to `most`, or "auto", which is 0.
void add_number_or_auto(CLI::App& app, const std::string& name, std::uint32_t& value, std::uint32_t most,
                        const std::string& text) {
  const CLI::Validator number_or_auto(
      [most](std::string& given) {
        if (given == "auto")
          given = "0";
        else if (!CLI::Range(1U, most)(given).empty())
          return std::format("expected 1 to {} or auto, got '{}'", most, given);
        return std::string();
      },
      std::format("1 to {} or auto", most));
  app.add_option(name, value, text)->transform(number_or_auto)->default_str("auto");
}

}  // namespace

void RingFlags::add_members(CLI::App& app) {
  app.add_flag("-v,--verbose", verbose, "log what happens to standard error");
  const OptionGroup group(app, "Other devices");
  app.add_option("--worker", workers, "a worker, as it prints when it starts; once per worker")
      ->type_name("KEY@HOST:PORT");
  app.add_option("--key", key_file, "this device's key file (hearth keygen); needed with --worker")
      ->type_name("FILE");
  app.add_option("--listen", listen,
                 "where workers reach this device (default: the address that routes to them)")
      ->type_name("HOST[:PORT]");
}

void RingFlags::add(CLI::App& app) {
  add_members(app);
  OptionGroup group(app, "Context and computing");
  app.add_option("-c,--ctx-size", n_ctx, "context: tokens of prompt and answer together")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  add_number_or_auto(app, "--ubatch-size", n_ubatch, 8192,
                     "most tokens computed at once; auto: 512, fewer where their buffers would "
                     "make devices stream more");
  std::vector<std::string> kv_types;
  for (const wire::KvTypeTraits& one : wire::kKvTypes) kv_types.emplace_back(one.name);
  app.add_option("--cache-type-k", k_type, "type of keys in the KV cache")
      ->check(CLI::IsMember(kv_types))
      ->capture_default_str();
  app.add_option("--cache-type-v", v_type,
                 "type of values in the KV cache; q8_0 and smaller need flash attention")
      ->check(CLI::IsMember(kv_types))
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--kv-type", [this](const std::string& type) { k_type = v_type = type; }, "both of them")
      ->check(CLI::IsMember(kv_types))
      ->excludes("--cache-type-k")
      ->excludes("--cache-type-v");
  app.add_option(
         "--link-type", link_type,
         "hidden state on links: auto is f32 up to 64 KiB a frame, f16 above; f32 (exact), f16 or q8_0 "
         "(a quarter of the bytes) is that for every frame")
      ->check(CLI::IsMember({"auto", "f32", "f16", "q8_0"}))
      ->capture_default_str();
  app.add_flag("--no-repack", no_repack, "keep weights as in the file: less memory, slower");
  app.add_flag("--no-flash-attn", no_flash_attention, "plain attention");
  group.start("Who computes what");
  app.add_option("--layer-window", windows,
                 "layers per device and round, e.g. 8,8,4: this device, then the workers; or of each round, "
                 "e.g. 4,2,2/1,3,4 (default: the best, see hearth plan)")
      ->type_name("N,N,...[/N,N,...]");
  add_number_or_auto(app, "-k,--rounds", rounds, 128,
                     "times a token passes each device; auto: the best, with --layer-window as many as the "
                     "windows need");
  app.add_option("--exclude", excluded, "a device that gets no layers; may be repeated")->type_name("NAME");
  app.add_option("--users", users, "texts generated at the same time that the plan is for")
      ->check(CLI::Range(1, 512))
      ->capture_default_str();
  app.add_option("--plan-prompt", prompt_tokens, "tokens of the prompt that --max-ttft is for")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-ttft", max_ttft_s, "time to the first token, at most; costs speed afterwards")
      ->type_name("SECONDS")
      ->check(CLI::PositiveNumber);
}

// Names were checked when the flags were read.
wire::KvTypes RingFlags::kv_type() const {
  return {*wire::kv_type_named(k_type), *wire::kv_type_named(v_type)};
}

std::pair<wire::HiddenEncoding, bool> RingFlags::hidden() const {
  if (link_type == "f32") return {wire::HiddenEncoding::kF32, false};
  if (link_type == "q8_0") return {wire::HiddenEncoding::kQ8Scaled, true};
  return {wire::HiddenEncoding::kF16Scaled, link_type == "f16"};
}

Result<node::HeadNodeOptions> RingFlags::head_options(const ModelFlags& model) const {
  node::HeadNodeOptions options;
  options.model_path = model.model;
  options.n_threads = model.threads();
  HEARTH_TRY(options.memory_bytes, model.memory_bytes());
  HEARTH_TRY(options.gpu, model.gpu_options());
  options.weights =
      model.weights([](const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); });
  options.epoch = {.n_ctx = n_ctx,
                   .n_ubatch = std::min(n_ubatch, n_ctx),  // 0 stays 0
                   .kv_type = kv_type(),
                   .hidden = hidden().first,
                   .hidden_always = hidden().second,
                   .repack = !no_repack,
                   .flash_attention = !no_flash_attention};
  for (const std::string& worker : workers) {
    HEARTH_TRY(auto address, parse_worker(worker));
    options.workers.push_back(std::move(address));
  }
  if (!listen.empty()) {
    HEARTH_TRY(const HostPort own, parse_host_port(listen, 0));
    options.host = own.host;
    options.control_port = own.port;
  }
  options.rounds = rounds;
  options.excluded = excluded;
  options.traffic = {.users = users, .prompt_tokens = prompt_tokens};
  if (max_ttft_s > 0) options.max_ttft_s = max_ttft_s;
  if (!windows.empty()) {
    HEARTH_TRY(LayerWindows by_hand, parse_windows(windows));
    options.windows = std::move(by_hand.layers);
    options.n_window_rounds = by_hand.n_rounds;
  }
  const auto least = verbose ? engine::LogLevel::kDebug : engine::LogLevel::kWarning;
  options.log = [least](engine::LogLevel level, const std::string& text) { print_log(level, text, least); };
  options.interrupted = [] { return interrupts() > 0; };
  return options;
}

Result<net::KeyPair> RingFlags::key() const {
  if (!key_file.empty()) return net::KeyPair::load(key_file);
  if (!workers.empty())
    return fail(
        ErrorCode::kInvalidArgument,
        "--worker needs --key: the workers must know who leads them; make one with `hearth keygen head.key`");
  return net::KeyPair::generate();
}

Result<HostPort> parse_host_port(std::string_view text, int default_port) {
  const auto bad = [&](std::string_view why) {
    return fail(ErrorCode::kInvalidArgument, "'{}' is not HOST:PORT: {}", text, why);
  };
  HostPort result;
  std::string_view rest = text;
  if (rest.starts_with('[')) {
    const auto end = rest.find(']');
    if (end == std::string_view::npos) return bad("the bracket of the IPv6 address is not closed");
    result.host = rest.substr(1, end - 1);
    rest.remove_prefix(end + 1);
  } else {
    const auto colon = rest.rfind(':');
    if (colon != std::string_view::npos && rest.find(':') != colon)
      return bad("write IPv6 addresses as [ADDRESS]:PORT");
    result.host = rest.substr(0, colon);
    rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon);
  }
  if (result.host.empty()) return bad("the host is missing");
  if (rest.empty()) {
    if (default_port < 0) return bad("the port is missing");
    result.port = static_cast<std::uint16_t>(default_port);
    return result;
  }
  rest.remove_prefix(1);
  const auto parsed = std::from_chars(rest.data(), rest.data() + rest.size(), result.port);
  if (rest.empty() || parsed.ec != std::errc() || parsed.ptr != rest.data() + rest.size())
    return bad("the port is a number from 0 to 65535");
  return result;
}

Result<node::WorkerAddress> parse_worker(std::string_view text) {
  const auto at = text.find('@');
  if (at == std::string_view::npos)
    return fail(ErrorCode::kInvalidArgument,
                "--worker '{}' is not KEY@HOST:PORT; a worker prints it when it starts", text);
  HEARTH_TRY(const DeviceKey key, DeviceKey::from_hex(text.substr(0, at)));
  HEARTH_TRY(HostPort address, parse_host_port(text.substr(at + 1)));
  if (address.port == 0)
    return fail(ErrorCode::kInvalidArgument,
                "--worker '{}' has port 0, expected 1 to 65535; a worker prints its own", text);
  return node::WorkerAddress{.key = key, .host = std::move(address.host), .control_port = address.port};
}

Result<LayerWindows> parse_windows(std::string_view text) {
  LayerWindows windows;
  const char* at = text.data();
  const char* end = at + text.size();
  std::size_t per_round = 0, of_round = 0;
  while (true) {
    std::uint32_t n = 0;
    const auto parsed = std::from_chars(at, end, n);
    if (parsed.ec != std::errc() || (parsed.ptr != end && *parsed.ptr != ',' && *parsed.ptr != '/'))
      return fail(ErrorCode::kInvalidArgument,
                  "--layer-window '{}' is not a list of numbers like 8,8,4, or of rounds like 4,2,2/1,3,4",
                  text);
    windows.layers.push_back(n);
    ++of_round;
    const bool ends_round = parsed.ptr == end || *parsed.ptr == '/';
    if (ends_round) {
      if (per_round == 0) per_round = of_round;
      if (of_round != per_round)
        return fail(
            ErrorCode::kInvalidArgument,
            "--layer-window '{}' has {} windows in round {}, expected {} as in the first; write 0 for "
            "a device without layers",
            text, of_round, windows.n_rounds, per_round);
      of_round = 0;
    }
    if (parsed.ptr == end) return windows;
    if (ends_round) ++windows.n_rounds;
    at = parsed.ptr + 1;
  }
}

std::string describe(const node::RingReport& ring) {
  std::string text = std::format("ring of {} device{}, {} step{} a token", ring.plan.devices.size(),
                                 ring.plan.devices.size() == 1 ? "" : "s", ring.plan.steps.size(),
                                 ring.plan.steps.size() == 1 ? "" : "s");
  if (ring.predicted_s > 0)
    text += std::format(", {} round{}: predicted {:.2f} s a token", ring.rounds, ring.rounds == 1 ? "" : "s",
                        ring.predicted_s);
  text += '\n';
  for (std::uint16_t device = 0; device < ring.plan.devices.size(); ++device) {
    std::string layers;
    for (const std::uint16_t step : ring.plan.steps_of(device)) {
      const plan::LayerRange range = ring.plan.steps[step].layers;
      layers += std::format("{}{}", layers.empty() ? "" : ", ",
                            range.size() == 1 ? std::format("{}", range.begin)
                                              : std::format("{}-{}", range.begin, range.end - 1));
    }
    const engine::LoadReport& load = ring.devices[device];
    text += std::format("  {:<12} {:<22} layers {:<16} weights {}, KV {}, buffers {}{}\n",
                        ring.plan.devices[device], ring.addresses[device], layers.empty() ? "none" : layers,
                        format_bytes(load.weight_bytes), format_bytes(load.kv_bytes),
                        format_bytes(load.compute_bytes),
                        device != 0       ? ""
                        : load.gpu_output ? "; embedding"
                                          : "; embedding, output head");
    if (load.gpu_bytes > 0)
      text += std::format("  {:<12} {:<22} {} of these layers{}: {}\n", "", "its GPU has", load.gpu_layers,
                          load.gpu_output ? " and the output head" : "", format_bytes(load.gpu_bytes));
  }
  return text;
}

std::string describe(const node::Timings& t) {
  const auto seconds = [](std::chrono::nanoseconds d) { return std::chrono::duration<double>(d).count(); };
  std::string text =
      std::format("{} prompt tokens, first token after {:.0f} ms", t.n_prompt, seconds(t.prompt) * 1e3);
  if (t.n_generated > 1 && t.decode.count() > 0)
    text +=
        std::format("; {} tokens at {:.1f} tokens/s ({:.1f} ms each)", t.n_generated,
                    (t.n_generated - 1) / seconds(t.decode), seconds(t.decode) * 1e3 / (t.n_generated - 1));
  if (t.n_shifts > 0)
    text += std::format("; context shifted {} time{}", t.n_shifts, t.n_shifts == 1 ? "" : "s");
  return text;
}

std::string context_is_full(std::uint32_t n_ctx, bool shifts) {
  return std::format("the context of {} tokens is full; ask for a larger one (-c){}", n_ctx,
                     shifts ? " or keep less of the prompt (--keep)"
                            : ", or discard the oldest half then (--context-shift)");
}

}  // namespace hearth::cli
