#include "support/test_models.h"

#include <format>
#include <map>
#include <stdexcept>
#include <string>

#include "base/test_dir.h"
#include "model/architecture.h"

namespace hearth::testing {
namespace {

struct Models {
  TestDir folder;
  std::map<std::string, std::filesystem::path> by_spec;
};

std::string key_of(const synth::SynthSpec& spec) {
  const synth::Shape& s = spec.shape;
  return std::format("{} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}",
                     spec.arch, s.n_layer, s.n_embd, s.n_head, s.n_head_kv, s.head_dim, s.n_ff, s.n_vocab,
                     s.n_ctx, s.tied, spec.type, spec.vocab_from.string(), spec.seed, spec.qkv_bias,
                     spec.rope_freqs, spec.rope_scale_linear, spec.rope_freq_base, spec.outliers,
                     spec.split_files, s.n_expert, s.n_expert_used, s.n_swa, s.n_rot, spec.rope_yarn,
                     spec.attention_cap, spec.logit_cap);
}

}  // namespace

synth::SynthSpec small_spec(std::string_view arch, std::string_view type) {
  synth::SynthSpec spec;
  spec.arch = arch;
  spec.type = type;
  spec.vocab_from = shipped_model("ember-q8_0.gguf");
  spec.shape = {.n_layer = 8, .n_embd = 256, .n_head = 8, .n_head_kv = 4, .head_dim = 32, .n_ff = 512};
  if (arch == "qwen2") {
    spec.shape.n_head = 4;
    spec.shape.n_head_kv = 2;
    spec.shape.head_dim = 64;
  } else if (arch == "qwen3") {
    spec.shape.n_head_kv = 2;
    spec.shape.head_dim = 64;
  }
  const model::ArchTraits* traits = model::find_architecture(arch);
  if (traits != nullptr && traits->experts == model::Presence::kYes) spec.shape.n_expert = 8;
  // olmo2 is tested without (and as OLMo 3 with).
  if (traits != nullptr && traits->sliding_period > 0 && arch != "olmo2") spec.shape.n_swa = 48;
  return spec;
}

synth::SynthSpec family_spec(std::string_view family, std::string_view type) {
  synth::SynthSpec spec = small_spec(family == "mixtral" ? "llama"
                                     : family == "olmo3" ? "olmo2"
                                                         : family,
                                     type);
  if (family == "mixtral") spec.shape.n_expert = 4;
  if (family == "olmo3") spec.shape.n_swa = 48;
  if (family == "gemma2") spec.attention_cap = 5;
  if (family == "gemma2" || family == "gemma3") spec.logit_cap = 4;
  return spec;
}

std::filesystem::path test_model(const synth::SynthSpec& spec) {
  static Models models;
  const auto [entry, is_new] = models.by_spec.try_emplace(key_of(spec));
  if (is_new) {
    const auto path = models.folder.path() / std::format("{}.gguf", models.by_spec.size());
    const auto report = synth::write_model(spec, path);
    if (!report) {
      models.by_spec.erase(entry);
      throw std::runtime_error("cannot make a model for the test: " + report.error().message);
    }
    entry->second = report->files.front();
  }
  return entry->second;
}

std::filesystem::path shipped_model(std::string_view file) {
  return std::filesystem::path(HEARTH_MODELS_DIR) / file;
}

}  // namespace hearth::testing
