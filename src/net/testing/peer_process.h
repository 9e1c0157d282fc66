// Starts and signals a net_test_peer.
#pragma once

#include <array>
#include <cstdio>
#include <string>

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/testing/hub_helpers.h"

extern char** environ;

namespace hearth::net::testing {

class PeerProcess {
 public:
  explicit PeerProcess(const DeviceKey& host) {
    int to_child[2], from_child[2];
    if (::pipe(to_child) != 0 || ::pipe(from_child) != 0) std::abort();
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to_child[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, from_child[1], STDOUT_FILENO);
    for (const int fd : {to_child[0], to_child[1], from_child[0], from_child[1]})
      posix_spawn_file_actions_addclose(&actions, fd);
    std::string program = HEARTH_TEST_PEER, argument = host.hex();
    char* arguments[] = {program.data(), argument.data(), nullptr};
    EXPECT_EQ(::posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ), 0) << program;
    posix_spawn_file_actions_destroy(&actions);
    ::close(to_child[0]);
    ::close(from_child[1]);
    input_ = to_child[1];
    output_ = from_child[0];
    char hex[65] = {};
    unsigned control = 0, data = 0;
    const std::string line = read_line();
    EXPECT_EQ(std::sscanf(line.c_str(), "%64s %u %u", hex, &control, &data), 3) << line;
    key_ = *DeviceKey::from_hex(hex);
    address_ = {"127.0.0.1", static_cast<std::uint16_t>(control), static_cast<std::uint16_t>(data)};
  }
  ~PeerProcess() {
    ::close(input_);
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(output_);
  }
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;

  [[nodiscard]] const DeviceKey& key() const { return key_; }
  [[nodiscard]] const wire::Address& address() const { return address_; }

  void kill(int signal) { EXPECT_EQ(::kill(pid_, signal), 0); }
  // The next line it prints, "" after a bounded wait.
  std::string read_line() {
    std::string line;
    for (;;) {
      pollfd item{output_, POLLIN, 0};
      char c = 0;
      if (::poll(&item, 1, static_cast<int>(kPatience.count())) <= 0 || ::read(output_, &c, 1) != 1)
        return "";
      if (c == '\n') return line;
      line += c;
    }
  }

 private:
  pid_t pid_ = -1;
  int input_ = -1;
  int output_ = -1;
  DeviceKey key_;
  wire::Address address_;
};

}  // namespace hearth::net::testing
