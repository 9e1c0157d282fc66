// Whatever the budget: the pack's bytes or an error, never other bytes, and no more reads than planned.
#include "residency/streamed_source.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <format>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "base/os_pages.h"
#include "base/test_group.h"
#include "base/test_sanitizer.h"
#include "base/units.h"
#include "residency/test_packs.h"

namespace hearth::residency {
namespace {

using model::SegmentId;
using test::Bytes;
using test::flip_bit;
using test::Packing;
using test::read_file;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

struct Unit {
  SegmentId segment;
  std::uint32_t part = 0;
  std::vector<PackTensor> tensors;
  std::uint64_t bytes = 0;  // in whole blocks
};

// Whether a reader that works in its own time gets there.
bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // polls; the deadline decides
  }
  return true;
}

// A model's whole pack, and sources that read it with small parts.
class Streaming {
 public:
  explicit Streaming(const synth::SynthSpec& spec, bool repack = true,
                     std::uint64_t max_block_bytes = kBlockBytes)
      : packing(test_model(spec)) {
    packing.options.repack = repack;
    packing.options.max_block_bytes = max_block_bytes;
    const PackFile pack = packing.make();
    path = pack.path();
    // The clock of a file system is coarse: a change during the test is a later one for sure.
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) - std::chrono::hours(1));
    original = read_file(path);
    ids = packing.all();
    options.part_bytes = 1;
    // Exact numbers are expected: what other programs do to this machine's memory stays out of it.
    options.memory = [] {
      MemoryStatus status;
      status.available = kNoLimit;
      return status;
    };
    cut(pack);
    ids.insert(ids.begin(), SegmentId::embedding());
  }

  Result<std::unique_ptr<StreamedSource>> try_open(std::uint64_t budget, std::uint32_t visits = 1) {
    auto pack = ensure_pack(packing.model, packing.all(), packing.backend->device(), packing.options);
    if (!pack) return std::unexpected(pack.error());
    options.budget_bytes = budget;
    options.visit_of.clear();  // of about equally many segments; the embedding's does not matter
    for (std::size_t i = 0; i < ids.size(); ++i)
      options.visit_of.push_back(
          static_cast<std::uint32_t>((i == 0 ? 0 : i - 1) * visits / (ids.size() - 1)));
    return StreamedSource::open(packing.model, ids, packing.backend->device(), *std::move(pack), options);
  }
  std::unique_ptr<StreamedSource> open(std::uint64_t budget, std::uint32_t visits = 1) {
    return value_of(try_open(budget, visits));
  }

  // Whether these are the bytes that the file had when it was made.
  [[nodiscard]] bool same(const Unit& unit, std::span<const TensorPlace> places) const {
    if (places.size() != unit.tensors.size()) return false;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const PackTensor& tensor = unit.tensors[i];
      if (places[i].buffer == nullptr || (places[i].extra != nullptr) != !tensor.layout.empty()) return false;
      if (std::memcmp(places[i].data, original.data() + tensor.offset, tensor.bytes) != 0) return false;
    }
    return true;
  }
  // Acquires it, looks at its bytes, releases it. False when it is there with other bytes.
  Result<bool> look(StreamedSource& source, const Unit& unit) const {
    HEARTH_TRY(const auto places, source.acquire(unit.segment, unit.part));
    const bool good = same(unit, places);
    source.release(unit.segment, unit.part);
    return good;
  }
  void pass(StreamedSource& source) const { pass(source, units); }
  void pass(StreamedSource& source, std::span<const Unit> part) const {
    for (const Unit& unit : part)
      EXPECT_TRUE(value_of(look(source, unit))) << segment_text(unit.segment) << ", part " << unit.part;
  }
  // Passes until something fails; what is there until then is right.
  [[nodiscard]] Error passes_until_error(StreamedSource& source) const {
    for (int i = 0; i < 5; ++i) {
      for (const Unit& unit : units) {
        const auto good = look(source, unit);
        if (!good) return good.error();
        EXPECT_TRUE(*good || !source.still_good()) << segment_text(unit.segment);
      }
      if (const auto good = source.still_good(); !good) return good.error();
    }
    return {ErrorCode::kNotFound, "nothing failed"};
  }
  [[nodiscard]] std::vector<Unit> streamed(const StreamedSource& source) const {
    std::vector<Unit> list;
    for (std::size_t i = 0; i < units.size(); ++i)
      if (!source.plan().pinned[i]) list.push_back(units[i]);
    return list;
  }
  // Those of `list` that the slots hold together, from its beginning on.
  [[nodiscard]] static std::span<const Unit> fit(const StreamedSource& source, std::span<const Unit> list) {
    std::uint64_t bytes = 0;
    std::size_t n = 0;
    while (n < list.size() && bytes + list[n].bytes <= source.anonymous_bytes()) bytes += list[n++].bytes;
    return list.first(n);
  }
  [[nodiscard]] std::vector<Unit> planned_pins(const StreamedSource& source) const {
    std::vector<Unit> list;
    for (std::size_t i = 0; i < units.size(); ++i)
      if (source.plan().pinned[i]) list.push_back(units[i]);
    return list;
  }

  Packing packing;
  std::filesystem::path path;
  Bytes original;
  std::vector<SegmentId> ids;
  StreamOptions options;
  std::vector<Unit> units;  // of layers and output head, in the order of use
  std::uint64_t total = 0, largest = 0;

 private:
  // Parts follow each other and cover their segment.
  void cut(const PackFile& pack) {
    const auto source = open(~std::uint64_t{0});
    for (const SegmentId id : ids) {
      const auto& tensors = pack.segment(id).tensors;
      std::size_t next = 0;
      for (const Part& part : source->parts(id)) {
        Unit unit;
        unit.segment = id;
        unit.part = static_cast<std::uint32_t>(&part - source->parts(id).data());
        for (std::uint32_t i = 0; i < part.n_tensors; ++i) {
          unit.tensors.push_back(tensors.at(next++));
          unit.bytes += pack_padded(unit.tensors.back().bytes);
        }
        if (part.row_end != 0) {
          EXPECT_EQ(part.row_begin, unit.tensors.back().row_begin);
          EXPECT_EQ(part.row_end, unit.tensors.back().row_end);
        }
        if (id.kind != SegmentId::Kind::kEmbedding) {
          const model::SegmentTensor& first = packing.model.segment(id)[part.first_tensor];
          EXPECT_EQ(unit.tensors.front().role, first.role);
        }
        total += unit.bytes;
        largest = std::max(largest, unit.bytes);
        units.push_back(std::move(unit));
      }
      EXPECT_EQ(next, tensors.size());
    }
  }
};

