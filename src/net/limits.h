// Limits of every hub; each bounds what a peer or a stranger can make this process hold.
#pragma once

#include <chrono>
#include <cstddef>

namespace hearth::net {

struct HubLimits {
  // Largest message accepted on a lane; a larger one closes the connection of its sender before it is read.
  std::size_t max_control_bytes = 64 * 1024;
  std::size_t max_data_bytes = 256 * 1024 * 1024;
  // Messages that may wait on each side of one lane of one link before send() says kWouldBlock. Control
  // messages are small and must not be held up; data messages may have megabytes, and the ring never has more
  // in flight.
  int control_high_water = 1024;
  int data_high_water = 64;
  // Incoming connections of one lane, strangers included. A ring of 64 devices leaves room for reconnections.
  int max_connections = 256;
  int backlog = 64;
  // A connection that has not proven its key by then is closed.
  std::chrono::milliseconds handshake{5000};
  // The transport's own probes on the control lane: a link that stays silent for `heartbeat_timeout` is gone.
  // Answered by the transport's thread, so a busy compute thread is no false alarm, and six seconds are far
  // above what starved scheduling costs; with the interval, a silent peer is found within 5 to 10 s.
  std::chrono::milliseconds heartbeat_interval{2500};
  std::chrono::milliseconds heartbeat_timeout{6000};
  // RefusedEvents per second; the rest is counted in the next one.
  int refused_per_second = 4;
};

}  // namespace hearth::net
