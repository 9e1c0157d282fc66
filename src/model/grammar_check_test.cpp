#include "model/grammar_check.h"

#include <fstream>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <llama.h>

#include "model/sampler.h"
#include "model/test_vocabulary.h"
#include "model/tokenizer_impl.h"

namespace hearth::model {
namespace {

using testing::HasSubstr;

const Tokenizer& tokenizer() {
  static const Tokenizer loaded = [] {
    const TempFile file(bpe_vocabulary().model().image().bytes);
    auto result = Tokenizer::load(file.path());
    HEARTH_CHECK(result.has_value(), result.error().message);
    return std::move(*result);
  }();
  return loaded;
}

bool is_token(std::string_view text) {
  const auto tokens = tokenizer().encode(text, {.add_special = false, .parse_special = true});
  return tokens && tokens->size() == 1;
}

bool libllama_takes(const std::string& grammar) {
  llama_sampler* sampler = llama_sampler_init_grammar(tokenizer().impl().vocab, grammar.c_str(), "root");
  if (sampler != nullptr) llama_sampler_free(sampler);
  return sampler != nullptr;
}

TEST(GrammarCheck, TakesWhatLibllamaTakes) {
  for (const std::string grammar : {
           R"(root ::= "yes" | "no")",
           "root ::= \"\"",
           "root ::= ",
           "# a comment\n\nroot ::= item+ # more\nitem ::= [a-z]\n",
           "root ::= (\n  \"a\"\n  | \"b\"\n)\n",
           "root ::= \"a\" |\n  \"b\"",
           R"(root ::= [^\n"\\\x00-\x1F] [a\-\]] [\u00e9-\U0010FFFF] . "\t\r\"\[")",
           R"(root ::= "x"{3} "y"{2,} "z"{0,5} ("a" "b")? "c"*)",
           R"(root ::= "x"{0,1999})",
           "root ::= a b\r\na ::= \"x\" a | \"y\"\r\nb ::= a?",
           R"(root ::= "é" [à-ü-])",
           "root ::= ws value ws\nvalue ::= \"[\" (value (\",\" value)*)? \"]\"\nws ::= [ \\t]*",
           "root ::= (((((((((\"a\")))))))))",
           "root ::= \"a\"{2}{3}",
           "root ::= <[5]> !<[6]> <|endoftext|>",
       }) {
    const auto checked = check_grammar(grammar, is_token);
    EXPECT_TRUE(checked) << grammar << ": " << checked.error().message;
    EXPECT_TRUE(libllama_takes(grammar)) << grammar;
  }
}

TEST(GrammarCheck, SaysWhereAndWhat) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "no rule 'root'"},
      {"a ::= \"x\"", "no rule 'root'"},
      {"root", "line 1, column 5: expected ::=, got the end"},
      {"root := \"x\"", "line 1, column 6: expected ::="},
      {"= \"x\"", "line 1, column 1: expected the name of a rule"},
      {"root ::= \"x", "column 12: expected the end of the text or class"},
      {"root ::= [a", "column 12: expected the end of the text or class"},
      {"root ::= []", "column 10: the character class is empty"},
      {"root ::= [z-a]", "column 11: the range of characters ends before it begins"},
      {"root ::= \"a\nb\"", "line 1, column 12: the line ends"},
      {R"(root ::= "\q")", "column 11: expected one of"},
      {R"(root ::= "\)", "column 11: expected one of"},
      {R"(root ::= "\x4")", "column 11: expected 2 hex digits"},
      {R"(root ::= "\U00110000")", "no such character"},
      {"root ::= (\"a\"", "expected ), got the end"},
      {"root ::= \"a\")", "column 13: expected the end of the line, got ')'"},
      {"root ::= *", "column 10: there is nothing before it to repeat"},
      {"root ::= \"\"*", "column 12: there is nothing before it to repeat"},
      {"root ::= \"a\"{,3}", "expected a number"},
      {"root ::= \"a\"{2", "expected }, got the end"},
      {"root ::= \"a\"{3,2}", "the most repetitions are fewer"},
      {"root ::= \"a\"{2000}", "expected at most 1999 repetitions"},
      {"root ::= \"a\"{0,2001}", "expected at most 1999 repetitions"},
      {"root ::= \"a\"{99999999999999999999}", "expected at most 1999 repetitions"},
      {"root ::= (\"a\"{0,100}){100}", "100 repetitions of 101 rules"},
      {"root ::= a\n", "column 10: the rule 'a' is used and nowhere defined"},
      {"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule 'root' is there already"},
      {"root ::= <", "expected a token"},
      {"root ::= <[a]>", "expected a token"},
      {"root ::= !x", "expected <"},
      {"root ::= <no-such>", "column 10: '<no-such>' is not one token of the model"},
      {"root ::= \xFF", "not valid UTF-8"},
      {std::string("root ::= \"a\0\"", 13), "zero bytes"},
      // Left recursion: plain, over other rules, hidden behind what may be empty, in a repetition.
      {"root ::= root \"a\" | \"b\"", "line 1, column 1: the rule begins with itself"},
      {"root ::= a\na ::= b\nb ::= a \"x\" | \"y\"", "begins with itself"},
      {"root ::= a root \"x\"\na ::= b\nb ::= \"c\"?", "begins with itself"},
      {"root ::= (\"a\"*)*", "begins with itself"},
      {"root ::= (\"a\" | )+", "begins with itself"},
  };
  for (const auto& [grammar, message] : cases) {
    const auto checked = check_grammar(grammar, is_token);
    ASSERT_FALSE(checked) << grammar;
    EXPECT_EQ(checked.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(checked.error().message, HasSubstr(message)) << grammar;
  }
}

