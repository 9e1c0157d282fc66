#include "base/os_fault_guard.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <utility>

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hearth {
namespace {

// `begin` is 0 while the slot is free; it is written last and cleared first, so the handler never sees half a
// range.
struct Slot {
  std::atomic<std::uintptr_t> begin{0};  // page-aligned
  std::atomic<std::uintptr_t> end{0};
  std::atomic<std::uintptr_t> damage{0};  // the first faulting page, 0 for none
};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free, "the handler may not lock");

std::array<Slot, FaultGuard::kMaxGuards> slots;
std::mutex slots_mutex;  // between guards that come and go; never taken by the handler
std::uintptr_t page_size = 4096;
struct sigaction previous{};

// Only what is safe in a signal handler: lock-free atomics and system calls.
bool replace_page(std::uintptr_t address) {
  const std::uintptr_t page = address / page_size * page_size;
  bool guarded = false;
  for (Slot& slot : slots) {
    const std::uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    if (begin == 0 || page < begin || page >= slot.end.load(std::memory_order_relaxed)) continue;
    // Recorded before the page is readable, so that nobody can have read zeros and still see no damage.
    std::uintptr_t none = 0;
    slot.damage.compare_exchange_strong(none, page);
    guarded = true;
  }
  if (!guarded) return false;
#ifdef SYS_mmap2
  constexpr long kMap = SYS_mmap2;
#else
  constexpr long kMap = SYS_mmap;
#endif
  // The bare call: what stands before it in the C library or a sanitizer need not be safe here.
  return syscall(kMap, page, page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != -1;
}

extern "C" void on_bus_error(int number, siginfo_t* info, void* context) {
  const int before = errno;
  const bool raised_by_a_read = info->si_code > 0;  // kill() and its kin have codes of 0 and less
  if (raised_by_a_read && replace_page(reinterpret_cast<std::uintptr_t>(info->si_addr))) {
    errno = before;
    return;
  }
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(number, info, context);
  } else if (previous.sa_handler == SIG_DFL || (previous.sa_handler == SIG_IGN && raised_by_a_read)) {
    // The signal stays blocked until this handler returns, and then ends the process as it would have.
    signal(SIGBUS, SIG_DFL);
    raise(SIGBUS);
  } else if (previous.sa_handler != SIG_IGN) {
    previous.sa_handler(number);
  }
  errno = before;
}

void install() {
  page_size = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action{};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  // What was there is known before the handler can run.
  HEARTH_CHECK(sigaction(SIGBUS, nullptr, &previous) == 0);
  HEARTH_CHECK(sigaction(SIGBUS, &action, nullptr) == 0);
}

}  // namespace

Result<FaultGuard> FaultGuard::watch(std::span<const std::uint8_t> range) {
  HEARTH_CHECK(!range.empty());
  static std::once_flag installed;
  std::call_once(installed, install);
  const std::lock_guard lock(slots_mutex);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    Slot& slot = slots[i];
    if (slot.begin.load(std::memory_order_relaxed) != 0) continue;
    const auto first = reinterpret_cast<std::uintptr_t>(range.data());
    slot.damage.store(0, std::memory_order_relaxed);
    slot.end.store((first + range.size() + page_size - 1) / page_size * page_size, std::memory_order_relaxed);
    slot.begin.store(first / page_size * page_size, std::memory_order_release);
    return FaultGuard(i, range.data());
  }
  return fail(ErrorCode::kUnsupported, "more than {} mapped files at once cannot be guarded", kMaxGuards);
}

FaultGuard::FaultGuard(FaultGuard&& other) noexcept
    : slot_(std::exchange(other.slot_, kNone)), begin_(std::exchange(other.begin_, nullptr)) {}

FaultGuard& FaultGuard::operator=(FaultGuard&& other) noexcept {
  std::swap(slot_, other.slot_);
  std::swap(begin_, other.begin_);
  return *this;
}

FaultGuard::~FaultGuard() {
  if (slot_ == kNone) return;
  const std::lock_guard lock(slots_mutex);
  slots[slot_].begin.store(0, std::memory_order_release);
}

bool FaultGuard::damaged() const {
  return slots[slot_].damage.load(std::memory_order_acquire) != 0;
}

std::optional<std::uint64_t> FaultGuard::first_damage() const {
  const std::uintptr_t page = slots[slot_].damage.load(std::memory_order_acquire);
  if (page == 0) return std::nullopt;
  const auto begin = reinterpret_cast<std::uintptr_t>(begin_);
  return page > begin ? page - begin : 0;
}

}  // namespace hearth