// Waits until the source has read what it can.
void expect_read(const StreamedSource& source, std::uint64_t bytes) {
  EXPECT_TRUE(eventually([&] { return source.statistics().read_bytes >= bytes; }));
  EXPECT_EQ(source.statistics().read_bytes, bytes);
}

// After `passes` from begin to end. What the reader left in a slot because computing was faster than it
// looked is not read again.
void expect_planned_reads(const StreamedSource& source, std::uint64_t ahead, std::uint64_t passes) {
  const StreamStatistics now = source.statistics();
  EXPECT_LE(now.read_bytes, ahead + passes * now.streamed_bytes_per_pass);
  EXPECT_GE(now.read_bytes + passes * now.slots_bytes, passes * now.streamed_bytes_per_pass);
}

TEST(StreamedSource, EveryBudgetGivesThePacksBytesWithThePlannedReads) {
  synth::SynthSpec tied = small_spec("qwen3", "Q8_0");
  tied.shape.tied = true;
  struct Case {
    synth::SynthSpec spec;
    bool repack;
    std::uint64_t max_block_bytes = kBlockBytes;
  };
  const synth::SynthSpec llama = small_spec("llama", "Q4_K_M");
  for (const auto& [spec, repack, block] : {Case{llama, true}, Case{llama, false}, Case{llama, true, 20'000},
                                            Case{small_spec("qwen2", "Q4_0"), true}, Case{tied, true}}) {
    Streaming s(spec, repack, block);
    ASSERT_GT(s.units.size(), 16U) << "layers are cut";
    const std::uint64_t least = 2 * s.largest;
    ASSERT_LT(least, s.total);
    for (std::uint32_t visits = 1; visits <= 4; ++visits)
      for (const std::uint64_t budget :
           {least, (3 * least + s.total) / 4, (least + s.total) / 2, s.total - 1, s.total}) {
        SCOPED_TRACE(std::format("{} {}, blocks of {}, {} visits, budget {} of {}", spec.arch, spec.type,
                                 block, visits, budget, s.total));
        const auto source = s.open(budget, visits);
        EXPECT_EQ(source->streams(), budget < s.total);
        EXPECT_LE(source->resident_bytes(), budget);
        const auto streamed = s.streamed(*source);
        std::uint64_t per_pass = 0, ahead = 0;
        for (const Unit& unit : streamed) per_pass += unit.bytes;
        for (const Unit& unit : s.fit(*source, streamed)) ahead += unit.bytes;
        EXPECT_EQ(source->statistics().streamed_bytes_per_pass, per_pass);
        EXPECT_EQ(source->statistics().pinned_bytes, s.total - per_pass);
        expect_read(*source, ahead);
        for (std::uint64_t i = 1; i <= 5; ++i) {
          s.pass(*source);
          EXPECT_TRUE(source->still_good());
          expect_planned_reads(*source, ahead, i);
        }
      }
  }
}

// F16, 256 values: 512 bytes a row, so a block of the head, 8 MiB less 64 KiB, has 16256 rows at most; 70000
// are five blocks.
TEST(StreamedSource, AHeadOfSeveralBlocksOfRows) {
  synth::SynthSpec spec = small_spec("llama", "F16");
  spec.shape.n_layer = 2;
  spec.shape.n_vocab = 70'000;
  Streaming s(spec);
  const auto source = s.open(2 * in_slot(s.largest, AlignedBuffer::kHugePage));
  EXPECT_TRUE(source->streams());
  EXPECT_EQ(source->parts(SegmentId::output()).size(), 5U);
  EXPECT_EQ(source->parts(SegmentId::embedding()).size(), 1U);
  for (int i = 0; i < 3; ++i) s.pass(*source);
}

TEST(StreamedSource, RowsOfTheEmbeddingAreTheModelFiles) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  const auto source = s.open(2 * s.largest);
  const auto& tensor = *s.packing.model.segment(SegmentId::embedding()).front().tensor;
  const auto wanted =
      read_file(s.packing.model.file().paths()[tensor.file_index], tensor.offset, tensor.bytes);
  const auto places = value_of(source->acquire(SegmentId::embedding(), 0));
  EXPECT_EQ(std::memcmp(places.front().data, wanted.data(), wanted.size()), 0);
  source->release(SegmentId::embedding(), 0);
}

