// ReadySet: descriptors that wait for input, behind one descriptor that can itself be waited for.
//
// Linux: epoll. Members may be added and removed by one thread while another waits; closing a descriptor
// removes it. Level-triggered: a member is reported as long as it has input.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "net/data_stream.h"

namespace hearth::net {

class ReadySet {
 public:
  [[nodiscard]] static Result<ReadySet> make();
  // `id` is reported for it. False when the system has no room for another.
  [[nodiscard]] bool add(int descriptor, std::uint64_t id, bool also_for_output = false);
  void watch_output(int descriptor, std::uint64_t id, bool wanted);
  // Ids of the members that are ready, none after `timeout_ms` (0: at once).
  void wait(int timeout_ms, std::vector<std::uint64_t>& ready);
  [[nodiscard]] int descriptor() const { return set_.get(); }

 private:
  explicit ReadySet(Descriptor set) : set_(std::move(set)) {}
  Descriptor set_;
};

}  // namespace hearth::net
