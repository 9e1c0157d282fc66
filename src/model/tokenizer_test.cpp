#include "model/tokenizer.h"

#include <functional>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/limits.h"
#include "model/test_vocabulary.h"

namespace hearth::model {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

Result<Tokenizer> load(const TinyModel& model) {
  const TempFile file(model.image().bytes);
  return Tokenizer::load(file.path());
}
Result<Tokenizer> load(const TestVocabulary& vocabulary) {
  return load(vocabulary.model());
}

std::vector<Token> encode(const Tokenizer& tokenizer, std::string_view text,
                          Tokenizer::EncodeOptions options = {}) {
  auto tokens = tokenizer.encode(text, options);
  if (tokens) return *tokens;
  ADD_FAILURE() << tokens.error().message;
  return {};
}

constexpr Tokenizer::EncodeOptions kPlain{.add_special = false, .parse_special = false};
constexpr Tokenizer::EncodeOptions kParse{.add_special = false, .parse_special = true};

TEST(SentencePiece, MergesByScore) {
  const auto tokenizer = load(spm_vocabulary());
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->n_vocab(), 268U);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  // A space goes before the text; "ab" has the best score of the pairs, then the space joins it.
  EXPECT_THAT(encode(*tokenizer, "ab"), ElementsAre(1, 264));
  // "ab" (-263) is merged before "bc" (-265), and then grows to "abc" only without the space, which comes
  // first.
  EXPECT_THAT(encode(*tokenizer, "abc", kPlain), ElementsAre(264, 262));
  EXPECT_THAT(encode(*tokenizer, "cbc", kPlain), ElementsAre(259, 262, 265));
  EXPECT_THAT(encode(*tokenizer, "", kPlain), ElementsAre());
  EXPECT_THAT(encode(*tokenizer, ""), ElementsAre(1));
}

TEST(SentencePiece, FallsBackToBytes) {
  const auto tokenizer = load(spm_vocabulary());
  ASSERT_TRUE(tokenizer);
  EXPECT_THAT(encode(*tokenizer, "\xC3\xA9", kPlain), ElementsAre(259, 3 + 0xC3, 3 + 0xA9));
  EXPECT_EQ(tokenizer->piece(3 + 0xC3), "\xC3");
  EXPECT_EQ(tokenizer->piece(3), std::string(1, '\0'));
  const std::vector<Token> tokens{3 + 0xC3, 3 + 0xA9, 260};
  EXPECT_EQ(tokenizer->decode(tokens),
            "\xC3\xA9"
            "a");
  // Bytes that are no UTF-8 at all.
  EXPECT_EQ(tokenizer->decode(encode(*tokenizer, "\xFF\xC3(\x80", kPlain)), " \xFF\xC3(\x80");
}

TEST(SentencePiece, SpecialTokens) {
  const auto tokenizer = load(spm_vocabulary());
  ASSERT_TRUE(tokenizer);
  EXPECT_THAT(encode(*tokenizer, "a<|im_end|>", kParse), ElementsAre(259, 260, 267));
  // As plain text it is spelled out, byte by byte.
  EXPECT_EQ(encode(*tokenizer, "a<|im_end|>", kPlain).size(), 2 + std::string("<|im_end|>").size());
  EXPECT_EQ(tokenizer->piece(267), "");
  EXPECT_EQ(tokenizer->piece(267, true), "<|im_end|>");
  EXPECT_EQ(tokenizer->piece(1), "");
  EXPECT_EQ(tokenizer->piece(1, true), "<s>");
  EXPECT_EQ(tokenizer->piece(264), " ab");
  const std::vector<Token> tokens{1, 264, 267};
  EXPECT_EQ(tokenizer->decode(tokens), " ab");
  EXPECT_EQ(tokenizer->decode(tokens, true), "<s> ab<|im_end|>");
  // The end of a text and of an answer.
  EXPECT_TRUE(tokenizer->ends_generation(2));
  EXPECT_TRUE(tokenizer->ends_generation(267));
  EXPECT_FALSE(tokenizer->ends_generation(1));
  EXPECT_FALSE(tokenizer->ends_generation(260));
}

