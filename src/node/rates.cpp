#include "node/rates.h"

#include <chrono>
#include <exception>
#include <format>
#include <thread>

#include "profile/compute_curve.h"
#include "residency/disk_rate.h"
#include "residency/pack_cache.h"

namespace hearth::node {
namespace {

constexpr std::chrono::milliseconds kBudget{500};

// What `measure` gives; memory that is not there is an error like others.
template <class Measure>
Result<std::uint64_t> attempt(Measure measure) {
  try {
    return measure();
  } catch (const std::exception& error) {
    return fail(ErrorCode::kOutOfMemory, "{}", error.what());
  }
}

}  // namespace

bool may_stream(const model::ModelFile& model, std::uint64_t memory_bytes) {
  std::uint64_t weights = model.segment_bytes(model::SegmentId::output());
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il)
    weights += model.segment_bytes(model::SegmentId::of_layer(il));
  return weights + weights / 4 > memory_bytes;
}

engine::DeviceSpeed measure_rates(const model::ModelFile& model, compute::Backend& backend,
                                  std::uint64_t memory_bytes, const std::filesystem::path& cache_dir,
                                  const std::function<void(engine::LogLevel, const std::string&)>& log,
                                  const std::function<bool()>& cancelled) {
  Result<std::uint64_t> compute = 0;
  // On a thread of its own: ggml's team belongs to the thread that computes, and ends with it.
  std::thread([&] {
    compute = attempt([&]() -> Result<std::uint64_t> {
      HEARTH_TRY(const auto curve,
                 profile::measure_compute(
                     model, backend, {.memory_bytes = memory_bytes / 2, .tokens = {1}, .budget = kBudget},
                     cancelled));
      return curve.front().bytes_per_s;
    });
  }).join();
  const Result<std::uint64_t> disk = attempt([&]() -> Result<std::uint64_t> {
    std::filesystem::path folder = cache_dir;
    if (folder.empty()) {
      HEARTH_TRY(folder, residency::default_cache_dir());
    }
    HEARTH_TRY(const residency::DiskRate rate, residency::measure_disk(folder));
    return rate.bytes_per_s;
  });
  const auto tell = [&](const Result<std::uint64_t>& rate, const char* what, double unit, const char* text) {
    if (!log) return;
    if (rate)
      log(engine::LogLevel::kInfo,
          std::format("{}: {:.1f} {}", what, static_cast<double>(*rate) / unit, text));
    else
      log(engine::LogLevel::kWarning,
          std::format("{} is not known to the plan, which assumes one: {}", what, rate.error().message));
  };
  tell(compute, "the speed of this device", 1e9, "GB/s of weights for a token");
  tell(disk, "the speed of this device's disk", 1e6, "MB/s");
  engine::DeviceSpeed speed = {.disk_bytes_per_s = static_cast<double>(disk.value_or(0))};
  if (compute.value_or(0) > 0)
    speed.cpu.passes = {{.n_tokens = 1, .bytes_per_s = static_cast<double>(*compute)}};
  return speed;
}

}  // namespace hearth::node
