#include "engine/handshake.h"

#include <algorithm>
#include <cmath>
#include <format>
#include <limits>

#include "wire/limits.h"

namespace hearth::engine {

namespace {

std::string first_digits(const wire::ModelId& model) {
  return std::format("{:02x}{:02x}{:02x}{:02x}", model[0], model[1], model[2], model[3]);
}

constexpr double kSpreadUnits = 10'000;

// Whole units, at most `most`; what is no number counts as none.
std::uint64_t whole(double value, std::uint64_t most) {
  return value > 0 ? static_cast<std::uint64_t>(std::min(std::round(value), static_cast<double>(most))) : 0;
}

std::uint32_t to_units(double spread) {
  return static_cast<std::uint32_t>(whole(spread * kSpreadUnits, std::numeric_limits<std::uint32_t>::max()));
}

double from_units(std::uint32_t spread) {
  return spread / kSpreadUnits;
}

}  // namespace

void put_speed(const DeviceSpeed& speed, wire::Welcome& welcome) {
  welcome.passes.clear();
  for (const plan::PassRate& pass : speed.cpu.passes) {
    const std::uint64_t rate = whole(pass.bytes_per_s, wire::kMaxBytesPerS);
    const std::uint32_t least = welcome.passes.empty() ? 1 : welcome.passes.back().n_tokens + 1;
    if (rate == 0 || pass.n_tokens < least || pass.n_tokens > wire::kMaxBatchTokens) continue;
    if (welcome.passes.size() == wire::kMaxPasses) break;
    welcome.passes.push_back(
        {.n_tokens = pass.n_tokens, .bytes_per_s = rate, .spread_per_10k = to_units(pass.spread)});
  }
  welcome.disk_bytes_per_s = whole(speed.disk_bytes_per_s, wire::kMaxBytesPerS);
  welcome.disk_spread_per_10k = welcome.disk_bytes_per_s == 0 ? 0 : to_units(speed.disk_spread);
}

DeviceSpeed speed_of(const wire::Welcome& welcome) {
  DeviceSpeed speed = {.disk_bytes_per_s = static_cast<double>(welcome.disk_bytes_per_s),
                       .disk_spread = from_units(welcome.disk_spread_per_10k)};
  for (const wire::PassRate& pass : welcome.passes)
    speed.cpu.passes.push_back({.n_tokens = pass.n_tokens,
                                .bytes_per_s = static_cast<double>(pass.bytes_per_s),
                                .spread = from_units(pass.spread_per_10k)});
  return speed;
}

Result<> check_model(const std::string& their_name, const wire::ModelId& theirs, const std::string& our_name,
                     const wire::ModelId& ours) {
  if (theirs != ours)
    return fail(
        ErrorCode::kModelMismatch,
        "{} has the model {}, {} has {}: give both the same model file (hearth show prints the fingerprint)",
        their_name, first_digits(theirs), our_name, first_digits(ours));
  return {};
}

Result<> check_party(const Party& theirs, const Party& ours) {
  if (theirs.major != ours.major)
    return fail(
        ErrorCode::kVersionMismatch,
        "{} speaks protocol {}.{} (hearth {}), {} speaks {}.{} (hearth {}): install the same version on both",
        theirs.name, theirs.major, theirs.minor, theirs.version, ours.name, ours.major, ours.minor,
        ours.version);
  return check_model(theirs.name, theirs.model, ours.name, ours.model);
}

std::string describe_peer(const std::string& name, const wire::Address& address) {
  if (address.host.empty()) return name;
  const bool v6 = address.host.contains(':');
  return std::format("{} ({}{}{}:{})", name, v6 ? "[" : "", address.host, v6 ? "]" : "",
                     address.control_port);
}

}  // namespace hearth::engine
