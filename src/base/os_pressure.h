// PressureWatch: tells when memory is short on this machine or in this process' control groups, so that
// pinned weights can be given back before the kernel has to act.
//
// It listens to whatever the system has, all of it at once:
//   stalls   pressure stall information (PSI) of the machine and of the process' group (v2): tasks wait for
//   memory groups   memory.pressure_level of the process' groups (v1): the kernel finds little that it can
//   reclaim poll     MemoryStatus::usable() below a limit, looked at every `poll_interval` while somebody
//   waits
// The first two tell of reclaim as it happens, page cache included; usable() counts page cache as free, so
// that it is low only when almost nothing is left to reclaim. Evicted pins are seen by resident_pages(), not
// here.
//
// This file's .cpp is Linux'; another system gets another one with the same interface.
//
// Threads: one owner; wake() is for any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/os_memory.h"
#include "base/result.h"

namespace hearth {

struct Pressure {
  enum class Level {
    kShort,     // work waits for memory: give some back
    kCritical,  // all work waits, or nearly nothing is left: give back all that can be
  };
  enum class Source { kStall, kGroup, kPoll };

  Level level = Level::kShort;
  Source source = Source::kPoll;
  // Of what is short, just after: what may still be had of it, and how large it is. Where only the machine
  // told, it is the machine, because the stall may come of some other group's limit; else the smaller of
  // the machine and the groups. A machine whose groups cannot be listened to speaks for them too.
  std::uint64_t available = 0;
  std::uint64_t total = 0;  // 0: unknown
};

class PressureWatch {
 public:
  struct Options {
    bool stalls = true;
    bool groups = true;
    // Polled limits, 0 for none.
    std::uint64_t short_bytes = std::uint64_t{256} << 20;
    std::uint64_t critical_bytes = std::uint64_t{64} << 20;
    std::chrono::milliseconds poll_interval{250};
    // Tests give other numbers than the machine's.
    std::function<MemoryStatus()> status = {};
  };

  // Never fails because a source is missing: polling always works. kIo when the process is out of
  // descriptors.
  [[nodiscard]] static Result<PressureWatch> open(Options options);
  [[nodiscard]] static Result<PressureWatch> open() { return open({}); }
  PressureWatch(PressureWatch&& other) noexcept;
  PressureWatch& operator=(PressureWatch&& other) noexcept;
  ~PressureWatch();

  // Waits for pressure; nothing after `timeout` or a wake(). While it lasts, it is told again and again, by
  // each source at most once in its interval (1 or 2 s for stalls).
  [[nodiscard]] std::optional<Pressure> next(std::chrono::milliseconds timeout);
  void wake();

  // The sources in use, for display: "stalls of the machine, groups, polling".
  [[nodiscard]] std::string describe() const;

 private:
  struct State;
  explicit PressureWatch(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace hearth
