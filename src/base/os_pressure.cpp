#include "base/os_pressure.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <format>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace hearth {
namespace {

// Microseconds of stall within a window. Without CAP_SYS_RESOURCE the kernel takes windows of whole 2 s only.
struct Trigger {
  Pressure::Level level;
  std::array<const char*, 2> texts;  // the first that the kernel takes
};
constexpr std::array<Trigger, 2> kTriggers{
    Trigger{Pressure::Level::kShort, {"some 150000 1000000", "some 300000 2000000"}},
    Trigger{Pressure::Level::kCritical, {"full 300000 1000000", "full 600000 2000000"}}};

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  [[nodiscard]] int get() const { return value_; }
  [[nodiscard]] bool is_open() const { return value_ >= 0; }

 private:
  int value_;
};

struct Listener {
  Descriptor descriptor;
  Pressure::Level level;
  Pressure::Source source;
  bool of_machine = false;
};

bool write_text(int descriptor, std::string_view text) {
  // The kernel wants the terminating zero.
  return write(descriptor, text.data(), text.size() + 1) == static_cast<ssize_t>(text.size() + 1);
}

Descriptor stall_trigger(const std::filesystem::path& file, const Trigger& trigger) {
  for (const char* text : trigger.texts) {
    Descriptor descriptor(open(file.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (descriptor.is_open() && write_text(descriptor.get(), text)) return descriptor;
  }
  return Descriptor(-1);
}

// An eventfd that the kernel signals at `level` ("medium", "critical") of the group.
Descriptor group_event(const std::filesystem::path& folder, const char* level) {
  Descriptor event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const Descriptor pressure(open((folder / "memory.pressure_level").c_str(), O_RDONLY | O_CLOEXEC));
  const Descriptor control(open((folder / "cgroup.event_control").c_str(), O_WRONLY | O_CLOEXEC));
  if (event.is_open() && pressure.is_open() && control.is_open() &&
      write_text(control.get(), std::format("{} {} {}", event.get(), pressure.get(), level)))
    return event;
  return Descriptor(-1);
}

}  // namespace

struct PressureWatch::State {
  Options options;
  Descriptor wake_event{-1};
  std::vector<Listener> listeners;
  std::string sources;
  std::chrono::steady_clock::time_point next_poll = std::chrono::steady_clock::time_point::min();

  [[nodiscard]] MemoryStatus status() const { return options.status ? options.status() : memory_status(); }
  void listen_to_stalls(const std::filesystem::path& file, const char* name, bool of_machine) {
    bool any = false;
    for (const Trigger& trigger : kTriggers) {
      Descriptor descriptor = stall_trigger(file, trigger);
      any = any || descriptor.is_open();
      if (descriptor.is_open())
        listeners.push_back({.descriptor = std::move(descriptor),
                             .level = trigger.level,
                             .source = Pressure::Source::kStall,
                             .of_machine = of_machine});
    }
    if (any) sources += std::format("stalls of the {}, ", name);
  }
  void listen_to_groups() {
    // Reclaim is told to the group whose limit was hit, and to those above it: one of ours may be above us.
    bool any = false;
    for (const MemoryGroup& group : memory_groups()) {
      if (group.version2) continue;
      for (const auto& [name, level] : {std::pair{"medium", Pressure::Level::kShort},
                                        std::pair{"critical", Pressure::Level::kCritical}}) {
        Descriptor descriptor = group_event(group.folder, name);
        any = any || descriptor.is_open();
        if (descriptor.is_open())
          listeners.push_back(
              {.descriptor = std::move(descriptor), .level = level, .source = Pressure::Source::kGroup});
      }
    }
    if (any) sources += "groups, ";
  }
  static void measure(Pressure& of, const MemoryStatus& status, bool only_machine) {
    const bool is_machine = only_machine || status.available < status.group_available;
    of.available = is_machine ? status.available : status.group_available;
    of.total = is_machine || status.group_limit == kNoLimit ? status.total : status.group_limit;
  }
  std::optional<Pressure> look();
  std::optional<Pressure> listen(const std::vector<pollfd>& waits);
};

// What polling says now.
std::optional<Pressure> PressureWatch::State::look() {
  const MemoryStatus now = status();
  if (now.usable() >= std::max(options.short_bytes, options.critical_bytes)) return std::nullopt;
  Pressure found = {
      .level = now.usable() < options.critical_bytes ? Pressure::Level::kCritical : Pressure::Level::kShort,
      .source = Pressure::Source::kPoll};
  measure(found, now, false);
  return found;
}

// The worst of what the listeners say in `waits`, where they stand in their order after the wake-up.
std::optional<Pressure> PressureWatch::State::listen(const std::vector<pollfd>& waits) {
  std::optional<Pressure> worst;
  // Where nobody else can tell, the machine speaks for the groups too.
  bool only_machine = !std::ranges::all_of(listeners, &Listener::of_machine);
  for (std::size_t i = 0; i < listeners.size(); ++i) {
    const short events = waits[i + 1].revents;
    Listener& listener = listeners[i];
    if (events == 0) continue;
    if ((events & (POLLPRI | POLLIN)) == 0) {  // its group was removed
      listener.descriptor = Descriptor(-1);
      continue;
    }
    if (listener.source == Pressure::Source::kGroup) {
      std::uint64_t count = 0;
      [[maybe_unused]] const ssize_t got = read(listener.descriptor.get(), &count, sizeof count);
    }
    only_machine = only_machine && listener.of_machine;
    if (!worst || worst->level < listener.level)
      worst = Pressure{.level = listener.level, .source = listener.source};
  }
  if (worst) measure(*worst, status(), only_machine);
  return worst;
}

Result<PressureWatch> PressureWatch::open(Options options) {
  HEARTH_CHECK(options.poll_interval.count() > 0);
  auto state = std::make_unique<State>();
  state->options = std::move(options);
  state->wake_event = Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!state->wake_event.is_open())
    return fail(ErrorCode::kIo, "cannot make an eventfd: {}", std::generic_category().message(errno));
  if (state->options.stalls) {
    state->listen_to_stalls("/proc/pressure/memory", "machine", true);
    for (const MemoryGroup& group : memory_groups()) {
      if (!group.version2) continue;
      state->listen_to_stalls(group.folder / "memory.pressure", "group", false);
      break;  // the own group knows of all waiting in it, whichever limit caused it
    }
  }
  if (state->options.groups) state->listen_to_groups();
  state->sources += "polling";
  return PressureWatch(std::move(state));
}

