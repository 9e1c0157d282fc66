#include "base/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "base/text.h"

namespace hearth {
namespace {

struct Unit {
  std::string_view name;  // lower case
  std::uint64_t bytes;
};

constexpr std::uint64_t kKi = 1024;
constexpr std::array<Unit, 14> kUnits = {{
    {"", 1},
    {"b", 1},
    {"k", kKi},
    {"kib", kKi},
    {"kb", 1'000},
    {"m", kKi* kKi},
    {"mib", kKi* kKi},
    {"mb", 1'000'000},
    {"g", kKi * kKi * kKi},
    {"gib", kKi * kKi * kKi},
    {"gb", 1'000'000'000},
    {"t", kKi * kKi * kKi* kKi},
    {"tib", kKi * kKi * kKi* kKi},
    {"tb", 1'000'000'000'000},
}};
constexpr std::size_t kMaxFractionDigits = 6;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string_view take_digits(std::string_view& text) {
  std::size_t n = 0;
  while (n < text.size() && is_digit(text[n])) ++n;
  const std::string_view digits = text.substr(0, n);
  text.remove_prefix(n);
  return digits;
}

const Unit* find_unit(std::string_view name) {
  std::string lower(name);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  for (const Unit& unit : kUnits)
    if (unit.name == lower) return &unit;
  return nullptr;
}

}  // namespace

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1000) return std::format("{} B", bytes);
  constexpr std::array<std::string_view, 6> kNames = {"kB", "MB", "GB", "TB", "PB", "EB"};
  std::uint64_t unit = 1000;
  std::size_t name = 0;
  // 999,950 and more would print as "1000.0": such an amount belongs to the next unit.
  while (name + 1 < kNames.size() && bytes / unit >= 999 && bytes - 999 * unit >= unit - unit / 20) {
    unit *= 1000;
    ++name;
  }
  // Rounded to tenths in integers, so that the same amount prints the same everywhere.
  std::uint64_t tenths = bytes / unit * 10 + (bytes % unit + unit / 20) / (unit / 10);
  return std::format("{}.{} {}", tenths / 10, tenths % 10, kNames[name]);
}

Result<std::uint64_t> parse_bytes(std::string_view text) {
  const auto refuse = [&](std::string_view why) {
    return fail(ErrorCode::kInvalidArgument,
                "{} is not an amount of bytes: {}; write e.g. 4GiB, 512M, 1.5G or 4096", quote(text), why);
  };
  std::string_view rest = text;
  const std::string_view whole_digits = take_digits(rest);
  if (whole_digits.empty()) return refuse("expected a digit first");
  std::string_view fraction_digits;
  if (!rest.empty() && rest.front() == '.') {
    rest.remove_prefix(1);
    fraction_digits = take_digits(rest);
    if (fraction_digits.empty()) return refuse("expected a digit after the point");
    if (fraction_digits.size() > kMaxFractionDigits) return refuse("more than 6 digits after the point");
  }
  if (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  const Unit* unit = find_unit(rest);
  if (unit == nullptr) return refuse(std::format("unknown unit {}", quote(rest, 20)));
  if (!fraction_digits.empty() && unit->bytes == 1) return refuse("a fraction of a byte");

  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t whole = 0;
  const auto parsed = std::from_chars(whole_digits.data(), whole_digits.data() + whole_digits.size(), whole);
  if (parsed.ec != std::errc{} || whole > kMax / unit->bytes) return refuse("more than 64 bits can hold");
  std::uint64_t fraction = 0;
  std::uint64_t scale = 1;
  for (char digit : fraction_digits) {
    fraction = fraction * 10 + static_cast<std::uint64_t>(digit - '0');
    scale *= 10;
  }
  const std::uint64_t whole_bytes = whole * unit->bytes;
  const std::uint64_t fraction_bytes = fraction * unit->bytes / scale;  // at most 10^6 * 2^40, fits
  if (fraction_bytes > kMax - whole_bytes) return refuse("more than 64 bits can hold");
  return whole_bytes + fraction_bytes;
}

namespace {

// A decimal number and the rest without spaces around it; nothing where there is no number.
std::optional<std::pair<double, std::string_view>> number_and_unit(std::string_view text) {
  const auto trim = [](std::string_view& of) {
    while (!of.empty() && of.front() == ' ') of.remove_prefix(1);
    while (!of.empty() && of.back() == ' ') of.remove_suffix(1);
  };
  trim(text);
  double value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (error != std::errc{} || !std::isfinite(value)) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  trim(text);
  return std::pair(value, text);
}

}  // namespace

Result<double> parse_rate(std::string_view text) {
  const auto refuse = [&] {
    return fail(ErrorCode::kInvalidArgument, "{} is no rate; write one like 500 MB/s, 12 GB/s or 400 Mbit/s",
                quote(text, 40));
  };
  const auto parsed = number_and_unit(text);
  if (!parsed || parsed->first <= 0) return refuse();
  std::string_view unit = parsed->second;
  if (!unit.ends_with("/s")) return refuse();
  unit.remove_suffix(2);
  if (unit == "kbit") return parsed->first * 1e3 / 8;
  if (unit == "Mbit") return parsed->first * 1e6 / 8;
  if (unit == "Gbit") return parsed->first * 1e9 / 8;
  const Unit* of_bytes = find_unit(unit);
  if (of_bytes == nullptr || unit.empty()) return refuse();
  return parsed->first * static_cast<double>(of_bytes->bytes);
}

Result<double> parse_seconds(std::string_view text) {
  const auto parsed = number_and_unit(text);
  if (parsed && parsed->first >= 0) {
    if (parsed->second == "s") return parsed->first;
    if (parsed->second == "ms") return parsed->first * 1e-3;
    if (parsed->second == "us") return parsed->first * 1e-6;
  }
  return fail(ErrorCode::kInvalidArgument, "{} is no duration; write one like 3 ms, 0.5 s or 200 us",
              quote(text, 40));
}

}  // namespace hearth
