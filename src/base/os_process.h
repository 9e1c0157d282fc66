// Processes, signals and terminals: the few operating system calls that the program's verbs need.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace hearth {

// A child process whose standard output is read by us. It gets SIGTERM when this object is destroyed, and
// SIGKILL when it does not end soon after or when our own process dies in any way.
class Child {
 public:
  // `arguments[0]` is the program's path. Standard error is inherited, standard input is empty.
  [[nodiscard]] static Result<Child> spawn(const std::vector<std::string>& arguments);
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();

  // The next line of its output without the newline. kTimeout; kPeerGone when it closed its output (it
  // usually ended then).
  [[nodiscard]] Result<std::string> read_line(std::chrono::milliseconds timeout);
  [[nodiscard]] int pid() const { return pid_; }
  // True once it has ended.
  [[nodiscard]] bool ended();

 private:
  Child(int pid, int output) : pid_(pid), output_(output) {}
  void end();

  int pid_ = -1;
  int output_ = -1;
  std::string pending_;
};

// Path of the running program.
[[nodiscard]] std::filesystem::path own_program();

// Counts SIGINT and SIGTERM from now on instead of ending the program; the second one ends it at once.
void count_interrupts();
[[nodiscard]] int interrupts();
// Forgets those counted so far: the interrupt has been acted on.
void clear_interrupts();

// Whether one of them, ever, was SIGTERM.
[[nodiscard]] bool termination_asked();

// Waits until the first one is counted.
void wait_for_interrupt();

// This machine's name, "device" when it has none.
[[nodiscard]] std::string host_name();

// What a person types. Waits until standard input has something or an interrupt is counted; with a timeout,
// not longer.
enum class InputWait : std::uint8_t { kReady, kInterrupted, kTimeout };
[[nodiscard]] InputWait wait_for_input(std::optional<std::chrono::milliseconds> timeout = std::nullopt);
// Reads what is there, at most `bytes`; waits for the first byte. 0: its end.
[[nodiscard]] std::size_t read_input(std::span<char> bytes);
// Stops this process as Ctrl-Z does; returns when it is continued.
void suspend_self();

// Makes characters of bytes by the user's locale if that is UTF-8, else by one that is; numbers and messages
// stay as they are.
void use_utf8_locale();

[[nodiscard]] bool stdin_is_terminal();
[[nodiscard]] bool stdout_is_terminal();
[[nodiscard]] bool stderr_is_terminal();

// Writes to a closed pipe give an error instead of ending the program.
void ignore_broken_pipes();

// Opens /dev/null for each of the descriptors 0, 1 and 2 that is closed, so that no file or socket of the
// program becomes its standard output. Call first.
void open_standard_streams();

// Sets `name` to `value` and starts the program anew with the same arguments when the environment lacks
// `name`; libraries that read their settings before main() need it. Returns only when nothing had to be done
// or the system refused.
void require_environment(const char* name, const char* value, char** arguments);

// Niceness of the calling thread, and of threads it starts and programs it runs from now on: at least `nice`,
// 0 to 19.
void give_way(int nice);
[[nodiscard]] int niceness();

// An environment variable that is set, where it was not, as long as this lives. While no other thread reads
// it.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value);
  ~ScopedVariable();
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  const char* name_ = nullptr;  // nullptr: it was set before
};

// The file that this function was loaded from; empty where the system does not say.
[[nodiscard]] std::filesystem::path library_of(const void* function);

}  // namespace hearth