PressureWatch::PressureWatch(std::unique_ptr<State> state) : state_(std::move(state)) {}
PressureWatch::PressureWatch(PressureWatch&& other) noexcept = default;
PressureWatch& PressureWatch::operator=(PressureWatch&& other) noexcept = default;
PressureWatch::~PressureWatch() = default;

std::optional<Pressure> PressureWatch::next(std::chrono::milliseconds timeout) {
  State& state = *state_;
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kLongest = std::chrono::hours{24};
  const auto deadline = Clock::now() + std::min(timeout, kLongest);
  while (true) {
    if (const auto now = Clock::now(); now >= state.next_poll) {
      state.next_poll = now + state.options.poll_interval;
      if (auto pressure = state.look()) return pressure;
    }
    const auto until = std::min(deadline, state.next_poll);
    // Rounded up: a wait of 0 ms before the deadline would spin.
    const auto left = std::max(std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()),
                               std::chrono::milliseconds{0});
    std::vector<pollfd> waits{{.fd = state.wake_event.get(), .events = POLLIN, .revents = 0}};
    for (const Listener& listener : state.listeners)
      waits.push_back(
          {.fd = listener.descriptor.get(),
           .events = static_cast<short>(listener.source == Pressure::Source::kStall ? POLLPRI : POLLIN),
           .revents = 0});
    const int ready = poll(waits.data(), waits.size(), static_cast<int>(left.count()));
    if (ready > 0) {
      if (auto pressure = state.listen(waits)) return pressure;
      std::uint64_t count = 0;
      if (read(state.wake_event.get(), &count, sizeof count) == sizeof count) return std::nullopt;
    }
    if (Clock::now() >= deadline) return std::nullopt;
  }
}

void PressureWatch::wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(state_->wake_event.get(), &one, sizeof one);
}

std::string PressureWatch::describe() const {
  return state_->sources;
}

}  // namespace hearth
