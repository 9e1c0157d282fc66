// Whatever is wrong with a pack, its folder, its disk or its model file: a rebuild or a clear error.
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <future>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <unistd.h>

#include "residency/pack.h"
#include "residency/pack_cache.h"
#include "residency/pack_layout.h"
#include "residency/pack_writer.h"
#include "residency/test_packs.h"

namespace hearth::residency {
namespace {

using model::SegmentId;
using test::Bytes;
using test::flip_bit;
using test::Packing;
using test::read_file;
using test::write_at;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

std::filesystem::path small_model() {
  return test_model(small_spec("llama", "Q4_0"));
}

std::size_t n_present(const PackFile& pack) {
  std::size_t n = 0;
  for (const PackSegment& segment : pack.segments()) n += segment.present ? 1 : 0;
  return n;
}

TEST(PackRecovery, GoesOnWhereItWasEnded) {
  Packing whole(small_model()), p(small_model());
  const Bytes wanted = read_file(whole.make().path());
  // Ended inside the fourth layer.
  const PackHeader layout = value_of(pack_layout(p.model, p.backend->device(), true));
  const std::uint64_t three = 3 * layout.segments[0].bytes;
  p.options.cancelled = [&] { return p.packed > three; };
  const auto ended = p.ensure(p.all());
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(n_present(value_of(PackFile::open(p.options.cache_dir / pack_name(layout), layout))), 3U);
  p.options.cancelled = {};
  const PackFile pack = p.make();
  EXPECT_EQ(p.to_pack, whole.to_pack - three);
  EXPECT_EQ(read_file(pack.path()), wanted);
}

TEST(PackRecovery, EverySingleStopLeavesAPackThatIsValid) {
  synth::SynthSpec spec = small_spec("llama", "Q4_0");
  spec.shape.n_layer = 2;
  Packing whole(test_model(spec)), p(test_model(spec));
  const Bytes wanted = read_file(whole.make().path());
  // Ended after 1, 2, ... questions since the last stop; each attempt gets one question further.
  for (int limit = 1;; ++limit) {
    int asked = 0;
    p.options.cancelled = [&] { return ++asked > limit; };
    const auto pack = p.ensure(p.all());
    if (pack) {
      EXPECT_EQ(read_file(pack->path()), wanted);
      EXPECT_GT(limit, 3);
      break;
    }
    ASSERT_EQ(pack.error().code, ErrorCode::kCancelled);
    const auto left = value_of(PackFile::open(p.options.cache_dir / whole.make().path().filename()));
    for (const PackSegment& segment : left.segments())
      ASSERT_TRUE(!segment.present || left.verify(segment.id));
  }
}

TEST(PackRecovery, FlippedBitInTheHeader) {
  Packing p(small_model());
  const auto path = p.make().path();
  const Bytes wanted = read_file(path);
  for (const std::uint64_t at : {0, 9, 13, 20, 40, 300}) {
    flip_bit(path, at);
    EXPECT_EQ(read_file(p.make().path()), wanted) << at;
    EXPECT_TRUE(p.noticed("will be made anew")) << at;
  }
}

TEST(PackRecovery, FlippedBitInARecordRebuildsThatLayerOnly) {
  Packing p(small_model());
  const PackFile before = p.make();
  const Bytes wanted = read_file(before.path());
  const PackSegment& layer = before.segment(SegmentId::of_layer(6));
  flip_bit(before.path(), layer.record_offset + 100);
  EXPECT_EQ(read_file(p.make().path()), wanted);
  EXPECT_EQ(p.to_pack, layer.bytes);
}

// Another process may be computing from a layer that is built again: its bytes must never be anything else.
TEST(PackRecovery, ALayerThatIsBuiltAgainStaysReadable) {
  Packing p(small_model());
  const PackFile reader = p.make();
  const PackSegment& layer = reader.segment(SegmentId::of_layer(6));
  const Bytes wanted = read_file(reader.path(), layer.offset, layer.bytes);
  flip_bit(reader.path(), layer.record_offset + 100);
  for (int round = 0; round < 3; ++round) {
    int asked = 0;
    p.options.cancelled = [&] { return ++asked > 4 * round; };
    ASSERT_EQ(p.ensure(p.all()).error().code, ErrorCode::kCancelled);
    EXPECT_TRUE(std::ranges::equal(reader.bytes().subspan(layer.offset, layer.bytes), wanted));
    EXPECT_EQ(n_present(value_of(PackFile::open(reader.path()))), 8U);
  }
  p.options.cancelled = {};
  EXPECT_TRUE(p.make().verify(layer.id));
  EXPECT_EQ(p.to_pack, layer.bytes);
}

TEST(PackRecovery, FlippedBitInTheWeights) {
  Packing p(small_model());
  const PackFile before = p.make();
  const Bytes wanted = read_file(before.path());
  const PackSegment& layer = before.segment(SegmentId::of_layer(1));
  const PackTensor& tensor = layer.tensors[3];
  ASSERT_TRUE(matches(tensor, before.bytes().subspan(tensor.offset, tensor.bytes)));
  flip_bit(before.path(), tensor.offset + tensor.bytes / 2);
  EXPECT_FALSE(matches(tensor, before.bytes().subspan(tensor.offset, tensor.bytes)))
      << "what a streamed read compares";
  const auto bad = before.verify(layer.id);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code, ErrorCode::kInvalidFile);
  EXPECT_NE(bad.error().message.find("layer 1"), std::string::npos) << bad.error().message;
  p.options.verify = true;
  EXPECT_EQ(read_file(p.make().path()), wanted);
  EXPECT_EQ(p.to_pack, layer.bytes);
  EXPECT_TRUE(p.noticed("layer 1"));
}

TEST(PackRecovery, TruncatedGrownEmptyOrDeleted) {
  Packing p(small_model());
  const auto path = p.make().path();
  const Bytes wanted = read_file(path);
  for (const std::uint64_t size :
       {std::uint64_t{0}, std::uint64_t{10}, std::uint64_t{5000}, wanted.size() - 1, wanted.size() + 4096}) {
    std::filesystem::resize_file(path, size);
    EXPECT_EQ(read_file(p.make().path()), wanted) << size;
    EXPECT_EQ(p.packed, p.to_pack);
    EXPECT_GT(p.to_pack, 0U);
  }
  std::filesystem::remove(path);
  EXPECT_EQ(read_file(p.make().path()), wanted);
}

TEST(PackRecovery, AnOpenPackOutlivesItsReplacement) {
  Packing p(small_model());
  const PackFile old = p.make();
  const Bytes wanted = read_file(old.path());
  std::filesystem::remove(old.path());
  (void)p.make();
  EXPECT_TRUE(std::ranges::equal(old.bytes(), wanted));
  EXPECT_TRUE(old.verify(SegmentId::of_layer(0)));
}

TEST(PackRecovery, PackForAnotherGgmlOrCpu) {
  Packing p(small_model());
  const PackFile good = p.make();
  const Bytes wanted = read_file(good.path());
  PackHeader other = value_of(pack_layout(p.model, p.backend->device(), true));
  other.key.ggml = "0.1.0 (old)";
  ASSERT_TRUE(place_segments(other));
  PackHeader other_model = other;
  other_model.key.model[0] ^= 1;
  ASSERT_TRUE(place_segments(other_model));

  const auto stale = PackFile::open(good.path(), other.key);
  ASSERT_FALSE(stale);
  EXPECT_EQ(stale.error().code, ErrorCode::kVersionMismatch);
  EXPECT_NE(stale.error().message.find("this is 0.1.0 (old)"), std::string::npos) << stale.error().message;
  EXPECT_TRUE(PackFile::open(good.path(), good.header().key));

  // Under its own name: deleted when a pack is built. Under ours: replaced. Another model's: left alone.
  const auto put = [&](const PackHeader& header, const std::filesystem::path& path) {
    std::ofstream(path, std::ios::binary).flush();
    std::filesystem::resize_file(path, header.file_bytes);
    write_at(path, 0, encode_header(header));
  };
  ASSERT_NE(pack_name(other), good.path().filename().string());
  put(other, p.options.cache_dir / pack_name(other));
  put(other_model, p.options.cache_dir / pack_name(other_model));
  put(other, good.path());
  EXPECT_EQ(read_file(p.make().path()), wanted);
  EXPECT_TRUE(p.noticed("0.1.0 (old)"));
  EXPECT_FALSE(std::filesystem::exists(p.options.cache_dir / pack_name(other)));
  EXPECT_TRUE(std::filesystem::exists(p.options.cache_dir / pack_name(other_model)));

  // Plain and repacked packs live side by side.
  p.options.repack = false;
  const PackFile plain = p.make();
  EXPECT_NE(plain.path(), good.path());
  EXPECT_TRUE(std::filesystem::exists(good.path()));
}

// Another fine-tune of the same shape and name: the fingerprint, which covers the header, is the same.
TEST(PackRecovery, OtherWeightsBehindTheSameHeader) {
  const TestDir folder;
  const auto path = folder.path() / "model.gguf";
  std::filesystem::copy_file(small_model(), path);
  Packing p(path);
  const PackFile old = p.make();
  const Bytes old_bytes = read_file(old.path());
  const gguf::Tensor& tensor = *p.model.file().find_tensor("blk.4.ffn_up.weight");
  Bytes other(tensor.bytes);
  for (std::size_t i = 0; i < other.size(); ++i) other[i] = static_cast<std::uint8_t>(i % 50);
  write_at(path, tensor.offset, other);
  const PackFile fresh = p.make();
  EXPECT_TRUE(p.noticed("layer 4"));
  EXPECT_EQ(p.packed, p.to_pack);
  EXPECT_NE(read_file(fresh.path()), old_bytes);
  EXPECT_TRUE(std::ranges::equal(old.bytes(), old_bytes)) << "whoever runs from the old pack keeps it";
}

TEST(PackRecovery, AModelFileThatIsWrongIsAnError) {
  const TestDir folder;
  const auto path = folder.path() / "model.gguf";
  std::filesystem::copy_file(small_model(), path);
  Packing p(path);
  const gguf::Tensor& norm = *p.model.file().find_tensor("blk.2.ffn_norm.weight");
  const Bytes right = read_file(path, norm.offset + 12, 4);
  write_at(path, norm.offset + 12, {0, 0, 0xC0, 0x7F});  // NaN
  const auto nan = p.ensure(p.all());
  ASSERT_FALSE(nan);
  EXPECT_EQ(nan.error().code, ErrorCode::kInvalidFile);
  EXPECT_NE(nan.error().message.find("value 3 of tensor 'blk.2.ffn_norm.weight'"), std::string::npos)
      << nan.error().message;
  write_at(path, norm.offset + 12, right);
  EXPECT_EQ(n_present(p.make({SegmentId::of_layer(1)})), 2U) << "the layers before it were kept";

  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  const auto cut = p.ensure(p.all());
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().code, ErrorCode::kInvalidFile);
  std::filesystem::remove(path);
  EXPECT_EQ(p.ensure(p.all()).error().code, ErrorCode::kNotFound);
}