// A prompt of two batches passes each of two windows twice.
TEST(StreamedSource, TheSameWindowTwice) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  for (const std::uint64_t budget : {2 * s.largest, (2 * s.largest + s.total) / 2}) {
    const auto source = s.open(budget, 2);
    const auto first = std::span(s.units).first(s.units.size() / 2);
    const auto second = std::span(s.units).subspan(first.size());
    for (int i = 0; i < 3; ++i)
      for (const auto window : {first, first, second, second}) s.pass(*source, window);
  }
}

// Any part at any time, as many as may be held at once, released in any order: they stay as they are.
TEST(StreamedSource, AnyOrderWithAsManyHeldAsMayBe) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  std::mt19937 random(5);  // NOLINT(cert-msc32-c,cert-msc51-cpp): the same in each run
  for (const std::uint64_t budget : {2 * s.largest, 3 * s.largest, (2 * s.largest + s.total) / 2}) {
    const auto source = s.open(budget);
    const std::uint64_t limit = source->anonymous_bytes();
    SCOPED_TRACE(std::format("{} may be held", limit));
    struct Held {
      const Unit* unit;
      std::span<const TensorPlace> places;
    };
    std::vector<Held> held;
    const auto let_go = [&](std::size_t i) {
      EXPECT_TRUE(s.same(*held[i].unit, held[i].places)) << "changed while it was held";
      source->release(held[i].unit->segment, held[i].unit->part);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(i));
    };
    for (int i = 0; i < 1000; ++i) {
      const Unit& unit = s.units[random() % s.units.size()];
      if (std::ranges::contains(held, &unit, &Held::unit)) continue;
      const auto held_bytes = [&] {
        std::uint64_t sum = 0;
        for (const Held& one : held) sum += one.unit->bytes;
        return sum;
      };
      while (held_bytes() + unit.bytes > limit) let_go(random() % held.size());
      const auto places = value_of(source->acquire(unit.segment, unit.part));
      EXPECT_TRUE(s.same(unit, places));
      held.push_back({&unit, places});
      if (random() % 4 == 0) let_go(random() % held.size());
    }
    while (!held.empty()) let_go(0);
    s.pass(*source);
  }
}

