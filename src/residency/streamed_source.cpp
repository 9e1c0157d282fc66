#include "residency/streamed_source.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <format>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "base/os_memory.h"
#include "base/os_pages.h"
#include "base/units.h"
#include "residency/division.h"
#include "residency/ggml_tensors.h"
#include "residency/mapped_pack.h"
#include "residency/pin_registry.h"
#include "residency/repack.h"
#include "residency/resident_source.h"
#include "residency/slot_pool.h"

namespace hearth::residency {
namespace {

// How long the reading thread sleeps when nothing is to be read.
constexpr std::chrono::seconds kIdle{1};
// How often the pins are looked through, and how long a look at one of them is worth something when it is
// used: the look costs some 10 us for 8 MiB, a page that was taken 0.1 ms.
constexpr std::chrono::milliseconds kLook{250}, kFresh{100};
// Pinned again between two looks at what is free.
constexpr std::size_t kPinsPerLook = 4;

using Clock = std::chrono::steady_clock;

// One part, and where it is.
struct Unit {
  model::SegmentId segment;
  std::uint32_t part = 0;
  StoredPart stored;
  std::vector<TensorPlace> handles;  // without data; buffer is null for plain tensors
  std::vector<TensorPlace> places;   // where they are now; unchanged while held
  std::optional<std::size_t> slot;   // where it is or is read into
  bool ready = false;                // it is there
  bool held = false;                 // acquired and not released
  bool from_mapping = false;         // it is held so although it is not pinned
  Clock::time_point looked{};        // when all its pages were last seen in memory, pinned
};

}  // namespace

struct StreamedSource::Impl {
  explicit Impl(std::unique_ptr<MappedPack> mapped, ggml_backend_device* compute_device)
      : pack(std::move(mapped)), device(compute_device), handles(compute_device) {}
  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      if (reader) reader->wake();
    }
    changed.notify_all();
    stop.request_stop();
    if (watch) watch->wake();
    if (keeper.joinable()) keeper.join();
    if (loader.joinable()) loader.join();
  }

  Result<> add_units(model::SegmentId id, std::uint64_t max_part_bytes);
  Result<> pin_all(const StreamOptions& options);
  Result<> pin(std::size_t unit, bool lock_pages);
  void load();
  void assign_slots();
  [[nodiscard]] bool evict_beyond(std::size_t distance, std::size_t first);
  void leave_slot(Unit& unit);
  Result<std::span<const TensorPlace>> use_mapping(std::size_t unit, std::unique_lock<std::mutex>& lock);
  void keep(PinPolicy policy);
  [[nodiscard]] bool forget_lost_pins();
  void give_back(std::uint64_t bytes);
  [[nodiscard]] bool take_again(std::uint64_t bytes);
  [[nodiscard]] bool pin_again(std::size_t unit);
  void unpin(std::size_t unit);
  void drop_unpinned();
  void list_streamed();
  static void place(Unit& unit, std::uint8_t* at, ggml_backend_buffer* plain) {
    for (std::size_t i = 0; i < unit.stored.tensors.size(); ++i) {
      unit.places[i] = unit.handles[i];
      unit.places[i].data = at + (unit.stored.tensors[i].offset - unit.stored.offset);
      if (unit.places[i].buffer == nullptr) unit.places[i].buffer = plain;
    }
  }
  // ggml's interface takes a mutable pointer; a read-only mapping is only ever read.
  void place_in_mapping(Unit& unit) const {
    place(unit, const_cast<std::uint8_t*>(pack->bytes(unit.stored).data()), map_buffer.get());
  }

  std::unique_ptr<MappedPack> pack;
  ggml_backend_device* device;
  LayoutHandles handles;
  BufferPtr map_buffer;
  std::unique_ptr<ResidentSource> embedding;  // rows straight from the model file
  std::map<model::SegmentId, std::vector<Part>> parts;
  std::map<model::SegmentId, std::size_t> first_unit;
  std::vector<Unit> units;              // in the order of use
  std::vector<std::uint64_t> sizes;     // by unit
  std::vector<std::uint32_t> visit_of;  // by unit
  StreamPlan plan;

  std::optional<DirectReader> reader;  // the loader's
  std::optional<PressureWatch> watch;  // the keeper's; wake() is for any thread
  std::function<MemoryStatus()> memory;
  PinRegistry registry;
  bool locks_pins = false;
  std::stop_source stop;
  // Guards what follows, and the units' `slot`, `ready`, `held` and `looked`.
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::size_t n_held = 0;  // units in slots that are held, and what they take of the slots
  std::uint64_t held_bytes = 0;
  SlotPool slots;
  std::vector<bool> pinned;           // now, of those that the plan pins
  std::vector<std::size_t> streamed;  // units that are, in the order of use
  std::vector<std::size_t> unpinned;  // whose pages are still to be given back
  std::size_t next = 0;               // unit that computing needs next
  bool lost = false;                  // a pin was found gone since the keeper last asked
  std::optional<Error> error;
  bool stopping = false;
  std::atomic<std::uint64_t> pinned_bytes{0}, read_bytes{0}, waited_ns{0};
  std::thread loader, keeper;
};

