// hearth-synth: writes GGUF models with random weights, for tests and benchmarks.
#include <chrono>
#include <cstdio>
#include <exception>
#include <optional>
#include <print>
#include <string>

#include <CLI/CLI.hpp>

#include "base/units.h"
#include "synth/synth.h"

namespace {

using namespace hearth;

// One line per paragraph: CLI11 wraps it.
constexpr const char* kHelp =
    "Writes a GGUF model with random weights of any shape, for tests and benchmarks.\n\n"
    "Weights depend on --seed only, not on threads. Activations stay of ordinary size at any depth. Memory "
    "stays below "
    "about 100 MB whatever the size of the model.\n\n"
    "From 150 M weights on (or with --pool on) blocks are drawn from a pool: 2^20 random weights are "
    "quantized once per "
    "type and scale, and each row is a random sequence of blocks of that pool. No two rows are equal, sizes "
    "and speeds "
    "are those of a real model, and an 8B model in Q4_K_M takes seconds instead of minutes. --pool off "
    "quantizes every "
    "row.\n\n"
    "Example: hearth-synth --arch qwen3 --shape 600m --type Q8_0 --vocab-from models/ember-q8_0.gguf -o "
    "/tmp/q.gguf";

std::string joined(const auto& names) {
  std::string text;
  for (const auto& name : names) {
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text;
}

int write(const synth::SynthSpec& spec, const std::string& out) {
  const auto start = std::chrono::steady_clock::now();
  const Result<synth::SynthReport> report = synth::write_model(spec, out);
  if (!report) {
    std::println(stderr, "hearth-synth: {}", report.error().message);
    return 1;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (const auto& file : report->files) std::println("{}", file.string());
  std::println(stderr, "{} weights, {} in {:.2f} s, {:.0f} MB/s{}", report->n_weights,
               format_bytes(report->file_bytes), seconds,
               static_cast<double>(report->file_bytes) / 1e6 / seconds,
               report->pooled ? ", from block pools" : "");
  return 0;
}

int run(int argc, char** argv) {
  synth::SynthSpec spec;
  std::string out, shape = "tiny", pool = "auto", vocab_from;
  std::optional<std::uint32_t> layers, embd, heads, kv_heads, head_dim, ff, vocab, ctx;
  std::optional<std::uint32_t> experts, experts_used, window, rot;
  bool tied = false, untied = false;

  CLI::App app{kHelp, "hearth-synth"};
  app.add_option("-o,--out", out, "file to write; with --split-files NAME-00001-of-0000N.gguf")->required();
  app.add_option("--arch", spec.arch, "architecture: " + joined(synth::arch_names()))->capture_default_str();
  app.add_option("--shape", shape, "preset, changed by the options below: " + joined(synth::preset_names()))
      ->capture_default_str();
  app.add_option("--layers", layers, "layers");
  app.add_option("--embd", embd, "width of the residual stream");
  app.add_option("--heads", heads, "attention heads");
  app.add_option("--kv-heads", kv_heads, "heads of K and V; divides --heads");
  app.add_option("--head-dim", head_dim, "width of a head");
  app.add_option("--ff", ff, "width of the feed-forward part");
  app.add_option("--experts", experts,
                 "experts of a layer, each of that width (llama, qwen2moe, qwen3moe, gpt-oss)");
  app.add_option("--experts-used", experts_used, "experts that a token goes to");
  app.add_option("--window", window, "tokens that layers with a sliding window see (gemma, gpt-oss, olmo2)");
  app.add_option("--rot", rot, "values of a head that RoPE turns (phi3)");
  app.add_option("--vocab,--n-vocab", vocab,
                 "vocabulary, padded with unused tokens (default: the tokenizer's)");
  app.add_option("--ctx", ctx, "context length the model claims");
  app.add_option("--type", spec.type, "type of all matrices, or a mix: " + joined(synth::type_names()))
      ->capture_default_str();
  app.add_option("--vocab-from", vocab_from,
                 "GGUF whose tokenizer is copied (default: a vocabulary of bytes)")
      ->check(CLI::ExistingFile);
  app.add_flag("--tied", tied, "the embedding table is the output head");
  app.add_flag("--untied", untied, "an output head of its own, where the preset is tied")->excludes("--tied");
  app.add_flag("--qkv-bias", spec.qkv_bias, "biases of Q, K and V, where they may be");
  app.add_flag("--rope-freqs", spec.rope_freqs,
               "RoPE frequency factors: of Llama 3.1 (llama, granite), for long and short contexts (phi3)");
  app.add_option("--rope-yarn", spec.rope_yarn, "YaRN by this factor");
  app.add_option("--attention-cap", spec.attention_cap, "soft cap of attention scores (gemma2)");
  app.add_option("--logit-cap", spec.logit_cap, "soft cap of logits (gemma2, gemma3)");
  app.add_option("--rope-scale-linear", spec.rope_scale_linear, "linear RoPE scaling by this factor");
  app.add_option("--rope-freq-base", spec.rope_freq_base, "RoPE base (default: the architecture's)");
  app.add_flag("--outliers", spec.outliers, "some channels of the hidden rows reach 1e6");
  app.add_option("--split-files", spec.split_files, "number of files")->capture_default_str();
  app.add_option("--seed", spec.seed, "seed of the weights")->capture_default_str();
  app.add_option("--pool", pool, "block pools: auto, on, off")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "on", "off"}));
  app.add_option("-t,--threads", spec.n_threads, "threads (default: all cores)");
  CLI11_PARSE(app, argc, argv);

  const Result<synth::Shape> base = synth::preset(shape);
  if (!base) {
    std::println(stderr, "hearth-synth: --shape: {}", base.error().message);
    return 1;
  }
  spec.shape = *base;
  const auto set = [](std::uint32_t& value, const std::optional<std::uint32_t>& given) {
    if (given) value = *given;
  };
  set(spec.shape.n_layer, layers);
  set(spec.shape.n_embd, embd);
  set(spec.shape.n_head, heads);
  set(spec.shape.n_head_kv, kv_heads);
  set(spec.shape.head_dim, head_dim);
  set(spec.shape.n_ff, ff);
  set(spec.shape.n_vocab, vocab);
  set(spec.shape.n_ctx, ctx);
  set(spec.shape.n_expert, experts);
  set(spec.shape.n_expert_used, experts_used);
  set(spec.shape.n_swa, window);
  set(spec.shape.n_rot, rot);
  if (tied) spec.shape.tied = true;
  if (untied) spec.shape.tied = false;
  spec.vocab_from = vocab_from;
  spec.pool = pool == "on" ? synth::Pool::kOn : pool == "off" ? synth::Pool::kOff : synth::Pool::kAuto;
  return write(spec, out);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "hearth-synth: %s\n", e.what());
    return 1;
  }
}