// What room there is holds what is needed soon, but later than what is waited for.
TEST(StreamedSource, AFreeSlotGoesToWhatIsWaitedFor) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  const auto source = s.open(2 * s.largest);
  ASSERT_EQ(s.streamed(*source).size(), s.units.size());
  std::uint64_t read = 0;
  for (const Unit& unit : s.fit(*source, s.units)) read += unit.bytes;
  expect_read(*source, read);
  const auto acquire = [&](std::size_t i) {
    EXPECT_TRUE(s.same(s.units[i], value_of(source->acquire(s.units[i].segment, s.units[i].part))));
  };
  acquire(2);
  acquire(7);
  // What it reads after 2 and 7 differs; 8 follows 7 in the end.
  EXPECT_TRUE(eventually([&] {
    const std::uint64_t now = source->statistics().read_bytes;
    const bool rests = now == read && now >= s.units[7].bytes + s.units[8].bytes;
    read = now;
    return rests;
  }));
  acquire(6);
  for (const std::size_t i : {2U, 7U, 6U}) source->release(s.units[i].segment, s.units[i].part);
  s.pass(*source);
}

// In the order of use with all that may be held: nothing is read twice.
TEST(StreamedSource, HoldingManyReadsNothingTwice) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  const auto source = s.open((2 * s.largest + s.total) / 2);
  const auto streamed = s.streamed(*source);
  const std::uint64_t limit = source->anonymous_bytes();
  std::uint64_t ahead = 0;
  for (const Unit& unit : s.fit(*source, streamed)) ahead += unit.bytes;
  for (std::uint64_t pass = 1; pass <= 3; ++pass) {
    std::deque<std::pair<const Unit*, std::span<const TensorPlace>>> held;
    std::uint64_t held_bytes = 0;
    const auto let_go = [&] {
      EXPECT_TRUE(s.same(*held.front().first, held.front().second));
      source->release(held.front().first->segment, held.front().first->part);
      held_bytes -= held.front().first->bytes;
      held.pop_front();
    };
    for (const Unit& unit : s.units) {
      while (held_bytes + unit.bytes > limit) let_go();
      held.emplace_back(&unit, value_of(source->acquire(unit.segment, unit.part)));
      held_bytes += unit.bytes;
    }
    while (!held.empty()) let_go();
    expect_planned_reads(*source, ahead, pass);
  }
}

// --- memory that others want
// ----------------------------------------------------------------------------------------

