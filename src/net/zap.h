// ZapHandler: answers libzmq's question "may this key connect?" from the allow-list.
//
// libzmq asks over inproc://zeromq.zap.01 of its context; with nobody there it would let every key in. Hence:
// one handler per context, zap_self_test() before any socket binds, and a handler that ends without being
// told to ends the process. Only CURVE is accepted. The User-Id of an accepted connection is the hexadecimal
// key, so that every received message carries its proven sender.
//
// Thread contract: the handler owns one thread; allow() and take_refused() may be called from any thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "net/zmq_socket.h"

namespace hearth::net {

inline constexpr char kZapDomain[] = "hearth";

class ZapHandler {
 public:
  struct Refused {
    std::string address;
    std::string reason;
  };

  // Binds the endpoint in `context` and starts the thread. `on_refused` is called on that thread after a
  // refusal was queued; it must not block. Error kIo when the endpoint is taken.
  static Result<std::unique_ptr<ZapHandler>> start(ZmqContext& context, std::function<void()> on_refused);
  // Ends the thread. Every socket that was bound under this handler must be closed before.
  ~ZapHandler();
  ZapHandler(const ZapHandler&) = delete;
  ZapHandler& operator=(const ZapHandler&) = delete;

  void allow(std::set<DeviceKey> keys);
  // Refusals since the last call; at most kMaxQueued are kept, `dropped` counts the others.
  [[nodiscard]] std::vector<Refused> take_refused(std::size_t& dropped);

 private:
  static constexpr std::size_t kMaxQueued = 16;

  ZapHandler() = default;
  void run();
  void answer_one();
  void refuse(std::string address, std::string reason);

  ZmqSocket requests_;  // REP, used by the thread only once it runs
  ZmqSocket stop_in_;   // PAIR, the thread's end
  ZmqSocket stop_out_;  // PAIR, the owner's end
  std::function<void()> on_refused_;

  std::mutex mutex_;
  std::set<DeviceKey> allowed_;   // guarded by mutex_
  std::vector<Refused> refused_;  // guarded by mutex_
  std::size_t dropped_ = 0;       // guarded by mutex_

  std::thread thread_;
};

// Asks the handler of `context` as libzmq would, with a key that nobody has, and expects a refusal. Error
// kUnauthorized when nobody answers within `timeout` or the answer is another one: then nothing may bind.
Result<> zap_self_test(ZmqContext& context, std::chrono::milliseconds timeout);

}  // namespace hearth::net
