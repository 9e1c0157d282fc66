// EngineInbox: all that the engine thread waits for: what other threads ask of it, and frames of other
// devices, which it takes off the link itself.
//
// A frame that has to wake a thread to be received, and another one to be computed on, costs two wake-ups of
// an idle core; this costs one.
#pragma once

#include <chrono>
#include <optional>
#include <utility>

#include "base/channel.h"
#include "net/hub.h"
#include "node/engine_input.h"

namespace hearth::node {

class EngineInbox {
 public:
  explicit EngineInbox(std::size_t capacity) : asked_(capacity) {}

  // Before the engine thread begins: frames come from `hub`, which outlives the inbox' last receive().
  // Without it there are none.
  void listen_to(net::Hub& hub) {
    hub_ = &hub;
    hub.separate_data();
  }

  // Any thread. Waits while the engine is behind by a great many messages; false when closed.
  bool send(EngineInput input) {
    if (!asked_.send(std::move(input))) return false;
    if (hub_ != nullptr) hub_->wake_receiver();
    return true;
  }
  void close() {
    asked_.close();
    if (hub_ != nullptr) hub_->wake_receiver();
  }
  [[nodiscard]] bool closed() const { return asked_.closed(); }

  // Engine thread. What was asked comes before frames. Nothing when closed and empty.
  std::optional<EngineInput> receive() {
    while (true) {
      if (auto input = receive_for(kLong)) return input;
      if (asked_.closed()) return asked_.try_receive();
    }
  }
  // The same, nothing also when none came within `timeout`, or earlier for no reason.
  std::optional<EngineInput> receive_for(std::chrono::milliseconds timeout) {
    if (hub_ == nullptr) return asked_.receive_for(timeout);
    if (auto input = asked_.try_receive()) return input;
    if (asked_.closed()) return std::nullopt;
    if (auto message = hub_->receive(timeout)) return FrameArrived{message->from, std::move(message->bytes)};
    return asked_.try_receive();
  }
  std::optional<EngineInput> try_receive() { return receive_for(std::chrono::milliseconds{0}); }

 private:
  static constexpr std::chrono::hours kLong{1};

  Channel<EngineInput> asked_;
  net::Hub* hub_ = nullptr;
};

}  // namespace hearth::node
