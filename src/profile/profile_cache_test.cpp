#include "profile/profile_cache.h"

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::profile {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

constexpr std::chrono::sys_seconds kNow{std::chrono::seconds(1'790'000'000)};
constexpr std::uint64_t kMemory = std::uint64_t{4} << 30;
// Rates that no machine measures to the byte.
constexpr const char* kPasses =
    "compute 4294967296\npass 1 1234567 0.2500 3\npass 2 1234568 0.0000 1\npass 4 3 0.0000 1\n"
    "pass 8 3 0.0000 1\npass 16 3 0.0000 1\npass 32 3 0.0000 1\npass 128 3 0.0000 1\npass 512 3 0.0000 1\n";
constexpr const char* kDisk = "disk 1234569 0.5000\n";
constexpr const char* kMemoryLine = "memory 1234570 0.0100 1234571\n";

model::ModelFile open(const synth::SynthSpec& spec) {
  return value_of(model::ModelFile::open(test_model(spec)));
}

class ProfileCache : public ::testing::Test {
 protected:
  ProfileCache() : model_(open(small_spec("llama", "Q8_0"))), backend_(value_of(compute::Backend::cpu(1))) {}

  ProfileOptions options() {
    return {.measure = {.memory_bytes = kMemory,
                        .cache_dir = dir_.path(),
                        .compute_budget = std::chrono::milliseconds(0),
                        .log =
                            [this](LogKind kind, const std::string& text) {
                              if (text.starts_with("others had ")) return;  // of this machine, now
                              (kind == LogKind::kNotice ? notices_ : warnings_).push_back(text);
                            },
                        .cancelled = {}},
            .now = kNow};
  }
  Profile load(const ProfileOptions& options) { return load_or_measure(model_, *backend_, options); }

  // Writes an entry by hand.
  void write(std::string_view kind, const residency::Digest& key, const std::string& lines,
             std::int64_t seconds = 1'790'000'000, std::string_view taken = "0.0300") {
    const auto path = profile_path(dir_.path(), kind, key);
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary)
        << "hearth-profile 1\nkey " << hex(key) << "\nmeasured " << seconds << " " << taken << "\n"
        << lines << "end\n";
  }
  void write_all(std::int64_t seconds = 1'790'000'000) {
    write("compute", compute_key(model_, *backend_), kPasses, seconds);
    write("disk", value_of(disk_key(dir_.path())), kDisk, seconds);
    write("memory", memory_key(*backend_), kMemoryLine, seconds);
  }
  [[nodiscard]] std::string text_of(const fs::path& path) const {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }

  TestDir dir_;
  model::ModelFile model_;
  std::unique_ptr<compute::Backend> backend_;
  std::vector<std::string> notices_, warnings_;
};

TEST_F(ProfileCache, WhatIsKeptIsNotMeasured) {
  write_all();
  const Profile profile = load(options());
  EXPECT_EQ(profile.from_cache, Parts::all());
  ASSERT_THAT(profile.rates.cpu, SizeIs(8));
  EXPECT_EQ(profile.rates.cpu[0],
            (PassRate{.n_tokens = 1, .bytes_per_s = 1'234'567, .spread = 0.25, .n_passes = 3}));
  EXPECT_EQ(profile.rates.disk, (residency::DiskRate{.bytes_per_s = 1'234'569, .spread = 0.5}));
  EXPECT_EQ(profile.rates.memory,
            (MemoryRate{.bytes_per_s = 1'234'570, .spread = 0.01, .best_bytes_per_s = 1'234'571}));
  EXPECT_EQ(profile.cpu_at, kNow);
  EXPECT_THAT(notices_, IsEmpty());
}

TEST_F(ProfileCache, WhatIsMeasuredIsKept) {
  const Profile first = load(options());
  EXPECT_EQ(first.from_cache, Parts{});
  ASSERT_TRUE(!first.rates.cpu.empty() && first.rates.disk && first.rates.memory);
  EXPECT_EQ(first.disk_at, kNow);
  // Three files, and nothing half-made.
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path() / "profiles"), {}), 3);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), {}), 1);

  ProfileOptions later = options();
  later.now += std::chrono::minutes(59);  // whatever this machine does besides
  const Profile second = load(later);
  EXPECT_EQ(second.from_cache, Parts::all());
  EXPECT_EQ(second.memory_at, kNow);
  EXPECT_EQ(second.rates.disk->bytes_per_s, first.rates.disk->bytes_per_s);
  EXPECT_NEAR(second.rates.disk->spread, first.rates.disk->spread, 0.00005);
  EXPECT_EQ(second.rates.memory->best_bytes_per_s, first.rates.memory->best_bytes_per_s);
  ASSERT_EQ(second.rates.cpu.size(), first.rates.cpu.size());
  EXPECT_EQ(second.rates.cpu[0].bytes_per_s, first.rates.cpu[0].bytes_per_s);
  EXPECT_THAT(notices_, IsEmpty());
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(ProfileCache, AfterThirtyDaysAndFromTheFutureItIsMeasuredAgain) {
  constexpr std::int64_t kDay = 86'400, kThen = 1'790'000'000;
  ProfileOptions asked = options();
  asked.measure.parts = {.memory = true};
  for (const auto& [measured, is_kept] : {std::pair(kThen - 30 * kDay, true),
                                          {kThen - 30 * kDay - 1, false},
                                          {kThen, true},
                                          {kThen + 1, false}}) {
    write_all(measured);
    const Profile profile = load(asked);
    EXPECT_EQ(profile.from_cache.memory, is_kept) << measured;
    EXPECT_EQ(profile.memory_at, is_kept ? std::chrono::sys_seconds(std::chrono::seconds(measured)) : kNow);
    ASSERT_TRUE(profile.rates.memory);
    EXPECT_EQ(profile.rates.memory->bytes_per_s == 1'234'570, is_kept);
    // What was not asked for is neither read nor measured.
    EXPECT_THAT(profile.rates.cpu, IsEmpty());
    EXPECT_FALSE(profile.rates.disk);
  }
  EXPECT_THAT(notices_, IsEmpty());
}

