#include "profile/device_profile.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::profile {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::value_of;

class DeviceProfile : public ::testing::Test {
 protected:
  DeviceProfile()
      : model_(value_of(model::ModelFile::open(testing::test_model(testing::small_spec("llama", "Q8_0"))))),
        backend_(value_of(compute::Backend::cpu(1))) {}

  MeasureOptions options() {
    return {.memory_bytes = std::uint64_t{4} << 30,
            .cache_dir = dir_.path() / "cache",
            .compute_budget = std::chrono::milliseconds(50),
            .log =
                [this](LogKind kind, const std::string& text) {
                  EXPECT_EQ(kind, LogKind::kWarning);
                  log_.push_back(text);
                },
            .cancelled = {}};
  }
  Measured measure(const MeasureOptions& options) { return measure_device(model_, *backend_, options); }

  TestDir dir_;
  model::ModelFile model_;
  std::unique_ptr<compute::Backend> backend_;
  std::vector<std::string> log_;
};

TEST_F(DeviceProfile, OfAllParts) {
  const Measured measured = measure(options());
  ASSERT_FALSE(measured.cpu.empty());
  EXPECT_EQ(measured.cpu[0].n_tokens, 1U);
  EXPECT_GT(measured.cpu[0].bytes_per_s, 1'000U);
  ASSERT_TRUE(measured.disk && measured.memory);
  EXPECT_GT(measured.disk->bytes_per_s, 1'000U);
  EXPECT_GT(measured.memory->bytes_per_s, 1'000'000U);
  for (const double share : {measured.taken.cpu, measured.taken.memory}) {
    EXPECT_GE(share, 0);
    EXPECT_LE(share, 1);
  }
  EXPECT_THAT(log_, IsEmpty());
}

TEST_F(DeviceProfile, OnlyThePartsThatAreAskedFor) {
  MeasureOptions asked = options();
  asked.parts = {.memory = true};
  const Measured measured = measure(asked);
  EXPECT_TRUE(measured.memory);
  EXPECT_FALSE(measured.disk);
  EXPECT_THAT(measured.cpu, IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(asked.cache_dir));
}

TEST_F(DeviceProfile, APartThatFailsIsAWarning) {
  MeasureOptions asked = options();
  asked.memory_bytes = 1000;
  asked.cache_dir = dir_.write("file", "x") / "cache";
  EXPECT_EQ(measure(asked), Measured{});
  EXPECT_THAT(log_, ElementsAre(HasSubstr("memory is not known: "),
                                HasSubstr("processor is not known: a layer takes "),
                                HasSubstr("disk is not known: cannot measure the disk of ")));
}

TEST_F(DeviceProfile, AfterCancellingNothingIsMeasured) {
  MeasureOptions asked = options();
  asked.cancelled = [] { return true; };
  EXPECT_EQ(measure(asked), Measured{});
  int asked_times = 0;
  asked.parts = {.cpu = true};
  asked.cancelled = [&] { return ++asked_times > 3; };
  EXPECT_EQ(measure(asked), Measured{});
  EXPECT_THAT(log_, IsEmpty());
}

}  // namespace
}  // namespace hearth::profile
