#include "residency/pack_cache.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <format>
#include <system_error>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "residency/pack_file.h"
#include "residency/pack_writer.h"
#include "residency/repack.h"

namespace hearth::residency {
namespace {

constexpr std::string_view kSuffix = ".pack";
constexpr std::size_t kMaxSlug = 40;

// Letters, digits, dots and dashes of a name.
std::string slug(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool keep = std::isalnum(static_cast<unsigned char>(c)) != 0 || (c == '.' && !out.empty());
    if (keep)
      out += c;
    else if (!out.empty() && out.back() != '-')
      out += '-';
    if (out.size() == kMaxSlug) break;
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  return out.empty() ? "model" : out;
}

Result<> remove_file(const std::filesystem::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!file && errno == ENOENT)
    return fail(ErrorCode::kNotFound, "{}: there is no such pack; `hearth cache` lists them", path.string());
  if (file && !try_lock_pack(file.get()) && errno == EWOULDBLOCK)
    return fail(ErrorCode::kIo, "{}: another process is building this pack; end that first", path.string());
  if (::unlink(path.c_str()) != 0)
    return fail(ErrorCode::kIo, "{}: cannot remove: {}", path.string(),
                std::generic_category().message(errno));
  return {};
}

std::vector<std::filesystem::path> packs_in(const std::filesystem::path& folder, std::error_code& error) {
  std::vector<std::filesystem::path> paths;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().extension() == kSuffix) paths.push_back(it->path());
  std::ranges::sort(paths);
  return paths;
}

CachedPack describe(const std::filesystem::path& path, ggml_backend_device* device) {
  CachedPack out;
  out.name = path.filename().string();
  struct stat info{};
  if (::lstat(path.c_str(), &info) == 0) {
    out.disk_bytes = static_cast<std::uint64_t>(info.st_blocks) * 512;  // POSIX's unit of st_blocks here
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    out.age =
        std::max(std::chrono::duration_cast<std::chrono::seconds>(now) - std::chrono::seconds(info.st_mtime),
                 std::chrono::seconds(0));
  }
  auto pack = PackFile::open(path);
  if (!pack) {
    out.why = pack.error().message;
    return out;
  }
  const PackHeader& header = pack->header();
  out.model_name = header.model_name;
  out.repack = header.key.repack;
  out.n_segments = static_cast<std::uint32_t>(header.segments.size());
  out.file_bytes = header.file_bytes;
  for (const PackSegment& segment : header.segments)
    if (segment.present) out.present.push_back(segment.id);
  PackKey here = header.key;
  here.ggml = ggml_build();
  here.cpu = cpu_features(device);
  out.why = key_difference(header.key, here);
  if (is_being_built(pack->descriptor()))
    out.state = PackState::kBusy;
  else if (!out.why.empty())
    out.state = PackState::kStale;
  else
    out.state = out.present.size() == header.segments.size() ? PackState::kComplete : PackState::kPartial;
  return out;
}

}  // namespace

Result<std::filesystem::path> default_cache_dir() {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr ? std::string(value) : std::string();
  };
  if (const std::string folder = set("HEARTH_CACHE"); !folder.empty()) return folder;
  if (const std::string cache = set("XDG_CACHE_HOME"); !cache.empty())
    return std::filesystem::path(cache) / "hearth" / "packs";
  if (const std::string home = set("HOME"); !home.empty())
    return std::filesystem::path(home) / ".cache" / "hearth" / "packs";
  return fail(ErrorCode::kNotFound,
              "there is no home folder to keep packs in; set HEARTH_CACHE or use --cache-dir");
}

std::string pack_name(const PackHeader& header) {
  Blake3 hash;
  hash.add(header.key.model);
  for (const std::string& text :
       {header.key.ggml, header.key.cpu, std::string(header.key.repack ? "1" : "0")}) {
    hash.add({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
    hash.add(std::array<std::uint8_t, 1>{});
  }
  std::string digits;
  const Digest digest = hash.digest();
  for (const std::uint8_t byte : std::span(digest).first(6)) digits += std::format("{:02x}", byte);
  return std::format("{}-{}{}", slug(header.model_name), digits, kSuffix);
}

std::string_view name(PackState state) {
  switch (state) {
    case PackState::kComplete:
      return "complete";
    case PackState::kPartial:
      return "partial";
    case PackState::kStale:
      return "stale";
    case PackState::kDamaged:
      return "damaged";
    case PackState::kBusy:
      return "being built";
  }
  HEARTH_CHECK(false, "unknown state");
}

Result<std::vector<CachedPack>> list_cache(const std::filesystem::path& folder, ggml_backend_device* device) {
  std::error_code error;
  const auto paths = packs_in(folder, error);
  if (error && error != std::errc::no_such_file_or_directory)
    return fail(ErrorCode::kIo, "{}: cannot list it: {}", folder.string(), error.message());
  std::vector<CachedPack> packs;
  for (const auto& path : paths) packs.push_back(describe(path, device));
  return packs;
}

Result<> remove_pack(const std::filesystem::path& folder, const std::string& name) {
  if (!name.ends_with(kSuffix) || name.find('/') != std::string::npos)
    return fail(ErrorCode::kInvalidArgument, "{} is no name of a pack; `hearth cache` lists them",
                quote(name));
  return remove_file(folder / name);
}

std::uint32_t remove_leftovers(const std::filesystem::path& folder) {
  std::uint32_t removed = 0;
  std::error_code error;
  const std::string infix = std::string(kSuffix) + ".new-";
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().filename().string().find(infix) != std::string::npos && remove_file(it->path())) ++removed;
  return removed;
}

std::vector<std::string> remove_stale(const std::filesystem::path& folder, const PackKey& key) {
  std::vector<std::string> removed;
  std::error_code error;
  for (const auto& path : packs_in(folder, error)) {
    const auto pack = PackFile::open(path);
    if (!pack || pack->header().key.model != key.model) continue;
    // Plain and repacked packs of one model may both be in use.
    if (pack->header().key.ggml == key.ggml && pack->header().key.cpu == key.cpu) continue;
    if (remove_file(path)) removed.push_back(path.filename().string());
  }
  return removed;
}

}  // namespace hearth::residency
