// Memory that others want: pins that are taken are streamed and come back, always with the pack's bytes.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/os_file.h"
#include "base/os_memory.h"
#include "base/os_pages.h"
#include "base/test_group.h"
#include "base/test_sanitizer.h"
#include "base/units.h"
#include "residency/streamed_source.h"
#include "residency/test_streaming.h"

namespace hearth::residency {
namespace {

using test::eventually;
using test::Streaming;
using test::Unit;
using testing::small_spec;
using testing::value_of;

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

// Pages of files in this folder can be taken.
#define NEEDS_A_DISK(path) \
  if (is_in_memory(path)) GTEST_SKIP() << "the folder for temporary files is memory"

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

TEST(StreamedSource, LockedPinsStay) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make mlock do nothing";
  Streaming s(small_spec("llama", "Q8_0"));
  NEEDS_A_DISK(s.path);
  s.options.lock_pins = true;
  const std::uint64_t before = process_memory().locked;
  {
    const auto source = s.open((2 * s.largest + s.total) / 2);
    EXPECT_GT(source->plan().pinned_bytes, 0U);
    EXPECT_GE(process_memory().locked, before + source->plan().pinned_bytes);
    s.pass(*source);
  }
  EXPECT_EQ(process_memory().locked, before);
}

TEST(StreamedSourceDeath, ALimitOfLockedMemoryIsMetBeforeAnythingIsRead) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make mlock do nothing";
  Streaming s(small_spec("llama", "Q8_0"));
  const auto try_it = [&] {
    const rlimit limit{.rlim_cur = page_bytes(), .rlim_max = page_bytes()};
    std::uint64_t read = 0;
    StreamOptions options = s.options;
    options.budget_bytes = (2 * s.largest + s.total) / 2;
    options.lock_pins = true;
    options.progress = [&](std::uint64_t done, std::uint64_t) { read = done; };
    auto pack = value_of(
        ensure_pack(s.packing.model, s.packing.all(), s.packing.backend->device(), s.packing.options));
    setrlimit(RLIMIT_MEMLOCK, &limit);
    if (getuid() == 0 && setuid(65534) != 0) _exit(1);  // root has no limit
    const auto source = StreamedSource::open(s.packing.model, s.packing.all(), s.packing.backend->device(),
                                             std::move(pack), options);
    std::fprintf(stderr, "%s; read %u bytes\n", source ? "locked" : source.error().message.c_str(),
                 static_cast<unsigned>(read));
    _exit(0);
  };
  EXPECT_EXIT(try_it(), ::testing::ExitedWithCode(0),
              "--pin lock: .* of weights are to stay in memory.*RLIMIT_MEMLOCK.*; read 0 bytes");
}

}  // namespace
}  // namespace hearth::residency
