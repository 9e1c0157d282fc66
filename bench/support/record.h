// One line of bench/results/*.jsonl: what was measured, where, on which commit, model and command.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/result.h"

namespace hearth::bench {

// "model name of the processor", cores, memory, kernel; what the system does not say is left out.
[[nodiscard]] nlohmann::ordered_json machine();

// The environment that steers the OpenMP team: every OMP_* and GOMP_* variable that is set.
[[nodiscard]] std::map<std::string, std::string> openmp_environment();

// Commit of the checkout, "-dirty" where tracked files differ from it; "unknown" without git.
[[nodiscard]] std::string commit(const std::filesystem::path& checkout);

// BLAKE3 of all bytes of the file in hexadecimal.
[[nodiscard]] Result<std::string> file_hash(const std::filesystem::path& path);

// The command line as a shell would take it.
[[nodiscard]] std::string command_line(const std::vector<std::string>& arguments);

// Appends `record` as one line; the folder is made when it is not there.
[[nodiscard]] Result<> append_line(const std::filesystem::path& file, const nlohmann::ordered_json& record);

}  // namespace hearth::bench