TEST(Tokenizer, TokensOutOfRangeAreNothing) {
  const auto tokenizer = load(spm_vocabulary());
  ASSERT_TRUE(tokenizer);
  for (const Token token : {-1, 268, std::numeric_limits<Token>::max(), std::numeric_limits<Token>::min()}) {
    EXPECT_EQ(tokenizer->piece(token, true), "");
    EXPECT_FALSE(tokenizer->ends_generation(token));
  }
}

TEST(SentencePiece, AsTheMetadataSays) {
  auto vocabulary = spm_vocabulary();
  vocabulary.with(gguf::bool_key("tokenizer.ggml.add_space_prefix", 0));
  vocabulary.with(gguf::bool_key("tokenizer.ggml.add_bos_token", 0))
      .with(gguf::bool_key("tokenizer.ggml.add_eos_token", 1));
  const auto tokenizer = load(vocabulary);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_THAT(encode(*tokenizer, "abc"), ElementsAre(266, 2));
}

TEST(SentencePiece, ATextThatTheVocabularyCannotSpell) {
  TestVocabulary vocabulary("llama");
  vocabulary.add("<unk>", 0, kUnknown).add("<s>", 0, kControl).add("</s>", 0, kControl).add("a");
  const auto tokenizer = load(vocabulary.with(gguf::bool_key("tokenizer.ggml.add_space_prefix", 0)));
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_THAT(encode(*tokenizer, "aa", kPlain), ElementsAre(3, 3));
  const auto tokens = tokenizer->encode("ab", kPlain);
  if (tokens) {
    for (const Token token : *tokens) EXPECT_LT(token, 4);
  } else {
    EXPECT_EQ(tokens.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(tokens.error().message, HasSubstr("cannot express the text 'ab'"));
  }
}

TEST(Bpe, MergesByRank) {
  const auto tokenizer = load(bpe_vocabulary());
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->n_vocab(), 13U);
  EXPECT_EQ(tokenizer->eos(), 12);
  EXPECT_THAT(encode(*tokenizer, "hello hello"), ElementsAre(8, 9));
  EXPECT_THAT(encode(*tokenizer, "hell"), ElementsAre(7));
  EXPECT_THAT(encode(*tokenizer, "hel"), ElementsAre(5, 2));
  // U+00E9 is the bytes C3 A9, which byte-level BPE spells as two characters.
  EXPECT_THAT(encode(*tokenizer, "\xC3\xA9"), ElementsAre(10, 11));
  EXPECT_EQ(tokenizer->piece(10), "\xC3");
  EXPECT_EQ(tokenizer->piece(9), " hello");
  const std::vector<Token> tokens{8, 9, 10, 11, 12};
  EXPECT_EQ(tokenizer->decode(tokens), "hello hello\xC3\xA9");
  EXPECT_EQ(tokenizer->decode(tokens, true), "hello hello\xC3\xA9<|endoftext|>");
  EXPECT_THAT(encode(*tokenizer, "hello<|endoftext|>", kParse), ElementsAre(8, 12));
  EXPECT_TRUE(tokenizer->ends_generation(12));
}

