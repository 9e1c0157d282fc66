// DataStream: one TCP connection of a data lane, at either end. Sealed records in and out, never waiting.
//
// The connecting end sends a prologue (the secret's tag, stream header) and then records; the listening end
// finds the secret by that tag, answers with a stream header of its own, and then with records. Only the
// holder of the secret can make a record that opens, so the first one proves who is there.
//
// Thread contract: one thread at a time (the hub's lock); the descriptor may be waited on by others
// meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "net/link_frame.h"
#include "net/sealed_stream.h"

namespace hearth::net {

// Owns a descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { close(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void close();

 private:
  int fd_ = -1;
};

// A listening socket that does not block. host: numeric, "" = every interface; port 0: any. kIo.
struct Listening {
  Descriptor socket;
  std::uint16_t port = 0;
};
[[nodiscard]] Result<Listening> listen_data(const std::string& host, std::uint16_t port, int backlog);

class DataStream {
 public:
  // Starts to connect to `endpoint` ("10.0.0.1:77", "[fe80::1%eth0]:77"). kIo, kInvalidArgument.
  [[nodiscard]] static Result<DataStream> connect(const std::string& endpoint, const StreamSecret& secret);
  // A connection that was accepted. `secret_of` tells the secret of a tag, nullopt when no data lane waits
  // that has it.
  using SecretOf = std::function<std::optional<StreamSecret>(const StreamTag&)>;
  [[nodiscard]] static DataStream accept(Descriptor socket, SecretOf secret_of);
  DataStream(DataStream&&) noexcept = default;
  DataStream& operator=(DataStream&&) noexcept = default;

  [[nodiscard]] int descriptor() const { return socket_.get(); }
  // What the descriptor is to be waited for beside input.
  [[nodiscard]] bool wants_to_write() const { return connecting_ || !unsent_.empty(); }
  [[nodiscard]] std::size_t unsent_bytes() const { return unsent_.size() - unsent_begin_; }
  // Records that are not wholly with the kernel yet.
  [[nodiscard]] std::size_t unsent_records() const { return ends_.size(); }
  // The other end's stream header has come. A listener sends it only to a connection whose tag it knows.
  [[nodiscard]] bool peer_answered() const { return reader_.has_value(); }

  // Seals one frame and hands the kernel what it takes of it now.
  void send(FrameHeader header, std::span<const std::uint8_t> payload);
  // Goes on with what is unsent, and with connecting. False when the connection failed: error() says why.
  [[nodiscard]] bool write_some();
  // Takes in what has arrived. Whole records (frame header, payload) go to `frames`; one of more than
  // `max_bytes` is an error, and so is a first one that holds more than a link id. False when the connection
  // is over; frames that came before it are valid.
  [[nodiscard]] bool read_some(std::vector<std::vector<std::uint8_t>>& frames, std::size_t max_bytes);
  [[nodiscard]] const std::string& error() const { return error_; }
  // It ended because of what the peer sent.
  [[nodiscard]] bool broke_rules() const { return broke_rules_; }
  // Nothing more will be sent; what comes is to be thrown away.
  void finish_sending();

 private:
  explicit DataStream(Descriptor socket);
  bool fail_with(std::string reason);
  bool break_rules(std::string what);
  void make_room();
  [[nodiscard]] bool take_items(std::vector<std::vector<std::uint8_t>>& frames, std::size_t max_bytes);
  void begin_writing(const StreamSecret& secret, Direction direction);

  Descriptor socket_;
  bool connecting_ = false;
  bool connecting_end_ = false;
  StreamSecret secret_{};  // connecting end, until the listener's header came
  SecretOf secret_of_;
  std::optional<SealedWriter> writer_;
  std::optional<SealedReader> reader_;
  std::vector<std::uint8_t> unsent_;
  std::size_t unsent_begin_ = 0;
  std::vector<std::size_t> ends_;  // of each unsent record, in unsent_
  std::vector<std::uint8_t> received_;
  std::size_t received_begin_ = 0, received_end_ = 0;
  std::size_t record_bytes_ = 0;  // of the one at received_begin_, with its length; 0: not known yet
  std::string error_;
  bool broke_rules_ = false;
  bool opened_any_ = false;  // a record
};

}  // namespace hearth::net
