#include "wire/text.h"

#include <gtest/gtest.h>

#include "wire/limits.h"

namespace hearth::wire {
namespace {

using namespace std::string_view_literals;

TEST(Text, Printable) {
  for (const auto text : {""sv, "abc ~"sv, "k\xc3\xbc"sv, "\xe4\xb8\xad\xe6\x96\x87"sv, "\xf0\x9f\x94\xa5"sv,
                          "\xc2\xa0"sv, "\xf4\x8f\xbf\xbd"sv, "\xed\x9f\xbf"sv, "\xee\x80\x80"sv})
    EXPECT_TRUE(printable_utf8(text)) << text;
}

TEST(Text, NotPrintable) {
  const std::pair<std::string_view, const char*> cases[] = {
      {"\0"sv, "NUL"},
      {"a\nb"sv, "line feed"},
      {"\t"sv, "tab"},
      {"\x1b[0m"sv, "escape"},
      {"\x7f"sv, "DEL"},
      {"\xc2\x80"sv, "U+0080"},
      {"\xc2\x9f"sv, "U+009F"},
      {"\xd8\x9c"sv, "U+061C"},
      {"\xe2\x80\x8e"sv, "U+200E"},
      {"\xe2\x80\xa8"sv, "U+2028"},
      {"\xe2\x80\xae"sv, "U+202E"},
      {"\xe2\x81\xa6"sv, "U+2066"},
      {"\xef\xbb\xbf"sv, "U+FEFF"},
      {"\xef\xb7\x90"sv, "U+FDD0"},
      {"\xef\xbf\xbf"sv, "U+FFFF"},
      {"\xf0\x9f\xbf\xbe"sv, "U+1FFFE"},
      {"\x80"sv, "a continuation alone"},
      {"\xc3"sv, "cut off"},
      {"\xe4\xb8"sv, "cut off"},
      {"\xf0\x9f\x94"sv, "cut off"},
      {"\xc3\x28"sv, "no continuation"},
      {"\xc0\xaf"sv, "overlong"},
      {"\xc1\xbf"sv, "overlong"},
      {"\xe0\x80\xaf"sv, "overlong"},
      {"\xf0\x80\x80\xaf"sv, "overlong"},
      {"\xed\xa0\x80"sv, "surrogate"},
      {"\xed\xbf\xbf"sv, "surrogate"},
      {"\xf4\x90\x80\x80"sv, "above U+10FFFF"},
      {"\xf5\x80\x80\x80"sv, "above U+10FFFF"},
      {"\xff"sv, "never in UTF-8"},
  };
  for (const auto& [text, why] : cases) EXPECT_FALSE(printable_utf8(text)) << why;
}

TEST(Text, ToPrintable) {
  EXPECT_EQ(to_printable("k\xc3\xbc"
                         "che",
                         64),
            "k\xc3\xbc"
            "che");
  EXPECT_EQ(to_printable("a\r\n\tb\0c\xff"sv, 64), "a   b?c?");
  EXPECT_EQ(to_printable("\xe4\xb8", 64), "??");
  EXPECT_EQ(to_printable("abc", 2), "ab");
  EXPECT_EQ(to_printable("ab\xc3\xbc", 3), "ab");  // never half a character
  EXPECT_EQ(to_printable("ab\xc3\xbc", 4), "ab\xc3\xbc");
  EXPECT_EQ(to_printable("abc", 0), "");
}

TEST(Text, DeviceNames) {
  EXPECT_TRUE(check_device_name("Anna's laptop"));
  EXPECT_TRUE(check_device_name(std::string(kMaxNameBytes, 'x')));
  for (const auto& name : {std::string(), std::string(kMaxNameBytes + 1, 'x'), std::string(" a"),
                           std::string("a "), std::string("a\nb"), std::string("\xff")}) {
    const auto checked = check_device_name(name);
    ASSERT_FALSE(checked) << name;
    EXPECT_EQ(checked.error().code, ErrorCode::kInvalidArgument);
    EXPECT_TRUE(printable_utf8(checked.error().message));
  }
}

TEST(Text, Hosts) {
  for (const auto host : {"192.168.1.10", "fe80::1ff:fe23:4567:890a%eth2", "desk.local", "my_pc-2", "::1"})
    EXPECT_TRUE(check_host(host)) << host;
  EXPECT_TRUE(check_host(std::string(kMaxHostBytes, 'h')));
  for (const auto& host :
       {std::string(), std::string(kMaxHostBytes + 1, 'h'), std::string("a b"), std::string("a/b"),
        std::string("a;b"), std::string("*"), std::string("a\0b", 3), std::string("k\xc3\xbc")}) {
    const auto checked = check_host(host);
    ASSERT_FALSE(checked) << host;
    EXPECT_EQ(checked.error().code, ErrorCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace hearth::wire
