#include "cli/conversation.h"

#include <algorithm>
#include <format>
#include <initializer_list>
#include <span>

#include <nlohmann/json.hpp>

#include "base/os_file.h"
#include "base/text.h"

namespace hearth::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kVersionKey = "hearth_conversation";
constexpr int kVersion = 1;
constexpr std::uint64_t kMostBytes = 64 << 20;
constexpr std::size_t kMostTurns = 100'000;

std::string shown(const Json& value) {
  if (value.is_structured()) return value.is_array() ? "an array" : "an object";
  return quote(value.dump(-1, ' ', false, Json::error_handler_t::replace), 40);
}

template <class... Args>
std::unexpected<Error> wrong(const std::string& where, std::format_string<Args...> format, Args&&... args) {
  return fail(ErrorCode::kInvalidFile, "{}: {}", where, std::format(format, std::forward<Args>(args)...));
}

Result<> check_members(const Json& object, const std::string& where,
                       std::initializer_list<std::string_view> known) {
  if (!object.is_object()) return wrong(where, "expected an object, got {}", shown(object));
  for (const auto& [key, value] : object.items())
    if (std::ranges::find(known, key) == known.end())
      return wrong(where, "unknown member {}", quote(key, 40));
  return {};
}

// "" where it is missing and need not be there.
Result<std::string> text_of(const Json& object, const char* key, const std::string& where, bool needed) {
  const auto at = object.find(key);
  if (at == object.end() && !needed) return "";
  if (at == object.end()) return wrong(where, "{} is missing", key);
  if (!at->is_string()) return wrong(where + "." + key, "expected text, got {}", shown(*at));
  return at->get<std::string>();
}

Result<> read_turns(const Json& list, std::vector<Turn>& turns) {
  if (!list.is_array()) return wrong("messages", "expected an array, got {}", shown(list));
  if (list.size() > kMostTurns)
    return wrong("messages", "{} of them, expected at most {}", list.size(), kMostTurns);
  for (const Json& item : list) {
    const std::string where = std::format("messages[{}]", turns.size());
    HEARTH_TRY_VOID(check_members(item, where, {"role", "content", "reasoning"}));
    Turn turn;
    HEARTH_TRY(turn.role, text_of(item, "role", where, true));
    HEARTH_TRY(turn.content, text_of(item, "content", where, true));
    HEARTH_TRY(turn.reasoning, text_of(item, "reasoning", where, false));
    const char* role = turns.size() % 2 == 0 ? "user" : "assistant";
    if (turn.role != role)
      return wrong(where + ".role", "expected '{}' (user and assistant by turns), got {}", role,
                   quote(turn.role, 40));
    turns.push_back(std::move(turn));
  }
  return {};
}

Result<> read_settings(const Json& settings, SamplingFlags& sampling) {
  if (!settings.is_object()) return wrong("settings", "expected an object, got {}", shown(settings));
  for (const auto& [key, value] : settings.items()) {
    if (value.is_structured() || value.is_null())
      return wrong("settings", "{}: expected a number, text, true or false, got {}", quote(key, 40),
                   shown(value));
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    if (auto set = sampling.set(key, text); !set) return wrong("settings", "{}", set.error().message);
  }
  return {};
}

Result<SavedConversation> read(const Json& root, const SamplingFlags& otherwise) {
  HEARTH_TRY_VOID(
      check_members(root, "the file", {kVersionKey, "model", "system", "thinking", "settings", "messages"}));
  const auto version = root.find(kVersionKey);
  if (version == root.end() || !version->is_number_integer())
    return wrong("the file", "it is no saved conversation: {} is missing", kVersionKey);
  if (*version != kVersion)
    return wrong("the file", "it has version {} of the format, expected {}", shown(*version), kVersion);
  SavedConversation saved{.conversation = {}, .sampling = otherwise};
  HEARTH_TRY(saved.conversation.system, text_of(root, "system", "the file", false));
  if (const auto at = root.find("thinking"); at != root.end()) {
    if (!at->is_boolean()) return wrong("thinking", "expected true or false, got {}", shown(*at));
    saved.conversation.thinking = at->get<bool>();
  }
  if (const auto at = root.find("settings"); at != root.end())
    HEARTH_TRY_VOID(read_settings(*at, saved.sampling));
  const auto messages = root.find("messages");
  if (messages == root.end()) return wrong("the file", "messages is missing");
  HEARTH_TRY_VOID(read_turns(*messages, saved.conversation.turns));
  return saved;
}

// A number where the text is one.
Json json_of(const std::string& value) {
  if (value == "on" || value == "off") return value == "on";
  Json number = Json::parse(value, nullptr, false);
  return number.is_number() ? number : Json(value);
}

}  // namespace

std::vector<model::ChatMessage> Conversation::messages() const {
  std::vector<model::ChatMessage> all;
  if (!system.empty()) all.push_back({"system", system});
  for (const Turn& turn : turns) all.push_back({turn.role, turn.content});
  return all;
}

std::string Conversation::joined() const {
  std::string all;
  for (const Turn& turn : turns) all += turn.content;
  return all;
}

std::string to_json(const SavedConversation& saved, std::string_view model) {
  Json root;
  root[kVersionKey] = kVersion;
  root["model"] = model;
  if (!saved.conversation.system.empty()) root["system"] = saved.conversation.system;
  if (saved.conversation.thinking) root["thinking"] = *saved.conversation.thinking;
  root["settings"] = Json::object();
  for (const auto& [name, value] : saved.sampling.values()) root["settings"][name] = json_of(value);
  root["messages"] = Json::array();
  for (const Turn& turn : saved.conversation.turns) {
    Json item{{"role", turn.role}, {"content", turn.content}};
    if (!turn.reasoning.empty()) item["reasoning"] = turn.reasoning;
    root["messages"].push_back(std::move(item));
  }
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<SavedConversation> from_json(std::string_view text, const SamplingFlags& otherwise) {
  // The parser does not recurse, and what it makes is taken apart without recursion.
  const Json root = Json::parse(text, nullptr, false);
  if (root.is_discarded()) return fail(ErrorCode::kInvalidFile, "it is no JSON");
  return read(root, otherwise);
}

Result<> save_conversation(const std::string& path, const SavedConversation& saved, std::string_view model) {
  const std::string text = to_json(saved, model);
  return replace_file(path, std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
}

Result<SavedConversation> load_conversation(const std::string& path, const SamplingFlags& otherwise) {
  HEARTH_TRY(const InputFile file, InputFile::open(path));
  if (file.size() > kMostBytes)
    return fail(ErrorCode::kInvalidFile, "{}: {} bytes, expected at most {}", path, file.size(), kMostBytes);
  std::string text(file.size(), '\0');
  HEARTH_TRY_VOID(file.read_at(0, std::span(reinterpret_cast<std::uint8_t*>(text.data()), text.size())));
  auto loaded = from_json(text, otherwise);
  if (!loaded) return fail(loaded.error().code, "{}: {}", path, loaded.error().message);
  return loaded;
}

}  // namespace hearth::cli