// Asks the system to take the pages behind a part that is pinned.
void take_pages(StreamedSource& source, const Unit& unit) {
  const auto places = value_of(source.acquire(unit.segment, unit.part));
  for (std::size_t i = 0; i < places.size(); ++i) {
    const auto begin = reinterpret_cast<std::uintptr_t>(places[i].data) / page_bytes() * page_bytes();
    const auto end = reinterpret_cast<std::uintptr_t>(places[i].data) + pack_padded(unit.tensors[i].bytes);
    EXPECT_EQ(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT), 0);
  }
  source.release(unit.segment, unit.part);
}

// Whether pages of files in this folder can be taken.
bool has_disk(const std::filesystem::path& path) {
  constexpr long kTmpfs = 0x01021994;
  struct statfs info{};
  return ::statfs(path.c_str(), &info) == 0 && info.f_type != kTmpfs;
}
#define NEEDS_A_DISK(path) \
  if (!has_disk(path)) GTEST_SKIP() << "the folder for temporary files is memory"

// A machine's memory as the test wants it.
struct Machine {
  std::shared_ptr<std::atomic<std::uint64_t>> usable = std::make_shared<std::atomic<std::uint64_t>>(0);
  void lend_to(StreamOptions& options) const {
    options.pins.patience = options.pins.most_patience = std::chrono::milliseconds(0);
    options.memory = [usable = usable] {
      MemoryStatus status;
      status.available = *usable;
      return status;
    };
  }
};

TEST(StreamedSource, PinsThatAreTakenAreStreamedAndComeBack) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  NEEDS_A_DISK(s.path);
  const Machine machine;
  machine.lend_to(s.options);
  const auto source = s.open((2 * s.largest + s.total) / 2);
  const std::uint64_t planned = source->statistics().pinned_bytes;
  for (int round = 0; round < 3; ++round) {
    *machine.usable = 0;
    ASSERT_TRUE(eventually([&] {
      // Any will do: the system keeps what it thinks is in use, and pages that are one with their neighbours.
      for (const Unit& unit : s.planned_pins(*source)) take_pages(*source, unit);
      return source->statistics().pinned_bytes < planned;
    })) << "the system took no page of a pin in 20 s, or nobody saw it";
    const StreamStatistics now = source->statistics();
    EXPECT_EQ(now.streamed_bytes_per_pass, s.total - now.pinned_bytes);
    for (int i = 0; i < 3; ++i) s.pass(*source);
    EXPECT_TRUE(source->still_good());
    *machine.usable = s.total + (64U << 20);
    ASSERT_TRUE(eventually([&] { return source->statistics().pinned_bytes == planned; }));
    for (int i = 0; i < 3; ++i) s.pass(*source);
  }
}

// As many as may be held, in any order, while pins come and go.
TEST(StreamedSource, WhatIsHeldStaysWhilePinsComeAndGo) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  NEEDS_A_DISK(s.path);
  const Machine machine;
  machine.lend_to(s.options);
  *machine.usable = s.total + (64U << 20);
  const auto source = s.open((2 * s.largest + s.total) / 2);
  const std::vector<Unit> pins = s.planned_pins(*source);
  std::mt19937 random(7);  // NOLINT(cert-msc32-c,cert-msc51-cpp): the same in each run
  std::uint64_t changes = 0, last = source->statistics().pinned_bytes;
  ASSERT_TRUE(eventually([&] {
    take_pages(*source, pins[random() % pins.size()]);
    const Unit& unit = s.units[random() % s.units.size()];
    const auto places = value_of(source->acquire(unit.segment, unit.part));
    EXPECT_TRUE(s.same(unit, places));
    const std::uint64_t now = source->statistics().pinned_bytes;
    if (std::exchange(last, now) != now) ++changes;
    EXPECT_TRUE(s.same(unit, places)) << "changed while it was held";
    source->release(unit.segment, unit.part);
    return changes >= 6;
  })) << changes
      << " changes of the pins in 20 s";
  s.pass(*source);
}

