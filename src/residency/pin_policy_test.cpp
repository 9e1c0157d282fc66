// Times and bytes go in, decisions come out; the machine is a few lines of arithmetic here.
#include "residency/pin_policy.h"

#include <gtest/gtest.h>

namespace hearth::residency {
namespace {

using namespace std::chrono_literals;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

class Pins : public ::testing::Test {
 protected:
  PinPolicy::Change after(std::chrono::milliseconds time, PinPolicy::Look look) {
    now += time;
    look.now = now;
    look.planned_bytes = 800 * kMiB;
    return policy.decide(look);
  }
  static constexpr PinPolicy::Change kNothing{};

  PinPolicy::TimePoint now{};
  PinPolicy policy{{.patience = 4s, .most_patience = 20s, .relapse = 10s, .margin_bytes = 16 * kMiB}};
};

TEST_F(Pins, AllPinnedAndQuietIsLeftAlone) {
  for (int i = 0; i < 100; ++i)
    EXPECT_EQ(after(250ms, {.pinned_bytes = 800 * kMiB, .free_bytes = 5000 * kMiB}), kNothing);
}

TEST_F(Pins, PressureTakesSomeAndNeverMoreThanThereIs) {
  EXPECT_EQ(after(1s, {.pressure = Pressure::Level::kShort, .pinned_bytes = 800 * kMiB}).give_back_bytes,
            50 * kMiB);
  EXPECT_EQ(after(1s, {.pressure = Pressure::Level::kCritical, .pinned_bytes = 750 * kMiB}).give_back_bytes,
            200 * kMiB);
  EXPECT_EQ(after(1s, {.pressure = Pressure::Level::kCritical, .pinned_bytes = 30 * kMiB}).give_back_bytes,
            30 * kMiB);
  EXPECT_EQ(after(1s, {.pressure = Pressure::Level::kCritical, .pinned_bytes = 0}), kNothing);
}

TEST_F(Pins, OneStallIsOneStepWhoeverTellsOfIt) {
  const PinPolicy::Look shortage{.pressure = Pressure::Level::kShort, .pinned_bytes = 800 * kMiB};
  EXPECT_GT(after(1s, shortage).give_back_bytes, 0U);
  EXPECT_EQ(after(100ms, shortage), kNothing);
  PinPolicy::Look worse = shortage;
  worse.pressure = Pressure::Level::kCritical;
  EXPECT_EQ(after(100ms, worse).give_back_bytes, 200 * kMiB);
  EXPECT_EQ(after(100ms, worse), kNothing);
  EXPECT_EQ(after(100ms, shortage), kNothing);
  EXPECT_GT(after(1s, shortage).give_back_bytes, 0U);
}

TEST_F(Pins, OthersNeedSomeOfWhatCountsAsFree) {
  const auto given = [&](Pressure::Level level, std::uint64_t free, std::uint64_t total) {
    return after(2s, {.pressure = level,
                      .short_free_bytes = free * kMiB,
                      .short_total_bytes = total * kMiB,
                      .pinned_bytes = 800 * kMiB})
        .give_back_bytes;
  };
  EXPECT_EQ(given(Pressure::Level::kShort, 0, 3200), 50 * kMiB) << "a step at a time";
  EXPECT_EQ(given(Pressure::Level::kShort, 180, 3200), 20 * kMiB);
  EXPECT_EQ(given(Pressure::Level::kShort, 200, 3200), 0U);
  EXPECT_EQ(given(Pressure::Level::kShort, 1000, 64'000), 24 * kMiB);
  EXPECT_EQ(given(Pressure::Level::kCritical, 1024, 64'000), 0U) << "1 GiB is enough for everybody";
}

TEST_F(Pins, NothingIsTakenWhileOthersWait) {
  EXPECT_EQ(after(0s, {.pinned_bytes = 400 * kMiB, .lost = true}), kNothing);
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ(after(3s, {.pressure = Pressure::Level::kShort,
                         .short_free_bytes = 500 * kMiB,
                         .pinned_bytes = 400 * kMiB,
                         .free_bytes = 500 * kMiB}),
              kNothing);
  EXPECT_GT(after(4s, {.pinned_bytes = 400 * kMiB, .free_bytes = 500 * kMiB}).take_bytes, 0U);
}

TEST_F(Pins, PressureElsewhereIsNotOurs) {
  EXPECT_EQ(after(1s, {.pressure = Pressure::Level::kCritical,
                       .short_free_bytes = 4000 * kMiB,
                       .pinned_bytes = 800 * kMiB}),
            kNothing);
}

TEST_F(Pins, WhatIsFreeAlreadyIsNotGivenBackAgain) {
  const auto given = [&](Pressure::Level level, std::uint64_t free) {
    return after(2s, {.pressure = level, .short_free_bytes = free * kMiB, .pinned_bytes = 800 * kMiB})
        .give_back_bytes;
  };
  EXPECT_EQ(given(Pressure::Level::kShort, 20), 30 * kMiB);
  EXPECT_EQ(given(Pressure::Level::kShort, 50), 0U);
  EXPECT_EQ(given(Pressure::Level::kCritical, 50), 150 * kMiB);
  EXPECT_EQ(given(Pressure::Level::kCritical, 200), 0U);
}

TEST_F(Pins, WhatWasLostIsTakenAgainAfterAQuietWhile) {
  EXPECT_EQ(after(0s, {.pinned_bytes = 400 * kMiB, .lost = true, .free_bytes = 10 * kMiB}), kNothing);
  EXPECT_EQ(after(3s, {.pinned_bytes = 400 * kMiB, .free_bytes = 500 * kMiB}), kNothing);
  EXPECT_EQ(after(1s, {.pinned_bytes = 400 * kMiB, .free_bytes = 216 * kMiB}).take_bytes, 200 * kMiB);
  EXPECT_EQ(after(1s, {.pinned_bytes = 600 * kMiB, .free_bytes = 500 * kMiB}).take_bytes, 200 * kMiB);
}

TEST_F(Pins, NothingIsTakenWhereNothingIsFree) {
  (void)after(0s, {.pinned_bytes = 400 * kMiB, .lost = true});
  for (int i = 0; i < 100; ++i)
    EXPECT_EQ(after(1s, {.pinned_bytes = 400 * kMiB, .free_bytes = 16 * kMiB}), kNothing);
}

TEST_F(Pins, EachRelapseDoublesThePatience) {
  std::chrono::milliseconds patience = 4s;
  (void)after(0s, {.pinned_bytes = 400 * kMiB, .lost = true});
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(after(patience - 1ms, {.pinned_bytes = 400 * kMiB, .free_bytes = 100 * kMiB}), kNothing);
    EXPECT_GT(after(1ms, {.pinned_bytes = 400 * kMiB, .free_bytes = 100 * kMiB}).take_bytes, 0U);
    policy.took(now);
    EXPECT_EQ(after(5s, {.pinned_bytes = 420 * kMiB, .lost = true}), kNothing);
    patience = std::min<std::chrono::milliseconds>(2 * patience, 20s);
  }
  // All there for longer than a relapse: forgotten.
  EXPECT_GT(after(20s, {.pinned_bytes = 400 * kMiB, .free_bytes = 500 * kMiB}).take_bytes, 0U);
  policy.took(now);
  EXPECT_EQ(after(11s, {.pinned_bytes = 800 * kMiB, .free_bytes = 100 * kMiB}), kNothing);
  EXPECT_EQ(after(0s, {.pinned_bytes = 400 * kMiB, .lost = true}), kNothing);
  EXPECT_GT(after(4s, {.pinned_bytes = 400 * kMiB, .free_bytes = 100 * kMiB}).take_bytes, 0U);
}

}  // namespace
}  // namespace hearth::residency
