#include "compute/backend.h"

#include <cstdlib>
#include <filesystem>
#include <format>
#include <mutex>
#include <thread>
#include <utility>

#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include "base/os_process.h"
#include "residency/ggml_tensors.h"

namespace hearth::compute {
namespace {

// ggml's CPU backend is a plugin, so its functions are reached by name.
template <class Function>
Function* cpu_function(ggml_backend_dev_t device, const char* name) {
  return reinterpret_cast<Function*>(
      ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), name));
}

// Without the drivers of Vulkan, which take 6 MB and 60 MB of mapped files in a process that may use the CPU
// only.
void load_backends_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    const ScopedVariable no_drivers("VK_LOADER_DRIVERS_DISABLE", "*");
    ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) ggml_backend_load_all();
  });
}

// Vulkan too, from where the CPU backend is.
void load_gpus_once() {
  load_backends_once();
  static std::once_flag once;
  std::call_once(once, [] {
    const char* devices = std::getenv("GGML_VK_VISIBLE_DEVICES");
    const bool none_wanted = devices != nullptr && *devices == '\0';
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (none_wanted || cpu == nullptr || ggml_backend_reg_by_name("Vulkan") != nullptr) return;
    auto* of_cpu = cpu_function<void(ggml_backend_t, int)>(cpu, "ggml_backend_set_n_threads");
    const std::filesystem::path folder = library_of(reinterpret_cast<const void*>(of_cpu)).parent_path();
    const std::filesystem::path vulkan = folder / "libggml-vulkan.so";
    if (std::error_code error; std::filesystem::exists(vulkan, error)) ggml_backend_load(vulkan.c_str());
  });
}

bool is_gpu_device(ggml_backend_dev_t device) {
  const auto type = ggml_backend_dev_type(device);
  return type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

GpuInfo info_of(ggml_backend_dev_t device) {
  GpuInfo info = {.name = ggml_backend_dev_name(device),
                  .description = ggml_backend_dev_description(device),
                  .integrated = ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_IGPU};
  std::size_t free = 0, total = 0;
  ggml_backend_dev_memory(device, &free, &total);
  info.free_bytes = free;
  info.total_bytes = total;
  return info;
}

std::vector<ggml_backend_dev_t> gpu_devices() {
  load_gpus_once();
  std::vector<ggml_backend_dev_t> devices;
  for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i)
    if (ggml_backend_dev_t device = ggml_backend_dev_get(i); is_gpu_device(device)) devices.push_back(device);
  return devices;
}

}  // namespace

std::vector<GpuInfo> list_gpus() {
  std::vector<GpuInfo> gpus;
  for (ggml_backend_dev_t device : gpu_devices()) gpus.push_back(info_of(device));
  return gpus;
}

struct Backend::Impl {
  ggml_backend_dev_t device = nullptr;
  ggml_backend_t backend = nullptr;
  ggml_threadpool* pool = nullptr;
  std::uint32_t n_threads = 0;
  std::function<bool()> abort;

  ~Impl() {
    if (backend != nullptr) ggml_backend_free(backend);
    if (pool != nullptr) {
      if (auto* free_pool = cpu_function<decltype(ggml_threadpool_free)>(device, "ggml_threadpool_free"))
        free_pool(pool);
    }
  }
};

