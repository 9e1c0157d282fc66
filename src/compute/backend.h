// Backend: one compute device of this machine behind ggml's registry, with its threads.
//
// All graph computes of a process must come from one thread: ggml's OpenMP team belongs to the thread that
// computes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct ggml_backend;
struct ggml_backend_buffer_type;
struct ggml_backend_device;
struct ggml_cgraph;
struct ggml_tensor;

namespace hearth::compute {

// A GPU that ggml can compute with here.
struct GpuInfo {
  std::string name;                               // as it is asked for, e.g. "Vulkan0"
  std::string description;                        // e.g. "NVIDIA GeForce RTX 3060"
  bool integrated = false;                        // its memory is the machine's
  std::uint64_t free_bytes = 0, total_bytes = 0;  // of its memory
};
// In ggml's order: of each of its backends that is installed.
[[nodiscard]] std::vector<GpuInfo> list_gpus();

class Backend {
 public:
  // The best CPU variant that ggml offers here. n_threads >= 1. kIo when no CPU backend is installed.
  [[nodiscard]] static Result<std::unique_ptr<Backend>> cpu(std::uint32_t n_threads);
  // A GPU by its name. kNotFound lists those that are there.
  [[nodiscard]] static Result<std::unique_ptr<Backend>> gpu(std::string_view name);
  ~Backend();

  // Runs every node; kOutOfMemory or kUnsupported as ggml's status says, kCancelled when abort_when() says
  // so. A GPU may still compute afterwards: what is sent to it, and computed there, follows in order.
  [[nodiscard]] Result<> compute(ggml_cgraph* graph);
  // Waits until all is computed. kIo when the device is lost.
  [[nodiscard]] Result<> synchronize();
  // Asked by the thread that called compute(), between two nodes, or of a GPU before each graph; true ends it
  // there. Empty: never.
  void abort_when(std::function<bool()> condition);

  // Of a GPU, as it is now.
  [[nodiscard]] GpuInfo gpu_info() const;
  [[nodiscard]] bool is_gpu() const;
  // Whether the device can compute this node.
  [[nodiscard]] bool supports(const ggml_tensor* node) const;

  [[nodiscard]] ggml_backend* backend() const;
  [[nodiscard]] ggml_backend_device* device() const;
  [[nodiscard]] ggml_backend_buffer_type* buffer_type() const;
  [[nodiscard]] std::uint32_t n_threads() const;  // of a GPU 0
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
