// DataListener: the listening side of a hub's data lane: accepts connections, finds out whose they are, hands
// on their frames.
//
// What a frame means is IncomingLinks' business; who may connect is decided by the secret that a device told
// over its control lane. A stranger gets 40 bytes and one short record, then he is cut off.
//
// Thread contract: guarded by the hub's lock; only ready_set().wait() may be called without it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "net/data_stream.h"
#include "net/incoming_links.h"
#include "net/limits.h"
#include "net/ready_set.h"

namespace hearth::net {

class DataListener {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using Awaited = std::function<std::optional<IncomingLinks::DataLane>(const StreamTag&)>;
  using Refused = std::function<void(std::string address, std::string reason)>;

  // `awaited` says whose data lane a tag opens; `refused` hears of strangers; both are called by
  // accept_new(), read() and service().
  [[nodiscard]] static Result<std::unique_ptr<DataListener>> open(const std::string& host, std::uint16_t port,
                                                                  const HubLimits& limits, Awaited awaited,
                                                                  Refused refused);
  DataListener(const DataListener&) = delete;
  DataListener& operator=(const DataListener&) = delete;

  [[nodiscard]] std::uint16_t port() const { return port_; }
  [[nodiscard]] int descriptor() const { return socket_.get(); }
  [[nodiscard]] ReadySet& ready_set() { return ready_; }
  [[nodiscard]] bool has_connections() const { return !connections_.empty(); }

  void accept_new(TimePoint now);
  // False for a moment after the system refused a connection for want of descriptors or memory: the listening
  // socket stays readable then.
  [[nodiscard]] bool accepts(TimePoint now) const { return now >= pause_until_; }

  struct Frame {
    std::uint64_t connection = 0;
    DeviceKey from;
    std::vector<std::uint8_t> bytes;  // frame header and payload
  };
  // Frames of the connections named, in order; the ids of those that have ended go to `ended`.
  void read(std::span<const std::uint64_t> ready, std::vector<Frame>& frames,
            std::vector<std::uint64_t>& ended);

  // To the sender on the way back; nothing when the connection is no more.
  void answer(std::uint64_t connection, FrameHeader header, std::string_view payload);
  // Takes nothing more from it and closes it when the peer does, or at `until`.
  void dismiss(std::uint64_t connection, TimePoint until);
  // Closes what is over its time; their ids go to `ended`.
  void service(TimePoint now, std::vector<std::uint64_t>& ended);
  // When service() has something to do; max() for never.
  [[nodiscard]] TimePoint next_timer() const;

 private:
  struct Connection {
    DataStream stream;
    std::string address;
    TimePoint deadline;             // to have proven itself, or to be gone when dismissed
    std::optional<DeviceKey> from;  // whose link its prologue named
    bool proven = false;            // a record opened
    bool dismissed = false;
    bool watches_output = false;  // of the ready set
  };
  DataListener(Listening listening, ReadySet ready, const HubLimits& limits, Awaited awaited,
               Refused refused);
  void read_one(std::uint64_t id, Connection& connection, std::vector<Frame>& frames,
                std::vector<std::uint64_t>& ended);
  void watch_output(std::uint64_t id, Connection& connection);

  Descriptor socket_;
  std::uint16_t port_;
  ReadySet ready_;
  HubLimits limits_;
  Awaited awaited_;
  Refused refused_;
  std::map<std::uint64_t, Connection> connections_;
  TimePoint pause_until_{};
  std::uint64_t next_id_ = 1;  // 0 is the hub's own
};

}  // namespace hearth::net
