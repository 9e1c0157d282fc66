#include "node/own_profile.h"

#include <chrono>
#include <format>

namespace hearth::node {

profile::Profile own_profile(const model::ModelFile& model, compute::Backend& backend,
                             const OwnProfileOptions& options) {
  const auto log = [&](engine::LogLevel level, const std::string& text) {
    if (options.log) options.log(level, text);
  };
  const profile::Profile made = profile::load_or_measure(
      model, backend,
      {.measure = {.memory_bytes = options.memory_bytes,
                   .cache_dir = options.cache_dir,
                   .parts = options.parts,
                   .log =
                       [&](profile::LogKind kind, const std::string& text) {
                         log(kind == profile::LogKind::kWarning ? engine::LogLevel::kWarning
                                                                : engine::LogLevel::kInfo,
                             text);
                       },
                   .cancelled = options.cancelled},
       .now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()),
       .fresh = options.fresh});
  if (!made.rates.cpu.empty())
    log(engine::LogLevel::kInfo, std::format("this device passes {:.1f} GB/s of weights for a token{}",
                                             static_cast<double>(made.rates.cpu.front().bytes_per_s) / 1e9,
                                             made.from_cache.cpu ? ", as measured before" : ""));
  if (made.rates.disk)
    log(engine::LogLevel::kInfo,
        std::format("its disk reads {:.0f} MB/s{}", static_cast<double>(made.rates.disk->bytes_per_s) / 1e6,
                    made.from_cache.disk ? ", as measured before" : ""));
  return made;
}

engine::DeviceSpeed speed_of(const profile::Measured& rates) {
  engine::DeviceSpeed speed;
  for (const profile::PassRate& pass : rates.cpu)
    speed.cpu.passes.push_back({.n_tokens = pass.n_tokens,
                                .bytes_per_s = static_cast<double>(pass.bytes_per_s),
                                .spread = pass.spread});
  if (rates.disk) {
    speed.disk_bytes_per_s = static_cast<double>(rates.disk->bytes_per_s);
    speed.disk_spread = rates.disk->spread;
  }
  return speed;
}

}  // namespace hearth::node
