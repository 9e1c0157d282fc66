#include "model/stop_strings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace hearth::model {
namespace {

StopStrings stops(std::vector<std::string> strings) {
  auto result = StopStrings::create(std::move(strings));
  HEARTH_CHECK(result.has_value());
  return *result;
}

TEST(StopStrings, WithoutStringsEverythingPasses) {
  StopStrings none;
  EXPECT_EQ(none.push("a text"), "a text");
  EXPECT_EQ(none.finish(), "");
  EXPECT_FALSE(none.stopped());
}

TEST(StopStrings, EndsBeforeTheString) {
  auto s = stops({"User:"});
  EXPECT_EQ(s.push("Hello.\nUs"), "Hello.\n");
  EXPECT_EQ(s.push("er"), "");
  EXPECT_EQ(s.push(": and more"), "");
  EXPECT_TRUE(s.stopped());
  EXPECT_EQ(s.push("more"), "");
  EXPECT_EQ(s.finish(), "");
}

TEST(StopStrings, WhatOnlyBeganIsText) {
  auto s = stops({"User:"});
  EXPECT_EQ(s.push("Use"), "");
  EXPECT_EQ(s.push("ful"), "Useful");
  EXPECT_EQ(s.push(" Us"), " ");
  EXPECT_EQ(s.finish(), "Us");
  EXPECT_FALSE(s.stopped());
}

TEST(StopStrings, TheFirstInTheTextCounts) {
  EXPECT_EQ(stops({"c", "b"}).push("abc"), "a");
  EXPECT_EQ(stops({"abcd", "bc"}).push("xabc"), "xa");
  // "aab" after "aa": the beginning moves.
  auto s = stops({"aab"});
  EXPECT_EQ(s.push("aa"), "");
  EXPECT_EQ(s.push("a"), "a");
  EXPECT_EQ(s.push("b"), "");
  EXPECT_TRUE(s.stopped());
}

TEST(StopStrings, RefusesEmptyAndEndless) {
  EXPECT_FALSE(StopStrings::create({""}));
  EXPECT_FALSE(StopStrings::create({std::string(kMaxStopStringBytes + 1, 'x')}));
  EXPECT_FALSE(StopStrings::create(std::vector<std::string>(kMaxStopStrings + 1, "x")));
  EXPECT_TRUE(StopStrings::create({}));
}

// However the text is cut, what comes out is the text up to the first stop string.
RC_GTEST_PROP(StopStrings, CutsDoNotMatter, ()) {
  const auto letters = rc::gen::container<std::string>(rc::gen::element('a', 'b'));
  const std::string text = *letters;
  const std::string stop = *rc::gen::nonEmpty(rc::gen::container<std::string>(rc::gen::element('a', 'b')));
  auto s = stops({stop});
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const auto n = *rc::gen::inRange<std::size_t>(1, 4);
    out += s.push(std::string_view(text).substr(at, n));
    at += n;
  }
  out += s.finish();
  RC_ASSERT(out == text.substr(0, text.find(stop)));
}

}  // namespace
}  // namespace hearth::model