// A layer with holes would never be found out: its samples may be right already.
TEST(PackRecovery, AModelFileThatIsStillBeingFetchedIsAnError) {
  const TestDir folder;
  const auto path = folder.path() / "model.gguf";
  std::filesystem::copy_file(small_model(), path);
  // The clock of a file system is coarse: a change during the test is a later one for sure.
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) - std::chrono::hours(1));
  Packing p(path);
  const gguf::Tensor& last = *p.model.file().find_tensor("blk.6.ffn_up.weight");
  const Bytes bytes = read_file(path, last.offset, 64);
  bool written = false;
  p.options.cancelled = [&] {
    if (p.packed > 0 && !std::exchange(written, true)) write_at(path, last.offset, bytes);
    return false;
  };
  const auto made = p.ensure(p.all());
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kInvalidFile);
  EXPECT_NE(made.error().message.find("model.gguf: was written to while it was packed"), std::string::npos)
      << made.error().message;
  EXPECT_EQ(n_present(p.make()), p.all().size()) << "once it stands still";
}

// --- disks
// ------------------------------------------------------------------------------------------------------

TEST(PackRecovery, TooLittleSpaceIsSaidBefore) {
  Packing p(small_model());
  p.options.reserve_bytes = ~std::uint64_t{0};
  const auto refused = p.ensure(p.all());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kIo);
  for (const char* part : {"needs", "free", "--cache-dir", p.options.cache_dir.c_str()})
    EXPECT_NE(refused.error().message.find(part), std::string::npos) << refused.error().message;
  EXPECT_EQ(p.packed, 0U);
}