StreamedSource::StreamedSource(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StreamedSource::~StreamedSource() = default;

Result<std::unique_ptr<StreamedSource>> StreamedSource::open(const model::ModelFile& model,
                                                             std::span<const model::SegmentId> segments,
                                                             ggml_backend_device* device, PackFile pack,
                                                             const StreamOptions& options) {
  HEARTH_TRY(auto mapped, MappedPack::open(std::move(pack)));
  auto impl = std::make_unique<Impl>(std::move(mapped), device);
  HEARTH_CHECK(options.visit_of.empty() || options.visit_of.size() == segments.size());
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const model::SegmentId id = segments[s];
    if (id.kind == model::SegmentId::Kind::kEmbedding) {
      const model::SegmentId only[] = {id};
      HEARTH_TRY(impl->embedding, ResidentSource::load(model, only, device,
                                                       {.repack = false, .progress = {}, .cancelled = {}}));
      // A prompt looks up a few rows all over the table: read ahead, each would bring megabytes that pins
      // need.
      HEARTH_TRY(const auto places, impl->embedding->acquire(id, 0));
      for (std::size_t i = 0; i < places.size(); ++i)
        advise_random({static_cast<const std::uint8_t*>(places[i].data), model.segment(id)[i].tensor->bytes});
      impl->embedding->release(id, 0);
    } else {
      HEARTH_TRY_VOID(impl->add_units(id, options.part_bytes));
      impl->visit_of.resize(impl->units.size(), options.visit_of.empty() ? 0 : options.visit_of[s]);
    }
  }
  const auto bytes = impl->pack->file().bytes();
  impl->map_buffer.reset(ggml_backend_dev_buffer_from_host_ptr(
      device, const_cast<std::uint8_t*>(bytes.data()), bytes.size(), bytes.size()));
  if (!impl->map_buffer)
    return fail(ErrorCode::kIo, "the device cannot use a mapping of {}", impl->pack->file().path().string());
  if (!impl->units.empty()) {
    std::vector<std::uint64_t>& sizes = impl->sizes;
    std::vector<StreamRequest::Parts> layers;
    for (const Unit& unit : impl->units) {
      if (unit.segment.kind == model::SegmentId::Kind::kLayer) {
        if (unit.part == 0) layers.push_back({.begin = sizes.size(), .end = 0});
        layers.back().end = sizes.size() + 1;
      }
      sizes.push_back(unit.stored.bytes);
    }
    const std::size_t huge = huge_page_bytes();
    HEARTH_TRY(impl->plan, plan_stream({.part_bytes = sizes,
                                        .layers = layers,
                                        .budget_bytes = options.budget_bytes,
                                        .visit_of = impl->visit_of,
                                        .page_bytes = std::max<std::uint64_t>(page_bytes(), kPackBlock),
                                        .huge_page_bytes = huge == AlignedBuffer::kHugePage ? huge : 0}));
    HEARTH_TRY(impl->slots, SlotPool::make(impl->plan, sizes, device));
  }
  impl->locks_pins = options.lock_pins;
  impl->pinned = impl->plan.pinned;
  impl->list_streamed();
  HEARTH_TRY_VOID(impl->pin_all(options));
  if (!impl->streamed.empty()) {
    auto reader = DirectReader::open(impl->pack->descriptor_path(), options.reader);
    if (!reader) return std::unexpected(impl->pack->named(std::move(reader).error()));
    impl->reader = *std::move(reader);
    impl->loader = std::thread([impl = impl.get()] { impl->load(); });
    // Locked pins stay, whoever wants their memory.
    if (!options.lock_pins && impl->plan.pinned_bytes > 0) {
      impl->memory = options.memory ? options.memory : [impl = impl.get()] {
        return impl->registry.without_others(memory_status());
      };
      // usable() counts the pins as free, so a limit for it would say nothing.
      HEARTH_TRY(impl->watch,
                 PressureWatch::open({.short_bytes = 0, .critical_bytes = 0, .status = impl->memory}));
      impl->keeper =
          std::thread([impl = impl.get(), policy = PinPolicy(options.pins)] { impl->keep(policy); });
    }
  }
  return std::unique_ptr<StreamedSource>(new StreamedSource(std::move(impl)));
}

