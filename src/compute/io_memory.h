// IoMemory: the memory of what goes into graphs and comes out of them.
//
// Whoever fills inputs and reads results has plain memory. The processor's graphs work on it right there;
// those of a GPU work on a copy in its memory, at the same offsets, which send() and fetch() keep in step.
//
// Inside compute only. Engine thread only.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "compute/backend.h"
#include "residency/ggml_tensors.h"

namespace hearth::compute {

class IoMemory {
 public:
  // Plain memory, aligned to kIoAlignment; nullptr when there is none.
  [[nodiscard]] static std::unique_ptr<IoMemory> plain(Backend& cpu, std::size_t bytes);
  // A GPU's copy of it, of which nothing has been sent; nullptr when the GPU has no memory. `plain` must
  // outlive it.
  [[nodiscard]] static std::unique_ptr<IoMemory> copy_of(const IoMemory& plain, Backend& gpu);

  // Start of the plain memory.
  [[nodiscard]] std::byte* base() const { return base_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

  // Puts the tensor where graphs see what is at `address` of the plain memory. Returns it.
  ggml_tensor* place(ggml_tensor* tensor, void* address) const;

  // Plain memory -> where graphs see it, and back. The bytes sent must stay as they are until the backend is
  // synchronized; fetch() waits for what was computed before. kIo when the GPU fails. Nothing happens where
  // both are the same.
  [[nodiscard]] Result<> send(const void* address, std::size_t bytes) const;
  [[nodiscard]] Result<> fetch(void* address, std::size_t bytes) const;

 private:
  IoMemory() = default;
  [[nodiscard]] std::size_t offset_of(const void* address) const;

  residency::BufferPtr buffer_;     // of the tensors
  std::byte* base_ = nullptr;       // plain
  std::byte* seen_base_ = nullptr;  // of the buffer; a GPU's is no address of this process
  std::size_t bytes_ = 0;
  Backend* gpu_ = nullptr;  // nullptr: plain
  residency::ContextPtr ctx_;
  ggml_tensor* whole_ = nullptr;  // all of a GPU's copy
};

// Pieces of it start at multiples of this: for vector instructions, and what Vulkan may ask for at most.
inline constexpr std::size_t kIoAlignment = 256;
[[nodiscard]] constexpr std::size_t io_aligned(std::size_t bytes) {
  return (bytes + kIoAlignment - 1) / kIoAlignment * kIoAlignment;
}

}  // namespace hearth::compute
