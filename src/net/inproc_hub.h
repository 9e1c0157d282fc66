// The Hub inside one process: the same contract without sockets, for tests of everything above net.
//
// Allow-lists, lanes, high-water marks, message limits and the events of coming and going behave as over
// ZeroMQ; delivery is immediate. What was sent and not yet polled by the receiver is lost on disconnect()
// unless flush() came before, so that a missing flush shows in a test.
//
// Thread contract: each hub as Hub; hubs of one switchboard may live on different threads.
#pragma once

#include <memory>

#include "base/device_key.h"
#include "net/hub.h"
#include "net/limits.h"

namespace hearth::net {

class InprocSwitchboard {
 public:
  InprocSwitchboard();
  ~InprocSwitchboard();
  InprocSwitchboard(const InprocSwitchboard&) = delete;
  InprocSwitchboard& operator=(const InprocSwitchboard&) = delete;

  // A hub with this identity at an address of its own (host "inproc"). May outlive the switchboard object.
  [[nodiscard]] std::unique_ptr<Hub> make_hub(const DeviceKey& key, const HubLimits& limits = {});

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace hearth::net
