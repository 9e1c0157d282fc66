#include "engine/liveness.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/test_plan.h"

namespace hearth::engine {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

const TimePoint kStart{1000h};

// Ticks every `step`, the peer speaks every `speaks` until `until`; returns when it was reported, counted
// from its last word.
Milliseconds reported_after(Milliseconds step, Milliseconds speaks, Milliseconds until,
                            Milliseconds give_up) {
  Liveness liveness{LivenessOptions{}};
  liveness.watch(test_key(1), "kitchen (10.0.0.2:7001)", kStart);
  Milliseconds last_word{0};
  for (Milliseconds t{0}; t < give_up; t += step) {
    while (last_word + speaks <= t && last_word + speaks <= until) {
      last_word += speaks;
      liveness.heard(test_key(1), kStart + last_word);
    }
    if (!liveness.tick(kStart + t).empty()) return t - last_word;
  }
  return Milliseconds{-1};
}

TEST(Liveness, ReportsASilentPeerBetweenFiveAndTenSeconds) {
  for (const auto step : {20ms, 100ms, 250ms, 700ms})
    for (const auto until : {0ms, 10ms, 990ms, 30'000ms}) {
      const Milliseconds after = reported_after(step, 250ms, until, 120s);
      EXPECT_GE(after, 5s) << step << until;
      EXPECT_LE(after, 10s) << step << until;
    }
}

TEST(Liveness, ABusyMachineIsNoFalseAlarm) {
  // The own ticks come up to 2 s late, the peer's heartbeats too.
  EXPECT_EQ(reported_after(100ms, 2250ms, 1h, 600s), Milliseconds{-1});
  EXPECT_EQ(reported_after(2000ms, 250ms, 1h, 600s), Milliseconds{-1});
  EXPECT_EQ(reported_after(2000ms, 2250ms, 1h, 600s), Milliseconds{-1});
  EXPECT_EQ(reported_after(100ms, 5s, 1h, 600s), Milliseconds{-1});  // flaps of the network
}

TEST(Liveness, NamesThePeerAndTheSilenceOnce) {
  Liveness liveness{LivenessOptions{}};
  liveness.watch(test_key(1), "kitchen (10.0.0.2:7001)", kStart);
  liveness.watch(test_key(2), "desk (10.0.0.3:7002)", kStart);
  std::vector<Liveness::Silent> silent;
  for (auto t = 0ms; t <= 20s; t += 100ms) {
    liveness.heard(test_key(2), kStart + t);
    liveness.heard(test_key(3), kStart + t);  // nobody watches it
    for (auto& report : liveness.tick(kStart + t)) silent.push_back(report);
  }
  ASSERT_EQ(silent.size(), 1u);
  EXPECT_EQ(silent[0].key, test_key(1));
  EXPECT_EQ(silent[0].error.code, ErrorCode::kTimeout);
  EXPECT_THAT(silent[0].error.message, HasSubstr("kitchen (10.0.0.2:7001) is silent for 6.1 s"));
  EXPECT_FALSE(liveness.watches(test_key(1)));
  EXPECT_TRUE(liveness.watches(test_key(2)));
}

TEST(Liveness, OurOwnSleepIsNotTheSilenceOfOthers) {
  Liveness liveness{LivenessOptions{}};
  liveness.watch(test_key(1), "kitchen", kStart);
  auto now = kStart;
  for (int i = 0; i < 20; ++i, now += 100ms) {
    liveness.heard(test_key(1), now);
    EXPECT_THAT(liveness.tick(now), IsEmpty());
  }
  now += 3600s;  // stopped for an hour
  for (int i = 0; i < 40; ++i, now += 100ms) EXPECT_THAT(liveness.tick(now), IsEmpty());
  liveness.heard(test_key(1), now);
  for (int i = 0; i < 55; ++i, now += 100ms) EXPECT_THAT(liveness.tick(now), IsEmpty());
  // A peer that really is gone is still found after we wake up.
  now += 3600s;
  int ticks = 0;
  while (liveness.tick(now).empty() && ticks < 1000) ++ticks, now += 100ms;
  EXPECT_LE(ticks, 60);
}

TEST(Liveness, WatchingAgainStartsAtZero) {
  Liveness liveness{LivenessOptions{}};
  liveness.watch(test_key(1), "kitchen", kStart);
  for (auto t = 0ms; t <= 5s; t += 100ms) EXPECT_THAT(liveness.tick(kStart + t), IsEmpty());
  liveness.watch(test_key(1), "kitchen", kStart + 5s);
  for (auto t = 5s + 100ms; t <= 10s; t += 100ms) EXPECT_THAT(liveness.tick(kStart + t), IsEmpty());
  liveness.forget(test_key(1));
  for (Milliseconds t = 10s; t <= 40s; t += 100ms) EXPECT_THAT(liveness.tick(kStart + t), IsEmpty());
}

TEST(StuckWatch, FindsWorkThatStandsStill) {
  StuckWatch watch(10s, 1s);
  auto now = kStart;
  for (int i = 0; i < 300; ++i, now += 100ms) EXPECT_FALSE(watch.tick(false, 5, now));  // nothing to do
  for (int i = 0; i < 300; ++i, now += 100ms)
    EXPECT_FALSE(watch.tick(true, 5 + static_cast<std::uint64_t>(i) / 90, now));  // slow
  int ticks = 0;
  while (!watch.tick(true, 8, now) && ticks < 1000) ++ticks, now += 100ms;
  EXPECT_GE(ticks, 65);  // the last change was 3 s ago
  EXPECT_LE(ticks, 101);
  EXPECT_FALSE(watch.tick(true, 8, now));                                           // once
  for (int i = 0; i < 9; ++i, now += 100s) EXPECT_FALSE(watch.tick(true, 9, now));  // asleep ourselves
}

TEST(StuckWatch, SaysWhoAndHowMuch) {
  const Error error = stuck_error("kitchen", {.steps_accepted = 9, .steps_done = 7}, 120s);
  EXPECT_EQ(error.code, ErrorCode::kTimeout);
  EXPECT_EQ(
      error.message,
      "the computation on kitchen stands still: 7 of 9 steps are done, and nothing moved for 120 s: its disk "
      "or another program may have stopped it");
}

}  // namespace
}  // namespace hearth::engine
