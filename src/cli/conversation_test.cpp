#include "cli/conversation.h"

#include <fstream>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/test_dir.h"

namespace hearth::cli {
namespace {

using testing::HasSubstr;

std::string with(std::string_view members) {
  return std::format(R"({{"hearth_conversation": 1, {}}})", members);
}

TEST(Conversation, IsReadAsTheFormatSays) {
  const auto read = from_json(
      with(
          R"("model": "m.gguf", "system": "Be brief.", "thinking": false, "settings": {"temp": 0.25, "top-k": 7,
             "ignore-eos": true, "samplers": "top_k;temperature"}, "messages": [
             {"role": "user", "content": "Hi é"}, {"role": "assistant", "content": "Hello", "reasoning": "Hm"}])"),
      {});
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->conversation.system, "Be brief.");
  EXPECT_EQ(read->conversation.thinking, false);
  EXPECT_EQ(read->sampling.temperature, 0.25F);
  EXPECT_EQ(read->sampling.top_k, 7);
  EXPECT_TRUE(read->sampling.ignore_eos);
  EXPECT_EQ(read->sampling.samplers, "top_k;temperature");
  EXPECT_EQ(read->sampling.top_p, 0.95F);
  ASSERT_EQ(read->conversation.turns.size(), 2U);
  EXPECT_EQ(read->conversation.turns[0].content, "Hi \xC3\xA9");
  EXPECT_EQ(read->conversation.turns[1].reasoning, "Hm");
  const auto messages = read->conversation.messages();
  ASSERT_EQ(messages.size(), 3U);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[2].content, "Hello");
  EXPECT_EQ(read->conversation.joined(), "Hi \xC3\xA9Hello");
}

TEST(Conversation, ComesBackAsItWasSaved) {
  const TestDir dir;
  SavedConversation saved;
  saved.conversation = {
      .system = "S\n\"\\", .thinking = true, .turns = {{"user", "q\x01\t"}, {"assistant", "", "r"}}};
  saved.sampling.temperature = 0.1F;
  saved.sampling.seed = 4294967295;
  saved.sampling.xtc_probability = 1e-7F;
  saved.sampling.ignore_eos = true;
  const std::string path = dir.path() / "c.json";
  ASSERT_TRUE(save_conversation(path, saved, "m"));
  const auto read = load_conversation(path, {});
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->conversation.system, saved.conversation.system);
  EXPECT_EQ(read->conversation.thinking, true);
  EXPECT_EQ(read->conversation.turns[0].content, "q\x01\t");
  EXPECT_EQ(read->conversation.turns[1].reasoning, "r");
  EXPECT_EQ(read->sampling.values(), saved.sampling.values());
}