TEST(PackRecovery, AFolderThatCannotBe) {
  Packing p(small_model());
  p.options.cache_dir = p.folder.write("file", "x") / "packs";
  EXPECT_EQ(p.ensure(p.all()).error().code, ErrorCode::kIo);
}

// A disk of 3 MB that another program fills while the pack is built.
TEST(PackRecovery, DiskFullWhilePacking) {
  Packing p(small_model());
  const auto disk = p.options.cache_dir;
  std::filesystem::create_directories(disk);
  // In a mount namespace of this process, so that nothing is left behind however it ends.
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=4m") != 0)
    GTEST_SKIP() << "a small disk cannot be mounted here: " << std::generic_category().message(errno)
                 << " (needs root)";
  const PackHeader layout = value_of(pack_layout(p.model, p.backend->device(), true));
  std::uint64_t needed = 0;
  for (const PackSegment& segment : layout.segments) needed += segment.bytes;
  const std::uint64_t two = 2 * layout.segments[0].bytes;
  ASSERT_LT(needed, 3'900'000U);
  bool filled = false;
  const auto progress = p.options.progress;
  p.options.progress = [&](std::uint64_t done, std::uint64_t total) {
    progress(done, total);
    if (done < two || filled) return;
    filled = true;
    std::ofstream hog(disk / "hog", std::ios::binary);
    for (const std::string block(65536, 'x'); hog.write(block.data(), 65536).flush().good();) {
    }
  };
  const auto full = p.ensure(p.all());
  ASSERT_FALSE(full);
  ASSERT_TRUE(filled);
  EXPECT_EQ(full.error().code, ErrorCode::kIo);
  EXPECT_NE(full.error().message.find("full"), std::string::npos) << full.error().message;
  {
    const PackFile left = value_of(PackFile::open(disk / pack_name(layout), layout));
    EXPECT_GE(n_present(left), 1U);
    EXPECT_LT(n_present(left), layout.segments.size());
    for (const PackSegment& segment : left.segments())
      EXPECT_TRUE(!segment.present || left.verify(segment.id));
  }
  const auto again = p.ensure(p.all());
  ASSERT_FALSE(again) << "now it is known before";
  EXPECT_NE(again.error().message.find("needs"), std::string::npos) << again.error().message;
  std::filesystem::remove(disk / "hog");
  EXPECT_EQ(n_present(p.make()), layout.segments.size());
  Packing elsewhere(small_model());
  EXPECT_EQ(read_file(disk / pack_name(layout)), read_file(elsewhere.make().path()));
  ::umount2(disk.c_str(), MNT_DETACH);
}

