// Measurements of this device that are kept, so that a start takes no time for them.
//
// `<cache_dir>/profiles/` has a small text file (docs/reference/profile-cache.md) for each thing that was
// measured: computing, whose key is the processor, the software and the model's shape; memory, without the
// model; the disk, whose key is its file system. A file that is damaged, of another version, or about
// something else is as good as none, and written anew. Several processes may use one folder.
//
// Any thread.
#pragma once

#include <chrono>
#include <filesystem>

#include "compute/backend.h"
#include "model/model_file.h"
#include "profile/device_profile.h"
#include "profile/profile_format.h"

namespace hearth::profile {

// Older ones are measured again, and so are those from the future.
inline constexpr std::chrono::days kProfileAge{30};
// And those of a busy device: what others took more of its processor time than this share.
inline constexpr std::chrono::hours kBusyProfileAge{1};
inline constexpr double kBusy = 0.1;

// The model's layers by their types and sizes, not their weights: fine-tunes share it. With the processor's
// name and features, its threads and quota, and the versions of hearth and ggml.
[[nodiscard]] residency::Digest compute_key(const model::ModelFile& model, const compute::Backend& backend);
[[nodiscard]] residency::Digest memory_key(const compute::Backend& backend);
// `cache_dir` must be there. kIo.
[[nodiscard]] Result<residency::Digest> disk_key(const std::filesystem::path& cache_dir);

// Where an entry of that kind ("compute", "disk", "memory") and key is.
[[nodiscard]] std::filesystem::path profile_path(const std::filesystem::path& cache_dir,
                                                 std::string_view kind, const residency::Digest& key);

struct ProfileOptions {
  MeasureOptions measure;        // of its parts those that are not kept
  std::chrono::sys_seconds now;  // the system's time
  bool fresh = false;            // measure all parts, whatever is kept
};

struct Profile {
  Measured rates;
  Parts from_cache;
  // When each part was measured; the epoch for what is absent.
  std::chrono::sys_seconds cpu_at, disk_at, memory_at;
};

// What is kept and not too old, the rest measured and kept. A curve of an earlier start with
// less than half the memory that lacks counts is measured again. What cannot be read or written, and a
// busy device, is a notice of the log; measuring has its warnings there.
[[nodiscard]] Profile load_or_measure(const model::ModelFile& model, compute::Backend& backend,
                                      const ProfileOptions& options);

}  // namespace hearth::profile
