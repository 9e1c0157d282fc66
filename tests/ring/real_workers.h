// Workers in processes of their own, and a request's whole answer: for tests that are the head themselves.
#pragma once

#include <chrono>
#include <format>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/os_process.h"
#include "base/test_dir.h"
#include "node/head.h"
#include "oracle/player.h"

namespace hearth::testing {

inline constexpr std::chrono::seconds kPatience{60};

inline DeviceKey parse_key(const std::string& line) {
  return DeviceKey::from_hex(line.substr(0, 64)).value();
}

// Workers that wait for this head, and what it needs to lead them.
class Workers {
 public:
  Workers(const std::string& model, const DeviceKey& head, int n = 3,
          const std::vector<std::string>& more_arguments = {}) {
    for (int i = 1; i <= n; ++i) {
      const std::string key_file = (folder_.path() / std::format("{}.key", i)).string();
      const auto saved = net::KeyPair::generate().value().save(key_file);
      if (!saved) throw std::runtime_error(saved.error().message);
      std::vector<std::string> arguments = {
          HEARTH_PROGRAM,        "worker", "-m", model, "--key", key_file, "--allow", head.hex(), "--name",
          std::format("w{}", i), "-t",     "1",  "-q"};
      arguments.insert(arguments.end(), more_arguments.begin(), more_arguments.end());
      auto child = Child::spawn(arguments);
      if (!child) throw std::runtime_error(child.error().message);
      children_.push_back(std::move(*child));
    }
    for (Child& child : children_) {
      const auto line = child.read_line(kPatience);
      if (!line) throw std::runtime_error(line.error().message);
      const auto port = static_cast<std::uint16_t>(std::stoul(line->substr(line->rfind(':') + 1)));
      addresses_.push_back({.key = parse_key(*line), .host = "127.0.0.1", .control_port = port});
    }
  }
  [[nodiscard]] const std::vector<node::WorkerAddress>& addresses() const { return addresses_; }

 private:
  TestDir folder_;
  std::vector<Child> children_;
  std::vector<node::WorkerAddress> addresses_;
};

// The answer of a request, tokens and the rows they were chosen from.
inline Transcript collect(node::Request& request) {
  Transcript transcript;
  while (true) {
    auto event = request.events.receive_for(kPatience);
    if (!event) throw std::runtime_error("no answer");
    if (auto* token = std::get_if<node::TokenEvent>(&*event)) {
      transcript.tokens.push_back(token->token);
      transcript.rows.push_back(std::move(token->logits));
    } else if (auto* failed = std::get_if<node::FailedEvent>(&*event)) {
      throw std::runtime_error(failed->error.message);
    } else {
      return transcript;
    }
  }
}

}  // namespace hearth::testing