// --- other processes
// --------------------------------------------------------------------------------------------

// flock() sees two descriptors of one process as it sees two processes.
TEST(PackRecovery, WaitsForAnotherBuilder) {
  Packing p(small_model());
  const auto path = p.make({SegmentId::of_layer(0)}).path();
  Descriptor other(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(try_lock_pack(other.get()));
  std::promise<std::filesystem::path> waits;
  p.options.waiting = [&](const std::filesystem::path& what) { waits.set_value(what); };
  // What is there can be used meanwhile.
  EXPECT_EQ(n_present(p.make({SegmentId::of_layer(0)})), 1U);
  auto done = std::async(std::launch::async, [&] { return p.ensure(p.all()); });
  EXPECT_EQ(waits.get_future().get(), path);
  EXPECT_EQ(value_of(list_cache(p.options.cache_dir, p.backend->device()))[0].state, PackState::kBusy);
  EXPECT_EQ(remove_pack(p.options.cache_dir, path.filename()).error().code, ErrorCode::kIo);
  other = Descriptor(-1);  // swaps: the old one is closed with the temporary
  EXPECT_EQ(n_present(value_of(done.get())), 9U);
}

TEST(PackRecovery, WaitingForAnotherBuilderCanBeEnded) {
  Packing p(small_model());
  const auto path = p.make({SegmentId::of_layer(0)}).path();
  const Descriptor other(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(try_lock_pack(other.get()));
  bool waits = false;
  p.options.waiting = [&](const std::filesystem::path&) { waits = true; };
  p.options.cancelled = [&] { return waits; };
  const auto ended = p.ensure(p.all());
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code, ErrorCode::kCancelled);
}

TEST(PackRecovery, TwoBuildersAtOnce) {
  Packing a(small_model()), b(small_model()), alone(small_model());
  b.options.cache_dir = a.options.cache_dir;
  const Bytes wanted = read_file(alone.make().path());
  auto other = std::async(std::launch::async, [&] { return b.ensure(b.all()); });
  const PackFile pack = a.make();
  EXPECT_EQ(value_of(other.get()).path(), pack.path());
  EXPECT_EQ(read_file(pack.path()), wanted);
  EXPECT_EQ(a.packed + b.packed, alone.packed) << "one of them built";
}

// --- the folder
// -------------------------------------------------------------------------------------------------

TEST(PackCache, ListsAndRemoves) {
  Packing p(small_model());
  EXPECT_TRUE(value_of(list_cache(p.options.cache_dir, p.backend->device())).empty());
  const auto path = p.make({SegmentId::of_layer(0), SegmentId::of_layer(1)}).path();
  const auto& folder = p.options.cache_dir;
  p.folder.write("packs/broken.pack", "HEARTHPK, but not really");
  p.folder.write("packs/other.txt", "not ours");
  p.folder.write("packs/half.pack.new-abc123", "of a process that died");
  auto packs = value_of(list_cache(folder, p.backend->device()));
  ASSERT_EQ(packs.size(), 2U);
  const auto& broken = packs[packs[0].name == "broken.pack" ? 0 : 1];
  const auto& good = packs[packs[0].name == "broken.pack" ? 1 : 0];
  EXPECT_EQ(broken.state, PackState::kDamaged);
  EXPECT_FALSE(broken.why.empty());
  EXPECT_EQ(good.name, path.filename().string());
  EXPECT_EQ(good.state, PackState::kPartial);
  EXPECT_EQ(good.present.size(), 2U);
  EXPECT_EQ(good.n_segments, 9U);
  EXPECT_EQ(good.file_bytes, std::filesystem::file_size(path));
  EXPECT_LT(good.disk_bytes, good.file_bytes) << "absent layers are holes";
  (void)p.make();
  packs = value_of(list_cache(folder, p.backend->device()));
  EXPECT_EQ(packs[packs[0].name == "broken.pack" ? 1 : 0].state, PackState::kComplete);

  for (const char* name : {"other.txt", "../packs/broken.pack", "", "."})
    EXPECT_EQ(remove_pack(folder, name).error().code, ErrorCode::kInvalidArgument) << name;
  EXPECT_EQ(remove_pack(folder, "no.pack").error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(remove_pack(folder, "broken.pack"));
  EXPECT_TRUE(remove_pack(folder, path.filename()));
  EXPECT_EQ(remove_leftovers(folder), 1U);
  EXPECT_TRUE(value_of(list_cache(folder, p.backend->device())).empty());
  EXPECT_TRUE(std::filesystem::exists(folder / "other.txt"));
}

TEST(PackCache, FolderComesFromTheEnvironment) {
  const auto set = [](const char* name, const char* value) {
    value == nullptr ? ::unsetenv(name) : ::setenv(name, value, 1);
  };
  set("HEARTH_CACHE", "/a");
  set("XDG_CACHE_HOME", "/b");
  set("HOME", "/c");
  EXPECT_EQ(value_of(default_cache_dir()), "/a");
  set("HEARTH_CACHE", nullptr);
  EXPECT_EQ(value_of(default_cache_dir()), "/b/hearth/packs");
  set("XDG_CACHE_HOME", "");
  EXPECT_EQ(value_of(default_cache_dir()), "/c/.cache/hearth/packs");
  set("HOME", nullptr);
  EXPECT_EQ(default_cache_dir().error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace hearth::residency
