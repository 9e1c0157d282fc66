#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "model/tokenizer.h"

namespace hearth::model {
namespace {

constexpr std::string_view kBad = "\xEF\xBF\xBD";

std::string whole(std::string_view bytes) {
  Utf8Stream stream;
  std::string text = stream.push(bytes);
  return text + stream.finish();
}

std::string by_byte(std::string_view bytes) {
  Utf8Stream stream;
  std::string text;
  for (const char c : bytes) text += stream.push(std::string_view(&c, 1));
  return text + stream.finish();
}

// From RFC 3629, section 3.
std::string encoded(char32_t c) {
  const auto byte = [](char32_t b) { return static_cast<char>(static_cast<unsigned char>(b)); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xC0 | c >> 6), byte(0x80 | (c & 0x3F))};
  if (c < 0x10000) return {byte(0xE0 | c >> 12), byte(0x80 | (c >> 6 & 0x3F)), byte(0x80 | (c & 0x3F))};
  return {byte(0xF0 | c >> 18), byte(0x80 | (c >> 12 & 0x3F)), byte(0x80 | (c >> 6 & 0x3F)),
          byte(0x80 | (c & 0x3F))};
}

TEST(Utf8Stream, EverySplitOfATextIsTheText) {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z\xF4\x8F\xBF\xBF";
  for (std::size_t i = 0; i <= text.size(); ++i) {
    for (std::size_t j = i; j <= text.size(); ++j) {
      Utf8Stream stream;
      std::string got;
      for (const std::string& part : {text.substr(0, i), text.substr(i, j - i), text.substr(j)}) {
        const std::string more = stream.push(part);
        got += more;
        // Nothing but whole characters ever comes out.
        EXPECT_EQ(whole(more), more);
        EXPECT_EQ(more.find(kBad), std::string::npos);
      }
      EXPECT_EQ(got, text);
      EXPECT_EQ(stream.finish(), "");
    }
  }
}

TEST(Utf8Stream, EveryCharacterPassesAtItsLastByte) {
  for (char32_t c = 0; c <= 0x10FFFF; c += c < 0x900 ? 1 : 61) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    const std::string bytes = encoded(c);
    Utf8Stream stream;
    for (std::size_t i = 0; i + 1 < bytes.size(); ++i)
      ASSERT_EQ(stream.push(bytes.substr(i, 1)), "") << std::hex << static_cast<unsigned>(c);
    ASSERT_EQ(stream.push(bytes.substr(bytes.size() - 1)), bytes) << std::hex << static_cast<unsigned>(c);
    ASSERT_EQ(stream.finish(), "");
  }
}

TEST(Utf8Stream, EveryPairOfBytes) {
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      const std::string bytes{static_cast<char>(first), static_cast<char>(second)};
      // What the standard says of two bytes: characters stand, the rest is replaced byte by byte, except that
      // the beginning of one character is replaced once.
      std::string expected;
      const bool second_begins = second < 0x80;
      const auto lone = [&](int byte) {
        return byte < 0x80 ? std::string(1, static_cast<char>(byte)) : std::string(kBad);
      };
      const bool is_pair = first >= 0xC2 && first <= 0xDF && second >= 0x80 && second <= 0xBF;
      const bool is_prefix =
          !second_begins && second <= 0xBF &&
          ((first == 0xE0 && second >= 0xA0) || (first >= 0xE1 && first <= 0xEF && first != 0xED) ||
           (first == 0xED && second <= 0x9F) || (first == 0xF0 && second >= 0x90) ||
           (first >= 0xF1 && first <= 0xF3) || (first == 0xF4 && second <= 0x8F));
      if (is_pair)
        expected = bytes;
      else if (is_prefix)
        expected = kBad;
      else
        expected = lone(first) + lone(second);
      ASSERT_EQ(whole(bytes), expected) << std::hex << first << ' ' << second;
      ASSERT_EQ(by_byte(bytes), expected) << std::hex << first << ' ' << second;
    }
  }
}

TEST(Utf8Stream, InvalidBytesBecomeReplacements) {
  const auto bad = [](int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += kBad;
    return text;
  };
  const std::pair<std::string, std::string> cases[] = {
      {"\x80", bad(1)},  // a continuation alone
      {"a\xFF"
       "b",
       "a" + bad(1) + "b"},              // never a byte of UTF-8
      {"\xC0\x80", bad(2)},              // overlong zero
      {"\xC1\xBF", bad(2)},              // overlong
      {"\xE0\x80\xAF", bad(3)},          // overlong slash
      {"\xF0\x80\x80\xAF", bad(4)},      // overlong slash
      {"\xED\xA0\x80", bad(3)},          // a high surrogate
      {"\xED\xBF\xBF", bad(3)},          // a low surrogate
      {"\xED\x9F\xBF", "\xED\x9F\xBF"},  // the last before the surrogates
      {"\xEE\x80\x80", "\xEE\x80\x80"},  // the first after them
      {"\xF4\x90\x80\x80", bad(4)},      // above U+10FFFF
      {"\xF5\x80\x80\x80", bad(4)},
      {"\xE2\x82", bad(1)},  // cut at the end: one character is missing
      {"\xF0\x9F\x98", bad(1)},
      {"\xE2\x82"
       "a",
       bad(1) + "a"},  // cut in the middle
      {"\xE2\x82\xE2\x82\xAC", bad(1) + "\xE2\x82\xAC"},
      {"\xF0\x9F\xC3\xA9", bad(1) + "\xC3\xA9"},
      {std::string("\0a", 2), std::string("\0a", 2)},  // zero is a character
  };
  for (const auto& [bytes, expected] : cases) {
    EXPECT_EQ(whole(bytes), expected) << testing::PrintToString(bytes);
    EXPECT_EQ(by_byte(bytes), expected) << testing::PrintToString(bytes);
  }
}

TEST(Utf8Stream, CanBeUsedAgain) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("\xE2"), "");
  EXPECT_EQ(stream.finish(), kBad);
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push("\xAC"), kBad);
  EXPECT_EQ(stream.push("ok"), "ok");
}

// However bytes are cut, the text is the same.
RC_GTEST_PROP(Utf8StreamProperty, CutsDoNotMatter, ()) {
  // Mostly bytes that begin or continue characters.
  const auto byte = rc::gen::map(rc::gen::weightedOneOf<int>({{3, rc::gen::inRange(0x80, 0xC0)},
                                                              {2, rc::gen::inRange(0xC0, 0x100)},
                                                              {1, rc::gen::inRange(0, 0x80)}}),
                                 [](int b) { return static_cast<char>(b); });
  const auto bytes = *rc::gen::container<std::string>(byte);
  const std::string expected = whole(bytes);
  RC_ASSERT(by_byte(bytes) == expected);
  Utf8Stream stream;
  std::string got;
  std::string_view rest = bytes;
  while (!rest.empty()) {
    const auto n = *rc::gen::inRange<std::size_t>(1, rest.size() + 1);
    got += stream.push(rest.substr(0, n));
    rest.remove_prefix(n);
  }
  RC_ASSERT(got + stream.finish() == expected);
  // What comes out is UTF-8: a second pass changes nothing.
  RC_ASSERT(whole(expected) == expected);
}

}  // namespace
}  // namespace hearth::model
