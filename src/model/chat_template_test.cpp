#include "model/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/test_model.h"

namespace hearth::model {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

Result<ChatTemplate> load(std::string_view source, std::string bos = "<s>", std::string eos = "</s>") {
  TinyModel tiny("llama");
  tiny.set(gguf::string_key("tokenizer.chat_template", source));
  auto file = tiny.parse();
  if (!file) return pass(std::move(file));
  return ChatTemplate::load(*file, std::move(bos), std::move(eos));
}

std::string apply(const Result<ChatTemplate>& chat, const std::vector<ChatMessage>& messages,
                  bool prompt = true) {
  if (!chat) return "cannot be loaded: " + chat.error().message;
  const auto text = chat->apply(messages, prompt);
  return text ? *text : "refused: " + text.error().message;
}

const std::vector<ChatMessage> kQuestion = {{"user", "Hi"}};
const std::vector<ChatMessage> kTalk = {
    {"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello!"}, {"user", "Who are you?"}};

TEST(ChatTemplate, OfTheShippedModels) {
  for (const char* name : {"ember-q8_0.gguf", "spark-q8_0.gguf"}) {
    const auto file = gguf::File::open(std::string(HEARTH_SOURCE_DIR "/models/") + name);
    ASSERT_TRUE(file) << file.error().message;
    const auto chat = ChatTemplate::load(*file, "<s>", "</s>");
    EXPECT_EQ(apply(chat, {{"user", "What is 7 + 5?"}}),
              "<|im_start|>user\nWhat is 7 + 5?<|im_end|>\n<|im_start|>assistant\n");
    EXPECT_EQ(apply(chat, {{"user", "Hi"}, {"assistant", "Hello!"}}, false),
              "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n");
  }
}

// In the manner of Llama 3: BOS from the template, trimmed contents, no default system message.
constexpr std::string_view kLlama3 =
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] "
    "| trim + "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% "
    "endif %}";