Result<> StreamedSource::Impl::add_units(model::SegmentId id, std::uint64_t max_part_bytes) {
  const PackSegment& segment = pack->file().segment(id);
  HEARTH_CHECK(segment.present, "a pack without a segment that was asked for");
  std::vector<Part>& list = parts[id];
  HEARTH_CHECK(list.empty(), "a segment is listed twice");
  first_unit[id] = units.size();
  std::vector<Piece> pieces;  // as packed
  for (const PackTensor& stored : segment.tensors) {
    const bool goes_on = stored.row_begin != 0;
    if (goes_on) pieces.back().is_block = true;
    pieces.push_back({.tensor = pieces.empty() ? 0 : pieces.back().tensor + (goes_on ? 0 : 1),
                      .row_begin = static_cast<std::uint32_t>(stored.row_begin),
                      .row_end = static_cast<std::uint32_t>(stored.row_end),
                      .bytes = stored.bytes,
                      .is_vector = model::is_vector(stored.role),
                      .is_block = goes_on});
  }
  list = parts_of(pieces, max_part_bytes);
  std::size_t next_piece = 0;
  for (std::size_t p = 0; p < list.size(); ++p) {
    Unit unit{.segment = id,
              .part = static_cast<std::uint32_t>(p),
              .stored = {.tensors = std::span(segment.tensors).subspan(next_piece, list[p].n_tensors)},
              .handles = {},
              .places = {},
              .slot = {}};
    StoredPart& stored = unit.stored;
    stored.offset = stored.tensors.front().offset;
    stored.bytes = stored.tensors.back().offset + pack_padded(stored.tensors.back().bytes) - stored.offset;
    for (const PackTensor& tensor : stored.tensors) {
      TensorPlace handle;
      if (!tensor.layout.empty()) {
        HEARTH_TRY(handle, handles.place(tensor.layout, tensor.ggml_type, tensor.shape()));
      }
      unit.handles.push_back(handle);
    }
    unit.places = unit.handles;
    next_piece += list[p].n_tensors;
    units.push_back(std::move(unit));
  }
  return {};
}

// What the plan pins, at the start.
Result<> StreamedSource::Impl::pin_all(const StreamOptions& options) {
  // A limit of locked memory is met before gigabytes are read, and is no lack of memory.
  for (std::size_t i = 0; options.lock_pins && i < units.size(); ++i)
    if (const auto may = plan.pinned[i] ? pack->may_lock(units[i].stored) : Result<>(); !may)
      return fail(ErrorCode::kInvalidArgument, "--pin lock: {} of weights are to stay in memory: {}",
                  format_bytes(plan.pinned_bytes), may.error().message);
  std::uint64_t done = 0;
  for (std::size_t i = 0; i < units.size(); ++i) {
    if (!plan.pinned[i]) continue;
    if (options.cancelled && options.cancelled())
      return fail(ErrorCode::kCancelled, "reading weights into memory was ended at {} of {}",
                  format_bytes(done), format_bytes(plan.pinned_bytes));
    HEARTH_TRY_VOID(pin(i, options.lock_pins));
    done += sizes[i];
    if (options.progress) options.progress(done, plan.pinned_bytes);
  }
  return {};
}

Result<> StreamedSource::Impl::pin(std::size_t index, bool lock_pages) {
  Unit& unit = units[index];
  HEARTH_TRY_VOID(pack->keep(unit.stored, lock_pages));
  if (!pack->intact(unit.stored)) return std::unexpected(pack->damaged(unit.segment));
  place_in_mapping(unit);
  return {};
}

// Gives slots to the units that will be needed next, nearest first, as long as there is room or what is
// needed later can go. What is held and being read keeps its slot. Under the lock.
void StreamedSource::Impl::assign_slots() {
  const auto first = static_cast<std::size_t>(std::ranges::lower_bound(streamed, next) - streamed.begin());
  for (std::size_t i = 0; i < streamed.size(); ++i) {
    Unit& unit = units[streamed[(first + i) % streamed.size()]];
    if (unit.slot || unit.held) continue;  // held without a slot: it is used from the mapping
    while (!(unit.slot = slots.take(unit.stored.bytes)))
      if (!evict_beyond(i, first)) return;
    reader->submit({.id = static_cast<std::uint64_t>(&unit - units.data()),
                    .offset = unit.stored.offset,
                    .into = slots.bytes(*unit.slot)});
  }
}

