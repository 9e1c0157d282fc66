// A device in a process of its own, for tests that kill, stop or cut off a peer.
//
//   net_test_peer HOST_KEY            listens, accepts HOST_KEY, echoes nothing
// Prints "KEY CONTROL_PORT DATA_PORT" on one line; for each message received its text on a line of its own.
// Ends when its standard input ends, so that it never outlives the test.
#include <cstdio>
#include <string>
#include <thread>

#include <unistd.h>

#include "net/zmq_hub.h"

int main(int argc, char** argv) {
  using namespace hearth;
  if (argc != 2) return 2;
  const auto host = DeviceKey::from_hex(argv[1]);
  auto keys = net::KeyPair::generate();
  if (!host || !keys) return 2;
  auto hub = net::make_zmq_hub({.keys = *std::move(keys)});
  if (!hub) {
    std::fprintf(stderr, "%s\n", hub.error().message.c_str());
    return 2;
  }
  const DeviceKey listed[] = {*host};
  (*hub)->allow(listed);
  std::printf("%s %u %u\n", (*hub)->key().hex().c_str(), (*hub)->address().control_port,
              (*hub)->address().data_port);
  std::fflush(stdout);

  std::thread input([&] {
    char byte = 0;
    while (::read(STDIN_FILENO, &byte, 1) > 0) {
    }
    (*hub)->wake();
  });
  for (;;) {
    auto event = (*hub)->poll(std::chrono::seconds(1));
    if (!event) continue;
    if (std::holds_alternative<net::WokenEvent>(*event)) break;
    if (const auto* message = std::get_if<net::MessageEvent>(&*event)) {
      std::printf("%.*s\n", static_cast<int>(message->bytes.size()),
                  reinterpret_cast<const char*>(message->bytes.data()));
      std::fflush(stdout);
    }
  }
  input.join();
}
