#include "cli/answer_printer.h"

#include <gtest/gtest.h>

namespace hearth::cli {
namespace {

using Part = model::ReasoningStream::Part;

TEST(AnswerPrinter, DimsReasoningOnATerminal) {
  AnswerPrinter printer(true);
  EXPECT_EQ(printer.show({Part::kReasoning, "Hm"}), "\x1b[2mHm");
  EXPECT_EQ(printer.show({Part::kReasoning, ", so"}), ", so");
  EXPECT_EQ(printer.show({Part::kAnswer, "Yes"}), "\x1b[0m\n\nYes");
  EXPECT_EQ(printer.show({Part::kAnswer, "."}), ".");
  EXPECT_EQ(printer.end(), "\n");
}

TEST(AnswerPrinter, IsBrightAgainAfterReasoningThatWasCut) {
  AnswerPrinter printer(true);
  EXPECT_EQ(printer.show({Part::kReasoning, "Hm"}), "\x1b[2mHm");
  EXPECT_EQ(printer.end(), "\x1b[0m\n");
  EXPECT_EQ(printer.end(), "\n");
}

TEST(AnswerPrinter, WritesTheAnswerAloneElsewhere) {
  AnswerPrinter printer(false);
  EXPECT_EQ(printer.show({Part::kReasoning, "Hm"}), "");
  EXPECT_EQ(printer.show({Part::kAnswer, "a\x1b[31m\r\n"}), "a\x1b[31m\r\n");
  EXPECT_EQ(printer.end(), "\n");
}

TEST(AnswerPrinter, ATextCannotCommandTheTerminal) {
  EXPECT_EQ(safe_for_terminal("\x1b]52;c;AA\x07"), "\xEF\xBF\xBD]52;c;AA\xEF\xBF\xBD");
  EXPECT_EQ(safe_for_terminal("a\tb\r\nc\x7F"), "a\tb\nc\xEF\xBF\xBD");
  EXPECT_EQ(safe_for_terminal("\xC2\x9B"
                              "31m"),
            "\xEF\xBF\xBD"
            "31m");
  EXPECT_EQ(safe_for_terminal("\xC2\xA0\xC3\xA9 \xE2\x82\xAC"), "\xC2\xA0\xC3\xA9 \xE2\x82\xAC");
}

}  // namespace
}  // namespace hearth::cli
