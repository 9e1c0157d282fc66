// Microseconds per hop between two processes on loopback, over the encrypted data lane, beside bare TCP.
//
//   bench_net [HOPS]      default 20000 per size
// One hop is half a round trip of a ping-pong: a message sent by one process and returned by poll() of the
// other. Bare TCP does the same with blocking sockets and no framing, encryption or second thread: the floor
// on this machine. The two alternate in blocks, so that a change of the machine's load meets both. Prints one
// JSON line per size.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <format>
#include <string>
#include <utility>
#include <vector>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/zmq_hub.h"

namespace {

using namespace hearth;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kSizes[] = {64, 4096, 16 * 1024, 64 * 1024, 1024 * 1024};
constexpr int kBlock = 200;  // hops per turn of one transport
constexpr std::chrono::seconds kPatience{30};

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "bench_net: %s\n", what.c_str());
  std::exit(1);
}

std::unique_ptr<net::Hub> make_hub(const net::KeyPair& keys) {
  auto hub = net::make_zmq_hub({.keys = keys.clone(), .advertised_host = "127.0.0.1"});
  if (!hub) die(hub.error().message);
  return *std::move(hub);
}

// A hub and what came while it was waiting for something else.
struct Device {
  std::unique_ptr<net::Hub> hub;
  std::deque<net::Bytes> early;
};

void send(Device& device, const DeviceKey& peer, net::Bytes message) {
  net::Hub& hub = *device.hub;
  while (hub.send(peer, net::Lane::kData, message) == net::SendStatus::kWouldBlock) (void)hub.poll(kPatience);
}

// Links both ways. A link comes up only while the other side polls, so each says when its own is there, and
// goes on polling until the other has said so.
void connect(Device& device, const DeviceKey& peer, const wire::Address& address) {
  net::Hub& hub = *device.hub;
  if (auto started = hub.connect(peer, address, kPatience); !started) die(started.error().message);
  for (bool up = false, greeted = false; !up || !greeted;) {
    auto event = hub.poll(kPatience);
    if (!event || std::holds_alternative<net::PeerGoneEvent>(*event))
      die("no link to the other process: " +
          (event ? std::get<net::PeerGoneEvent>(*event).reason.message : "nothing came"));
    if (std::holds_alternative<net::PeerUpEvent>(*event)) {
      up = true;
      send(device, peer, {0});
    } else if (auto* message = std::get_if<net::MessageEvent>(&*event)) {
      if (std::exchange(greeted, true)) device.early.push_back(std::move(message->bytes));
    }
  }
}

// nullopt when the peer has gone.
std::optional<net::Bytes> receive(Device& device) {
  if (!device.early.empty()) {
    net::Bytes message = std::move(device.early.front());
    device.early.pop_front();
    return message;
  }
  for (;;) {
    auto event = device.hub->poll(kPatience);
    if (!event) die("no message from the other process");
    if (auto* message = std::get_if<net::MessageEvent>(&*event)) return std::move(message->bytes);
    if (std::holds_alternative<net::PeerGoneEvent>(*event)) return std::nullopt;
  }
}

void write_all(int fd, const void* data, std::size_t size) {
  for (std::size_t done = 0; done < size;) {
    const ssize_t n = ::write(fd, static_cast<const char*>(data) + done, size - done);
    if (n <= 0) die("cannot write");
    done += static_cast<std::size_t>(n);
  }
}

bool read_all(int fd, void* data, std::size_t size) {
  for (std::size_t done = 0; done < size;) {
    const ssize_t n = ::read(fd, static_cast<char*>(data) + done, size - done);
    if (n <= 0) return false;
    done += static_cast<std::size_t>(n);
  }
  return true;
}

int tcp_listener(std::uint16_t& port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(fd, 1) != 0 ||
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    die("cannot listen");
  port = ntohs(address.sin_port);
  return fd;
}

void set_nodelay(int fd) {
  const int one = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

int tcp_connect(std::uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) die("cannot connect");
  set_nodelay(fd);
  return fd;
}

struct Introduction {
  DeviceKey key;
  std::uint16_t control_port = 0;
  std::uint16_t data_port = 0;
  std::uint16_t tcp_port = 0;
};

// The other process: returns whatever comes, over the transport it came by. A byte on `orders` names the next
// block's transport and size.
struct Order {
  std::uint64_t size = 0;
  bool encrypted = false;
};

