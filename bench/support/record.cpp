#include "support/record.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <format>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <set>
#include <sstream>
#include <string_view>
#include <thread>

#include <blake3.h>
#include <unistd.h>

#include "base/os_process.h"

namespace hearth::bench {
namespace {

std::string first_line_with(const char* path, std::string_view key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with(key)) {
      const std::size_t value = line.find_first_not_of(" \t:", key.size());
      return value == std::string::npos ? "" : line.substr(value);
    }
  }
  return "";
}

// What decides how fast weights are computed with; a virtual machine's processor has hardly another name. The
// same as in bench/home/record.py.
std::vector<std::string> vector_sets() {
  std::istringstream flags(first_line_with("/proc/cpuinfo", "flags") +
                           first_line_with("/proc/cpuinfo", "Features"));
  const std::set<std::string> has(std::istream_iterator<std::string>{flags},
                                  std::istream_iterator<std::string>{});
  std::vector<std::string> found;
  for (const char* name :
       {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve"})
    if (has.contains(name)) found.emplace_back(name);
  return found;
}

// The first line a git command prints, "" when there is none.
std::string git(const std::filesystem::path& checkout, std::initializer_list<std::string_view> arguments) {
  std::vector<std::string> command;
  for (const std::string_view part : {"/usr/bin/git", "-C"}) command.emplace_back(part);
  command.push_back(checkout.string());
  for (const std::string_view argument : arguments) command.emplace_back(argument);
  if (!std::filesystem::exists(command.front())) return "";
  Result<Child> child = Child::spawn(command);
  if (!child) return "";
  Result<std::string> line = child->read_line(std::chrono::seconds(10));
  return line ? *line : "";
}

}  // namespace

nlohmann::ordered_json machine() {
  nlohmann::ordered_json j;
  if (const std::string name = first_line_with("/proc/cpuinfo", "model name"); !name.empty()) j["cpu"] = name;
  if (const auto sets = vector_sets(); !sets.empty()) j["vector_sets"] = sets;
  j["cores"] = std::thread::hardware_concurrency();
  if (const std::string memory = first_line_with("/proc/meminfo", "MemTotal"); !memory.empty())
    j["memory"] = memory;
  if (const std::string kernel = first_line_with("/proc/sys/kernel/osrelease", ""); !kernel.empty())
    j["kernel"] = kernel;
  return j;
}

std::map<std::string, std::string> openmp_environment() {
  std::map<std::string, std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (!text.starts_with("OMP_") && !text.starts_with("GOMP_")) continue;
    const std::size_t equals = text.find('=');
    if (equals != std::string_view::npos) result.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return result;
}

std::string commit(const std::filesystem::path& checkout) {
  const std::string hash = git(checkout, {"rev-parse", "HEAD"});
  if (hash.size() < 40) return "unknown";
  const bool dirty = !git(checkout, {"status", "--porcelain", "--untracked-files=no"}).empty();
  return hash + (dirty ? "-dirty" : "");
}

Result<std::string> file_hash(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(ErrorCode::kIo, "cannot read {}", path.string());
  blake3_hasher hasher;
  blake3_hasher_init(&hasher);
  std::vector<char> block(1u << 20);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())), file.gcount() > 0) {
    blake3_hasher_update(&hasher, block.data(), static_cast<std::size_t>(file.gcount()));
  }
  std::array<std::uint8_t, BLAKE3_OUT_LEN> digest{};
  blake3_hasher_finalize(&hasher, digest.data(), digest.size());
  std::string text;
  for (const std::uint8_t byte : digest) text += std::format("{:02x}", byte);
  return text;
}

std::string command_line(const std::vector<std::string>& arguments) {
  std::string text;
  for (std::string argument : arguments) {
    // Where the program is says nothing about the measurement.
    if (text.empty()) argument = std::filesystem::path(argument).filename().string();
    if (!text.empty()) text += ' ';
    const bool plain =
        !argument.empty() &&
        argument.find_first_not_of(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%") == std::string::npos;
    if (plain) {
      text += argument;
      continue;
    }
    text += '\'';
    for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    text += '\'';
  }
  return text;
}

Result<> append_line(const std::filesystem::path& file, const nlohmann::ordered_json& record) {
  std::error_code error;
  if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path(), error);
  std::ofstream out(file, std::ios::app);
  out << record.dump() << '\n';
  out.flush();
  if (!out) return fail(ErrorCode::kIo, "cannot append to {}", file.string());
  return {};
}

}  // namespace hearth::bench
