#include "residency/pack.h"

#include <chrono>
#include <cstdio>
#include <format>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/os_process.h"
#include "base/units.h"
#include "cli/console.h"
#include "cli/segments.h"
#include "cli/verbs.h"
#include "compute/backend.h"
#include "model/model_file.h"

namespace hearth::cli {
namespace {

struct Flags {
  std::string model;
  std::string layers;
  std::string cache_dir;
  bool verify = false;
  bool no_repack = false;
  bool json = false;
};

// What the work did, for the last line.
struct Work {
  std::uint64_t packed_bytes = 0;
  std::uint64_t verified_bytes = 0;
};

Result<residency::PackFile> make(const Flags& flags, const model::ModelFile& model, Work& work) {
  HEARTH_TRY(const auto segments, parse_segments(flags.layers, model.params().n_layer));
  HEARTH_TRY(const auto backend, compute::Backend::cpu(1));
  ProgressBar bar;
  residency::PackOptions options;
  options.repack = !flags.no_repack;
  options.cache_dir = flags.cache_dir;
  options.verify = flags.verify;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    work.packed_bytes = done;
    bar.update("packing", done, total);
  };
  options.verify_progress = [&](std::uint64_t done, std::uint64_t total) {
    work.verified_bytes = done;
    bar.update("checking", done, total);
  };
  options.cancelled = [] { return interrupts() > 0; };
  const auto say = [&bar](const std::string& text) {
    bar.clear();
    std::fprintf(stderr, "hearth: %s\n", text.c_str());
  };
  options.notice = say;
  options.waiting = [&say](const std::filesystem::path& path) {
    say(std::format("another process is building {}; waiting for it", path.string()));
  };
  return residency::ensure_pack(model, segments, backend->device(), options);
}

int run(const Flags& flags) {
  const auto model = model::ModelFile::open(flags.model);
  if (!model) return report(model.error());
  count_interrupts();
  Work work;
  const auto start = std::chrono::steady_clock::now();
  const auto pack = make(flags, *model, work);
  if (!pack) return report(pack.error());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  std::vector<model::SegmentId> present;
  std::uint64_t bytes = 0;
  for (const auto& segment : pack->segments()) {
    if (!segment.present) continue;
    present.push_back(segment.id);
    bytes += segment.bytes;
  }
  const auto n_segments = static_cast<std::uint32_t>(pack->segments().size());
  if (flags.json) {
    nlohmann::ordered_json j = {{"pack", pack->path().string()}, {"model", pack->header().model_name}};
    add_segments(j, present);
    j["bytes"] = bytes;
    j["packed_bytes"] = work.packed_bytes;
    j["verified_bytes"] = work.verified_bytes;
    j["seconds"] = seconds;
    std::printf("%s\n", j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return kOk;
  }
  std::printf("%s\n  holds %s, %s", pack->path().string().c_str(),
              describe_segments(present, n_segments).c_str(), format_bytes(bytes).c_str());
  if (work.packed_bytes > 0)
    std::printf("; packed %s in %.1f s", format_bytes(work.packed_bytes).c_str(), seconds);
  else
    std::printf("; nothing had to be packed");
  if (flags.verify) std::printf("; checked %s", format_bytes(work.verified_bytes).c_str());
  std::printf("\n");
  return kOk;
}

}  // namespace

void add_pack(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("pack", "prepare a model's layers on this device's disk, to be streamed");
  const auto flags = std::make_shared<Flags>();
  verb->add_option("-m,--model", flags->model, "GGUF model file; of a split model the first part")
      ->type_name("FILE.gguf")
      ->required();
  verb->add_option("--layers", flags->layers,
                   "what to pack: layers and ranges of them, and 'head' for the output head (default: all)")
      ->type_name("LAYERS");
  verb->add_flag("--verify", flags->verify, "read what is packed already, and pack anew what is damaged");
  verb->add_flag("--no-repack", flags->no_repack, "keep the weights' layout of the model file");
  verb->add_option("--cache-dir", flags->cache_dir,
                   "folder of the packs (default: $HEARTH_CACHE, else hearth/packs in the user's cache)")
      ->type_name("FOLDER");
  verb->add_flag("--json", flags->json, "as JSON; sizes in bytes");
  verb->footer(
      "It may be interrupted; the next run goes on with the first layer that is not complete.\n"
      "Example: hearth pack -m model.gguf --layers 0-15,head");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
