// The floor under a ring's hops: a ring of processes that pass a frame by blocking TCP and read memory in
// between, as devices do that compute one after another. No framing, encryption, second thread.
//
//   tcp_ring [PROCESSES [FRAME_BYTES [READ_MIB [TURNS]]]]      default 4 6200 27 300
// READ_MIB: memory that each process reads between receiving and sending, so that the next core sleeps and
// caches are cold, as they are when a model computes. Prints one JSON line: microseconds from before a send
// to after the receive it wakes.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

std::int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch().count();
}

void read_all(int fd, std::vector<char>& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::read(fd, bytes.data() + done, bytes.size() - done);
    if (n <= 0) die("tcp_ring: read");
    done += static_cast<std::size_t>(n);
  }
}

void write_all(int fd, const std::vector<char>& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (n <= 0) die("tcp_ring: write");
    done += static_cast<std::size_t>(n);
  }
}

// A connected pair over loopback.
std::array<int, 2> connection() {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener, generic, size) != 0 || ::listen(listener, 1) != 0 ||
      ::getsockname(listener, generic, &size) != 0)
    die("tcp_ring: listen");
  const int sender = ::socket(AF_INET, SOCK_STREAM, 0);
  if (::connect(sender, generic, size) != 0) die("tcp_ring: connect");
  const int one = 1;
  ::setsockopt(sender, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  const int receiver = ::accept(listener, nullptr, nullptr);
  ::close(listener);
  return {sender, receiver};
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int i, int otherwise) { return argc > i ? std::atoi(argv[i]) : otherwise; };
  const int n = argument(1, 4), frame_bytes = argument(2, 6200), read_mib = argument(3, 27),
            turns = argument(4, 300);
  if (n < 2 || frame_bytes < 16 || read_mib < 0 || turns < 2) {
    std::fprintf(stderr, "tcp_ring: expected at least 2 processes, 16 bytes, 0 MiB, 2 turns\n");
    return 2;
  }
  std::vector<int> in(static_cast<std::size_t>(n)), out(in.size());
  for (std::size_t i = 0; i < in.size(); ++i) {
    const auto [sender, receiver] = connection();
    out[i] = sender;
    in[(i + 1) % in.size()] = receiver;
  }
  std::size_t self = 0;
  for (std::size_t i = 1; i < in.size() && self == 0; ++i)
    if (::fork() == 0) self = i;

  std::vector<std::uint64_t> weights(static_cast<std::size_t>(read_mib) * 1024 * 1024 / 8, self);
  std::uint64_t sum = 0;
  std::vector<char> frame(static_cast<std::size_t>(frame_bytes));
  std::vector<double> hops_us;
  for (int turn = 0; turn < turns; ++turn) {
    if (self != 0 || turn > 0) {
      read_all(in[self], frame);
      std::int64_t sent = 0;
      std::memcpy(&sent, frame.data(), sizeof sent);
      hops_us.push_back(static_cast<double>(now_ns() - sent) * 1e-3);
    }
    sum = std::accumulate(weights.begin(), weights.end(), sum);
    const std::int64_t sent = now_ns();
    std::memcpy(frame.data(), &sent, sizeof sent);
    std::memcpy(frame.data() + frame.size() - sizeof sum, &sum,
                sizeof sum);  // so that reading is not left out
    write_all(out[self], frame);
  }
  if (self != 0) std::_Exit(0);
  std::ranges::sort(hops_us);
  const double mean =
      std::accumulate(hops_us.begin(), hops_us.end(), 0.0) / static_cast<double>(hops_us.size());
  std::printf(
      "{\"bench\":\"tcp_ring\",\"processes\":%d,\"bytes\":%d,\"mean_us\":%.1f,\"p50_us\":%.1f,\"p99_us\":%."
      "1f}\n",
      n, frame_bytes, mean, hops_us[hops_us.size() / 2], hops_us[hops_us.size() * 99 / 100]);
  while (::wait(nullptr) > 0) {
  }
}