TEST(Conversation, WhatIsWrongIsSaidWithItsPlace) {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  const std::pair<std::string, std::string> cases[] = {
      {"", "no JSON"},
      {"{", "no JSON"},
      {"\xFF", "no JSON"},
      {R"({"hearth_conversation": 1, "messages": [{"role": "user", "content": ")"
       "\xC3"
       R"("}]})",
       "no JSON"},
      {"[]", "expected an object, got an array"},
      {"{}", "no saved conversation"},
      {R"({"hearth_conversation": 2, "messages": []})", "version '2' of the format, expected 1"},
      {R"({"hearth_conversation": 1e99, "messages": []})", "no saved conversation"},
      {with(R"("system": "x")"), "messages is missing"},
      {with(R"("messages": {})"), "messages: expected an array, got an object"},
      {with(R"("messages": [1])"), "messages[0]: expected an object, got '1'"},
      {with(R"("messages": )" + deep), "messages[0]: expected an object, got an array"},
      {with(R"("messages": [{"role": "user"}])"), "messages[0]: content is missing"},
      {with(R"("messages": [{"role": "user", "content": 1}])"),
       "messages[0].content: expected text, got '1'"},
      {with(R"("messages": [{"role": "system", "content": ""}])"), "messages[0].role: expected 'user'"},
      {with(R"("messages": [{"role": "user", "content": ""}, {"role": "user", "content": ""}])"),
       "messages[1].role: expected 'assistant'"},
      {with(R"("messages": [{"role": "user", "content": "", "x": 1}])"), "messages[0]: unknown member 'x'"},
      {with(R"("messages": [], "\u001b[2J": 1)"), R"(unknown member '\x1b[2J')"},
      {with(R"("messages": [], "thinking": "yes")"), "thinking: expected true or false"},
      {with(R"("messages": [], "system": null)"), "system: expected text"},
      {with(R"("messages": [], "settings": [])"), "settings: expected an object"},
      {with(R"("messages": [], "settings": {"temp": {}})"), "'temp': expected a number"},
      {with(R"("messages": [], "settings": {"temp": "hot"})"), "temp: expected a number, got 'hot'"},
      {with(R"("messages": [], "settings": {"temp": 1e99})"), "settings: temp"},
      {with(R"("messages": [], "settings": {"top-p": 7})"), "top-p is 7, expected 0 to 1"},
      {with(R"("messages": [], "settings": {"top-k": 1.5})"), "top-k: expected a whole number"},
      {with(R"("messages": [], "settings": {"model": "x"})"), "there is no setting 'model'"},
  };
  for (const auto& [text, message] : cases) {
    const auto read = from_json(text, {});
    ASSERT_FALSE(read) << message;
    EXPECT_EQ(read.error().code, ErrorCode::kInvalidFile);
    EXPECT_THAT(read.error().message, HasSubstr(message));
  }
}

TEST(Conversation, FilesThatCannotBe) {
  const TestDir dir;
  EXPECT_EQ(load_conversation(dir.path() / "none", {}).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(load_conversation(dir.path(), {}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(save_conversation(dir.path() / "no" / "folder", {}, "m").error().code, ErrorCode::kIo);
  const std::string path = dir.write("c.json", "was here");
  std::filesystem::create_directory(dir.path() / "c.json.d");
  EXPECT_FALSE(save_conversation(dir.path() / "c.json.d", {}, "m"));
  EXPECT_TRUE(save_conversation(path, {}, "m"));
  std::ifstream in(path);
  EXPECT_THAT(std::string(std::istreambuf_iterator<char>(in), {}), testing::StartsWith("{"));
}

TEST(SamplingFlags, AreSetByName) {
  SamplingFlags flags;
  ASSERT_TRUE(flags.set("temp", "0.5"));
  ASSERT_TRUE(flags.set("repeat-last-n", "-1"));
  ASSERT_TRUE(flags.set("predict", "+5"));
  flags.logit_bias = {"7-inf", "3+1.5"};
  const auto options = flags.options(128);
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->sampling.temperature, 0.5F);
  EXPECT_EQ(options->sampling.repeat_last_n, 128);
  EXPECT_EQ(options->max_tokens, 5);
  EXPECT_EQ(options->sampling.logit_bias[0].bias, -std::numeric_limits<float>::infinity());
  EXPECT_EQ(options->sampling.logit_bias[1].token, 3);
  EXPECT_EQ(options->sampling.logit_bias[1].bias, 1.5F);
  for (const auto& [name, value] : {std::pair{"temp", "nan"},
                                    {"temp", "1x"},
                                    {"temp", ""},
                                    {"mirostat", "3"},
                                    {"predict", "0"},
                                    {"seed", "-2"},
                                    {"top-k", "99999999999"},
                                    {"ignore-eos", "2"},
                                    {"samplers", "top_z"},
                                    {"no", "1"},
                                    {"", ""}})
    EXPECT_FALSE(flags.set(name, value)) << name << " " << value;
  EXPECT_EQ(flags.temperature, 0.5F);
  for (const char* bias : {"", "7", "+7", "x+1", "7+", "7+-1", "7~1", "7-nan"}) {
    flags.logit_bias = {bias};
    EXPECT_FALSE(flags.options(1)) << bias;
  }
}

}  // namespace
}  // namespace hearth::cli
