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
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/os_pages.h"
#include "base/units.h"
#include "residency/pack_writer.h"
#include "residency/test_packs.h"
#include "residency/test_streaming.h"

namespace hearth::residency {
namespace {

using model::SegmentId;
using test::eventually;
using test::flip_bit;
using test::Packing;
using test::read_file;
using test::Streaming;
using test::Unit;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

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

// Who adds layers writes to the file all the time: pins are looked through once it is done.
TEST(StreamedSource, WhatABuilderWritesIsLookedAtWhenItIsDone) {
  Streaming s(small_spec("llama", "Q4_K_M"));
  const auto source = s.open((2 * s.largest + s.total) / 2);
  {
    const Descriptor builder(::open(s.path.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(try_lock_pack(builder.get()));
    flip_bit(s.path, s.planned_pins(*source).at(0).tensors.front().offset);
    EXPECT_TRUE(source->still_good());
  }
  EXPECT_FALSE(source->still_good());
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
