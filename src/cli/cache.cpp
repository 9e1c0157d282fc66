#include <cstdio>
#include <format>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/units.h"
#include "cli/console.h"
#include "cli/segments.h"
#include "cli/verbs.h"
#include "compute/backend.h"
#include "residency/pack_cache.h"

namespace hearth::cli {
namespace {

struct Flags {
  std::string action = "ls";
  std::vector<std::string> names;
  std::string cache_dir;
  bool all = false;
  bool json = false;
};

std::string age_text(std::chrono::seconds age) {
  const auto seconds = age.count();
  if (seconds < 120) return std::format("{} s", seconds);
  if (seconds < 2 * 3600) return std::format("{} min", seconds / 60);
  if (seconds < 2 * 86'400) return std::format("{} h", seconds / 3600);
  return std::format("{} days", seconds / 86'400);
}

int print_json(const std::filesystem::path& folder, const std::vector<residency::CachedPack>& packs) {
  auto list = nlohmann::ordered_json::array();
  for (const auto& pack : packs) {
    nlohmann::ordered_json j = {
        {"name", pack.name}, {"state", residency::name(pack.state)}, {"model", pack.model_name}};
    if (!pack.why.empty()) j["why"] = pack.why;
    j["repacked"] = pack.repack;
    add_segments(j, pack.present);
    j["n_layer"] = pack.n_segments == 0 ? 0 : pack.n_segments - 1;
    j["disk_bytes"] = pack.disk_bytes;
    j["file_bytes"] = pack.file_bytes;
    j["age_s"] = pack.age.count();
    list.push_back(std::move(j));
  }
  const nlohmann::ordered_json j = {{"folder", folder.string()}, {"packs", list}};
  std::printf("%s\n", j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  return kOk;
}

int list(const std::filesystem::path& folder, const std::vector<residency::CachedPack>& packs) {
  std::uint64_t total = 0;
  for (const auto& pack : packs) {
    total += pack.disk_bytes;
    std::printf("%s\n", pack.name.c_str());
    if (!pack.model_name.empty())
      std::printf("  %s: %s, %s\n", pack.model_name.c_str(),
                  describe_segments(pack.present, pack.n_segments).c_str(),
                  pack.repack ? "repacked" : "plain");
    std::printf("  %s on disk, %s old, %s\n", format_bytes(pack.disk_bytes).c_str(),
                age_text(pack.age).c_str(), std::string(residency::name(pack.state)).c_str());
    if (!pack.why.empty()) std::printf("  %s\n", pack.why.c_str());
  }
  std::printf("%zu pack%s, %s in %s\n", packs.size(), packs.size() == 1 ? "" : "s",
              format_bytes(total).c_str(), folder.string().c_str());
  return kOk;
}

int remove(const Flags& flags, const std::filesystem::path& folder,
           const std::vector<residency::CachedPack>& packs) {
  std::vector<std::string> names = flags.names;
  if (names.empty() != flags.all)
    return report({ErrorCode::kInvalidArgument, "cache rm: name the packs to remove, or give --all"});
  for (const auto& pack : packs)
    if (flags.all) names.push_back(pack.name);
  int exit = kOk;
  auto removed = nlohmann::ordered_json::array();
  // One that cannot be removed does not keep the others.
  for (const std::string& name : names) {
    if (const auto done = residency::remove_pack(folder, name); !done)
      exit = report(done.error());
    else
      removed.push_back(name);
  }
  if (flags.all) (void)residency::remove_leftovers(folder);
  if (flags.json) {
    const nlohmann::ordered_json j = {{"folder", folder.string()}, {"removed", removed}};
    std::printf("%s\n", j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    std::printf("removed %zu pack%s from %s\n", removed.size(), removed.size() == 1 ? "" : "s",
                folder.string().c_str());
  }
  return exit;
}

int run(const Flags& flags) {
  std::filesystem::path folder = flags.cache_dir;
  if (folder.empty()) {
    const auto found = residency::default_cache_dir();
    if (!found) return report(found.error());
    folder = *found;
  }
  if (flags.action == "ls" && (flags.all || !flags.names.empty()))
    return report({ErrorCode::kInvalidArgument, "cache ls: takes no names and no --all"});
  const auto backend = compute::Backend::cpu(1);
  if (!backend) return report(backend.error());
  const auto packs = residency::list_cache(folder, (*backend)->device());
  if (!packs) return report(packs.error());
  if (flags.action == "rm") return remove(flags, folder, *packs);
  return flags.json ? print_json(folder, *packs) : list(folder, *packs);
}

}  // namespace

void add_cache(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("cache", "list or remove the packs on this device's disk");
  const auto flags = std::make_shared<Flags>();
  verb->add_option("ACTION", flags->action, "ls or rm")
      ->check(CLI::IsMember({"ls", "rm"}))
      ->capture_default_str();
  verb->add_option("NAME", flags->names, "packs to remove, as ls names them");
  verb->add_flag("--all", flags->all, "remove all");
  verb->add_option("--cache-dir", flags->cache_dir,
                   "folder of the packs (default: $HEARTH_CACHE, else hearth/packs in the user's cache)")
      ->type_name("FOLDER");
  verb->add_flag("--json", flags->json, "as JSON; sizes in bytes");
  verb->footer(
      "Packs are made anew when they are needed; removing one costs time only.\n"
      "Example: hearth cache rm --all");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