TEST(ChatTemplate, Llama3) {
  const auto chat = load(kLlama3, "<|begin_of_text|>", "<|eot_id|>");
  EXPECT_EQ(apply(chat, kTalk),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(apply(chat, {{"user", "  padded \n"}}, false),
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\npadded<|eot_id|>");
}

// In the manner of Qwen2.5: ChatML with a default system message and blocks for tools that stay empty.
constexpr std::string_view kQwen25 =
    "{%- if tools %}\n    {{- '<|im_start|>system\\ntools' }}\n{%- else %}\n"
    "    {%- if messages[0]['role'] == 'system' %}\n"
    "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
    "    {%- else %}\n"
    "        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\n"
    "    {%- endif %}\n{%- endif %}\n"
    "{%- for message in messages %}\n"
    "    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or "
    "(message.role == "
    "\"assistant\" and not message.tool_calls) %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n";

TEST(ChatTemplate, Qwen25) {
  const auto chat = load(kQwen25, "", "<|im_end|>");
  EXPECT_EQ(apply(chat, kQuestion),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(apply(chat, kTalk),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
            "<|im_start|>assistant\n");
}

// In the manner of Mistral 7B Instruct 0.1: roles must alternate, there is no system role.
constexpr std::string_view kMistral =
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) "
    "%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";

TEST(ChatTemplate, Mistral) {
  const auto chat = load(kMistral);
  EXPECT_EQ(apply(chat, {{"user", "Hi"}, {"assistant", "Hello!"}, {"user", "Who are you?"}}),
            "<s>[INST] Hi [/INST]Hello!</s> [INST] Who are you? [/INST]");
}

TEST(ChatTemplate, WithoutASystemRoleTheFirstQuestionCarriesIt) {
  const auto chat = load(kMistral);
  EXPECT_EQ(apply(chat, kTalk), "<s>[INST] Be brief.\nHi [/INST]Hello!</s> [INST] Who are you? [/INST]");
  // Also when there is no question yet, and when there are several.
  EXPECT_EQ(apply(chat, {{"system", "Be brief."}}), "<s>[INST] Be brief. [/INST]");
  EXPECT_EQ(apply(chat, {{"system", "A."}, {"system", "B."}, {"user", "Hi"}}),
            "<s>[INST] A.\nB.\nHi [/INST]");
}

TEST(ChatTemplate, IgnoringTheSystemRoleIsNotHavingIt) {
  const auto chat = load(
      "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}: {{ m.content }}]{% endif %}{% endfor "
      "%}");
  EXPECT_EQ(apply(chat, {{"system", "S"}, {"user", "U"}}), "[user: S\nU]");
}

TEST(ChatTemplate, ContentInParts) {
  const auto chat = load(
      "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }};"
      "{% endif %}{% endfor %}{% endfor %}");
  EXPECT_EQ(apply(chat, kTalk), "Be brief.;Hi;Hello!;Who are you?;");
}

TEST(ChatTemplate, RefusalsSayWhy) {
  const auto chat = load(kMistral);
  ASSERT_TRUE(chat);
  const std::vector<ChatMessage> messages = {{"user", "a"}, {"user", "b"}};
  const auto text = chat->apply(messages);
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(
      text.error().message,
      AllOf(HasSubstr("the model's chat template refuses the messages: 'Conversation roles must alternate"),
            Not(HasSubstr("\n"))));
}

TEST(ChatTemplate, Dates) {
  EXPECT_THAT(apply(load("{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}"), kQuestion),
              MatchesRegex("[0-9][0-9] [A-Za-z.]+ 20[0-9][0-9]Hi"));
  // A format without end gives nothing instead of too much.
  std::string format;
  for (int i = 0; i < 1000; ++i) format += "%A";
  EXPECT_EQ(apply(load("{{ strftime_now('" + format + "') }}"), kQuestion), "");
}

TEST(ChatTemplate, BlocksTakeTheirLines) {
  EXPECT_EQ(apply(load("{% if true %}\n  {% for m in messages %}\n{{ m.content }}\n  {% endfor %}\n{% endif "
                       "%}\nend\n"),
                  kQuestion),
            "Hi\nend");
}

TEST(ChatTemplate, TextPassesThrough) {
  const std::string odd = "{{ 1 }} {% if %} <|im_end|> \\n 'quotes\" \xC3\xA9 \xF0\x9F\x98\x80";
  EXPECT_EQ(apply(load("{{ messages[0].content }}"), {{"user", odd}}), odd);
  const std::string long_text(1'000'000, 'x');
  EXPECT_EQ(apply(load("{{ messages[0].content }}"), {{"user", long_text}}), long_text);
}

TEST(ChatTemplate, NotUtf8) {
  const auto chat = load("{{ messages[0].content }}");
  ASSERT_TRUE(chat);
  for (const std::string bytes : {"\xFF", "a\xC3", "\xED\xA0\x80"}) {
    const std::vector<ChatMessage> messages = {{"user", bytes}};
    const auto text = chat->apply(messages);
    ASSERT_FALSE(text);
    EXPECT_EQ(text.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(text.error().message, HasSubstr("is not valid UTF-8"));
  }
}

TEST(ChatTemplate, NoMessages) {
  EXPECT_EQ(apply(load(kLlama3), {}, false), "");
  // A template that looks at the first message says so instead of crashing.
  const auto chat = load(kQwen25);
  ASSERT_TRUE(chat);
  (void)chat->apply({});
}

TEST(ChatTemplate, NoTemplate) {
  const auto file = TinyModel("llama").parse();
  ASSERT_TRUE(file);
  const auto chat = ChatTemplate::load(*file, "", "");
  ASSERT_FALSE(chat);
  EXPECT_EQ(chat.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(chat.error().message, HasSubstr("has no chat template (key 'tokenizer.chat_template')"));
}

TEST(ChatTemplate, TemplateIsANumber) {
  TinyModel tiny("llama");
  const auto file = tiny.set(gguf::u32_key("tokenizer.chat_template", 1)).parse();
  ASSERT_TRUE(file);
  const auto chat = ChatTemplate::load(*file, "", "");
  ASSERT_FALSE(chat);
  EXPECT_EQ(chat.error().code, ErrorCode::kInvalidFile);
}

TEST(ChatTemplate, BrokenTemplates) {
  for (const char* source :
       {"{% if %}x{% endif %}", "{% if true %}x", "{{ messages[0", "{{ 'unfinished }}", "{% endfor %}",
        "{% for m messages %}{% endfor %}", "{% frobnicate %}", "{{ 1 + }}", "{% macro %}", "{{", "{%",
        "{{ a | }}", "{% set = 1 %}", "{{ (1 }}", "{{ }}", "{% if true %}{% endfor %}"}) {
    const auto chat = load(source);
    ASSERT_FALSE(chat) << source;
    EXPECT_EQ(chat.error().code, ErrorCode::kInvalidFile) << source;
    EXPECT_THAT(chat.error().message,
                AllOf(HasSubstr("the chat template (key 'tokenizer.chat_template') cannot be parsed: "),
                      Not(HasSubstr("\n"))));
  }
}

// Errors that only show when it runs.
TEST(ChatTemplate, TemplatesThatFail) {
  for (const char* source :
       {"{{ raise_exception('no') }}", "{{ messages[0].content | frobnicate }}", "{{ undefined_thing() }}",
        "{{ messages[0].content.frobnicate() }}", "{{ 'a' - 1 }}"}) {
    const auto chat = load(source);
    ASSERT_TRUE(chat) << source << ": " << chat.error().message;
    const auto text = chat->apply(kQuestion);
    ASSERT_FALSE(text) << source;
    EXPECT_EQ(text.error().code, ErrorCode::kInvalidArgument);
  }
}

std::string repeat(std::string_view text, std::size_t count) {
  std::string result;
  for (std::size_t i = 0; i < count; ++i) result += text;
  return result;
}

TEST(ChatTemplate, HostileTemplates) {
  const std::pair<std::string, const char*> cases[] = {
      {std::string(70'000, 'x'), "has 70000 bytes, expected at most 65536"},
      {"{{ " + repeat("not ", 5'000) + "1 }}",
       "a tag of the chat template has 20003 bytes, expected at most 8192"},
      {"{{ " + repeat("(", 1'000) + "1" + repeat(")", 1'000) + " }}", "nested more than 48 levels deep"},
      {"{{ " + repeat("[", 1'000), "nested more than 48 levels deep"},
      {repeat("{% if 1 %}", 1'000) + repeat("{% endif %}", 1'000), "nested more than 48 levels deep"},
      {repeat("{%- for m in messages -%}", 100), "nested more than 48 levels deep"},
      {"{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "the macro 'a' of the chat template calls itself"},
      {"{%- macro a(x) -%}{% if x %}{{- b (x) -}}{% endif %}{%- endmacro -%}{% macro b(x) %}{{ 1 + a(x) }}{% "
       "endmacro %}{{ a(1) }}",
       "calls itself"},
      {"{% macro a(x=a()) %}{% endmacro %}{{ a() }}", "calls itself"},
      {"{% macro a() %}{% set x = a() %}{% endmacro %}{{ a() }}", "calls itself"},
      {"{% macro a() %}{% call a() %}{% endcall %}{% endmacro %}{{ a() }}", "calls itself"},
  };
  for (const auto& [source, message] : cases) {
    const auto chat = load(source);
    ASSERT_FALSE(chat) << source.substr(0, 60);
    EXPECT_EQ(chat.error().code, ErrorCode::kUnsupported) << source.substr(0, 60);
    EXPECT_THAT(chat.error().message, HasSubstr(message)) << source.substr(0, 60);
  }
}

// Just inside of the bounds, or only looking like trouble.
TEST(ChatTemplate, DeepButSound) {
  EXPECT_EQ(apply(load(repeat("{% if 1 %}", 48) + "x" + repeat("{% endif %}", 48)), kQuestion), "x");
  EXPECT_EQ(apply(load(repeat("{% if 1 %}x{% endif %}", 100)), kQuestion), repeat("x", 100));
  EXPECT_EQ(apply(load("{{ " + repeat("(", 40) + "1" + repeat(")", 40) + " }}"), kQuestion), "1");
  EXPECT_EQ(apply(load("{{ " + repeat("not ", 1'000) + "1 }}"), kQuestion), "True");
  EXPECT_EQ(apply(load("{{ '" + repeat("(", 1'000) + "' }}"), kQuestion), repeat("(", 1'000));
  EXPECT_EQ(apply(load("{# " + repeat("{% if %}((", 1'000) + " #}x"), kQuestion), "x");
  EXPECT_EQ(apply(load("{ x { {y} }{{ {'a': {'b': 1}}['a']['b'] }}"), kQuestion), "{ x { {y} }1");
  EXPECT_EQ(apply(load("{% macro a(x) %}<{{ x }}>{% endmacro %}{% macro b(x) %}{{ a(x) }}{{ a(2) }}{% "
                       "endmacro %}{{ b(1) }}"),
                  kQuestion),
            "<1><2>");
}

TEST(ChatTemplate, SurvivesAMove) {
  auto chat = load("{{ messages[0].content }}");
  ASSERT_TRUE(chat);
  const ChatTemplate moved = std::move(*chat);
  EXPECT_EQ(moved.apply(kQuestion).value(), "Hi");
}

// In the manner of Qwen3: reasoning of older answers is left out, an empty block stands for none.
constexpr std::string_view kQwen3 =
    "{%- for message in messages %}{%- set content = message.content.split('</think>')[-1] %}"
    "{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
    "{%- endif %}{%- endif %}";

TEST(ChatTemplate, ReasoningAndItsSwitch) {
  const auto chat = load(kQwen3);
  ASSERT_TRUE(chat) << chat.error().message;
  EXPECT_EQ(chat->reasoning(), (ReasoningMarks{"<think>", "</think>"}));
  EXPECT_TRUE(chat->has_thinking_switch());
  const std::string question = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(chat->apply(kQuestion), question);
  EXPECT_EQ(chat->apply(kQuestion, true, true), question);
  EXPECT_EQ(chat->apply(kQuestion, true, false), question + "<think>\n\n</think>\n\n");
  // Granite's name of the switch.
  const auto other = load("{% if thinking %}Think.{% endif %}{{ messages[0].content }}");
  ASSERT_TRUE(other && other->has_thinking_switch());
  EXPECT_EQ(other->apply(kQuestion, true, true), "Think.Hi");
  EXPECT_EQ(other->apply(kQuestion), "Hi");
  const auto none = load(kLlama3);
  ASSERT_TRUE(none);
  EXPECT_FALSE(none->has_thinking_switch());
  EXPECT_FALSE(none->reasoning());
}

}  // namespace
}  // namespace hearth::model
