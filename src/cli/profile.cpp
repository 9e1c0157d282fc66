#include <cstdio>
#include <format>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "base/os_process.h"
#include "base/units.h"
#include "cli/console.h"
#include "cli/device_file.h"
#include "cli/verbs.h"
#include "node/own_profile.h"
#include "node/weights.h"

namespace hearth::cli {
namespace {

struct Flags {
  ModelFlags model;
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

int run(const Flags& flags) {
  const auto model = model::ModelFile::open(flags.model.model);
  if (!model) return report(model.error());
  const auto memory = flags.model.memory_bytes();
  if (!memory) return report(memory.error());
  const auto backend = compute::Backend::cpu(flags.model.threads());
  if (!backend) return report(backend.error());
  count_interrupts();
  const std::uint64_t lent = node::memory_for_epochs(*memory);
  const profile::Profile made = node::own_profile(
      *model, **backend,
      {.memory_bytes = lent,
       .cache_dir = flags.model.cache_dir,
       .parts = profile::Parts::all(),
       .fresh = flags.fresh,
       .log = [](engine::LogLevel level,
                 const std::string& text) { print_log(level, text, engine::LogLevel::kWarning); },
       .cancelled = [] { return interrupts() > 0; }});
  if (interrupts() > 0) return kInterrupted;
  const engine::DeviceSpeed speed = node::speed_of(made.rates);
  const plan::DeviceProfile device = {.name = flags.name.empty() ? host_name() : flags.name,
                                      .memory_bytes = lent,
                                      .cpu = speed.cpu,
                                      .disk_bytes_per_s = speed.disk_bytes_per_s,
                                      .disk_spread = speed.disk_spread};
  if (!flags.json) {
    (void)put(describe(device, made));
    return kOk;
  }
  nlohmann::ordered_json one = to_json(device);
  if (made.rates.memory)
    one["note"] = std::format("memory {} B/s, spread {:.4f}", made.rates.memory->bytes_per_s,
                              made.rates.memory->spread);
  const nlohmann::ordered_json file = {{"devices", {one}}};
  (void)put(file.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  return kOk;
}

}  // namespace

void add_profile(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("profile", "measure what this device can do, or show what was measured");
  const auto flags = std::make_shared<Flags>();
  flags->model.add(*verb);
  verb->add_option("--name", flags->name, "how this device is called (default: its host name)");
  verb->add_flag("--fresh", flags->fresh, "measure again");
  verb->add_flag("--json", flags->json, "as a file of devices, for hearth plan --what-if");
  verb->footer(
      "What is measured is kept beside the packs for 30 days; run, worker and bench use it. A model is "
      "needed\n"
      "because computing is measured with its layers.\n"
      "Example: hearth profile -m model.gguf --json > laptop.json");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