TEST(Tokenizer, TextsAreBounded) {
  const auto tokenizer = load(spm_vocabulary());
  ASSERT_TRUE(tokenizer);
  const auto tokens = tokenizer->encode(std::string(kMaxTextBytes + 1, 'a'), kPlain);
  ASSERT_FALSE(tokens);
  EXPECT_EQ(tokens.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(tokens.error().message, HasSubstr("1048577 bytes, expected at most 1048576"));
}

TEST(Tokenizer, SpecialTokensAreBounded) {
  auto vocabulary = spm_vocabulary();
  vocabulary.add("<tool>", 0, kUserDefined);
  const auto tokenizer = load(vocabulary);
  ASSERT_TRUE(tokenizer);
  std::string controls, tools;
  for (std::size_t i = 0; i <= kMaxSpecialsInText; ++i) {
    controls += "<|im_end|>";
    tools += "<tool>";
  }
  EXPECT_THAT(tokenizer->encode(controls, kParse).error().message,
              HasSubstr("the text has 10001 special tokens, expected at most 10000"));
  EXPECT_TRUE(tokenizer->encode(controls, kPlain));
  EXPECT_FALSE(tokenizer->encode(tools, kPlain));
  EXPECT_FALSE(tokenizer->encode(tools, kParse));
}

// Long words are where regular expressions recurse.
TEST(Tokenizer, LongWordsAndRuns) {
  for (const char* pre :
       {"gpt-2", "llama-bpe", "qwen2", "default", "tekken", "smollm", "deepseek-r1-qwen", "gpt-4o"}) {
    auto vocabulary = bpe_vocabulary();
    vocabulary.with(gguf::string_key("tokenizer.ggml.pre", pre));
    const auto tokenizer = load(vocabulary);
    ASSERT_TRUE(tokenizer) << pre << ": " << tokenizer.error().message;
    for (const char c : {'h', ' ', '\n', '1', '.', '\xE9'}) {
      const auto tokens = tokenizer->encode(std::string(20'000, c), kPlain);
      EXPECT_TRUE(tokens || tokens.error().code == ErrorCode::kInvalidArgument) << pre;
    }
  }
}

TEST(Tokenizer, ManyThreadsAtOnce) {
  const auto tokenizer = load(spm_vocabulary());
  ASSERT_TRUE(tokenizer);
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int j = 0; j < 200; ++j) {
        EXPECT_THAT(encode(*tokenizer, "ab"), ElementsAre(1, 264));
        EXPECT_EQ(tokenizer->piece(264), " ab");
      }
    });
}

TEST(Tokenizer, SurvivesAMove) {
  auto tokenizer = load(spm_vocabulary());
  ASSERT_TRUE(tokenizer);
  const Tokenizer moved = std::move(*tokenizer);
  EXPECT_THAT(encode(moved, "ab"), ElementsAre(1, 264));
}

TEST(ShippedModels, SpeakTheirChatFormat) {
  for (const char* name : {"ember-q8_0.gguf", "ember-q4_k_m.gguf", "spark-q8_0.gguf"}) {
    const auto tokenizer = Tokenizer::load(std::string(HEARTH_SOURCE_DIR "/models/") + name);
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    EXPECT_EQ(tokenizer->n_vocab(), 2048U);
    EXPECT_EQ(tokenizer->bos(), 1);
    EXPECT_EQ(tokenizer->eos(), 2);
    EXPECT_TRUE(tokenizer->ends_generation(4));
    const auto tokens =
        encode(*tokenizer, "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n",
               {.add_special = true, .parse_special = true});
    EXPECT_EQ(tokens.front(), 1);
    EXPECT_EQ(tokens[1], 3);
    EXPECT_EQ(std::ranges::count(tokens, 3), 2);
    EXPECT_EQ(std::ranges::count(tokens, 4), 1);
    EXPECT_EQ(tokenizer->decode(tokens), "user\nWho are you?\nassistant\n");
    const std::string text = "Once upon a time, na\xC3\xAFve \xF0\x9F\x98\x80!\n\t  42";
    EXPECT_EQ(tokenizer->decode(encode(*tokenizer, text)), text);
  }
}

struct BadCase {
  const char* name;
  TestVocabulary (*base)();
  std::function<void(TestVocabulary&)> change;
  ErrorCode code;
  const char* message;
};

void PrintTo(const BadCase& c, std::ostream* out) {
  *out << c.name;
}

class BadVocabulary : public testing::TestWithParam<BadCase> {};

TEST_P(BadVocabulary, IsAnError) {
  const BadCase& c = GetParam();
  TestVocabulary vocabulary = c.base();
  c.change(vocabulary);
  const TempFile file(vocabulary.model().image().bytes);
  const auto tokenizer = Tokenizer::load(file.path());
  ASSERT_FALSE(tokenizer);
  EXPECT_EQ(name(tokenizer.error().code), name(c.code)) << tokenizer.error().message;
  EXPECT_THAT(tokenizer.error().message, AllOf(StartsWith(file.path().string()), HasSubstr(c.message)));
}

