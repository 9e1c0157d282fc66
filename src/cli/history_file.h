// HistoryFile: what was typed in chats before, for the next one.
//
// A private text file ($XDG_STATE_HOME/hearth/chat-history, mode 0600): an entry a line, "\\" and "\n" for a
// backslash and a line break. Several chats may add to it at the same time.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace hearth::cli {

inline constexpr std::size_t kHistoryEntries = 1000;

// kNotFound where the environment names no home.
[[nodiscard]] Result<std::filesystem::path> default_history_file();

// The last kHistoryEntries, oldest first; none where there is no file. Lines that are no entry are left out.
// A file of more than twice as many is cut to these. kIo, kInvalidArgument (no regular file).
[[nodiscard]] Result<std::vector<std::string>> load_history(const std::filesystem::path& path);
[[nodiscard]] Result<> append_history(const std::filesystem::path& path, std::string_view entry);

}  // namespace hearth::cli
