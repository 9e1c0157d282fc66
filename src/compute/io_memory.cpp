#include "compute/io_memory.h"

namespace hearth::compute {

std::unique_ptr<IoMemory> IoMemory::plain(Backend& cpu, std::size_t bytes) {
  std::unique_ptr<IoMemory> memory(new IoMemory);
  memory->buffer_.reset(ggml_backend_buft_alloc_buffer(cpu.buffer_type(), bytes + kIoAlignment));
  if (!memory->buffer_) return nullptr;
  memory->bytes_ = bytes;
  void* base = ggml_backend_buffer_get_base(memory->buffer_.get());
  std::size_t space = bytes + kIoAlignment;
  memory->base_ = memory->seen_base_ = static_cast<std::byte*>(std::align(kIoAlignment, bytes, base, space));
  return memory;
}

std::unique_ptr<IoMemory> IoMemory::copy_of(const IoMemory& plain, Backend& gpu) {
  std::unique_ptr<IoMemory> memory(new IoMemory);
  memory->ctx_ = residency::make_context(1);
  memory->whole_ =
      ggml_new_tensor_1d(memory->ctx_.get(), GGML_TYPE_I8, static_cast<std::int64_t>(plain.bytes_));
  memory->buffer_.reset(ggml_backend_alloc_ctx_tensors_from_buft(memory->ctx_.get(), gpu.buffer_type()));
  if (!memory->buffer_) return nullptr;
  memory->bytes_ = plain.bytes_;
  memory->base_ = plain.base_;
  memory->seen_base_ = static_cast<std::byte*>(memory->whole_->data);
  memory->gpu_ = &gpu;
  return memory;
}

std::size_t IoMemory::offset_of(const void* address) const {
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(address) - base_);
  HEARTH_CHECK(offset <= bytes_, "an address of other memory");
  return offset;
}

ggml_tensor* IoMemory::place(ggml_tensor* tensor, void* address) const {
  tensor->data = seen_base_ + offset_of(address);
  tensor->buffer = gpu_ == nullptr ? buffer_.get() : whole_->buffer;
  return tensor;
}

Result<> IoMemory::send(const void* address, std::size_t bytes) const {
  if (gpu_ == nullptr || bytes == 0) return {};
  return residency::guarded(
      [&] { ggml_backend_tensor_set_async(gpu_->backend(), whole_, address, offset_of(address), bytes); });
}

Result<> IoMemory::fetch(void* address, std::size_t bytes) const {
  if (gpu_ == nullptr) return {};
  if (bytes > 0)
    HEARTH_TRY_VOID(residency::guarded(
        [&] { ggml_backend_tensor_get_async(gpu_->backend(), whole_, address, offset_of(address), bytes); }));
  return gpu_->synchronize();
}

}  // namespace hearth::compute