// In a child whose control group has too little for the pins and for what it takes: 0 when every byte was
// right, pins went and came back.
[[noreturn]] void compete(const TestGroup& group, Streaming& s, std::uint64_t budget, std::uint64_t taken) {
  group.enter();
  const auto source = s.open(budget);
  const std::uint64_t planned = source->statistics().pinned_bytes;
  s.pass(*source);
  {
    auto others = AlignedBuffer::make(taken, {.populate = true});
    if (!others) _exit(2);
    const bool went = eventually([&] { return source->statistics().pinned_bytes < planned; });
    for (int i = 0; i < 3; ++i) s.pass(*source);
    if (!went) _exit(3);
    std::fprintf(stderr, "%s of %s pinned; ", format_bytes(source->statistics().pinned_bytes).c_str(),
                 format_bytes(planned).c_str());
  }
  const bool came = eventually([&] {
    s.pass(*source);
    return source->statistics().pinned_bytes == planned;
  });
  if (!came) _exit(4);
  std::fprintf(stderr, "and all again\n");
  _exit(::testing::Test::HasFailure() ? 1 : 0);
}

TEST(StreamedSourceDeath, AnotherProgramTakesTheMemoryOfPins) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's own memory does not fit the control group of the test";
  synth::SynthSpec spec = small_spec("llama", "Q4_0");
  spec.shape.n_layer = 12;
  spec.shape.n_embd = 1024;
  spec.shape.n_head = spec.shape.n_head_kv = 8;
  spec.shape.n_ff = 4096;
  Streaming s(spec);
  s.options.pins.patience = s.options.pins.most_patience = std::chrono::milliseconds(500);
  s.options.memory = {};
  const std::uint64_t limit = s.total * 3 / 2;
  const auto group = TestGroup::make(limit);
  if (!group) GTEST_SKIP() << group.error().message;
  // Out of the cache, so that the group that reads it is charged for it.
  {
    const auto file = InputFile::open(s.path);
    drop(MappedFile::map(*file)->bytes(), *file, 0);
  }
  const std::uint64_t budget = s.total * 8 / 10;
  EXPECT_EXIT(compete(*group, s, budget, limit - budget / 2), ::testing::ExitedWithCode(0), "and all again");
}

// --- what goes wrong
// ------------------------------------------------------------------------------------------

TEST(StreamedSource, AReadThatFailsIsAnErrorForEver) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  // The first read of all, one in the middle of a pass, one of a later pass; it would work again afterwards.
  for (const int good_reads : {0, 5, 100}) {
    auto reads = std::make_shared<std::atomic<int>>(0);
    s.options.reader.inject = [reads, good_reads](std::uint64_t) -> std::optional<int> {
      return (*reads)++ == good_reads ? std::optional(EIO) : std::nullopt;
    };
    const auto source = s.open(3 * s.largest);
    const Error error = s.passes_until_error(*source);
    EXPECT_EQ(error.code, ErrorCode::kIo) << error.message;
    EXPECT_NE(error.message.find(s.path.string()), std::string::npos) << error.message;
    for (const Unit& unit : s.units) {
      const auto again = source->acquire(unit.segment, unit.part);
      ASSERT_FALSE(again);
      EXPECT_EQ(again.error().message, error.message);
    }
  }
}

// What is held when it fails can still be released, and the source can end with reads in flight.
TEST(StreamedSource, EndsWhateverIsHeldOrRead) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  for (int i = 0; i < 20; ++i) (void)s.open(6 * s.largest);
  auto fails = std::make_shared<std::atomic<bool>>(false);
  s.options.reader.inject = [fails](std::uint64_t) { return *fails ? std::optional(EIO) : std::nullopt; };
  const auto source = s.open(2 * s.largest);
  const Unit& unit = s.units[0];
  const auto places = value_of(source->acquire(unit.segment, unit.part));
  *fails = true;
  const Unit& later = s.units.at(s.fit(*source, s.units).size());
  EXPECT_FALSE(source->acquire(later.segment, later.part));
  EXPECT_TRUE(s.same(unit, places));
  source->release(unit.segment, unit.part);
  const auto held = s.open(s.total);  // all pinned: no reads to fail
  s.pass(*held);
}

