#include "model/reasoning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hearth::model {
namespace {

using Part = ReasoningStream::Part;
using Piece = ReasoningStream::Piece;

const ReasoningMarks kThink{"<think>", "</think>"};

struct Divided {
  std::string reasoning, answer;
  friend bool operator==(const Divided&, const Divided&) = default;
};

void add(Divided& all, const std::vector<Piece>& pieces) {
  for (const Piece& piece : pieces) {
    EXPECT_FALSE(piece.text.empty());
    (piece.part == Part::kReasoning ? all.reasoning : all.answer) += piece.text;
  }
}

// The text in pieces of `n` bytes.
Divided divide(const ReasoningMarks& marks, std::string_view text, std::size_t n, bool starts_open = false) {
  ReasoningStream stream(marks, starts_open);
  Divided all;
  for (; !text.empty(); text.remove_prefix(std::min(n, text.size())))
    add(all, stream.push(text.substr(0, n)));
  add(all, stream.finish());
  return all;
}

TEST(Reasoning, IsDividedHoweverTheTextIsCut) {
  struct Case {
    const char* text;
    bool starts_open;
    Divided expected;
  };
  const Case cases[] = {
      {"<think>\nHm, so.\n</think>\n\nYes.", false, {"Hm, so.", "Yes."}},
      {"Hm.\n</think>\n\nYes.", true, {"Hm.", "Yes."}},
      {"<think>\n\n</think>\n\nYes.", false, {"", "Yes."}},
      {"Plain answer", false, {"", "Plain answer"}},
      {" \n spaced", false, {"", " \n spaced"}},
      {"Use the <think> tag, then </think>.", false, {"", "Use the <think> tag, then </think>."}},
      {"<think>a</think><think>b</think>c", false, {"ab", "c"}},
      {"<think>a < b and </this> but\n\nmore</think>c", false, {"a < b and </this> but\n\nmore", "c"}},
      {"<thank you>", false, {"", "<thank you>"}},
      {"<think>cut", false, {"cut", ""}},
      {"<think>cut</thi", false, {"cut", ""}},
      {"<thi", false, {"", ""}},
      {"<", false, {"", "<"}},
      {"", false, {"", ""}},
      {"<think>x</think>", false, {"x", ""}},
      {"<think>x</think>\n", false, {"x", ""}},
      {"<think>x</think>y </think> z", false, {"x", "y </think> z"}},
  };
  for (const Case& c : cases)
    for (const std::size_t n : {1U, 2U, 3U, 5U, 8U, 100U}) {
      const Divided got = divide(kThink, c.text, n, c.starts_open);
      EXPECT_EQ(got.reasoning, c.expected.reasoning) << c.text << " by " << n;
      EXPECT_EQ(got.answer, c.expected.answer) << c.text << " by " << n;
    }
}

TEST(Reasoning, TextComesAsSoonAsItIsKnown) {
  ReasoningStream stream(kThink);
  EXPECT_THAT(stream.push("<thi"), testing::IsEmpty());
  EXPECT_THAT(stream.push("nk>Let"), testing::ElementsAre(Piece{Part::kReasoning, "Let"}));
  EXPECT_THAT(stream.push(" me"), testing::ElementsAre(Piece{Part::kReasoning, " me"}));
  EXPECT_THAT(stream.push("</"), testing::IsEmpty());
  EXPECT_THAT(stream.push("p></think>\nSo"),
              testing::ElementsAre(Piece{Part::kReasoning, "</p>"}, Piece{Part::kAnswer, "So"}));
  EXPECT_THAT(stream.push(" <think>"), testing::ElementsAre(Piece{Part::kAnswer, " <think>"}));
}

TEST(Reasoning, WithoutMarksEverythingIsAnswer) {
  ReasoningStream stream;
  EXPECT_THAT(stream.push(" <think>x"), testing::ElementsAre(Piece{Part::kAnswer, " <think>x"}));
  EXPECT_THAT(stream.finish(), testing::IsEmpty());
}

TEST(Reasoning, ChannelsOfGptOss) {
  const auto marks = reasoning_marks("{{ '<|start|>assistant<|channel|>analysis<|message|>' }}");
  ASSERT_TRUE(marks);
  for (const std::size_t n : {1U, 4U, 200U}) {
    EXPECT_EQ(
        divide(*marks,
               "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
               n),
        (Divided{"Hm.", "Yes."}));
    EXPECT_EQ(divide(*marks, "<|channel|>final<|message|>Yes.", n), (Divided{"", "Yes."}));
    EXPECT_EQ(divide(*marks, "<|channel|>analysis<|message|>Hm.<|end|><|start|>assi", n),
              (Divided{"Hm.", ""}));
  }
}

TEST(Reasoning, MarksAreThoseOfTheTemplate) {
  EXPECT_FALSE(reasoning_marks("{{ messages[0].content }}"));
  EXPECT_EQ(reasoning_marks("{% set c = c.split('</think>')[-1] %}"), kThink);
  EXPECT_EQ(reasoning_marks("[THINK]x[/THINK]"), (ReasoningMarks{"[THINK]", "[/THINK]"}));
}

TEST(Reasoning, APromptMayOpenIt) {
  EXPECT_TRUE(opens_reasoning(kThink, "<|im_start|>assistant\n<think>\n"));
  EXPECT_TRUE(opens_reasoning(kThink, "<think>"));
  EXPECT_FALSE(opens_reasoning(kThink, "<think>\n\n</think>\n\n"));
  EXPECT_FALSE(opens_reasoning(kThink, "assistant\n"));
  EXPECT_FALSE(opens_reasoning(kThink, ""));
}

}  // namespace
}  // namespace hearth::model