// Takes the slot from the unit that is needed last, if it is needed after the one that is `distance` streamed
// units after the `first`.
bool StreamedSource::Impl::evict_beyond(std::size_t distance, std::size_t first) {
  for (std::size_t i = streamed.size(); i-- > distance + 1;) {
    Unit& unit = units[streamed[(first + i) % streamed.size()]];
    if (!unit.ready || unit.held) continue;
    leave_slot(unit);
    return true;
  }
  return false;
}

void StreamedSource::Impl::leave_slot(Unit& unit) {
  slots.give_back(*unit.slot);
  unit.slot.reset();
  unit.ready = false;
}

// The thread that reads what is streamed.
void StreamedSource::Impl::load() {
  std::unique_lock guard_lock(mutex);
  while (!stopping && !error) {
    assign_slots();
    guard_lock.unlock();
    auto completion = reader->wait(kIdle);
    std::optional<Error> failure;
    if (!completion)
      failure = pack->named(completion.error());
    else if (*completion && (*completion)->error)
      failure = pack->named(*(*completion)->error);
    if (!failure && *completion) {
      // Its slot is the reader's, and nobody else's, until it is ready.
      Unit& unit = units[(*completion)->id];
      std::uint8_t* const at = slots.bytes(*unit.slot).data();
      if (!unit.stored.intact(at))
        failure = pack->damaged(unit.segment);
      else
        place(unit, at, slots.buffer());
    }
    guard_lock.lock();
    if (failure) {
      error = std::move(failure);
    } else if (*completion) {
      Unit& unit = units[(*completion)->id];
      unit.ready = true;
      read_bytes += unit.stored.bytes;
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

// --- pins that come and go ---------------------------------------------------------------------------------

// The thread that looks after the pins.
void StreamedSource::Impl::keep(PinPolicy policy) {
  while (true) {
    const auto pressure = watch->next(kLook);
    {
      const std::lock_guard lock(mutex);
      if (stopping || error) return;
    }
    const bool some_lost = forget_lost_pins();
    drop_unpinned();
    const std::uint64_t ours = pinned_bytes;
    const auto besides_pins = [&](std::uint64_t bytes) { return bytes - std::min(bytes, ours); };
    const PinPolicy::Change change =
        policy.decide({.now = Clock::now(),
                       .pressure = pressure ? std::optional(pressure->level) : std::nullopt,
                       .short_free_bytes = pressure ? besides_pins(pressure->available) : 0,
                       .short_total_bytes = pressure ? pressure->total : 0,
                       .planned_bytes = plan.pinned_bytes,
                       .pinned_bytes = ours,
                       .lost = some_lost,
                       .free_bytes = besides_pins(memory().usable())});
    if (change.give_back_bytes > 0) give_back(change.give_back_bytes);
    if (change.take_bytes > 0 && take_again(change.take_bytes)) policy.took(Clock::now());
  }
}

// Whether the kernel took pages of pins since the last call; such pins are streamed from now on.
bool StreamedSource::Impl::forget_lost_pins() {
  for (std::size_t i = 0; i < units.size(); ++i) {
    {
      const std::lock_guard lock(mutex);
      if (!pinned[i] || units[i].held) continue;
    }
    const bool there = pack->is_resident(units[i].stored);
    const std::lock_guard lock(mutex);
    if (there) {
      units[i].looked = Clock::now();
    } else if (pinned[i] && !units[i].held) {
      unpin(i);
      lost = true;
    }
  }
  const std::lock_guard lock(mutex);
  return std::exchange(lost, false);
}

void StreamedSource::Impl::give_back(std::uint64_t bytes) {
  {
    const std::lock_guard lock(mutex);
    std::vector<bool> held;
    for (const Unit& unit : units) held.push_back(unit.held);
    for (const std::size_t unit : pins_to_give_back(sizes, visit_of, pinned, held, bytes)) unpin(unit);
  }
  drop_unpinned();
}

// Pins again what the plan pins, as far as `bytes` go: what is needed last comes first, it is read meanwhile.
// Whether any was.
bool StreamedSource::Impl::take_again(std::uint64_t bytes) {
  std::vector<std::size_t> missing;
  {
    const std::lock_guard lock(mutex);
    for (std::size_t i = 0; i < units.size(); ++i)
      if (const std::size_t unit = (next + units.size() - 1 - i) % units.size();
          plan.pinned[unit] && !pinned[unit] && !units[unit].held)
        missing.push_back(unit);
  }
  std::size_t tried = 0;
  bool some = false;
  for (const std::size_t unit : missing) {
    if (tried == kPinsPerLook || stop.stop_requested()) break;
    if (sizes[unit] > bytes) continue;
    bytes -= sizes[unit];
    ++tried;
    some = pin_again(unit) || some;
  }
  return some;
}

// False when it is not to be had now.
bool StreamedSource::Impl::pin_again(std::size_t index) {
  Unit& unit = units[index];
  // A file that cannot be read any more is the loader's to report: it reads this unit for the next token.
  if (!pack->keep(unit.stored, false, stop.get_token())) return false;
  const bool good = pack->intact(unit.stored);
  std::unique_lock lock(mutex);
  if (!good && !error) error = pack->damaged(unit.segment);
  const auto is_free = [&] { return !unit.held && (!unit.slot || unit.ready); };
  changed.wait_for(lock, kLook, [&] { return stopping || error || is_free(); });
  if (error) changed.notify_all();
  if (stopping || error || !is_free()) {
    unpinned.push_back(index);
    return false;
  }
  if (unit.slot) leave_slot(unit);
  place_in_mapping(unit);
  unit.looked = Clock::now();
  pinned[index] = true;
  std::erase(unpinned, index);
  list_streamed();
  if (reader) reader->wake();
  return true;
}

// Under the lock; not while it is held.
void StreamedSource::Impl::unpin(std::size_t index) {
  pinned[index] = false;
  unpinned.push_back(index);
  list_streamed();
  if (reader) reader->wake();
}

// Under the lock.
void StreamedSource::Impl::list_streamed() {
  streamed.clear();
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < units.size(); ++i) {
    if (pinned[i])
      bytes += sizes[i];
    else
      streamed.push_back(i);
  }
  // Locked pages are used as the system sees it.
  if (pinned_bytes.exchange(bytes) != bytes && !locks_pins) registry.tell(bytes);
}

// Gives the pages of what is pinned no more back to the system, also those that were left of it.
void StreamedSource::Impl::drop_unpinned() {
  std::vector<std::size_t> list;
  {
    const std::lock_guard lock(mutex);
    list = std::exchange(unpinned, {});
  }
  for (const std::size_t i : list) pack->give_back(units[i].stored);
}

// --- WeightSource ------------------------------------------------------------------------------------------

std::span<const Part> StreamedSource::parts(model::SegmentId id) const {
  if (id.kind == model::SegmentId::Kind::kEmbedding) return impl_->embedding->parts(id);
  return impl_->parts.at(id);
}

Result<std::span<const TensorPlace>> StreamedSource::acquire(model::SegmentId id, std::uint32_t part) {
  Impl& s = *impl_;
  if (id.kind == model::SegmentId::Kind::kEmbedding) return s.embedding->acquire(id, part);
  const std::size_t index = s.first_unit.at(id) + part;
  Unit& unit = s.units[index];
  std::unique_lock lock(s.mutex);
  if (s.error) return std::unexpected(*s.error);
  s.next = index;
  if (s.pinned[index]) {
    unit.held = true;
    if (!s.keeper.joinable() || Clock::now() - unit.looked < kFresh)
      return std::span<const TensorPlace>(unit.places);
    // Pages that were taken would come back one by one while it is computed with.
    lock.unlock();
    const bool there = s.pack->is_resident(unit.stored);
    lock.lock();
    unit.looked = Clock::now();
    if (there) return std::span<const TensorPlace>(unit.places);
    unit.held = false;
    s.unpin(index);
    s.lost = true;
  }

  // Pins of what is held together were lost meanwhile: there are no slots for them all.
  if (!unit.slot && (s.held_bytes + s.slots.needed_bytes(unit.stored.bytes) > s.slots.limit_bytes() ||
                     s.n_held == s.slots.size()))
    return s.use_mapping(index, lock);
  if (!unit.ready) {
    const auto start = Clock::now();
    if (s.reader) s.reader->wake();
    s.changed.wait(lock, [&] { return s.error || s.pinned[index] || unit.ready; });
    s.waited_ns += static_cast<std::uint64_t>((Clock::now() - start).count());
  }
  if (s.error) return std::unexpected(*s.error);
  unit.held = true;
  if (unit.slot) {
    s.held_bytes += s.slots.needed_bytes(unit.stored.bytes);
    ++s.n_held;
  }
  return std::span<const TensorPlace>(unit.places);
}

// A part that is not pinned, from the pack's mapping all the same.
Result<std::span<const TensorPlace>> StreamedSource::Impl::use_mapping(std::size_t index,
                                                                       std::unique_lock<std::mutex>& lock) {
  Unit& unit = units[index];
  unit.held = true;
  lock.unlock();
  Result<> there = pack->bring_in(unit.stored, stop.get_token());
  if (there && !pack->intact(unit.stored)) there = std::unexpected(pack->damaged(unit.segment));
  lock.lock();
  unit.from_mapping = static_cast<bool>(there);
  if (!there) {
    unit.held = false;
    unpinned.push_back(index);
    return std::unexpected(std::move(there).error());
  }
  read_bytes += unit.stored.bytes;
  place_in_mapping(unit);
  return std::span<const TensorPlace>(unit.places);
}

void StreamedSource::release(model::SegmentId id, std::uint32_t part) {
  Impl& s = *impl_;
  if (id.kind == model::SegmentId::Kind::kEmbedding) return s.embedding->release(id, part);
  const std::size_t index = s.first_unit.at(id) + part;
  {
    const std::lock_guard lock(s.mutex);
    Unit& unit = s.units[index];
    if (unit.slot) {
      s.held_bytes -= s.slots.needed_bytes(unit.stored.bytes);
      --s.n_held;
    }
    if (std::exchange(unit.from_mapping, false)) s.unpinned.push_back(index);
    unit.held = false;
    s.next = (index + 1) % s.units.size();
    if (!s.pinned[index] && s.reader) s.reader->wake();
  }
  s.changed.notify_all();
}

Result<> StreamedSource::still_good() {
  Impl& s = *impl_;
  if (s.embedding) HEARTH_TRY_VOID(s.embedding->still_good());
  // What is pinned is looked through; what is streamed always is. Also what is pinned no more: it may have
  // been computed with before.
  return s.pack->still_good([&s]() -> Result<> {
    for (std::size_t i = 0; i < s.units.size(); ++i) {
      if (!s.plan.pinned[i]) continue;
      const bool intact = s.pack->intact(s.units[i].stored);
      const std::lock_guard lock(s.mutex);
      if (!s.pinned[i]) s.unpinned.push_back(i);  // its pages were read for this only
      if (!intact) return std::unexpected(s.pack->damaged(s.units[i].segment));
    }
    return {};
  });
}

bool StreamedSource::can_hold(model::SegmentId id) const {
  if (id.kind == model::SegmentId::Kind::kEmbedding) return impl_->embedding->can_hold(id);
  const std::size_t n_parts = impl_->parts.at(id).size();
  if (!streams() || n_parts == 1) return true;
  const std::lock_guard lock(impl_->mutex);
  std::uint64_t needed = 0;
  std::size_t n_streamed = 0;
  for (std::size_t i = impl_->first_unit.at(id); i < impl_->first_unit.at(id) + n_parts; ++i)
    if (!impl_->pinned[i]) {
      needed += impl_->slots.needed_bytes(impl_->sizes[i]);
      ++n_streamed;
    }
  return needed <= impl_->slots.limit_bytes() && n_streamed <= impl_->slots.size();
}

bool StreamedSource::streams() const {
  return impl_->plan.slots_bytes > 0;
}
std::uint64_t StreamedSource::resident_bytes() const {
  return impl_->plan.pinned_bytes + impl_->plan.slots_bytes;
}
std::uint64_t StreamedSource::anonymous_bytes() const {
  return impl_->plan.slots_bytes;
}
const StreamPlan& StreamedSource::plan() const {
  return impl_->plan;
}

StreamStatistics StreamedSource::statistics() const {
  const std::uint64_t pinned = impl_->pinned_bytes;
  return {.pinned_bytes = pinned,
          .slots_bytes = impl_->plan.slots_bytes,
          .streamed_bytes_per_pass = impl_->plan.pinned_bytes + impl_->plan.streamed_bytes - pinned,
          .read_bytes = impl_->read_bytes,
          .waited_ns = impl_->waited_ns};
}

}  // namespace hearth::residency