constexpr auto kInvalid = ErrorCode::kInvalidFile;
constexpr auto kUnsupported = ErrorCode::kUnsupported;

gguf::TestKey i32s(std::string key, const std::vector<std::int32_t>& values) {
  std::string items;
  for (const std::int32_t value : values) items += gguf::encoded(value);
  return gguf::array_key(std::move(key), 5, values.size(), items);
}

const BadCase kBadCases[] = {
    {"KindOfAnotherFamily", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::string_key("tokenizer.ggml.model", "bert")); }, kUnsupported,
     "key 'tokenizer.ggml.model' is 'bert'; supported are 'llama' (SentencePiece) and 'gpt2'"},
    {"NoVocabularyAtAll", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::string_key("tokenizer.ggml.model", "none")); }, kUnsupported,
     "is 'none'"},
    {"KindIsANumber", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::u32_key("tokenizer.ggml.model", 1)); }, kInvalid,
     "key 'tokenizer.ggml.model' has type u32"},
    {"NoTokens", spm_vocabulary, [](TestVocabulary& v) { v.texts.clear(); }, kInvalid,
     "key 'tokenizer.ggml.tokens' has 0 tokens, expected 1 to"},
    {"TokensAreNumbers", spm_vocabulary,
     [](TestVocabulary& v) { v.with(i32s("tokenizer.ggml.tokens", {1, 2})); }, kInvalid,
     "key 'tokenizer.ggml.tokens' is array of i32, expected array of strings"},
    {"TwoTokensAlike", spm_vocabulary, [](TestVocabulary& v) { v.add("ab"); }, kInvalid,
     "tokens 263 and 268 have the same text 'ab'"},
    {"TwoTokensAlikeUpToAZero", spm_vocabulary, [](TestVocabulary& v) { v.add(std::string("ab\0c", 4)); },
     kInvalid, "have the same text 'ab'"},
    {"AnEmptyTokensStandIn", spm_vocabulary, [](TestVocabulary& v) { v.add("").add("[EMPTY_268]"); },
     kInvalid, "tokens 268 and 269 have the same text '[EMPTY_268]'"},
    {"AHugeToken", spm_vocabulary, [](TestVocabulary& v) { v.add(std::string(70'000, 'x')); }, kInvalid,
     "token 268 has 70000 bytes"},
    {"TooFewScores", spm_vocabulary, [](TestVocabulary& v) { v.scores.pop_back(); }, kInvalid,
     "key 'tokenizer.ggml.scores' has 267 elements, expected one for each of the 268 tokens"},
    {"TooManyScores", spm_vocabulary, [](TestVocabulary& v) { v.scores.push_back(0); }, kInvalid,
     "has 269 elements"},
    {"ScoresAreIntegers", spm_vocabulary,
     [](TestVocabulary& v) { v.with(i32s("tokenizer.ggml.scores", std::vector<std::int32_t>(268, 0))); },
     kInvalid, "key 'tokenizer.ggml.scores' is array of i32, expected array of f32"},
    {"ScoresAreText", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::string_array_key("tokenizer.ggml.scores", {"1"})); }, kInvalid,
     "key 'tokenizer.ggml.scores' is array of string"},
    {"AScoreIsNotANumber", spm_vocabulary, [](TestVocabulary& v) { v.scores[260] = NAN; }, kInvalid,
     "the score of token 260 is NaN"},
    {"TooFewTypes", spm_vocabulary, [](TestVocabulary& v) { v.types.pop_back(); }, kInvalid,
     "key 'tokenizer.ggml.token_type' has 267 elements"},
    {"TypesAreText", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::string_array_key("tokenizer.ggml.token_type", {"1"})); }, kInvalid,
     "key 'tokenizer.ggml.token_type' is array of string"},
    {"TypesAreOneNumber", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::u32_key("tokenizer.ggml.token_type", 1)); }, kInvalid, "is u32"},
    {"AByteWithoutDigits", spm_vocabulary, [](TestVocabulary& v) { v.add("<", 0, kByte); }, kInvalid,
     "token 268 '<' is marked as a byte, expected a text like '<0x0A>'"},
    {"AByteWithOtherDigits", spm_vocabulary, [](TestVocabulary& v) { v.add("<0xZZ>", 0, kByte); }, kInvalid,
     "token 268 '<0xZZ>' is marked as a byte"},
    {"AByteInBpe", bpe_vocabulary, [](TestVocabulary& v) { v.add("<0x0A>", 0, kByte); }, kInvalid,
     "token 13 '<0x0A>' is marked as a byte, which BPE vocabularies do not have"},
    {"BosOutOfRange", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::u32_key("tokenizer.ggml.bos_token_id", 268)); }, kInvalid,
     "key 'tokenizer.ggml.bos_token_id' is 268, but there are 268 tokens"},
    {"EosOutOfRange", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::u32_key("tokenizer.ggml.eos_token_id", 0xFFFFFFFF)); }, kInvalid,
     "key 'tokenizer.ggml.eos_token_id' is 4294967295"},
    {"EosIsText", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::string_key("tokenizer.ggml.eos_token_id", "2")); }, kInvalid,
     "key 'tokenizer.ggml.eos_token_id' has type string"},
    {"SuppressedOutOfRange", spm_vocabulary,
     [](TestVocabulary& v) { v.with(i32s("tokenizer.ggml.suppress_tokens", {5, -1})); }, kInvalid,
     "key 'tokenizer.ggml.suppress_tokens' names token -1"},
    {"SuppressedAreText", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::string_array_key("tokenizer.ggml.suppress_tokens", {"a"})); },
     kInvalid, "key 'tokenizer.ggml.suppress_tokens' is array of string"},
    {"NoMerges", bpe_vocabulary,
     [](TestVocabulary& v) {
       v.kind = "llama";
       v.with(gguf::string_key("tokenizer.ggml.model", "gpt2"));
     },
     kInvalid, "key 'tokenizer.ggml.merges' is missing"},
    {"MergesAreNumbers", bpe_vocabulary,
     [](TestVocabulary& v) { v.with(i32s("tokenizer.ggml.merges", {1})); }, kInvalid,
     "key 'tokenizer.ggml.merges' is array of i32"},
    {"UnknownPreTokenizer", bpe_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::string_key("tokenizer.ggml.pre", "from-the-future")); },
     kUnsupported, "libllama cannot read the vocabulary: 'unknown pre-tokenizer type: 'from-the-future"},
    {"AddBosIsANumber", spm_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::u32_key("tokenizer.ggml.add_bos_token", 1)); }, kUnsupported,
     "libllama cannot read the vocabulary"},
    {"PreIsANumber", bpe_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::u32_key("tokenizer.ggml.pre", 1)); }, kUnsupported,
     "libllama cannot read the vocabulary"},
    {"ANameWithRulesOfItsOwn", bpe_vocabulary,
     [](TestVocabulary& v) { v.with(gguf::string_key("general.name", "phi-3")); }, kUnsupported,
     "libllama cannot read the vocabulary"},
    {"BosWantedButNone", bpe_vocabulary,
     [](TestVocabulary& v) {
       // Fewer tokens than libllama's default ids for this kind, which are 11.
       v = TestVocabulary("gpt2");
       v.add("a").add("b").with(gguf::string_key("tokenizer.ggml.pre", "gpt-2"));
       v.with(gguf::bool_key("tokenizer.ggml.add_bos_token", 1));
     },
     kInvalid, "texts are to begin with a BOS token, but the vocabulary has none"},
    {"EosWantedButNone", bpe_vocabulary,
     [](TestVocabulary& v) {
       v = TestVocabulary("gpt2");
       v.add("a").add("b").with(gguf::string_key("tokenizer.ggml.pre", "gpt-2"));
       v.with(gguf::bool_key("tokenizer.ggml.add_eos_token", 1));
     },
     kInvalid, "texts are to end with an EOS token, but the vocabulary has none"},
    {"OneToken", spm_vocabulary, [](TestVocabulary& v) { v = TestVocabulary("llama").add("a"); }, kInvalid,
     "texts are to begin with a BOS token"},
};