// What would take libllama's stack, memory or time.
TEST(GrammarCheck, BoundsWhatIsDeepOrMuch) {
  const auto refused = [](const std::string& grammar, const char* message) {
    const auto checked = check_grammar(grammar, is_token);
    ASSERT_FALSE(checked);
    EXPECT_THAT(checked.error().message, HasSubstr(message));
  };
  refused("root ::= " + std::string(100'000, '('), "nested parentheses");
  refused(std::string(kMaxGrammarBytes + 1, ' '), "expected at most 1048576");
  // Every rule begins in twice as many ways as the next.
  std::string ladder = "root ::= r0\n";
  for (int i = 0; i < 40; ++i) ladder += std::format("r{} ::= r{} \"a\" | r{} \"b\"\n", i, i + 1, i + 1);
  refused(ladder + "r40 ::= \"c\"\n", "can begin in more than 16384 ways");
  std::string chain = "root ::= r0\n";
  for (int i = 0; i < 10'000; ++i) chain += std::format("r{} ::= r{}\n", i, i + 1);
  refused(chain + "r10000 ::= \"c\"\n", "begin with one another");
  std::string many = "root ::= \"a\"";
  for (int i = 0; i < 2000; ++i) many += " \"abcdefgh\"{1000}";
  refused(many, "elements");
}

TEST(GrammarCheck, LongButPlainGrammarsPass) {
  std::string grammar = "root ::= r0\n";
  for (int i = 0; i < 5'000; ++i) grammar += std::format("r{} ::= \"a\" r{}\n", i, i + 1);
  grammar += "r5000 ::= [a-z]{1,1999}\n";
  const auto checked = check_grammar(grammar, is_token);
  EXPECT_TRUE(checked) << checked.error().message;
  EXPECT_TRUE(libllama_takes(grammar));
}

// Whatever is cut off or swapped, what passes here libllama takes, and neither ends the process.
TEST(GrammarCheck, DamagedGrammars) {
  const std::string whole =
      "root ::= ws (item | \"[\" [^\\\"a-z]{2,3} (\"x\"? y)* \"]\")+ ws\n"
      "item ::= \"\\u00e9\" y # comment\ny ::= <[3]> | .\nws ::= [ \\t]*\n";
  int n_taken = 0;
  const auto try_one = [&](const std::string& grammar) {
    if (!check_grammar(grammar, is_token)) return;
    ++n_taken;
    EXPECT_TRUE(libllama_takes(grammar)) << grammar;
  };
  for (std::size_t i = 0; i < whole.size(); ++i) {
    try_one(whole.substr(0, i));
    std::string without = whole;
    without.erase(i, 1);
    try_one(without);
    for (const char c : {'"', '(', ')', '*', '|', '\n', '[', ']', 'y', '{', '\\', '\x01'}) {
      std::string other = whole;
      other[i] = c;
      try_one(other);
    }
  }
  EXPECT_GT(n_taken, 100);
}

}  // namespace
}  // namespace hearth::model
