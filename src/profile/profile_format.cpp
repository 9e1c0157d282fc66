#include "profile/profile_format.h"

#include <charconv>
#include <cmath>
#include <format>
#include <iterator>
#include <optional>
#include <utility>

#include "base/text.h"
#include "wire/limits.h"

namespace hearth::profile {
namespace {

constexpr std::string_view kName = "hearth-profile ";
constexpr std::string_view kFirstLine = "hearth-profile 1";

template <class... Kinds>
struct Overloaded : Kinds... {
  using Kinds::operator()...;
};

std::string_view next_line(std::string_view& text) {
  const auto end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

// The words of a line, split at single spaces.
std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  for (;;) {
    const auto end = line.find(' ');
    words.push_back(line.substr(0, end));
    if (end == std::string_view::npos) return words;
    line.remove_prefix(end + 1);
  }
}

// The whole word as a number of that type; digits only.
template <class Number>
bool read(std::string_view word, Number& number) {
  const char* const end = word.data() + word.size();
  std::from_chars_result got{};
  if constexpr (std::is_floating_point_v<Number>)
    got = std::from_chars(word.data(), end, number, std::chars_format::fixed);
  else
    got = std::from_chars(word.data(), end, number);
  return got.ec == std::errc() && got.ptr == end;
}

bool read(std::string_view word, residency::Digest& digest) {
  if (word.size() != 2 * digest.size()) return false;
  for (std::size_t i = 0; i < digest.size(); ++i) {
    const char* const at = word.data() + 2 * i;
    if (std::from_chars(at, at + 2, digest[i], 16).ptr != at + 2) return false;
  }
  return true;
}

// A line "NAME NUMBER ...".
template <class... Numbers>
bool read_line(std::string_view& text, std::string_view name, Numbers&... numbers) {
  const auto words = words_of(next_line(text));
  if (words.size() != 1 + sizeof...(numbers) || words[0] != name) return false;
  std::size_t at = 0;
  return (read(words[++at], numbers) && ...);
}

bool is_sane(std::uint64_t bytes_per_s, double spread) {
  return bytes_per_s >= 1 && bytes_per_s <= kMaxRate && std::isfinite(spread) && !std::signbit(spread) &&
         spread <= kMaxSpread;
}

bool is_sane(const ComputeEntry& entry) {
  if (entry.passes.empty() || entry.passes.size() > kMaxPassRates || entry.passes[0].n_tokens != 1)
    return false;
  std::uint32_t before = 0;
  for (const PassRate& pass : entry.passes) {
    if (pass.n_tokens <= before || pass.n_tokens > wire::kMaxBatchTokens || pass.n_passes < 1 ||
        pass.n_passes > kMaxPassCount || !is_sane(pass.bytes_per_s, pass.spread))
      return false;
    before = pass.n_tokens;
  }
  return true;
}

}  // namespace

bool is_sane(const ProfileEntry& entry) {
  const std::int64_t seconds = entry.measured_at.time_since_epoch().count();
  return seconds >= 0 && seconds <= kMaxSeconds && entry.taken >= 0 && entry.taken <= 1 &&
         !std::signbit(entry.taken) &&
         std::visit(Overloaded{[](const ComputeEntry& compute) { return is_sane(compute); },
                               [](const residency::DiskRate& disk) {
                                 return is_sane(disk.bytes_per_s, disk.spread);
                               },
                               [](const MemoryRate& memory) {
                                 return is_sane(memory.bytes_per_s, memory.spread) &&
                                        memory.best_bytes_per_s >= memory.bytes_per_s &&
                                        memory.best_bytes_per_s <= kMaxRate;
                               }},
                    entry.rates);
}

std::string hex(std::span<const std::uint8_t> bytes) {
  std::string digits;
  for (const std::uint8_t byte : bytes) digits += std::format("{:02x}", byte);
  return digits;
}

std::string encode(const ProfileEntry& entry) {
  HEARTH_CHECK(is_sane(entry));
  std::string text = std::format("{}\nkey {}\nmeasured {} {:.4f}\n", kFirstLine, hex(entry.key),
                                 entry.measured_at.time_since_epoch().count(), entry.taken);
  const auto add = std::back_inserter(text);
  std::visit(Overloaded{[&](const ComputeEntry& compute) {
                          std::format_to(add, "compute {}\n", compute.memory_bytes);
                          for (const PassRate& pass : compute.passes)
                            std::format_to(add, "pass {} {} {:.4f} {}\n", pass.n_tokens, pass.bytes_per_s,
                                           pass.spread, pass.n_passes);
                        },
                        [&](const residency::DiskRate& disk) {
                          std::format_to(add, "disk {} {:.4f}\n", disk.bytes_per_s, disk.spread);
                        },
                        [&](const MemoryRate& memory) {
                          std::format_to(add, "memory {} {:.4f} {}\n", memory.bytes_per_s, memory.spread,
                                         memory.best_bytes_per_s);
                        }},
             entry.rates);
  return text + "end\n";
}

Result<ProfileEntry> decode_profile(std::string_view text) {
  const auto bad = [](std::string_view expected, std::string_view got) {
    return fail(ErrorCode::kInvalidFile, "expected {}, got {}", expected, quote(got));
  };
  if (text.size() > kMaxProfileBytes)
    return fail(ErrorCode::kInvalidFile, "a profile has at most {} bytes, got {}", kMaxProfileBytes,
                text.size());
  const std::string_view whole = text;
  if (const std::string_view first = next_line(text); first != kFirstLine) {
    if (first.starts_with(kName))
      return fail(ErrorCode::kVersionMismatch, "expected {}, got {}", quote(kFirstLine), quote(first));
    return bad("the line 'hearth-profile 1'", first);
  }
  ProfileEntry entry;
  std::int64_t seconds = 0;
  std::string_view rest = text;
  if (!read_line(text, "key", entry.key)) return bad("'key' and 64 hexadecimal digits", next_line(rest));
  rest = text;
  if (!read_line(text, "measured", seconds, entry.taken) || seconds < 0 || seconds > kMaxSeconds)
    return bad("'measured', seconds since 1970 and a share", next_line(rest));
  entry.measured_at = std::chrono::sys_seconds(std::chrono::seconds(seconds));
  rest = text;
  if (text.starts_with("compute ")) {
    ComputeEntry compute;
    if (!read_line(text, "compute", compute.memory_bytes))
      return bad("'compute' and a number of bytes", next_line(rest));
    while (rest = text, text.starts_with("pass ")) {
      PassRate pass;
      if (compute.passes.size() == kMaxPassRates ||
          !read_line(text, "pass", pass.n_tokens, pass.bytes_per_s, pass.spread, pass.n_passes))
        return bad("'pass', tokens, bytes per second, spread and passes", next_line(rest));
      compute.passes.push_back(pass);
    }
    entry.rates = std::move(compute);
  } else if (text.starts_with("disk ")) {
    residency::DiskRate disk;
    if (!read_line(text, "disk", disk.bytes_per_s, disk.spread))
      return bad("'disk', bytes per second and spread", next_line(rest));
    entry.rates = disk;
  } else {
    MemoryRate memory;
    if (!read_line(text, "memory", memory.bytes_per_s, memory.spread, memory.best_bytes_per_s))
      return bad("'compute', 'disk' or 'memory' and its numbers", next_line(rest));
    entry.rates = memory;
  }
  if (text != "end\n") return bad("the last line 'end'", text);
  if (!is_sane(entry)) return fail(ErrorCode::kInvalidFile, "a number is out of its range");
  if (encode(entry) != whole) return fail(ErrorCode::kInvalidFile, "a number is not written as it should be");
  return entry;
}

}  // namespace hearth::profile
