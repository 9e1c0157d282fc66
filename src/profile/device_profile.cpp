#include "profile/device_profile.h"

#include <exception>
#include <format>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "base/os_cpu_load.h"
#include "residency/pack_cache.h"

namespace hearth::profile {
namespace {

// What `measure` gives; memory or threads that are not there are errors like others.
template <class Measure>
auto attempt(Measure measure) -> decltype(measure()) {
  try {
    return measure();
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::kOutOfMemory, "there is no memory to measure it");
  } catch (const std::system_error& error) {
    return fail(ErrorCode::kIo, "the system refused: {}", error.what());
  } catch (const std::exception& error) {
    return fail(ErrorCode::kIo, "{}", error.what());
  }
}

Result<std::vector<PassRate>> compute_aside(const model::ModelFile& model, compute::Backend& backend,
                                            const MeasureOptions& options) {
  return attempt([&] {
    Result<std::vector<PassRate>> curve;
    std::thread([&] {
      curve = attempt([&] {
        return measure_compute(model, backend,
                               {.memory_bytes = options.memory_bytes / 2, .budget = options.compute_budget},
                               options.cancelled);
      });
    }).join();
    return curve;
  });
}

}  // namespace

Measured measure_device(const model::ModelFile& model, compute::Backend& backend,
                        const MeasureOptions& options) {
  Measured measured;
  const auto is_cancelled = [&] { return options.cancelled && options.cancelled(); };
  // Gives `into` what `measure` gives, or says why not.
  const auto take = [&](auto& into, double& taken, const char* what, auto measure) {
    if (is_cancelled()) return;
    const auto before = read_cpu_times();
    auto result = measure();
    const auto after = read_cpu_times();
    if (result) {
      into = *std::move(result);
      taken = before && after ? taken_between(*before, *after).sum() : 0;
    } else if (options.log && result.error().code != ErrorCode::kCancelled) {
      options.log(LogKind::kWarning, std::format("{} is not known: {}", what, result.error().message));
    }
  };
  double unused = 0;
  if (options.parts.memory)
    take(measured.memory, measured.taken.memory, "the speed of this device's memory", [&] {
      return attempt(
          [&] { return measure_memory(backend.n_threads(), {.most_bytes = options.memory_bytes}); });
    });
  if (options.parts.cpu)
    take(measured.cpu, measured.taken.cpu, "the speed of this device's processor",
         [&] { return compute_aside(model, backend, options); });
  // Last: what it writes may still keep the system busy.
  if (options.parts.disk)
    take(measured.disk, unused, "the speed of this device's disk", [&] {
      return attempt([&]() -> Result<residency::DiskRate> {
        if (!options.cache_dir.empty()) return residency::measure_disk(options.cache_dir);
        HEARTH_TRY(const std::filesystem::path folder, residency::default_cache_dir());
        return residency::measure_disk(folder);
      });
    });
  return measured;
}

}  // namespace hearth::profile
