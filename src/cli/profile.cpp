#include <algorithm>
#include <cstdio>
#include <format>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/os_process.h"
#include "base/units.h"
#include "cli/console.h"
#include "cli/device_file.h"
#include "cli/verbs.h"
#include "node/head.h"
#include "node/own_profile.h"
#include "node/weights.h"

namespace hearth::cli {
namespace {

struct Flags {
  ModelFlags model;
  RingFlags ring;  // its members
  std::string name;
  bool fresh = false;
  bool json = false;
};

std::string since(std::chrono::sys_seconds at, bool kept) {
  return kept ? std::format("measured {:%F %H:%M} UTC", at) : "measured now";
}

std::string describe(const plan::DeviceProfile& device, const profile::Profile& made) {
  std::string text = std::format("{}: lends {}\n", device.name, format_bytes(device.memory_bytes));
  const profile::Measured& rates = made.rates;
  if (rates.memory)
    text += std::format("memory     {:>8.1f} GB/s  +-{:<3.0f}%  {}\n",
                        static_cast<double>(rates.memory->bytes_per_s) / 1e9, rates.memory->spread * 100,
                        since(made.memory_at, made.from_cache.memory));
  if (rates.disk)
    text += std::format("disk       {:>8.0f} MB/s  +-{:<3.0f}%  {}\n",
                        static_cast<double>(rates.disk->bytes_per_s) / 1e6, rates.disk->spread * 100,
                        since(made.disk_at, made.from_cache.disk));
  if (!rates.cpu.empty())
    text += std::format("computing, by tokens of a pass, {}\n", since(made.cpu_at, made.from_cache.cpu));
  for (const profile::PassRate& pass : rates.cpu)
    text += std::format("{:>10} {:>8.2f} GB/s of weights  +-{:<3.0f}%  {} pass{}\n", pass.n_tokens,
                        static_cast<double>(pass.bytes_per_s) / 1e9, pass.spread * 100, pass.n_passes,
                        pass.n_passes == 1 ? "" : "es");
  return text;
}

std::string rate_text(const plan::ComputeProfile& cpu, bool most) {
  if (!cpu.known()) return "not measured";
  const plan::PassRate& pass = most ? cpu.passes.back() : cpu.passes.front();
  return std::format("{} token{} {:.2f} GB/s", pass.n_tokens, pass.n_tokens == 1 ? "" : "s",
                     pass.bytes_per_s / 1e9);
}

std::string link_text(const plan::LinkProfile& link) {
  if (link.bytes_per_s <= 0) return std::format("{:.2f} ms", link.latency_s * 1e3);
  return std::format("{:.2f} ms {:.0f} Mbit/s", link.latency_s * 1e3, link.bytes_per_s * 8e-6);
}

// Its devices, and the links from each one to each other.
std::string describe(const plan::RingProfile& ring) {
  std::size_t width = std::string_view("from, to").size();
  for (const plan::DeviceProfile& device : ring.devices) width = std::max(width, device.name.size());
  std::string text = std::format("{:<{}}  {:>9}  {:>22}  {:>22}  {:>9}\n", "device", width, "lends",
                                 "weights it passes for", "", "disk");
  for (const plan::DeviceProfile& device : ring.devices)
    text += std::format(
        "{:<{}}  {:>9}  {:>22}  {:>22}  {:>9}\n", device.name, width, format_bytes(device.memory_bytes),
        rate_text(device.cpu, false), rate_text(device.cpu, true),
        device.disk_bytes_per_s > 0 ? std::format("{:.0f} MB/s", device.disk_bytes_per_s / 1e6)
                                    : std::string("-"));
  if (ring.links.empty()) return text;
  const std::size_t column = std::max<std::size_t>(width, 20);
  text += std::format("\n{:<{}}", "from, to", width);
  for (const plan::DeviceProfile& to : ring.devices) text += std::format("  {:>{}}", to.name, column);
  text += '\n';
  for (std::size_t from = 0; from < ring.devices.size(); ++from) {
    text += std::format("{:<{}}", ring.devices[from].name, width);
    for (std::size_t to = 0; to < ring.devices.size(); ++to)
      text += std::format("  {:>{}}", from == to ? "" : link_text(ring.links[from][to]), column);
    text += '\n';
  }
  return text;
}

// What the head measures with its workers, of which nothing is loaded.
Result<plan::RingProfile> ring_of(const Flags& flags) {
  HEARTH_TRY(node::HeadNodeOptions options, flags.ring.head_options(flags.model));
  options.gpu.n_layers = 0;  // it is not measured
  HEARTH_TRY(net::KeyPair key, flags.ring.key());
  if (!flags.name.empty()) options.name = flags.name;
  std::optional<plan::RingProfile> found;
  options.measured = [&](const plan::RingProfile& ring) -> Result<> {
    found = ring;
    return fail(ErrorCode::kCancelled, "profiles were asked for, not a ring");
  };
  auto started = node::HeadNode::start(options, std::move(key));
  if (!found) return pass(std::move(started));
  return *std::move(found);
}

int run(const Flags& flags) {
  const auto model = model::ModelFile::open(flags.model.model);
  if (!model) return report(model.error());
  const auto memory = flags.model.memory_bytes();
  if (!memory) return report(memory.error());
  const auto backend = compute::Backend::cpu(flags.model.threads());
  if (!backend) return report(backend.error());
  count_interrupts();
  const std::uint64_t lent = node::memory_for_epochs(*memory);
  const auto least = flags.ring.verbose ? engine::LogLevel::kDebug : engine::LogLevel::kWarning;
  const profile::Profile made = node::own_profile(
      *model, **backend,
      {.memory_bytes = lent,
       .cache_dir = flags.model.cache_dir,
       .parts = profile::Parts::all(),
       .fresh = flags.fresh,
       .log = [least](engine::LogLevel level, const std::string& text) { print_log(level, text, least); },
       .cancelled = [] { return interrupts() > 0; }});
  if (interrupts() > 0) return kInterrupted;
  const engine::DeviceSpeed speed = node::speed_of(made.rates);
  plan::DeviceProfile device = {.name = flags.name.empty() ? host_name() : flags.name,
                                .memory_bytes = lent,
                                .cpu = speed.cpu,
                                .disk_bytes_per_s = speed.disk_bytes_per_s,
                                .disk_spread = speed.disk_spread};
  std::optional<plan::RingProfile> ring;
  if (!flags.ring.workers.empty()) {
    auto found = ring_of(flags);
    if (!found) return report(found.error());
    ring = *std::move(found);
    device.name = ring->devices[0].name;
  }
  if (!flags.json) {
    (void)put(describe(device, made) + (ring ? "\n" + describe(*ring) : ""));
    return kOk;
  }
  nlohmann::ordered_json file;
  if (ring)
    file = devices_json(*ring);
  else
    file = {{"devices", {to_json(device)}}};
  if (made.rates.memory)
    file["devices"][0]["note"] = std::format("memory {} B/s, spread {:.4f}", made.rates.memory->bytes_per_s,
                                             made.rates.memory->spread);
  (void)put(file.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  return kOk;
}

}  // namespace

void add_profile(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand(
      "profile", "what this device can do, and with --worker others and the links between all, as measured");
  const auto flags = std::make_shared<Flags>();
  flags->model.add(*verb);
  flags->ring.add_members(*verb);
  verb->add_option("--name", flags->name,
                   "how this device is called (default: its host name, with --worker head)")
      ->type_name("NAME");
  verb->add_flag("--fresh", flags->fresh, "measure again");
  verb->add_flag("--json", flags->json, "as a file of devices, for hearth plan --what-if");
  verb->footer(
      "What is measured is kept beside the packs for 30 days; run, worker and bench use it. A model is "
      "needed\n"
      "because computing is measured with its layers.\n"
      "Examples:\n"
      "  hearth profile -m model.gguf --json > laptop.json\n"
      "  hearth profile -m model.gguf --key head.key --worker KEY@192.168.1.7:7700");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