TEST(StreamedSource, AStreamedBitThatFlipsIsAnError) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  for (const bool while_open : {true, false}) {
    std::unique_ptr<StreamedSource> source = s.open(2 * s.largest);
    const Unit unit = s.units[10];
    const std::uint64_t at = unit.tensors.back().offset + unit.tensors.back().bytes - 1;
    if (while_open) s.pass(*source);
    if (!while_open) source.reset();
    flip_bit(s.path, at);
    if (!while_open) source = s.open(2 * s.largest);
    const Error error = s.passes_until_error(*source);
    EXPECT_EQ(error.code, ErrorCode::kInvalidFile) << error.message;
    EXPECT_NE(error.message.find(s.path.string()), std::string::npos) << error.message;
    EXPECT_NE(error.message.find(segment_text(unit.segment)), std::string::npos) << error.message;
    const auto again = source->acquire(s.units[0].segment, s.units[0].part);
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().message, error.message);
    flip_bit(s.path, at);
  }
}

TEST(StreamedSource, APinnedBitThatFlipsIsAnError) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  for (const std::uint64_t budget : {(2 * s.largest + s.total) / 2, s.total}) {
    const auto source = s.open(budget);
    s.pass(*source);
    const Unit unit = s.planned_pins(*source).at(0);
    flip_bit(s.path, unit.tensors.front().offset);
    const auto good = source->still_good();
    ASSERT_FALSE(good);
    EXPECT_EQ(good.error().code, ErrorCode::kInvalidFile);
    EXPECT_NE(good.error().message.find(segment_text(unit.segment)), std::string::npos)
        << good.error().message;
    EXPECT_FALSE(source->still_good()) << "not only once";
    const auto anew = s.try_open(budget);
    ASSERT_FALSE(anew);
    EXPECT_EQ(anew.error().code, ErrorCode::kInvalidFile);
    flip_bit(s.path, unit.tensors.front().offset);
    std::filesystem::last_write_time(s.path,
                                     std::filesystem::last_write_time(s.path) - std::chrono::hours(1));
  }
}

TEST(StreamedSource, APackCutShortIsAnError) {
  for (const std::uint64_t percent : {0U, 30U, 60U, 99U}) {
    Streaming s(small_spec("llama", "Q4_K_M"));
    std::vector<std::unique_ptr<StreamedSource>> sources;
    for (const std::uint64_t budget : {2 * s.largest, (2 * s.largest + s.total) / 2, s.total})
      sources.push_back(s.open(budget));
    for (const auto& source : sources) s.pass(*source);
    std::filesystem::resize_file(s.path, s.original.size() * percent / 100);
    for (const auto& source : sources) {
      const Error error = s.passes_until_error(*source);
      EXPECT_TRUE(error.code == ErrorCode::kIo || error.code == ErrorCode::kInvalidFile) << error.message;
      EXPECT_NE(error.message.find(s.path.string()), std::string::npos) << error.message;
    }
  }
}

TEST(StreamedSource, APackThatIsRemovedStays) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  const auto source = s.open((2 * s.largest + s.total) / 2);
  s.pass(*source);
  std::filesystem::remove(s.path);
  for (int i = 0; i < 3; ++i) s.pass(*source);
  EXPECT_TRUE(source->still_good());
}