INSTANTIATE_TEST_SUITE_P(Cases, BadVocabulary, testing::ValuesIn(kBadCases),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Tokenizer, NoVocabulary) {
  const auto tokenizer = load(TinyModel("llama"));
  ASSERT_FALSE(tokenizer);
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(tokenizer.error().message,
              HasSubstr("the file has no vocabulary (key 'tokenizer.ggml.model' is missing)"));
}

TEST(Tokenizer, NoFile) {
  const auto tokenizer = Tokenizer::load("/nonexistent/model.gguf");
  ASSERT_FALSE(tokenizer);
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kNotFound);
}

// Odd, but libllama can live with it.
TEST(Tokenizer, AcceptsOddVocabularies) {
  const std::pair<const char*, std::function<void(TestVocabulary&)>> cases[] = {
      {"padding out of range",
       [](TestVocabulary& v) { v.with(gguf::u32_key("tokenizer.ggml.padding_token_id", 0xFFFFFFFF)); }},
      {"unknown types",
       [](TestVocabulary& v) {
         v.types[260] = 99;
         v.types[261] = -5;
       }},
      {"an empty token", [](TestVocabulary& v) { v.add(""); }},
      {"infinite scores",
       [](TestVocabulary& v) {
         v.scores[260] = -INFINITY;
         v.scores[261] = INFINITY;
       }},
      {"no newline",
       [](TestVocabulary& v) {
         v.texts[3 + 10] = "gone";
         v.types[3 + 10] = kNormal;
       }},
      {"suppressed tokens", [](TestVocabulary& v) { v.with(i32s("tokenizer.ggml.suppress_tokens", {5})); }},
      {"all control", [](TestVocabulary& v) { std::ranges::fill(v.types, kControl); }},
      {"broken UTF-8", [](TestVocabulary& v) { v.add("\xFF\xFE").add("\xE2\x96"); }},
  };
  for (const auto& [what, change] : cases) {
    auto vocabulary = spm_vocabulary();
    change(vocabulary);
    const auto tokenizer = load(vocabulary);
    ASSERT_TRUE(tokenizer) << what << ": " << tokenizer.error().message;
    for (std::uint32_t i = 0; i < tokenizer->n_vocab(); ++i)
      (void)tokenizer->piece(static_cast<Token>(i), true);
    (void)tokenizer->encode("abc \xC3\xA9 <|im_end|>\n", {.add_special = true, .parse_special = true});
  }
}

TEST(Bpe, AcceptsOddMerges) {
  for (const std::string merge : {"", " ", "h", "h e l", "x y", " e", "h ", "\xFF \xFE"}) {
    auto vocabulary = bpe_vocabulary();
    vocabulary.merges.insert(vocabulary.merges.begin(), merge);
    const auto tokenizer = load(vocabulary);
    ASSERT_TRUE(tokenizer) << merge << ": " << tokenizer.error().message;
    (void)tokenizer->encode("hello hello h e", kPlain);
  }
}

TEST(Bpe, UnknownBytes) {
  const auto tokenizer = load(bpe_vocabulary());
  ASSERT_TRUE(tokenizer);
  // No token spells a "z" or these bytes: an error or nothing, never a token that does not exist.
  for (const std::string text :
       {"z", "\xFF", "hello\xE2\x82", "\xED\xA0\x80", std::string("\0", 1).c_str()}) {
    const auto tokens = tokenizer->encode(text, kPlain);
    if (!tokens) continue;
    for (const Token token : *tokens) EXPECT_TRUE(token >= 0 && token < 13) << token;
  }
}

}  // namespace
}  // namespace hearth::model
