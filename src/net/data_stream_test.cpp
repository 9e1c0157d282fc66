// Two ends of a data connection over loopback, without a hub: what they carry, and the memory they take for
// it.
#include "net/data_stream.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/test_memory.h"

namespace hearth::net {
namespace {

using Bytes = std::vector<std::uint8_t>;
constexpr std::size_t kMostBytes = 16 << 20;

bool ready(int fd, short events) {
  pollfd waited{.fd = fd, .events = events, .revents = 0};
  return ::poll(&waited, 1, 10'000) == 1;
}

// Both ends, connected and past their prologues.
class Pair {
 public:
  Pair() {
    const StreamSecret secret = new_stream_secret();
    const auto listening = listen_data("127.0.0.1", 0, 1);
    if (!listening) return;
    auto connecting = DataStream::connect("127.0.0.1:" + std::to_string(listening->port), secret);
    if (!connecting || !ready(listening->socket.get(), POLLIN)) return;
    sender.emplace(*std::move(connecting));
    const int accepted = ::accept4(listening->socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    receiver.emplace(DataStream::accept(Descriptor(accepted), [secret](const StreamTag&) { return secret; }));
    const std::uint8_t link[kLinkIdBytes] = {};
    sender->send({FrameKind::kOpen, 0}, link);
    (void)pass(1);
  }
  // Goes on until `n` whole records have come, and hands them over. `seen` is called between the steps.
  std::vector<Bytes> pass(std::size_t n, const std::function<void()>& seen = [] {}) {
    std::vector<Bytes> frames;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (frames.size() < n && std::chrono::steady_clock::now() < deadline) {
      if (!sender->write_some() || !receiver->read_some(frames, kMostBytes)) break;
      seen();
    }
    return frames;
  }

  std::optional<DataStream> sender, receiver;
};

Bytes random_bytes(std::size_t n, std::mt19937& draw) {
  Bytes bytes(n);
  std::ranges::generate(bytes, [&] { return static_cast<std::uint8_t>(draw()); });
  return bytes;
}

// Sizes around all that decides about the receiver's buffer, alone and behind others.
TEST(DataStream, CarriesEverySize) {
  Pair pair;
  ASSERT_TRUE(pair.receiver);
  std::mt19937 draw(1);
  std::uint64_t sequence = 1;
  for (int round = 0; round < 40; ++round) {
    std::vector<Bytes> sent;
    for (std::size_t i = 0; i <= draw() % 6; ++i) {
      const std::size_t most[] = {40, 2'000, 33'000, 66'000, 140'000, 1'100'000};
      sent.push_back(random_bytes(draw() % most[draw() % 6], draw));
      pair.sender->send({FrameKind::kMessage, sequence++}, sent.back());
    }
    const std::vector<Bytes> got = pair.pass(sent.size());
    ASSERT_EQ(got.size(), sent.size()) << pair.receiver->error() << pair.sender->error();
    for (std::size_t i = 0; i < got.size(); ++i)
      EXPECT_TRUE(std::ranges::equal(std::span(got[i]).subspan(kFrameHeaderBytes), sent[i]))
          << sent[i].size();
  }
}

// A node counts one frame at either end for what a link seals, and one for what it opens.
TEST(DataStream, TakesAFramesSize) {
  if (allocated_bytes() == 0) GTEST_SKIP() << "this C library (or a sanitizer) does not count its memory";
  constexpr std::uint64_t kFrame = 8 << 20, kSmall = 256 << 10;
  Pair pair;
  ASSERT_TRUE(pair.receiver);
  std::mt19937 draw(2);
  const Bytes payload = random_bytes(kFrame, draw);
  const std::uint64_t before = allocated_bytes();
  pair.sender->send({FrameKind::kMessage, 1}, payload);
  EXPECT_LE(allocated_bytes(), before + kFrame + kSmall);
  pair.sender->send({FrameKind::kMessage, 2}, payload);
  EXPECT_LE(allocated_bytes(), before + 2 * kFrame + kSmall);
  pair.sender->send({FrameKind::kMessage, 3}, std::span(payload).first(1000));
  EXPECT_LE(allocated_bytes(), before + 2 * kFrame + kSmall) << "a small one behind them";

  std::uint64_t most = 0;
  EXPECT_EQ(pair.pass(1, [&] { most = std::max(most, allocated_bytes()); }).size(), 1U);
  // Two that leave, one that came; while it came, what had come of it.
  EXPECT_LE(most, before + 3 * kFrame + kSmall);
  EXPECT_EQ(pair.pass(2).size(), 2U);
  EXPECT_LE(allocated_bytes(), before + kSmall);
}

}  // namespace
}  // namespace hearth::net
