// What this device can do, measured: computing layers of a model, reading its disk, reading its memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "compute/backend.h"
#include "model/model_file.h"
#include "profile/compute_curve.h"
#include "profile/memory_rate.h"
#include "residency/disk_rate.h"

namespace hearth::profile {

// What could not be measured is absent.
struct Measured {
  std::vector<PassRate> cpu;  // see measure_compute(); empty when absent
  std::optional<residency::DiskRate> disk;
  std::optional<MemoryRate> memory;
  // Of the machine's processor time while a part was measured, the share that other programs and the
  // hypervisor had, 0 to 1: a busy device measures as a slow one, and its spread need not show it. 0 where
  // the system does not say. A disk does not care.
  struct Shares {
    double cpu = 0, memory = 0;
    friend bool operator==(const Shares&, const Shares&) = default;
  } taken;
  friend bool operator==(const Measured&, const Measured&) = default;
};

// Of which parts of it something is said.
struct Parts {
  bool cpu = false, disk = false, memory = false;
  [[nodiscard]] static Parts all() { return {.cpu = true, .disk = true, .memory = true}; }
  friend bool operator==(const Parts&, const Parts&) = default;
};

enum class LogKind : std::uint8_t {
  kNotice,   // nothing is lost but time
  kWarning,  // a plan will have to do without
};

struct MeasureOptions {
  // Most that measuring may take; half of it is for weights and buffers of computing, since what a model's
  // file has in the page cache meanwhile counts as well.
  std::uint64_t memory_bytes = 0;
  // Of packs: this folder's disk is measured. Empty: residency::default_cache_dir().
  std::filesystem::path cache_dir;
  Parts parts = Parts::all();
  std::chrono::milliseconds compute_budget{10'000};  // see ComputeOptions
  std::function<void(LogKind, const std::string&)> log;
  std::function<bool()> cancelled;  // may be asked by another thread
};

// Takes up to compute_budget and five seconds, and the time to read a few layers of the model. A part that
// fails is a warning of `log` and absent; after `cancelled` the others are absent without one. Blocks; any
// thread: computing is done by a thread of its own, because ggml's team belongs to the thread that computes,
// and ends with it.
[[nodiscard]] Measured measure_device(const model::ModelFile& model, compute::Backend& backend,
                                      const MeasureOptions& options);

}  // namespace hearth::profile
