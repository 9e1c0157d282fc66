// Backend: one compute device of this machine behind ggml's registry, with its threads.
//
// All graph computes of a process must come from one thread: ggml's OpenMP team belongs to the thread that
// computes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"

struct ggml_backend;
struct ggml_backend_buffer_type;
struct ggml_backend_device;
struct ggml_cgraph;

namespace hearth::compute {

class Backend {
 public:
  // The best CPU variant that ggml offers here. n_threads >= 1. kIo when no CPU backend is installed.
  [[nodiscard]] static Result<std::unique_ptr<Backend>> cpu(std::uint32_t n_threads);
  ~Backend();

  // Runs every node; kOutOfMemory or kUnsupported as ggml's status says, kCancelled when abort_when() says
  // so.
  [[nodiscard]] Result<> compute(ggml_cgraph* graph);
  // Asked between two nodes, by the thread that called compute(); true ends the graph there. Empty: never.
  void abort_when(std::function<bool()> condition);

  [[nodiscard]] ggml_backend_device* device() const;
  [[nodiscard]] ggml_backend_buffer_type* buffer_type() const;
  [[nodiscard]] std::uint32_t n_threads() const;
  // As ggml names it, e.g. "CPU: Intel(R) Xeon(R) Processor".
  [[nodiscard]] std::string description() const;

 private:
  struct Impl;
  explicit Backend(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Cores of this machine, at least 1: the default number of threads.
[[nodiscard]] std::uint32_t default_threads();

}  // namespace hearth::compute