Backend::Backend(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Backend::~Backend() = default;

Result<std::unique_ptr<Backend>> Backend::cpu(std::uint32_t n_threads) {
  load_backends_once();
  if (n_threads < 1 || n_threads > GGML_MAX_N_THREADS)
    return fail(ErrorCode::kInvalidArgument, "threads must be 1 to {}, got {}", GGML_MAX_N_THREADS,
                n_threads);
  auto impl = std::make_unique<Impl>();
  impl->n_threads = n_threads;
  impl->device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (impl->device == nullptr)
    return fail(ErrorCode::kIo, "ggml has no CPU backend here; install the package libggml0");
  impl->backend = ggml_backend_dev_init(impl->device, nullptr);
  if (impl->backend == nullptr) return fail(ErrorCode::kOutOfMemory, "ggml cannot start its CPU backend");
  if (auto* set_threads = cpu_function<void(ggml_backend_t, int)>(impl->device, "ggml_backend_set_n_threads"))
    set_threads(impl->backend, static_cast<int>(n_threads));
  // Without a pool of its own ggml makes and frees one for every graph.
  auto* new_pool = cpu_function<decltype(ggml_threadpool_new)>(impl->device, "ggml_threadpool_new");
  auto* set_pool = cpu_function<decltype(ggml_backend_cpu_set_threadpool)>(impl->device,
                                                                           "ggml_backend_cpu_set_threadpool");
  if (new_pool != nullptr && set_pool != nullptr) {
    ggml_threadpool_params params = ggml_threadpool_params_default(static_cast<int>(n_threads));
    impl->pool = new_pool(&params);
    if (impl->pool != nullptr) set_pool(impl->backend, impl->pool);
  }
  return std::unique_ptr<Backend>(new Backend(std::move(impl)));
}

Result<std::unique_ptr<Backend>> Backend::gpu(std::string_view name) {
  auto impl = std::make_unique<Impl>();
  std::string there;
  for (ggml_backend_dev_t device : gpu_devices()) {
    if (name == ggml_backend_dev_name(device)) impl->device = device;
    there += std::format("{}{}", there.empty() ? "" : ", ", ggml_backend_dev_name(device));
  }
  if (impl->device == nullptr)
    return fail(ErrorCode::kNotFound, "there is no GPU '{}' here; {}", name,
                there.empty()
                    ? "ggml finds none: its backend (libggml0-backend-vulkan) or a driver is missing"
                    : "there are: " + there);
  HEARTH_TRY_VOID(residency::guarded([&] { impl->backend = ggml_backend_dev_init(impl->device, nullptr); }));
  if (impl->backend == nullptr) return fail(ErrorCode::kIo, "ggml cannot start the GPU {}", name);
  return std::unique_ptr<Backend>(new Backend(std::move(impl)));
}

void Backend::abort_when(std::function<bool()> condition) {
  if (is_gpu()) {
    impl_->abort = std::move(condition);
    return;
  }
  auto* set_callback = cpu_function<void(ggml_backend_t, ggml_abort_callback, void*)>(
      impl_->device, "ggml_backend_set_abort_callback");
  if (set_callback == nullptr) return;
  impl_->abort = std::move(condition);
  if (impl_->abort)
    set_callback(impl_->backend, [](void* data) { return static_cast<Impl*>(data)->abort(); }, impl_.get());
  else
    set_callback(impl_->backend, nullptr, nullptr);
}

Result<> Backend::compute(ggml_cgraph* graph) {
  const auto stopped = [] { return fail(ErrorCode::kCancelled, "the computation was stopped"); };
  ggml_status status = GGML_STATUS_FAILED;
  const auto start = [&] { status = ggml_backend_graph_compute_async(impl_->backend, graph); };
  if (is_gpu()) {
    if (impl_->abort && impl_->abort()) return stopped();
    HEARTH_TRY_VOID(residency::guarded(start));
  } else {
    start();
  }
  switch (status) {
    case GGML_STATUS_SUCCESS:
      return {};
    case GGML_STATUS_ALLOC_FAILED:
      return fail(ErrorCode::kOutOfMemory, "out of memory while computing");
    case GGML_STATUS_ABORTED:
      return stopped();
    default:
      return fail(ErrorCode::kUnsupported, "the device {} failed to compute", description());
  }
}

Result<> Backend::synchronize() {
  if (!is_gpu()) return {};  // it computes at once
  return residency::guarded([&] { ggml_backend_synchronize(impl_->backend); });
}

GpuInfo Backend::gpu_info() const {
  return info_of(impl_->device);
}
bool Backend::is_gpu() const {
  return is_gpu_device(impl_->device);
}
bool Backend::supports(const ggml_tensor* node) const {
  return ggml_backend_dev_supports_op(impl_->device, node);
}
ggml_backend* Backend::backend() const {
  return impl_->backend;
}
ggml_backend_device* Backend::device() const {
  return impl_->device;
}
ggml_backend_buffer_type* Backend::buffer_type() const {
  return ggml_backend_get_default_buffer_type(impl_->backend);
}
std::uint32_t Backend::n_threads() const {
  return impl_->n_threads;
}
std::string Backend::description() const {
  return std::format("{}: {}", ggml_backend_dev_name(impl_->device),
                     ggml_backend_dev_description(impl_->device));
}

std::uint32_t default_threads() {
  return std::max(1U, std::thread::hardware_concurrency());
}

}  // namespace hearth::compute
