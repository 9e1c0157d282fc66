#include "cli/typed_message.h"

#include <vector>

#include <gtest/gtest.h>

namespace hearth::cli {
namespace {

// The message of all lines; only the last one completes it.
TypedMessage typed(const std::vector<std::string>& lines) {
  TypedMessage message;
  for (std::size_t i = 0; i < lines.size(); ++i)
    EXPECT_EQ(message.add(lines[i]), i + 1 == lines.size()) << lines[i];
  return message;
}

TEST(TypedMessage, LinesAndBlocks) {
  EXPECT_EQ(typed({"Hello"}).text(), "Hello");
  EXPECT_EQ(typed({""}).text(), "");
  EXPECT_EQ(typed({"one\\", "two\\", "three"}).text(), "one\ntwo\nthree");
  EXPECT_EQ(typed({"one\\", ""}).text(), "one\n");
  EXPECT_EQ(typed({"\"\"\"one line\"\"\""}).text(), "one line");
  EXPECT_EQ(typed({"\"\"\"", "a", "", "b\\", "\"\"\""}).text(), "a\n\nb\\");
  EXPECT_EQ(typed({"\"\"\"a", "b\"\"\"  "}).text(), "a\nb");
  EXPECT_EQ(typed({"\"\"\"\"\"\""}).text(), "");
  // Pasted.
  EXPECT_EQ(typed({"a\\\nb"}).text(), "a\\\nb");
  EXPECT_EQ(typed({"\"\"\"a\nb\"\"\""}).text(), "a\nb");
}

TEST(TypedMessage, Commands) {
  EXPECT_TRUE(typed({"/bye"}).is_command());
  EXPECT_FALSE(typed({" /bye"}).is_command());
  EXPECT_FALSE(typed({"\"\"\"/bye\"\"\""}).is_command());
  const auto set = typed({"/set system \"\"\"", "Be", "brief.", "\"\"\""});
  EXPECT_TRUE(set.is_command());
  EXPECT_EQ(set.text(), "/set system Be\nbrief.");
  EXPECT_EQ(parse_command(set.text()).rest, "system Be\nbrief.");
  const Command command = parse_command("/set  temp  0.5 ");
  EXPECT_EQ(command.name, "set");
  EXPECT_EQ(command.rest, "temp  0.5");
  EXPECT_EQ(parse_command("/").name, "");
}

TEST(TypedMessage, HistoryGivesTheSameMessage) {
  for (const std::vector<std::string>& lines :
       std::vector<std::vector<std::string>>{{"Hello"},
                                             {"one\\", "two"},
                                             {"\"\"\"", "/no command", "\"\"\""},
                                             {"/set system \"\"\"a", "b\"\"\""}}) {
    const auto message = typed(lines);
    const auto again = typed({message.as_typed()});
    EXPECT_EQ(again.text(), message.text());
    EXPECT_EQ(again.is_command(), message.is_command());
  }
}

}  // namespace
}  // namespace hearth::cli
