#include "residency/streamed_source.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <format>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <sys/stat.h>

#include "base/os_fault_guard.h"
#include "base/os_pages.h"
#include "base/units.h"
#include "residency/division.h"
#include "residency/ggml_tensors.h"
#include "residency/repack.h"
#include "residency/resident_source.h"

namespace hearth::residency {
namespace {

// How long the reading thread sleeps when nothing is to be read.
constexpr std::chrono::seconds kIdle{1};

using Clock = std::chrono::steady_clock;

// One part as it is stored: tensors one behind the other, each on a block of its own.
struct Unit {
  model::SegmentId segment;
  std::uint32_t part = 0;
  std::uint64_t offset = 0;             // in the pack
  std::uint64_t bytes = 0;              // a multiple of kPackBlock
  std::span<const PackTensor> tensors;  // of the pack's header
  std::vector<TensorPlace> handles;     // without data; buffer is null for plain tensors
  std::vector<TensorPlace> places;      // where they are now
};

// When the pack's contents or size were last changed.
struct FileState {
  std::int64_t seconds = 0, nanoseconds = 0, size = 0;
  friend bool operator==(const FileState&, const FileState&) = default;
};

FileState state_of(int descriptor) {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) return {};
  return {status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_size};
}

}  // namespace

struct StreamedSource::Impl {
  explicit Impl(PackFile file, ggml_backend_device* compute_device)
      : pack(std::move(file)), device(compute_device), handles(compute_device) {}
  ~Impl() {
    if (!loader.joinable()) return;
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      if (reader) reader->wake();
    }
    loader.join();
  }

  struct Slot {
    AlignedBuffer memory;
    BufferPtr plain;                  // ggml's handle of the memory
    std::optional<std::size_t> unit;  // that is or will be here
    bool loading = false, ready = false, held = false;
  };

  Result<> add_units(const model::ModelFile& model, model::SegmentId id, std::uint64_t max_part_bytes);
  Result<> pin(std::size_t unit, bool lock_pages);
  Result<> check_pins();
  Result<> make_slots();
  void run();
  void assign_slots();
  [[nodiscard]] std::optional<std::size_t> slot_of(std::size_t unit) const;
  [[nodiscard]] Error damaged(const Unit& unit) const {
    return {ErrorCode::kInvalidFile,
            std::format(
                "{}: {} has other bytes than when it was packed: the disk or the file is damaged; remove it "
                "(hearth cache rm), it is built again",
                pack.path().string(), segment_text(unit.segment))};
  }
  // The same file as is mapped, also when its name is another's by now.
  [[nodiscard]] std::string descriptor_path() const {
    return std::format("/proc/self/fd/{}", pack.descriptor());
  }
  // An error of the reader, which knows the pack by that name only.
  [[nodiscard]] Error named(Error of_reader) const {
    const std::string name = descriptor_path();
    if (of_reader.message.starts_with(name)) of_reader.message.replace(0, name.size(), pack.path().string());
    return of_reader;
  }
  [[nodiscard]] std::span<const std::uint8_t> mapped(const Unit& unit) const {
    return pack.bytes().subspan(unit.offset, unit.bytes);
  }
  // Whether the tensors of `unit`, which begin at `at`, have their bytes.
  [[nodiscard]] static bool intact(const Unit& unit, const std::uint8_t* at) {
    return std::ranges::all_of(unit.tensors, [&](const PackTensor& tensor) {
      return matches(tensor, {at + (tensor.offset - unit.offset), tensor.bytes});
    });
  }
  static void place(Unit& unit, std::uint8_t* at, ggml_backend_buffer* plain) {
    for (std::size_t i = 0; i < unit.tensors.size(); ++i) {
      unit.places[i] = unit.handles[i];
      unit.places[i].data = at + (unit.tensors[i].offset - unit.offset);
      if (unit.places[i].buffer == nullptr) unit.places[i].buffer = plain;
    }
  }

  PackFile pack;
  ggml_backend_device* device;
  LayoutHandles handles;
  BufferPtr map_buffer;
  std::unique_ptr<ResidentSource> embedding;  // rows straight from the model file
  std::map<model::SegmentId, std::vector<Part>> parts;
  std::map<model::SegmentId, std::size_t> first_unit;
  std::vector<Unit> units;  // in the order of use
  StreamPlan plan;
  std::optional<FaultGuard> guard;
  FileState state;
  std::vector<std::size_t> streamed;  // units that are, in the order of use

  std::optional<DirectReader> reader;  // the loader's
  // Guards what follows.
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::vector<Slot> slots;
  std::size_t next = 0;  // place in `streamed` of what computing needs next
  std::optional<Error> error;
  bool stopping = false;
  std::atomic<std::uint64_t> read_bytes{0}, waited_ns{0};
  std::thread loader;
};

