#include "profile/profile_cache.h"

#include <algorithm>
#include <array>
#include <format>
#include <optional>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "base/os_cpu.h"
#include "base/os_file.h"
#include "residency/pack_cache.h"
#include "residency/repack.h"

namespace hearth::profile {
namespace {

namespace fs = std::filesystem;

// A hash over texts and numbers; each is separated from the next.
class KeyHash {
 public:
  KeyHash& add(std::string_view text) {
    add(text.size());
    hash_.add({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
    return *this;
  }
  KeyHash& add(std::uint64_t number) {
    std::array<std::uint8_t, 8> bytes{};
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(number >> (8 * i));
    hash_.add(bytes);
    return *this;
  }
  [[nodiscard]] residency::Digest digest() const { return hash_.digest(); }

 private:
  residency::Blake3 hash_;
};

// Adds what makes two processors, or two uses of one, different.
void add_processor(KeyHash& hash, const compute::Backend& backend) {
  constexpr double kThousandths = 1000;
  hash.add(HEARTH_VERSION).add(backend.description()).add(residency::cpu_features(backend.device()));
  hash.add(backend.n_threads());
  hash.add(static_cast<std::uint64_t>(std::min(cpu_quota().value_or(0), 1e6) * kThousandths));
}

// An entry that is there and can be used, and when it was measured.
template <class Rates>
std::optional<std::pair<Rates, std::chrono::sys_seconds>> read_entry(const fs::path& path,
                                                                     const residency::Digest& key,
                                                                     const ProfileOptions& options) {
  const auto useless = [&](std::string_view why) {
    if (options.measure.log)
      options.measure.log(
          LogKind::kNotice,
          std::format("{}: this profile cannot be used and is measured again: {}", path.string(), why));
    return std::nullopt;
  };
  const auto file = InputFile::open(path);
  if (!file && file.error().code == ErrorCode::kNotFound) return std::nullopt;
  if (!file) return useless(file.error().message);
  if (file->size() > kMaxProfileBytes) return useless(std::format("it has {} bytes", file->size()));
  std::vector<std::uint8_t> bytes(file->size());
  if (const auto got = file->read_at(0, bytes); !got) return useless(got.error().message);
  const auto entry = decode_profile({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (!entry) return useless(entry.error().message);
  const auto* rates = std::get_if<Rates>(&entry->rates);
  if (rates == nullptr || entry->key != key) return useless("it is about something else");
  const std::chrono::seconds age = options.now - entry->measured_at;
  if (age < std::chrono::seconds(0) ||
      age > (entry->taken > kBusy ? std::chrono::seconds(kBusyProfileAge) : kProfileAge))
    return std::nullopt;
  return std::pair(*rates, entry->measured_at);
}

// Whether the curve has all counts that are measured now, or could not get more.
bool is_complete(const ComputeEntry& entry, std::uint64_t memory_bytes) {
  const auto has = [&](std::uint32_t n) {
    return std::ranges::contains(entry.passes, n, &PassRate::n_tokens);
  };
  return memory_bytes / 2 < entry.memory_bytes || std::ranges::all_of(ComputeOptions{}.tokens, has);
}

}  // namespace

residency::Digest compute_key(const model::ModelFile& model, const compute::Backend& backend) {
  KeyHash hash;
  add_processor(hash.add("compute"), backend);
  const model::HyperParams& p = model.params();
  hash.add(residency::ggml_build()).add(model.arch().name);
  for (const std::uint32_t size :
       {p.n_layer, p.n_embd, p.n_head, p.n_head_kv, p.n_ff, p.head_dim_k, p.head_dim_v, p.n_rot, p.n_swa,
        p.n_expert, p.n_expert_used, p.n_ff_exp, p.n_ff_shared})
    hash.add(size);
  for (std::uint32_t il = 0; il < p.n_layer; ++il) hash.add(p.is_sliding(il) ? 1U : 0U);
  for (std::uint32_t il = 0; il < p.n_layer; ++il) {
    const auto& tensors = model.segment(model::SegmentId::of_layer(il));
    hash.add(tensors.size());
    for (const model::SegmentTensor& tensor : tensors) {
      hash.add(static_cast<std::uint64_t>(tensor.role)).add(static_cast<std::uint64_t>(tensor.tensor->type));
      for (const auto size : tensor.tensor->ne) hash.add(static_cast<std::uint64_t>(size));
    }
  }
  return hash.digest();
}

residency::Digest memory_key(const compute::Backend& backend) {
  KeyHash hash;
  add_processor(hash.add("memory"), backend);
  return hash.digest();
}

Result<residency::Digest> disk_key(const fs::path& cache_dir) {
  HEARTH_TRY(const FileSystemId system, file_system_of(cache_dir));
  return KeyHash().add("disk").add(HEARTH_VERSION).add(system.device).add(system.id).digest();
}

fs::path profile_path(const fs::path& cache_dir, std::string_view kind, const residency::Digest& key) {
  return cache_dir / "profiles" / std::format("{}-{}.profile", kind, hex(std::span(key).first(6)));
}

namespace {

struct Place {
  fs::path path;
  residency::Digest key{};
};
struct Places {
  Place compute, disk, memory;
};

// Makes the folder.
Result<Places> places_of(const model::ModelFile& model, const compute::Backend& backend, fs::path cache_dir) {
  if (cache_dir.empty()) {
    HEARTH_TRY(cache_dir, residency::default_cache_dir());
  }
  std::error_code error;
  fs::create_directories(cache_dir / "profiles", error);
  if (error)
    return fail(ErrorCode::kIo, "{}: cannot make the folder: {}", (cache_dir / "profiles").string(),
                error.message());
  HEARTH_TRY(const residency::Digest disk, disk_key(cache_dir));
  const auto place = [&](std::string_view kind, const residency::Digest& key) {
    return Place{.path = profile_path(cache_dir, kind, key), .key = key};
  };
  return Places{.compute = place("compute", compute_key(model, backend)),
                .disk = place("disk", disk),
                .memory = place("memory", memory_key(backend))};
}

Profile read_kept(const Places& places, const ProfileOptions& options) {
  Profile profile;
  const Parts& wanted = options.measure.parts;
  if (wanted.cpu)
    if (auto kept = read_entry<ComputeEntry>(places.compute.path, places.compute.key, options);
        kept && is_complete(kept->first, options.measure.memory_bytes)) {
      profile.rates.cpu = std::move(kept->first.passes);
      profile.cpu_at = kept->second;
      profile.from_cache.cpu = true;
    }
  if (wanted.disk)
    if (const auto kept = read_entry<residency::DiskRate>(places.disk.path, places.disk.key, options)) {
      std::tie(profile.rates.disk, profile.disk_at) = *kept;
      profile.from_cache.disk = true;
    }
  if (wanted.memory)
    if (const auto kept = read_entry<MemoryRate>(places.memory.path, places.memory.key, options)) {
      std::tie(profile.rates.memory, profile.memory_at) = *kept;
      profile.from_cache.memory = true;
    }
  return profile;
}

}  // namespace

Profile load_or_measure(const model::ModelFile& model, compute::Backend& backend,
                        const ProfileOptions& options) {
  const auto notice = [&](const std::string& text) {
    if (options.measure.log) options.measure.log(LogKind::kNotice, text);
  };
  const Result<Places> places = places_of(model, backend, options.measure.cache_dir);
  if (!places) notice(std::format("profiles of this device are not kept: {}", places.error().message));
  Profile profile = places && !options.fresh ? read_kept(*places, options) : Profile{};
  MeasureOptions missing = options.measure;
  missing.parts = {.cpu = missing.parts.cpu && !profile.from_cache.cpu,
                   .disk = missing.parts.disk && !profile.from_cache.disk,
                   .memory = missing.parts.memory && !profile.from_cache.memory};
  if (missing.parts == Parts{}) return profile;

  Measured measured = measure_device(model, backend, missing);
  const auto keep = [&](Place Places::* place, double taken, auto rates) {
    if (taken > kBusy)
      notice(std::format(
          "others had {:.0f} % of the processor while the speed of this device's {} was measured, which is "
          "measured again at a start in more than {} h",
          taken * 100, place == &Places::memory ? "memory" : "processor", kBusyProfileAge.count()));
    if (!places) return;
    const Place& at = (*places).*place;
    const ProfileEntry entry = {
        .key = at.key, .measured_at = options.now, .taken = taken, .rates = std::move(rates)};
    if (!is_sane(entry))
      return notice(std::format("{}: not kept: a number is out of its range", at.path.string()));
    const std::string text = encode(entry);
    if (const auto done =
            replace_file(at.path, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
        !done)
      notice(std::format("the profile is not kept: {}", done.error().message));
  };
  if (!measured.cpu.empty()) {
    keep(&Places::compute, measured.taken.cpu,
         ComputeEntry{.memory_bytes = missing.memory_bytes, .passes = measured.cpu});
    profile.rates.cpu = std::move(measured.cpu);
    profile.cpu_at = options.now;
  }
  if (measured.disk) {
    keep(&Places::disk, 0, *measured.disk);
    profile.rates.disk = measured.disk;
    profile.disk_at = options.now;
  }
  if (measured.memory) {
    keep(&Places::memory, measured.taken.memory, *measured.memory);
    profile.rates.memory = measured.memory;
    profile.memory_at = options.now;
  }
  return profile;
}

}  // namespace hearth::profile
