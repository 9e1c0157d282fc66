#include "engine/handshake.h"

#include <format>

namespace hearth::engine {

namespace {

std::string first_digits(const wire::ModelId& model) {
  return std::format("{:02x}{:02x}{:02x}{:02x}", model[0], model[1], model[2], model[3]);
}

}  // namespace

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
