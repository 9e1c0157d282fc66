#include "base/text.h"

#include <string>

#include <gtest/gtest.h>

namespace hearth {
namespace {

using namespace std::string_literals;

TEST(Utf8, AcceptsTheFirstAndLastOfEachLength) {
  for (const std::string& text : {""s, "\x00"s, "\x7F"s, "\xC2\x80"s, "\xDF\xBF"s, "\xE0\xA0\x80"s,
                                  "\xED\x9F\xBF"s, "\xEE\x80\x80"s, "\xEF\xBF\xBF"s, "\xF0\x90\x80\x80"s,
                                  "\xF4\x8F\xBF\xBF"s, "plain, \xC3\xA4, \xE4\xBD\xA0, \xF0\x9F\x94\xA5"s})
    EXPECT_TRUE(is_valid_utf8(text)) << testing::PrintToString(text);
}

TEST(Utf8, RefusesWhatTheStandardForbids) {
  for (const std::string& text : {
           "\x80"s,
           "\xBF"s,
           "a\x80"s,  // continuation without a start
           "\xC2"s,
           "\xE0\xA0"s,
           "\xF0\x90\x80"s,
           "\xC2g"s,  // cut sequences
           "\xE0\xA0g"s,
           "\xF0\x90\x80g"s,
           "\xE4g\x80"s,
           "\xC0\x80"s,
           "\xC1\xBF"s,
           "\xE0\x9F\xBF"s,
           "\xF0\x8F\xBF\xBF"s,  // overlong
           "\xED\xA0\x80"s,
           "\xED\xBF\xBF"s,  // surrogates
           "\xF4\x90\x80\x80"s,
           "\xF5\x80\x80\x80"s,
           "\xFF"s,
           "\xFE"s,  // above U+10FFFF
       })
    EXPECT_FALSE(is_valid_utf8(text)) << testing::PrintToString(text);
}

TEST(Quote, ShowsPlainTextAsItIs) {
  EXPECT_EQ(quote(""), "''");
  EXPECT_EQ(quote("blk.0.attn_q.weight"), "'blk.0.attn_q.weight'");
  EXPECT_EQ(quote("\xC3\xA4\xE4\xBD\xA0\xF0\x9F\x94\xA5"), "'\xC3\xA4\xE4\xBD\xA0\xF0\x9F\x94\xA5'");
}

TEST(Quote, EscapesControlCharactersAndBrokenUtf8) {
  EXPECT_EQ(quote("a\x1b[2Jb"), "'a\\x1b[2Jb'");
  EXPECT_EQ(quote("\r\n\x7F"s + '\0'), "'\\x0d\\x0a\\x7f\\x00'");
  EXPECT_EQ(quote("\xFFz\xC2"), "'\\xffz\\xc2'");
  EXPECT_EQ(quote("\xC2\x9B"), "'\\xc2\\x9b'");  // the one-byte form of ESC [
  EXPECT_EQ(quote("\xC2\xA0"), "'\xC2\xA0'");
}

TEST(Quote, CutsLongTextBetweenCharacters) {
  EXPECT_EQ(quote("abcdef", 6), "'abcdef'");
  EXPECT_EQ(quote("abcdef", 5), "'abcde'...");
  EXPECT_EQ(quote("a\xE4\xBD\xA0", 3), "'a'...");
  EXPECT_EQ(quote("abc", 0), "''...");
}

}  // namespace
}  // namespace hearth