TEST_F(ProfileCache, OfABusyDeviceItIsKeptForAnHour) {
  constexpr std::int64_t kHour = 3600, kThen = 1'790'000'000;
  ProfileOptions asked = options();
  asked.measure.parts = {.memory = true};
  for (const auto& [measured, taken, is_kept] : {std::tuple(kThen - kHour, "0.1001", true),
                                                 {kThen - kHour - 1, "0.1001", false},
                                                 {kThen - kHour - 1, "0.1000", true}}) {
    write("memory", memory_key(*backend_), kMemoryLine, measured, taken);
    EXPECT_EQ(load(asked).from_cache.memory, is_kept) << measured << " " << taken;
  }
}

TEST_F(ProfileCache, OnlyWhatIsMissingIsMeasured) {
  write_all();
  fs::remove(profile_path(dir_.path(), "memory", memory_key(*backend_)));
  const Profile profile = load(options());
  EXPECT_EQ(profile.from_cache, (Parts{.cpu = true, .disk = true, .memory = false}));
  EXPECT_EQ(profile.rates.disk->bytes_per_s, 1'234'569U);
  ASSERT_TRUE(profile.rates.memory);
  EXPECT_NE(profile.rates.memory->bytes_per_s, 1'234'570U);
}

TEST_F(ProfileCache, FreshIgnoresAndReplacesWhatIsKept) {
  write_all();
  ProfileOptions asked = options();
  asked.measure.parts = {.memory = true};
  asked.fresh = true;
  const Profile profile = load(asked);
  EXPECT_EQ(profile.from_cache, Parts{});
  const auto path = profile_path(dir_.path(), "memory", memory_key(*backend_));
  EXPECT_THAT(text_of(path),
              HasSubstr("\nmemory " + std::to_string(profile.rates.memory->bytes_per_s) + " "));
}

