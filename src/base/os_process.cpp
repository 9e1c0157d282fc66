#include "base/os_process.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <clocale>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include <dlfcn.h>
#include <fcntl.h>
#include <langinfo.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace hearth {
namespace {

constexpr std::chrono::milliseconds kEndTimeout{3000};

std::atomic<int> interrupt_count{0};
std::array<int, 2> interrupt_pipe{-1, -1};

std::atomic<bool> term_seen{false};

extern "C" void on_interrupt(int signal) {
  if (signal == SIGTERM) term_seen = true;
  if (++interrupt_count >= 2) {
    // A text may be dimmed at this place.
    static constexpr std::string_view kPlain = "\x1b[0m\n";
    if (isatty(STDOUT_FILENO) == 1) (void)!write(STDOUT_FILENO, kPlain.data(), kPlain.size());
    _exit(130);
  }
  const int before = errno;
  [[maybe_unused]] const ssize_t written = write(interrupt_pipe[1], "", 1);
  errno = before;
}

}  // namespace

Result<Child> Child::spawn(const std::vector<std::string>& arguments) {
  std::array<int, 2> pipe_ends{};
  if (pipe2(pipe_ends.data(), O_CLOEXEC) != 0)
    return fail(ErrorCode::kIo, "cannot make a pipe: {}", std::strerror(errno));
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    const int reason = errno;
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    return fail(ErrorCode::kIo, "cannot start {}: {}", arguments[0], std::strerror(reason));
  }
  if (pid == 0) {
    // Only calls that are safe after fork in a program with threads.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    setpgid(0, 0);  // an interrupt typed at the terminal is for the parent, which ends its children itself
    const int nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, STDIN_FILENO);
    dup2(pipe_ends[1], STDOUT_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(pipe_ends[1]);
  return Child(pid, pipe_ends[0]);
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      output_(std::exchange(other.output_, -1)),
      pending_(std::move(other.pending_)) {}

Child& Child::operator=(Child&& other) noexcept {
  if (this != &other) {
    end();
    pid_ = std::exchange(other.pid_, -1);
    output_ = std::exchange(other.output_, -1);
    pending_ = std::move(other.pending_);
  }
  return *this;
}

Child::~Child() {
  end();
}

bool Child::ended() {
  if (pid_ < 0) return true;
  if (waitpid(pid_, nullptr, WNOHANG) != pid_) return false;
  pid_ = -1;
  return true;
}

void Child::end() {
  if (pid_ >= 0) {
    kill(pid_, SIGTERM);
    kill(pid_, SIGCONT);  // a stopped process has to run to end
    // Its output closes when it ends: waiting for that needs no polling.
    const auto until = std::chrono::steady_clock::now() + kEndTimeout;
    std::array<char, 512> rest{};
    while (output_ >= 0) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
      pollfd wait{.fd = output_, .events = POLLIN, .revents = 0};
      if (left.count() <= 0) break;
      const int ready = poll(&wait, 1, static_cast<int>(left.count()));
      if (ready < 0 && errno == EINTR) continue;
      if (ready <= 0) break;
      if (read(output_, rest.data(), rest.size()) <= 0) break;
    }
    // It has closed its output, so it is ending, or it had its time.
    if (std::chrono::steady_clock::now() >= until) kill(pid_, SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
  }
  if (output_ >= 0) close(std::exchange(output_, -1));
}

Result<std::string> Child::read_line(std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  while (true) {
    if (const auto end = pending_.find('\n'); end != std::string::npos) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return line;
    }
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0)
      return fail(ErrorCode::kTimeout, "the process {} said nothing in {} ms", pid_, timeout.count());
    pollfd wait{.fd = output_, .events = POLLIN, .revents = 0};
    if (poll(&wait, 1, static_cast<int>(left.count())) <= 0) continue;
    std::array<char, 512> bytes{};
    const ssize_t n = read(output_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(ErrorCode::kPeerGone, "the process {} ended", pid_);
    pending_.append(bytes.data(), static_cast<std::size_t>(n));
  }
}

std::filesystem::path own_program() {
  return std::filesystem::read_symlink("/proc/self/exe");
}

void count_interrupts() {
  if (interrupt_pipe[0] < 0) HEARTH_CHECK(pipe2(interrupt_pipe.data(), O_CLOEXEC) == 0);
  struct sigaction action{};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool termination_asked() {
  return term_seen;
}

void use_utf8_locale() {
  if (std::setlocale(LC_CTYPE, "") != nullptr && std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0) return;
  (void)std::setlocale(LC_CTYPE, "C.UTF-8");
}

int interrupts() {
  return interrupt_count;
}
void clear_interrupts() {
  interrupt_count = 0;
  pollfd waiting{interrupt_pipe[0], POLLIN, 0};
  char byte = 0;
  while (interrupt_pipe[0] >= 0 && poll(&waiting, 1, 0) == 1)
    if (read(interrupt_pipe[0], &byte, 1) != 1) return;
}

InputWait wait_for_input(std::optional<std::chrono::milliseconds> timeout) {
  const int timeout_ms = timeout ? static_cast<int>(timeout->count()) : -1;
  std::array<pollfd, 2> waiting{{{STDIN_FILENO, POLLIN, 0}, {interrupt_pipe[0], POLLIN, 0}}};
  while (true) {
    // A negative descriptor, where interrupts are not counted, is left out.
    const int n = poll(waiting.data(), waiting.size(), timeout_ms);
    if (interrupt_count > 0) return InputWait::kInterrupted;
    if (n == 0) return InputWait::kTimeout;
    if (n > 0 && waiting[0].revents != 0) return InputWait::kReady;
    if (n > 0) clear_interrupts();  // one that was acted on already
  }
}

std::size_t read_input(std::span<char> bytes) {
  while (true) {
    const ssize_t n = read(STDIN_FILENO, bytes.data(), bytes.size());
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EINTR) return 0;
  }
}

void suspend_self() {
  raise(SIGTSTP);
}

void wait_for_interrupt() {
  // The pipe works whichever thread the signal was delivered to.
  while (interrupt_count == 0) {
    char byte = 0;
    if (read(interrupt_pipe[0], &byte, 1) < 0 && errno != EINTR) return;
  }
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "device";
  return name.data();
}

bool stdin_is_terminal() {
  return isatty(STDIN_FILENO) == 1;
}
bool stdout_is_terminal() {
  return isatty(STDOUT_FILENO) == 1;
}
bool stderr_is_terminal() {
  return isatty(STDERR_FILENO) == 1;
}

void open_standard_streams() {
  for (int fd = 0; fd <= 2; ++fd)
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      (void)open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY);  // gets the lowest that is free: fd
}

void ignore_broken_pipes() {
  signal(SIGPIPE, SIG_IGN);
}

void require_environment(const char* name, const char* value, char** arguments) {
  if (getenv(name) != nullptr) return;
  if (setenv(name, value, 1) != 0) return;
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) execv(program.c_str(), arguments);
}

int niceness() {
  return getpriority(PRIO_PROCESS, 0);
}

void give_way(int nice) {
  // Being nicer is always allowed.
  if (niceness() < nice) (void)setpriority(PRIO_PROCESS, 0, nice);
}

ScopedVariable::ScopedVariable(const char* name, const char* value) {
  if (getenv(name) == nullptr && setenv(name, value, 1) == 0) name_ = name;
}

ScopedVariable::~ScopedVariable() {
  if (name_ != nullptr) unsetenv(name_);
}

std::filesystem::path library_of(const void* function) {
  Dl_info info{};
  return dladdr(function, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

}  // namespace hearth
