#include "node/rates.h"

#include <format>
#include <thread>

#include "profile/decode_rate.h"
#include "residency/disk_rate.h"
#include "residency/pack_cache.h"

namespace hearth::node {

bool may_stream(const model::ModelFile& model, std::uint64_t memory_bytes) {
  std::uint64_t weights = model.segment_bytes(model::SegmentId::output());
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il)
    weights += model.segment_bytes(model::SegmentId::of_layer(il));
  return weights > memory_bytes;
}

plan::DeviceRates measure_rates(const model::ModelFile& model, compute::Backend& backend,
                                std::uint64_t memory_bytes, const std::filesystem::path& cache_dir,
                                const std::function<void(engine::LogLevel, const std::string&)>& log) {
  const auto or_zero = [&](const Result<std::uint64_t>& rate, const char* what) -> std::uint64_t {
    if (rate) return *rate;
    log(engine::LogLevel::kWarning,
        std::format("the {} of this device is not known to the plan: {}", what, rate.error().message));
    return 0;
  };
  plan::DeviceRates rates;
  // On a thread of its own: ggml's team belongs to the thread that computes, and ends with it.
  std::thread([&] {
    rates.compute_bytes_per_s = or_zero(profile::measure_decode(model, backend, memory_bytes / 2), "speed");
  }).join();
  const auto folder =
      cache_dir.empty() ? residency::default_cache_dir() : Result<std::filesystem::path>(cache_dir);
  rates.disk_bytes_per_s = or_zero(
      folder ? residency::measure_disk(*folder) : Result<std::uint64_t>(std::unexpected(folder.error())),
      "disk");
  log(engine::LogLevel::kInfo,
      std::format("this device passes {:.1f} GB/s of weights for a token, its disk reads {:.0f} MB/s",
                  static_cast<double>(rates.compute_bytes_per_s) * 1e-9,
                  static_cast<double>(rates.disk_bytes_per_s) * 1e-6));
  return rates;
}

}  // namespace hearth::node