[[noreturn]] void echo(int in, int out) {
  const auto keys = net::KeyPair::generate();
  if (!keys) die(keys.error().message);
  Device device{.hub = make_hub(*keys), .early = {}};
  net::Hub* hub = device.hub.get();
  Introduction self{
      .key = hub->key(), .control_port = hub->address().control_port, .data_port = hub->address().data_port};
  const int listener = tcp_listener(self.tcp_port);
  Introduction other;
  write_all(out, &self, sizeof self);
  if (!read_all(in, &other, sizeof other)) die("no introduction");
  const DeviceKey listed[] = {other.key};
  hub->allow(listed);
  const char ready = 1;
  write_all(out, &ready, 1);
  const int tcp = ::accept(listener, nullptr, nullptr);
  set_nodelay(tcp);
  connect(device, other.key, {"127.0.0.1", other.control_port, other.data_port});
  std::vector<char> buffer;
  for (Order order; read_all(in, &order, sizeof order);) {
    buffer.resize(order.size);
    for (int i = 0; i < kBlock / 2; ++i) {
      if (order.encrypted) {
        auto message = receive(device);
        if (!message) break;
        send(device, other.key, *std::move(message));
      } else {
        if (!read_all(tcp, buffer.data(), buffer.size())) break;
        write_all(tcp, buffer.data(), buffer.size());
      }
    }
  }
  std::_Exit(0);
}

double percentile(std::vector<double>& values, double share) {
  const auto nth =
      values.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

}  // namespace

int main(int argc, char** argv) {
  const int hops = argc > 1 ? std::atoi(argv[1]) : 20'000;
  if (hops < kBlock) die(std::format("expected at least {} hops", kBlock));
  int to_child[2], from_child[2];
  if (::pipe(to_child) != 0 || ::pipe(from_child) != 0) die("cannot make pipes");
  const pid_t child = ::fork();  // before libzmq has threads
  if (child < 0) die("cannot fork");
  if (child == 0) {
    ::close(to_child[1]);
    ::close(from_child[0]);
    echo(to_child[0], from_child[1]);
  }
  ::close(to_child[0]);
  ::close(from_child[1]);

  const auto keys = net::KeyPair::generate();
  if (!keys) die(keys.error().message);
  Device device{.hub = make_hub(*keys), .early = {}};
  net::Hub* hub = device.hub.get();
  Introduction other;
  if (!read_all(from_child[0], &other, sizeof other)) die("the other process did not start");
  const DeviceKey listed[] = {other.key};
  hub->allow(listed);
  const Introduction self{hub->key(), hub->address().control_port, hub->address().data_port, 0};
  write_all(to_child[1], &self, sizeof self);
  char ready = 0;
  if (!read_all(from_child[0], &ready, 1)) die("the other process ended");
  const int tcp = tcp_connect(other.tcp_port);
  connect(device, other.key, {"127.0.0.1", other.control_port, other.data_port});

  for (const std::size_t size : kSizes) {
    std::vector<double> encrypted_us, bare_us;
    net::Bytes message(size, 1);
    std::vector<char> buffer(size, 1);
    const int blocks = hops / kBlock;
    for (int block = -2; block < blocks; ++block) {  // the first two warm up
      for (const bool encrypted : {true, false}) {
        const Order order{size, encrypted};
        write_all(to_child[1], &order, sizeof order);
        for (int i = 0; i < kBlock / 2; ++i) {
          const auto start = Clock::now();
          if (encrypted) {
            send(device, other.key, std::move(message));
            auto answer = receive(device);
            if (!answer) die("the other process ended");
            message = *std::move(answer);
          } else {
            write_all(tcp, buffer.data(), size);
            if (!read_all(tcp, buffer.data(), size)) die("the other process ended");
          }
          const std::chrono::duration<double, std::micro> round_trip = Clock::now() - start;
          if (block >= 0) (encrypted ? encrypted_us : bare_us).push_back(round_trip.count() / 2);
        }
      }
    }
    std::printf(
        "{\"bench\":\"net_hop\",\"bytes\":%zu,\"hops\":%d,\"curve_p50_us\":%.1f,\"curve_p99_us\":%.1f,"
        "\"tcp_p50_us\":%.1f,\"tcp_p99_us\":%.1f}\n",
        size, blocks * kBlock, percentile(encrypted_us, 0.5), percentile(encrypted_us, 0.99),
        percentile(bare_us, 0.5), percentile(bare_us, 0.99));
    std::fflush(stdout);
  }
  ::close(to_child[1]);
  ::waitpid(child, nullptr, 0);
}
