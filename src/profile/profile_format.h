// The bytes of a kept measurement: docs/reference/profile-cache.md.
//
// Pure functions; any thread. Nothing that bytes say is relied on before it is checked: a text is accepted
// only when it is exactly what encode() writes for what was read.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "profile/compute_curve.h"
#include "profile/memory_rate.h"
#include "residency/disk_rate.h"
#include "residency/pack_hash.h"

namespace hearth::profile {

struct ComputeEntry {
  std::uint64_t memory_bytes = 0;  // that there were to measure in: with more, larger counts may be possible
  std::vector<PassRate> passes;    // 1 to kMaxPassRates, by n_tokens ascending, the first is 1
  friend bool operator==(const ComputeEntry&, const ComputeEntry&) = default;
};

struct ProfileEntry {
  residency::Digest key{};  // of what was measured, see profile_cache.h
  std::chrono::sys_seconds measured_at;
  double taken = 0;  // share of processor time that others had meanwhile, 0 to 1; 0 of a disk
  std::variant<ComputeEntry, residency::DiskRate, MemoryRate> rates;
  friend bool operator==(const ProfileEntry&, const ProfileEntry&) = default;
};

inline constexpr std::size_t kMaxProfileBytes = 8192;  // kMaxPassRates lines of 60 bytes, and some
inline constexpr std::size_t kMaxPassRates = 64;
inline constexpr std::uint64_t kMaxRate = 1'000'000'000'000'000;  // bytes a second; no device has a PB/s
inline constexpr double kMaxSpread = 100;
inline constexpr std::uint32_t kMaxPassCount = 1'000'000;
inline constexpr std::int64_t kMaxSeconds = 253'402'300'799;  // the end of the year 9999

// Whether all numbers are within these limits, so that decode() will take what encode() writes.
[[nodiscard]] bool is_sane(const ProfileEntry& entry);
// Spreads and shares with four digits after the point. `entry` is sane.
[[nodiscard]] std::string encode(const ProfileEntry& entry);
// kInvalidFile, says what was expected; kVersionMismatch.
[[nodiscard]] Result<ProfileEntry> decode_profile(std::string_view text);

[[nodiscard]] std::string hex(std::span<const std::uint8_t> bytes);

}  // namespace hearth::profile
