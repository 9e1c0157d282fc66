#include "cli/history_file.h"

#include <cstdlib>
#include <optional>
#include <ranges>
#include <span>

#include "base/os_file.h"
#include "base/text.h"

namespace hearth::cli {
namespace {

constexpr std::uint64_t kMostBytes = 16 << 20;

std::string encoded(std::string_view entry) {
  std::string line;
  for (const char c : entry) {
    if (c == '\\')
      line += "\\\\";
    else if (c == '\n')
      line += "\\n";
    else
      line += c;
  }
  return line + '\n';
}

std::optional<std::string> decoded(std::string_view line) {
  std::string entry;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] != '\\') {
      entry += line[i];
      continue;
    }
    if (++i == line.size() || (line[i] != 'n' && line[i] != '\\')) return std::nullopt;
    entry += line[i] == 'n' ? '\n' : '\\';
  }
  if (entry.empty() || entry.contains('\0') || !is_valid_utf8(entry)) return std::nullopt;
  return entry;
}

}  // namespace

Result<std::filesystem::path> default_history_file() {
  for (const auto& [variable, folder] : {std::pair{"XDG_STATE_HOME", ""}, std::pair{"HOME", ".local/state"}})
    if (const char* value = std::getenv(variable); value != nullptr && *value != '\0')
      return std::filesystem::path(value) / folder / "hearth" / "chat-history";
  return fail(ErrorCode::kNotFound, "there is no home folder to keep a history in; set XDG_STATE_HOME");
}

Result<std::vector<std::string>> load_history(const std::filesystem::path& path) {
  const auto file = InputFile::open(path);
  if (!file && file.error().code == ErrorCode::kNotFound) return std::vector<std::string>();
  if (!file) return std::unexpected(file.error());
  // Of a file that is too long, the end.
  const std::uint64_t skipped = file->size() > kMostBytes ? file->size() - kMostBytes : 0;
  std::string bytes(file->size() - skipped, '\0');
  HEARTH_TRY_VOID(
      file->read_at(skipped, std::span(reinterpret_cast<std::uint8_t*>(bytes.data()), bytes.size())));
  std::vector<std::string> entries;
  for (const auto line : std::views::split(bytes, '\n'))
    if (auto entry = decoded(std::string_view(line))) entries.push_back(std::move(*entry));
  const std::size_t n = entries.size();
  if (n > kHistoryEntries) entries.erase(entries.begin(), entries.end() - kHistoryEntries);
  if (n > 2 * kHistoryEntries || skipped > 0) {
    std::string kept;
    for (const std::string& entry : entries) kept += encoded(entry);
    HEARTH_TRY_VOID(
        replace_file(path, std::span(reinterpret_cast<const std::uint8_t*>(kept.data()), kept.size())));
  }
  return entries;
}

Result<> append_history(const std::filesystem::path& path, std::string_view entry) {
  return append_to_private_file(path, encoded(entry));
}

}  // namespace hearth::cli