TEST_F(ProfileCache, DamageIsANoticeAndMeasuredAgain) {
  ProfileOptions asked = options();
  asked.measure.parts = {.memory = true};
  const residency::Digest key = memory_key(*backend_);
  const auto path = profile_path(dir_.path(), "memory", key);
  residency::Digest other = key;
  other.back() ^= 1;
  const std::string good =
      "hearth-profile 1\nkey " + hex(key) + "\nmeasured 1790000000 0.0000\n" + kMemoryLine + "end\n";
  for (const std::string& bytes :
       {std::string("garbage"), std::string(), std::string(1 << 20, 'x'), good.substr(0, good.size() - 2),
        "hearth-profile 1\nkey " + hex(other) + "\nmeasured 1790000000 0.0000\n" + kMemoryLine + "end\n",
        "hearth-profile 1\nkey " + hex(key) + "\nmeasured 1790000000 0.0000\n" + kDisk + "end\n",
        "hearth-profile 9" + good.substr(16)}) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    notices_.clear();
    EXPECT_EQ(load(asked).from_cache, Parts{});
    EXPECT_THAT(notices_, ElementsAre(HasSubstr(path.string() + ": this profile cannot be used")));
    EXPECT_EQ(load(asked).from_cache, Parts{.memory = true});  // it was replaced
    EXPECT_THAT(notices_, SizeIs(1));
  }
}

TEST_F(ProfileCache, WhatCannotBeKeptIsANotice) {
  ProfileOptions asked = options();
  asked.measure.parts = {.memory = true};
  // A folder in the place of the file.
  fs::create_directories(profile_path(dir_.path(), "memory", memory_key(*backend_)) / "full");
  EXPECT_TRUE(load(asked).rates.memory);
  EXPECT_THAT(notices_, ElementsAre(HasSubstr("cannot be used"), HasSubstr("the profile is not kept")));
  notices_.clear();
  asked.measure.cache_dir = dir_.write("file", "x");
  EXPECT_TRUE(load(asked).rates.memory);
  EXPECT_THAT(notices_, ElementsAre(HasSubstr("profiles of this device are not kept")));
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(ProfileCache, ACurveThatLacksCountsIsMeasuredAgainWithTwiceTheMemory) {
  ProfileOptions asked = options();
  asked.measure.parts = {.cpu = true};
  const residency::Digest key = compute_key(model_, *backend_);
  for (const auto& [memory, is_kept] : {std::pair(kMemory / 2 + 1, true), {kMemory / 2, false}}) {
    write("compute", key, "compute " + std::to_string(memory) + "\npass 1 1234567 0.0000 1\n");
    EXPECT_EQ(load(asked).from_cache.cpu, is_kept) << memory;
  }
}

TEST_F(ProfileCache, KeysDifferInWhatMatters) {
  const auto key = compute_key(model_, *backend_);
  EXPECT_EQ(compute_key(open(small_spec("llama", "Q8_0")), *backend_), key);
  synth::SynthSpec tuned = small_spec("llama", "Q8_0");
  tuned.seed += 1;  // other weights
  EXPECT_EQ(compute_key(open(tuned), *backend_), key);
  EXPECT_NE(compute_key(open(small_spec("llama", "Q4_0")), *backend_), key);
  EXPECT_NE(compute_key(open(small_spec("qwen2", "Q8_0")), *backend_), key);
  synth::SynthSpec wider = small_spec("llama", "Q8_0");
  wider.shape.n_ff *= 2;
  EXPECT_NE(compute_key(open(wider), *backend_), key);
  const auto two = value_of(compute::Backend::cpu(2));
  EXPECT_NE(compute_key(model_, *two), key);
  EXPECT_NE(memory_key(*two), memory_key(*backend_));
  EXPECT_NE(memory_key(*backend_), key);
  EXPECT_NE(value_of(disk_key(dir_.path())), value_of(disk_key("/proc")));
  EXPECT_FALSE(disk_key(dir_.path() / "none"));
}

TEST_F(ProfileCache, NamesOfFiles) {
  residency::Digest key{};
  key = {0xab, 0x01, 0x02, 0x03, 0x04, 0xff, 0x99};
  EXPECT_EQ(profile_path("/c", "disk", key), fs::path("/c/profiles/disk-ab01020304ff.profile"));
}

}  // namespace
}  // namespace hearth::profile
