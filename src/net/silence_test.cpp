// Peers that are connected but silent, and peers that are only slow: seconds per test.
#include <atomic>
#include <map>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>

#include "net/testing/hub_helpers.h"
#include "net/testing/peer_process.h"
#include "net/testing/raw_client.h"

namespace hearth::net {
namespace {

using namespace testing;

// A silent peer is found within 10 s; the bound of the wait, with room for a loaded machine.
constexpr std::chrono::seconds kSilenceBound{10};

// Forwards TCP connections to another port until told to be silent: a link that is cut without a word.
class Relay {
 public:
  explicit Relay(std::uint16_t target) : target_(target), listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_, 16), 0);
    EXPECT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  ~Relay() {
    stop_.store(true);
    thread_.join();
    ::close(listener_);
    for (const auto& [from, to] : pairs_) ::close(from);
  }
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;
  [[nodiscard]] std::uint16_t port() const { return port_; }
  void cut() { cut_.store(true); }

 private:
  void run() {
    while (!stop_.load()) {
      std::vector<pollfd> items{{listener_, POLLIN, 0}};
      for (const auto& [from, to] : pairs_) items.push_back({from, POLLIN, 0});
      if (cut_.load()) items.clear();
      if (::poll(items.data(), items.size(), 5) <= 0) continue;
      for (const pollfd& item : items) {
        if ((item.revents & (POLLIN | POLLHUP)) == 0) continue;
        if (item.fd == listener_) {
          accept_one();
        } else {
          forward(item.fd);
        }
      }
    }
  }
  void accept_one() {
    const int from = ::accept(listener_, nullptr, nullptr);
    const int to = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(target_);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(to, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    pairs_[from] = to;
    pairs_[to] = from;
  }
  void forward(int from) {
    char buffer[65536];
    const ssize_t n = ::recv(from, buffer, sizeof buffer, 0);
    if (n <= 0) {
      pairs_.erase(pairs_.at(from));
      pairs_.erase(from);
      return;
    }
    for (ssize_t sent = 0; sent < n;) {
      const ssize_t k =
          ::send(pairs_.at(from), buffer + sent, static_cast<std::size_t>(n - sent), MSG_NOSIGNAL);
      if (k <= 0) return;
      sent += k;
    }
  }

  std::uint16_t target_;
  int listener_;
  std::uint16_t port_ = 0;
  std::map<int, int> pairs_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> cut_{false};
  std::thread thread_;
};

TEST(Silence, AStoppedProcessIsFoundEvenAfterTheLinkWasIdle) {
  auto hub = make_test_hub(new_keys());
  PeerProcess peer(hub->key());
  ASSERT_TRUE(hub->connect(peer.key(), peer.address(), kPatience));
  (void)wait_for<PeerUpEvent>(*hub, {});
  // Longer than the silence that is not tolerated: an idle link is no silent link.
  const auto idle_until = std::chrono::steady_clock::now() + std::chrono::seconds(8);
  while (std::chrono::steady_clock::now() < idle_until) {
    const auto event = hub->poll(std::chrono::milliseconds(500));
    ASSERT_FALSE(event.has_value()) << describe(*event);
  }
  peer.kill(SIGSTOP);
  EXPECT_EQ(wait_for<PeerGoneEvent>(*hub, {}, kSilenceBound).peer, peer.key());
}

TEST(Silence, ALinkThatIsCutWithoutAWordIsFoundOnBothSides) {
  auto a = make_test_hub(new_keys()), b = make_test_hub(new_keys());
  allow(*b, {a->key()});
  allow(*a, {b->key()});
  Relay control_ab(b->address().control_port), data_ab(b->address().data_port);
  Relay control_ba(a->address().control_port), data_ba(a->address().data_port);
  ASSERT_TRUE(a->connect(b->key(), {"127.0.0.1", control_ab.port(), data_ab.port()}, kPatience));
  (void)wait_for<PeerUpEvent>(*a, {b.get()});
  ASSERT_TRUE(b->connect(a->key(), {"127.0.0.1", control_ba.port(), data_ba.port()}, kPatience));
  (void)wait_for<PeerUpEvent>(*b, {a.get()});
  for (Relay* relay : {&control_ab, &data_ab, &control_ba, &data_ba}) relay->cut();
  std::thread other([&] { EXPECT_EQ(wait_for<PeerGoneEvent>(*b, {}, kSilenceBound).peer, a->key()); });
  EXPECT_EQ(wait_for<PeerGoneEvent>(*a, {}, kSilenceBound).peer, b->key());
  other.join();
}

TEST(Silence, ABusyMachineIsNoFalseAlarm) {
  auto hub = make_test_hub(new_keys());
  PeerProcess peer(hub->key());
  ASSERT_TRUE(hub->connect(peer.key(), peer.address(), kPatience));
  (void)wait_for<PeerUpEvent>(*hub, {});
  std::atomic<bool> stop{false};
  std::vector<std::thread> hogs;
  for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i)
    hogs.emplace_back([&] {
      while (!stop.load(std::memory_order_relaxed)) {
      }
    });
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(12);
  while (std::chrono::steady_clock::now() < until) {
    const auto event = hub->poll(std::chrono::milliseconds(100));
    EXPECT_FALSE(event.has_value()) << describe(*event);
    Bytes message = text("x");
    EXPECT_EQ(hub->send(peer.key(), Lane::kControl, message), SendStatus::kSent);
  }
  stop.store(true);
  for (auto& hog : hogs) hog.join();
}

TEST(Silence, AReceiverThatTakesAShortPauseIsNoFalseAlarm) {
  auto hub = make_test_hub(new_keys());
  PeerProcess peer(hub->key());
  ASSERT_TRUE(hub->connect(peer.key(), peer.address(), kPatience));
  (void)wait_for<PeerUpEvent>(*hub, {});
  peer.kill(SIGSTOP);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(4);
  while (std::chrono::steady_clock::now() < until) {
    const auto event = hub->poll(std::chrono::milliseconds(100));
    ASSERT_FALSE(event.has_value()) << describe(*event);
  }
  peer.kill(SIGCONT);
  Bytes message = text("awake");
  ASSERT_EQ(hub->send(peer.key(), Lane::kData, message), SendStatus::kSent);
  EXPECT_EQ(peer.read_line(), "awake");
}

}  // namespace
}  // namespace hearth::net
