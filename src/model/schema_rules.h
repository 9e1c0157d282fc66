// The rules of a grammar that is made for a JSON schema. Internal to model.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace hearth::model {

class SchemaRules {
 public:
  // A rule that every schema may use, with those it needs: "value", "object", "array", "string", "char",
  // "number", "integer", "boolean", "null", "ws", "date", "time", "date-time", "uuid". Gives its name.
  std::string use(std::string_view name);
  // A rule of its own; gives its name, "KIND-7".
  std::string add(std::string_view kind, std::string body);
  // A name whose rule is defined later.
  std::string reserve(std::string_view kind);
  void define(const std::string& name, std::string body);
  // A quoted name that is none of these.
  std::string other_name(const std::set<std::string>& names);

  // All of them, a line each.
  [[nodiscard]] std::string text() const;

 private:
  std::map<std::string, std::string, std::less<>> shared_;
  std::vector<std::pair<std::string, std::string>> own_;
  std::map<std::string, std::string> by_body_;  // equal rules are one
  std::size_t count_ = 0;
};

}  // namespace hearth::model