TEST(StreamedSource, LayersMayBeAddedToThePack) {
  Packing p(test_model(small_spec("llama", "Q4_K_M")));
  const std::vector<SegmentId> mine = {SegmentId::of_layer(0), SegmentId::of_layer(1)};
  PackFile pack = p.make(mine);
  const auto path = pack.path();
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) - std::chrono::hours(1));
  const std::uint64_t bytes = pack.segment(mine[0]).bytes + pack.segment(mine[1]).bytes;
  StreamOptions options{.budget_bytes = bytes - 1};
  options.part_bytes = 1;
  const auto source =
      value_of(StreamedSource::open(p.model, mine, p.backend->device(), std::move(pack), options));
  ASSERT_TRUE(source->streams());
  ASSERT_GT(source->statistics().pinned_bytes, 0U);
  const auto pass = [&] {
    for (const SegmentId id : mine)
      for (std::uint32_t part = 0; part < source->parts(id).size(); ++part) {
        ASSERT_TRUE(source->acquire(id, part));
        source->release(id, part);
      }
  };
  pass();
  (void)p.make();
  EXPECT_EQ(p.packed, p.to_pack);
  EXPECT_TRUE(source->still_good());
  pass();
  std::filesystem::last_write_time(path, std::filesystem::file_time_type::clock::now());
  EXPECT_TRUE(source->still_good());
  pass();
}

// Rows of the embedding come from the model file.
TEST(StreamedSource, AModelFileCutShortIsAnError) {
  const TestDir folder;
  const auto path = folder.path() / "model.gguf";
  std::filesystem::copy_file(test_model(small_spec("llama", "Q4_K_M")), path);
  const auto model = value_of(model::ModelFile::open(path));
  Packing p(path);
  const auto source = value_of(StreamedSource::open(
      model, std::vector{SegmentId::embedding(), SegmentId::of_layer(0)}, p.backend->device(),
      p.make(std::vector{SegmentId::of_layer(0)}), {.budget_bytes = ~std::uint64_t{0}}));
  const auto places = value_of(source->acquire(SegmentId::embedding(), 0));
  EXPECT_TRUE(source->still_good());
  std::filesystem::resize_file(path, 4096);
  const gguf::Tensor& table = *model.segment(SegmentId::embedding()).front().tensor;
  EXPECT_EQ(static_cast<const char*>(places.front().data)[table.bytes - 1], 0);
  const auto good = source->still_good();
  ASSERT_FALSE(good);
  EXPECT_EQ(good.error().code, ErrorCode::kIo);
  EXPECT_NE(good.error().message.find(path.string()), std::string::npos) << good.error().message;
}

// Reading gigabytes in takes minutes: whoever waits sees how far it is, and can end it.
TEST(StreamedSource, PinningTellsHowFarItIsAndCanBeEnded) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  std::vector<std::uint64_t> done;
  std::uint64_t of = 0;
  s.options.progress = [&](std::uint64_t bytes, std::uint64_t total) {
    done.push_back(bytes);
    of = total;
  };
  const std::uint64_t budget = (2 * s.largest + s.total) / 2;
  const std::uint64_t pinned = s.open(budget)->plan().pinned_bytes;
  ASSERT_GT(done.size(), 2U);
  EXPECT_TRUE(std::ranges::is_sorted(done));
  EXPECT_EQ(done.back(), pinned);
  EXPECT_EQ(of, pinned);

  const std::uint64_t until = done[1];
  done.clear();
  s.options.cancelled = [&] { return !done.empty() && done.back() >= until; };
  const auto source = s.try_open(budget);
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(done.size(), 2U);
}

TEST(StreamedSource, TooLittleMemoryIsAnErrorWithNumbers) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  EXPECT_TRUE(s.try_open(2 * s.largest));
  for (const std::uint64_t budget : {std::uint64_t{0}, 2 * s.largest - 1}) {
    const auto source = s.try_open(budget);
    ASSERT_FALSE(source);
    EXPECT_EQ(source.error().code, ErrorCode::kOutOfMemory);
    for (const std::string& text : {format_bytes(s.total), format_bytes(s.largest), format_bytes(budget)})
      EXPECT_NE(source.error().message.find(text), std::string::npos) << source.error().message;
  }
}

}  // namespace
}  // namespace hearth::residency
