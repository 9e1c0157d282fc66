// The Hub over TCP: ZeroMQ sockets, CURVE encryption, ZAP allow-list.
//
// Per hub one ZeroMQ context, two ROUTER sockets that receive (control, data) and per outgoing link two
// DEALER sockets that send. docs/reference/link.md describes what goes over the connections.
//
// Thread contract: as Hub; the hub owns one more thread (the ZAP handler) and two of libzmq.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "net/hub.h"
#include "net/keys.h"
#include "net/limits.h"

namespace hearth::net {

struct HubOptions {
  KeyPair keys;
  // Numeric IPv4 or IPv6 address to listen on; "" listens on every interface.
  std::string bind_host = "127.0.0.1";
  std::uint16_t control_port = 0;  // 0: any free port, see Hub::address()
  std::uint16_t data_port = 0;
  // How other devices reach this one; only handed out by Hub::address().
  std::string advertised_host = {};
  HubLimits limits = {};
};

// Opens the two listening sockets. The allow-list is empty: nobody may connect until allow(). Errors: kIo
// when an address or port cannot be used, kUnsupported when libzmq lacks CURVE, kUnauthorized when the key
// check does not work.
[[nodiscard]] Result<std::unique_ptr<Hub>> make_zmq_hub(HubOptions options);

}  // namespace hearth::net
