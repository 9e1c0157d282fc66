#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "base/units.h"
#include "cli/console.h"
#include "cli/show_report.h"
#include "cli/verbs.h"

namespace hearth::cli {
namespace {

struct Flags {
  std::string model;
  std::uint32_t n_ctx = 4096;
  std::uint32_t n_ubatch = 0;
  std::string memory;
  bool chat_template = false;
  bool metadata = false;
  bool tensors = false;
  bool json = false;
};

Result<std::uint64_t> memory_bytes(const Flags& flags) {
  if (flags.memory.empty()) return 0;
  auto bytes = parse_bytes(flags.memory);
  if (!bytes) return fail(ErrorCode::kInvalidArgument, "--memory: {}", bytes.error().message);
  return bytes;
}

int run(const Flags& flags) {
  const auto file = gguf::File::open(flags.model);
  if (!file) return report(file.error());
  const auto memory = memory_bytes(flags);
  if (!memory) return report(memory.error());
  // A file that hearth cannot run is described all the same, and the exit code says so.
  const auto model = model::ModelFile::from(gguf::File(*file));
  if (flags.chat_template && !flags.json) {
    const std::string text = template_of(*file).text;
    if (text.empty()) return report({ErrorCode::kUnsupported, flags.model + " has no chat template"});
    (void)put(printable_lines(text) + (text.ends_with('\n') ? "" : "\n"));
    return kOk;
  }
  if ((flags.metadata || flags.tensors) && !flags.json) {
    if (flags.metadata) (void)put(describe_metadata(*file));
    if (flags.tensors) (void)put(describe_tensors(*file));
    return kOk;
  }
  ShowReport shown = {.file = *file,
                      .why_not = {},
                      .facts = facts_of(*file),
                      .tokenizer = tokenizer_of(*file),
                      .chat_template = template_of(*file),
                      .kv_bytes_per_1024 = {},
                      .needs = {}};
  if (model) {
    shown.model = &*model;
    shown.kv_bytes_per_1024 = kv_bytes(*model, 1024);
    shown.needs = memory_needs(
        *model,
        {.n_ctx = flags.n_ctx, .n_ubatch = std::min(flags.n_ubatch, flags.n_ctx), .memory_bytes = *memory});
  } else {
    shown.why_not = model.error().message;
  }
  // Text from the file may hold invalid UTF-8.
  (void)put(flags.json ? to_json(shown).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                       : describe(shown));
  return model ? kOk : report(model.error());
}

}  // namespace

void add_show(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("show", "what a model file holds and needs");
  const auto flags = std::make_shared<Flags>();
  verb->add_option("MODEL", flags->model, "GGUF model file; of a split model the first part")
      ->type_name("FILE.gguf")
      ->required();
  verb->add_option("-c,--ctx-size", flags->n_ctx, "context, in tokens, that the memory is counted for")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  verb->add_option("--ubatch-size", flags->n_ubatch,
                   "most tokens computed at once that the memory is counted for (default: 512, or fewer "
                   "where memory is short)")
      ->check(CLI::Range(1, 8192));
  verb->add_option("--memory", flags->memory, "what this device would lend (default: what is available)")
      ->type_name("SIZE");
  verb->add_flag("--template", flags->chat_template, "print the chat template only");
  verb->add_flag("--metadata", flags->metadata, "list all keys of the file and their values, long ones cut");
  verb->add_flag("--tensors", flags->tensors, "list all tensors: type, shape, bytes, place");
  verb->add_flag("--json", flags->json,
                 "all of it as JSON (docs/reference/show.md); sizes in bytes, long arrays cut");
  verb->footer(
      "Only the header of the file is read. Memory is counted as hearth run would take it on this device "
      "alone. A file that hearth cannot run is described too; the exit code is 3 then.\n"
      "Examples:\n"
      "  hearth show model.gguf\n"
      "  hearth show model.gguf -c 32768 --memory 8GiB\n"
      "  hearth show model.gguf --template");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
