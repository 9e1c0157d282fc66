#include "model/chat_template.h"

#include <array>
#include <chrono>
#include <ctime>
#include <exception>
#include <string_view>
#include <utility>

#include <minja/minja.hpp>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "model/template_check.h"

namespace hearth::model {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kKey = "tokenizer.chat_template";

// What the engine says, without the excerpt of the template that it appends on further lines.
std::string reason(const std::exception& e) {
  const std::string_view text = e.what();
  return quote(text.substr(0, text.find('\n')), 200);
}

std::string format_now(const std::string& format) {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 256> text{};
  return std::string(text.data(), std::strftime(text.data(), text.size(), format.c_str(), &local));
}

}  // namespace

struct ChatTemplate::Impl {
  std::shared_ptr<minja::TemplateNode> root;
  std::string bos, eos;
  bool takes_system_role = true;     // else the system message joins the first user message
  bool takes_content_parts = false;  // content must be [{"type": "text", "text": ...}]
  std::optional<ReasoningMarks> reasoning;
  const char* thinking_switch = nullptr;  // name of the variable

  // Throws what the template or the engine throws.
  [[nodiscard]] std::string render(std::span<const ChatMessage> messages, bool as_parts,
                                   bool add_generation_prompt, std::optional<bool> thinking = {}) const {
    Json list = Json::array();
    for (const ChatMessage& message : messages) {
      Json content = message.content;
      if (as_parts) content = Json::array({Json{{"type", "text"}, {"text", message.content}}});
      list.push_back(Json{{"role", message.role}, {"content", std::move(content)}});
    }
    const auto context = minja::Context::make(
        minja::Value(Json{{"messages", std::move(list)}, {"add_generation_prompt", add_generation_prompt}}));
    context->set("bos_token", minja::Value(bos));
    context->set("eos_token", minja::Value(eos));
    if (thinking && thinking_switch != nullptr) context->set(thinking_switch, minja::Value(*thinking));
    context->set("strftime_now", minja::Value::callable(
                                     [](const std::shared_ptr<minja::Context>&, minja::ArgumentsValue& args) {
                                       args.expectArgs("strftime_now", {1, 1}, {0, 0});
                                       return minja::Value(format_now(args.args[0].get<std::string>()));
                                     }));
    return root->render(context);
  }

  // Whether the text of the last needle survives; false when the template throws.
  [[nodiscard]] bool shows(std::span<const ChatMessage> messages, std::string_view needle,
                           bool as_parts) const {
    try {
      return render(messages, as_parts, false).contains(needle);
    } catch (const std::exception&) {
      return false;
    }
  }

  // Templates do not say what they accept, so they are asked once.
  void probe() {
    const ChatMessage system{"system", "<needle-s>"};
    const ChatMessage user{"user", "<needle-u>"};
    takes_content_parts = !shows({{user}}, user.content, false) && shows({{user}}, user.content, true);
    takes_system_role = shows({{system, user}}, system.content, takes_content_parts);
    for (const char* name : {"enable_thinking", "thinking"}) {
      thinking_switch = name;
      if (switches({{user}})) return;
    }
    thinking_switch = nullptr;
  }

  [[nodiscard]] bool switches(std::span<const ChatMessage> messages) const {
    try {
      return render(messages, takes_content_parts, true, true) !=
             render(messages, takes_content_parts, true, false);
    } catch (const std::exception&) {
      return false;
    }
  }
};

Result<ChatTemplate> ChatTemplate::load(const gguf::File& file, std::string bos, std::string eos) {
  const std::string where = file.paths().empty() ? "GGUF header" : file.paths()[0].string();
  HEARTH_TRY(const auto source, file.optional_string(kKey));
  if (!source)
    return fail(ErrorCode::kUnsupported,
                "{}: the model has no chat template (key {}); it can complete texts only", where,
                quote(kKey));
  if (auto checked = check_template(*source); !checked)
    return fail(checked.error().code, "{}: key {}: {}", where, quote(kKey), checked.error().message);
  auto impl = std::make_unique<Impl>();
  impl->bos = std::move(bos);
  impl->eos = std::move(eos);
  try {
    impl->root = minja::Parser::parse(
        std::string(*source), {.trim_blocks = true, .lstrip_blocks = true, .keep_trailing_newline = false});
  } catch (const std::exception& e) {
    return fail(ErrorCode::kInvalidFile, "{}: the chat template (key {}) cannot be parsed: {}", where,
                quote(kKey), reason(e));
  }
  impl->reasoning = reasoning_marks(*source);
  impl->probe();
  return ChatTemplate(std::move(impl));
}

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

const std::optional<ReasoningMarks>& ChatTemplate::reasoning() const {
  return impl_->reasoning;
}

bool ChatTemplate::has_thinking_switch() const {
  return impl_->thinking_switch != nullptr;
}

Result<std::string> ChatTemplate::apply(std::span<const ChatMessage> messages, bool add_generation_prompt,
                                        std::optional<bool> thinking) const {
  std::vector<ChatMessage> adjusted;
  for (const ChatMessage& message : messages) {
    // The JSON below and the tokenizer want UTF-8.
    if (!is_valid_utf8(message.content) || !is_valid_utf8(message.role))
      return fail(ErrorCode::kInvalidArgument, "the message {} of role {} is not valid UTF-8",
                  quote(message.content, 40), quote(message.role, 40));
  }
  if (!impl_->takes_system_role) {
    std::string system;
    for (const ChatMessage& message : messages) {
      if (message.role == "system") {
        if (!system.empty()) system += '\n';
        system += message.content;
        continue;
      }
      adjusted.push_back(message);
      if (message.role == "user" && !system.empty())
        adjusted.back().content = std::exchange(system, "") + "\n" + message.content;
    }
    if (!system.empty()) adjusted.push_back({"user", std::move(system)});
    messages = adjusted;
  }
  try {
    return impl_->render(messages, impl_->takes_content_parts, add_generation_prompt, thinking);
  } catch (const std::exception& e) {
    return fail(ErrorCode::kInvalidArgument, "the model's chat template refuses the messages: {}", reason(e));
  }
}

}  // namespace hearth::model
