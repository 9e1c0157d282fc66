#include "net/ready_set.h"

#include <array>

#include <sys/epoll.h>

namespace hearth::net {
namespace {

epoll_event event_of(std::uint64_t id, bool also_for_output) {
  epoll_event event{};
  event.events = EPOLLIN | (also_for_output ? static_cast<std::uint32_t>(EPOLLOUT) : 0U);
  event.data.u64 = id;
  return event;
}

}  // namespace

Result<ReadySet> ReadySet::make() {
  Descriptor set(::epoll_create1(EPOLL_CLOEXEC));
  if (!set) return fail(ErrorCode::kIo, "cannot wait for connections: the process has too many open files");
  return ReadySet(std::move(set));
}

bool ReadySet::add(int descriptor, std::uint64_t id, bool also_for_output) {
  epoll_event event = event_of(id, also_for_output);
  return ::epoll_ctl(set_.get(), EPOLL_CTL_ADD, descriptor, &event) == 0;
}

void ReadySet::watch_output(int descriptor, std::uint64_t id, bool wanted) {
  epoll_event event = event_of(id, wanted);
  (void)::epoll_ctl(set_.get(), EPOLL_CTL_MOD, descriptor, &event);
}

void ReadySet::wait(int timeout_ms, std::vector<std::uint64_t>& ready) {
  ready.clear();
  std::array<epoll_event, 16> events;
  const int n = ::epoll_wait(set_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  for (int i = 0; i < n; ++i) ready.push_back(events[static_cast<std::size_t>(i)].data.u64);
}

}  // namespace hearth::net
