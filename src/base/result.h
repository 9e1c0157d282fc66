// Errors as values.
//
// What can happen in the world (a bad file, a lost peer, no memory) is a Result; what cannot happen unless
// hearth has a bug is a HEARTH_CHECK, which prints the condition and ends the process.
// An error message says what, where, expected and got, and what to do. It is returned or printed, never both.
#pragma once

#include <cstdint>
#include <expected>
#include <format>
#include <string>
#include <string_view>
#include <utility>

namespace hearth {

enum class ErrorCode : std::uint8_t {
  kInvalidArgument,  // the user asked for something that cannot be
  kInvalidFile,      // a file whose bytes break its format
  kUnsupported,      // valid, but not something this build can run
  kNotFound,         // no such file, device, key
  kIo,               // the operating system refused a read, write, bind ...
  kOutOfMemory,      // would not fit; nothing was taken
  kPeerGone,         // a peer closed its connection, its process ended, or its host cannot be found
  kTimeout,          // a peer is connected but silent, or a deadline passed
  kUnauthorized,     // a key that is not on the allow-list
  kVersionMismatch,  // protocol or file version that cannot work together
  kModelMismatch,    // two devices hold different models
  kProtocol,         // a peer sent what the protocol forbids
  kNumeric,          // NaN or Inf where a number is needed
  kCancelled,        // the user or a client asked to stop
};

// The name used in logs and JSON, e.g. "invalid_file".
[[nodiscard]] std::string_view name(ErrorCode code);

struct Error {
  ErrorCode code;
  std::string message;
};

template <class T = void>
using Result = std::expected<T, Error>;

// return fail(ErrorCode::kIo, "cannot read {}: {}", path, reason);
template <class... Args>
[[nodiscard]] std::unexpected<Error> fail(ErrorCode code, std::format_string<Args...> format,
                                          Args&&... args) {
  return std::unexpected(Error{code, std::format(format, std::forward<Args>(args)...)});
}

// Passes an error on to the caller unchanged: return pass(result);
template <class T>
[[nodiscard]] std::unexpected<Error> pass(std::expected<T, Error>&& result) {
  return std::unexpected(std::move(result).error());
}

[[noreturn]] void check_failed(const char* condition, const char* file, int line, std::string_view detail);

}  // namespace hearth

// Aborts with file, line and condition when a bug made `condition` false.
#define HEARTH_CHECK(condition, ...)                                                           \
  do {                                                                                         \
    if (!(condition)) [[unlikely]]                                                             \
      ::hearth::check_failed(#condition, __FILE__, __LINE__, ::std::string_view{__VA_ARGS__}); \
  } while (false)

#define HEARTH_CONCAT_(a, b) a##b
#define HEARTH_CONCAT(a, b) HEARTH_CONCAT_(a, b)
// HEARTH_TRY(auto file, File::open(path)); declares or assigns, or returns the error from this function.
#define HEARTH_TRY(target, expression) \
  HEARTH_TRY_(HEARTH_CONCAT(hearth_try_, __COUNTER__), target, expression)
#define HEARTH_TRY_(temp, target, expression)            \
  auto temp = (expression);                              \
  if (!temp) [[unlikely]]                                \
    return ::std::unexpected(::std::move(temp).error()); \
  target = *::std::move(temp)
// HEARTH_TRY_VOID(check(x)); for Result<void>.
#define HEARTH_TRY_VOID(expression)                                         \
  do {                                                                      \
    if (auto hearth_try_void = (expression); !hearth_try_void) [[unlikely]] \
      return ::std::unexpected(::std::move(hearth_try_void).error());       \
  } while (false)