StreamedSource::StreamedSource(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StreamedSource::~StreamedSource() = default;

Result<std::unique_ptr<StreamedSource>> StreamedSource::open(const model::ModelFile& model,
                                                             std::span<const model::SegmentId> segments,
                                                             ggml_backend_device* device, PackFile pack,
                                                             const StreamOptions& options) {
  auto impl = std::make_unique<Impl>(std::move(pack), device);
  std::uint64_t largest_layer = 0;
  for (const model::SegmentId id : segments)
    if (id.kind == model::SegmentId::Kind::kLayer)
      largest_layer = std::max(largest_layer, model.segment_bytes(id));
  for (const model::SegmentId id : segments) {
    if (id.kind == model::SegmentId::Kind::kEmbedding) {
      const model::SegmentId only[] = {id};
      HEARTH_TRY(impl->embedding, ResidentSource::load(model, only, device,
                                                       {.repack = false, .progress = {}, .cancelled = {}}));
    } else {
      HEARTH_TRY_VOID(impl->add_units(model, id, std::max(options.part_bytes, largest_layer / 4)));
    }
  }
  const auto bytes = impl->pack.bytes();
  impl->state = state_of(impl->pack.descriptor());
  HEARTH_TRY(impl->guard, FaultGuard::watch(bytes));
  advise_random(bytes);
  // ggml's interface takes a mutable pointer; a read-only mapping is only ever read.
  impl->map_buffer.reset(ggml_backend_dev_buffer_from_host_ptr(
      device, const_cast<std::uint8_t*>(bytes.data()), bytes.size(), bytes.size()));
  if (!impl->map_buffer)
    return fail(ErrorCode::kIo, "the device cannot use a mapping of {}", impl->pack.path().string());
  if (!impl->units.empty()) {
    std::vector<std::uint64_t> sizes;
    for (const Unit& unit : impl->units) sizes.push_back(unit.bytes);
    HEARTH_TRY(impl->plan, plan_stream(sizes, options.budget_bytes, options.visits));
  }
  // Slots first: they are taken whatever happens, pins only as far as there is room.
  for (std::size_t i = 0; i < impl->units.size(); ++i)
    if (!impl->plan.pinned[i]) impl->streamed.push_back(i);
  HEARTH_TRY_VOID(impl->make_slots());
  for (std::size_t i = 0; i < impl->units.size(); ++i)
    if (impl->plan.pinned[i]) HEARTH_TRY_VOID(impl->pin(i, options.lock_pins));
  if (!impl->streamed.empty()) {
    auto reader = DirectReader::open(impl->descriptor_path(), options.reader);
    if (!reader) return std::unexpected(impl->named(std::move(reader).error()));
    impl->reader = *std::move(reader);
    impl->loader = std::thread([impl = impl.get()] { impl->run(); });
  }
  return std::unique_ptr<StreamedSource>(new StreamedSource(std::move(impl)));
}

Result<> StreamedSource::Impl::add_units(const model::ModelFile& model, model::SegmentId id,
                                         std::uint64_t max_part_bytes) {
  const PackSegment& segment = pack.segment(id);
  HEARTH_CHECK(segment.present, "a pack without a segment that was asked for");
  std::vector<Part>& list = parts[id];
  HEARTH_CHECK(list.empty(), "a segment is listed twice");
  first_unit[id] = units.size();
  std::vector<std::size_t> first_tensors;  // in the pack, of each part
  if (id.kind == model::SegmentId::Kind::kOutput) {
    // A part is a block of rows as packed, the first with the norm before it.
    for (std::size_t i = 1; i < segment.tensors.size(); ++i) {
      const PackTensor& block = segment.tensors[i];
      list.push_back({.first_tensor = i == 1 ? 0U : 1U,
                      .n_tensors = i == 1 ? 2U : 1U,
                      .row_begin = static_cast<std::uint32_t>(block.row_begin),
                      .row_end = static_cast<std::uint32_t>(block.row_end)});
      first_tensors.push_back(i == 1 ? 0 : i);
    }
  } else {
    list = divide_layer(model, id, max_part_bytes);
    for (const Part& part : list) first_tensors.push_back(part.first_tensor);
  }
  for (std::size_t p = 0; p < list.size(); ++p) {
    Unit unit{.segment = id,
              .part = static_cast<std::uint32_t>(p),
              .tensors = std::span(segment.tensors).subspan(first_tensors[p], list[p].n_tensors),
              .handles = {},
              .places = {}};
    unit.offset = unit.tensors.front().offset;
    unit.bytes = unit.tensors.back().offset + pack_padded(unit.tensors.back().bytes) - unit.offset;
    for (const PackTensor& tensor : unit.tensors) {
      TensorPlace handle;
      if (!tensor.layout.empty()) {
        HEARTH_TRY(handle, handles.place(tensor.layout, tensor.ggml_type, tensor.row_values,
                                         tensor.row_end - tensor.row_begin));
      }
      unit.handles.push_back(handle);
    }
    unit.places = unit.handles;
    units.push_back(std::move(unit));
  }
  return {};
}

Result<> StreamedSource::Impl::pin(std::size_t index, bool lock_pages) {
  Unit& unit = units[index];
  HEARTH_TRY_VOID(populate(mapped(unit)));
  if (lock_pages) HEARTH_TRY_VOID(lock(mapped(unit)));
  if (!intact(unit, mapped(unit).data())) return std::unexpected(damaged(unit));
  place(unit, const_cast<std::uint8_t*>(mapped(unit).data()), map_buffer.get());
  return {};
}

Result<> StreamedSource::Impl::make_slots() {
  slots = std::vector<Slot>(plan.n_slots);
  for (Slot& slot : slots) {
    // Huge pages: the disk gets few long segments of memory instead of one per page, twice as fast.
    HEARTH_TRY(slot.memory, AlignedBuffer::make(plan.slot_bytes, {.huge_pages = true, .populate = true}));
    const auto bytes = slot.memory.bytes();
    slot.plain.reset(ggml_backend_dev_buffer_from_host_ptr(device, bytes.data(), bytes.size(), bytes.size()));
    if (!slot.plain)
      return fail(ErrorCode::kOutOfMemory, "the device cannot use a buffer of {}",
                  format_bytes(bytes.size()));
  }
  return {};
}

std::optional<std::size_t> StreamedSource::Impl::slot_of(std::size_t unit) const {
  for (std::size_t i = 0; i < slots.size(); ++i)
    if (slots[i].unit == unit) return i;
  return std::nullopt;
}

// Gives slots to the units that will be needed next, nearest first: one with nothing in it or with what is
// needed later. What is held and being read keeps its slot; if the one that is left has a unit that is needed
// soon, that one has to go for a nearer one, or acquire() would wait for ever. Under the lock.
void StreamedSource::Impl::assign_slots() {
  const std::size_t n_wanted = std::min(slots.size(), streamed.size());
  // How many units come before it; a slot that cannot be had comes before all.
  const auto distance = [&](const Slot& slot) -> std::size_t {
    if (slot.held || slot.loading) return 0;
    if (!slot.unit) return streamed.size();
    const auto place =
        static_cast<std::size_t>(std::ranges::lower_bound(streamed, *slot.unit) - streamed.begin());
    return (place + streamed.size() - next) % streamed.size();
  };
  for (std::size_t i = 0; i < n_wanted; ++i) {
    const std::size_t unit = streamed[(next + i) % streamed.size()];
    if (slot_of(unit)) continue;
    const auto farthest = std::ranges::max_element(slots, {}, distance);
    if (distance(*farthest) <= i) return;
    farthest->unit = unit;
    farthest->loading = true;
    farthest->ready = false;
    reader->submit({.id = static_cast<std::uint64_t>(farthest - slots.begin()),
                    .offset = units[unit].offset,
                    .into = farthest->memory.bytes().first(units[unit].bytes)});
  }
}

void StreamedSource::Impl::run() {
  std::unique_lock guard_lock(mutex);
  while (!stopping && !error) {
    assign_slots();
    guard_lock.unlock();
    auto completion = reader->wait(kIdle);
    std::optional<Error> failure;
    if (!completion)
      failure = named(completion.error());
    else if (*completion && (*completion)->error)
      failure = named(*(*completion)->error);
    if (!failure && *completion) {
      Slot& slot = slots[(*completion)->id];
      Unit& unit = units[*slot.unit];
      if (!intact(unit, slot.memory.bytes().data()))
        failure = damaged(unit);
      else
        place(unit, slot.memory.bytes().data(), slot.plain.get());
    }
    guard_lock.lock();
    if (failure) {
      error = std::move(failure);
    } else if (*completion) {
      Slot& slot = slots[(*completion)->id];
      slot.loading = false;
      slot.ready = true;
      read_bytes += units[*slot.unit].bytes;
    }
    changed.notify_all();
  }
  // Buffers belong to the reader until it is done with them.
  guard_lock.unlock();
  reader->cancel();
  while (reader->pending() > 0)
    if (const auto left = reader->wait(kIdle); !left) break;
  guard_lock.lock();
  reader.reset();
}

std::span<const Part> StreamedSource::parts(model::SegmentId id) const {
  if (id.kind == model::SegmentId::Kind::kEmbedding) return impl_->embedding->parts(id);
  return impl_->parts.at(id);
}

Result<std::span<const TensorPlace>> StreamedSource::acquire(model::SegmentId id, std::uint32_t part) {
  Impl& s = *impl_;
  if (id.kind == model::SegmentId::Kind::kEmbedding) return s.embedding->acquire(id, part);
  const std::size_t index = s.first_unit.at(id) + part;
  const Unit& unit = s.units[index];
  if (s.plan.pinned[index]) return std::span<const TensorPlace>(unit.places);

  std::unique_lock lock(s.mutex);
  const auto at = std::ranges::lower_bound(s.streamed, index);
  s.next = static_cast<std::size_t>(at - s.streamed.begin());
  const auto ready = [&] {
    const auto slot = s.slot_of(index);
    return slot && s.slots[*slot].ready;
  };
  if (!ready()) {
    const auto start = Clock::now();
    if (s.reader) s.reader->wake();
    s.changed.wait(lock, [&] { return s.error || ready(); });
    s.waited_ns += static_cast<std::uint64_t>((Clock::now() - start).count());
  }
  if (s.error) return std::unexpected(*s.error);
  s.slots[*s.slot_of(index)].held = true;
  return std::span<const TensorPlace>(unit.places);
}

void StreamedSource::release(model::SegmentId id, std::uint32_t part) {
  Impl& s = *impl_;
  if (id.kind == model::SegmentId::Kind::kEmbedding) return s.embedding->release(id, part);
  const std::size_t index = s.first_unit.at(id) + part;
  if (s.plan.pinned[index]) return;
  const std::lock_guard lock(s.mutex);
  s.slots[*s.slot_of(index)].held = false;
  const auto at = std::ranges::upper_bound(s.streamed, index);
  s.next = static_cast<std::size_t>(at - s.streamed.begin()) % s.streamed.size();
  if (s.reader) s.reader->wake();
}

Result<> StreamedSource::still_good() {
  Impl& s = *impl_;
  if (s.guard->damaged())
    return fail(ErrorCode::kIo,
                "{}: the file became shorter or unreadable while it was computed with; start again",
                s.pack.path().string());
  const FileState now = state_of(s.pack.descriptor());
  if (now == s.state) return {};
  // Another process may have added layers to it. What is pinned is looked through; what is streamed always
  // is.
  for (std::size_t i = 0; i < s.units.size(); ++i)
    if (s.plan.pinned[i] && !Impl::intact(s.units[i], s.mapped(s.units[i]).data()))
      return std::unexpected(s.damaged(s.units[i]));
  if (s.guard->damaged()) return still_good();
  s.state = now;
  return {};
}

std::uint32_t StreamedSource::max_parts_held() const {
  return std::max(1U, impl_->plan.n_slots);
}

bool StreamedSource::streams() const {
  return !impl_->streamed.empty();
}
std::uint64_t StreamedSource::resident_bytes() const {
  return impl_->plan.pinned_bytes + impl_->plan.slots_bytes();
}
std::uint64_t StreamedSource::anonymous_bytes() const {
  return impl_->plan.slots_bytes();
}
const StreamPlan& StreamedSource::plan() const {
  return impl_->plan;
}

StreamStatistics StreamedSource::statistics() const {
  return {.pinned_bytes = impl_->plan.pinned_bytes,
          .slots_bytes = impl_->plan.slots_bytes(),
          .streamed_bytes_per_pass = impl_->plan.streamed_bytes,
          .read_bytes = impl_->read_bytes,
          .waited_ns = impl_->waited_ns};
}

}  // namespace hearth::residency
