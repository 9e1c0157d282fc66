#include "model/template_check.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/text.h"
#include "model/limits.h"

namespace hearth::model {
namespace {

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

std::string_view word_at(std::string_view text) {
  const auto end = std::ranges::find_if_not(text, is_word);
  return text.substr(0, static_cast<std::size_t>(end - text.begin()));
}

constexpr std::string_view kSpace = " \t\r\n";

std::string_view after_space(std::string_view text) {
  const auto begin = text.find_first_not_of(kSpace);
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin);
}

// One pass over the tags of a template.
class Scan {
 public:
  [[nodiscard]] Result<> run(std::string_view source) {
    while (true) {
      const auto open = source.find('{');
      if (open == std::string_view::npos || open + 1 >= source.size()) return recursion();
      const char kind = source[open + 1];
      if (kind != '#' && kind != '%' && kind != '{') {
        source.remove_prefix(open + 1);  // a lone brace is text
        continue;
      }
      source.remove_prefix(open + 2);
      if (kind == '#') {
        const auto close = source.find("#}");
        source.remove_prefix(close == std::string_view::npos ? source.size() : close + 2);
      } else {
        const std::size_t length = tag_length(source, kind == '%' ? '%' : '}');
        HEARTH_TRY_VOID(tag(source.substr(0, length), kind == '%'));
        source.remove_prefix(std::min(source.size(), length + 2));
      }
    }
  }

 private:
  // Bytes up to the tag's end, which is `close` and a brace outside of strings.
  static std::size_t tag_length(std::string_view text, char close) {
    char quote_char = '\0';
    int braces = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if (quote_char != '\0') {
        if (c == '\\') ++i;
        if (c == quote_char) quote_char = '\0';
        continue;
      }
      if (c == '\'' || c == '"') quote_char = c;
      if (c == close && braces == 0 && i + 1 < text.size() && text[i + 1] == '}') return i;
      if (c == '{') ++braces;
      if (c == '}' && braces > 0) --braces;
    }
    return text.size();
  }

  [[nodiscard]] Result<> tag(std::string_view text, bool is_block) {
    if (text.size() > kMaxTemplateTagBytes)
      return fail(ErrorCode::kUnsupported, "a tag of the chat template has {} bytes, expected at most {}",
                  text.size(), kMaxTemplateTagBytes);
    HEARTH_TRY_VOID(brackets(text));
    if (!text.empty() && (text[0] == '-' || text[0] == '~')) text.remove_prefix(1);
    if (is_block) HEARTH_TRY_VOID(block(after_space(text)));
    if (!macro_.empty()) note_calls(text);
    return {};
  }

  [[nodiscard]] Result<> brackets(std::string_view text) const {
    char quote_char = '\0';
    std::size_t depth = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if (quote_char != '\0') {
        if (c == '\\') ++i;
        if (c == quote_char) quote_char = '\0';
      } else if (c == '\'' || c == '"') {
        quote_char = c;
      } else if (c == '(' || c == '[' || c == '{') {
        if (++depth > kMaxTemplateDepth) return too_deep();
      } else if ((c == ')' || c == ']' || c == '}') && depth > 0) {
        --depth;
      }
    }
    return {};
  }

  [[nodiscard]] Result<> block(std::string_view text) {
    constexpr std::array<std::string_view, 7> kOpening = {"if",     "for",   "macro",     "call",
                                                          "filter", "block", "generation"};
    const std::string_view keyword = word_at(text);
    const std::string_view rest = after_space(text.substr(keyword.size()));
    if (keyword.starts_with("end")) {
      if (depth_ > 0) --depth_;
      if (keyword == "endmacro") macro_ = {};
    } else if (std::ranges::contains(kOpening, keyword) || (keyword == "set" && !rest.contains('='))) {
      if (++depth_ > kMaxTemplateDepth) return too_deep();
    }
    if (keyword == "macro") {
      macro_ = word_at(rest);
      calls_[macro_];
      // The name before the parameters is no call.
      const auto parameters = rest.find('(');
      if (parameters != std::string_view::npos) note_calls(rest.substr(parameters));
    }
    return {};
  }

  // Every name followed by a parenthesis may be a call of a macro.
  void note_calls(std::string_view text) {
    if (word_at(after_space(text)) == "macro") return;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (!is_word(text[i])) continue;
      const std::string_view name = word_at(text.substr(i));
      i += name.size();
      if (after_space(text.substr(std::min(i, text.size()))).starts_with('(')) calls_[macro_].insert(name);
    }
  }

  [[nodiscard]] Result<> recursion() const {
    for (const auto& [name, calls] : calls_) {
      std::set<std::string_view> reached;
      std::vector<std::string_view> open(calls.begin(), calls.end());
      while (!open.empty()) {
        const std::string_view next = open.back();
        open.pop_back();
        if (next == name)
          return fail(ErrorCode::kUnsupported,
                      "the macro {} of the chat template calls itself, which cannot be run safely",
                      quote(name, 40));
        const auto known = calls_.find(next);
        if (known == calls_.end() || !reached.insert(next).second) continue;
        open.insert(open.end(), known->second.begin(), known->second.end());
      }
    }
    return {};
  }

  static std::unexpected<Error> too_deep() {
    return fail(ErrorCode::kUnsupported, "the chat template is nested more than {} levels deep",
                kMaxTemplateDepth);
  }

  std::size_t depth_ = 0;
  std::string_view macro_;  // the one whose body is being read
  std::map<std::string_view, std::set<std::string_view>> calls_;
};

}  // namespace

Result<> check_template(std::string_view source) {
  if (source.size() > kMaxTemplateBytes)
    return fail(ErrorCode::kUnsupported, "the chat template has {} bytes, expected at most {}", source.size(),
                kMaxTemplateBytes);
  return Scan().run(source);
}

}  // namespace hearth::model
