// Synthetic models: GGUF files of any architecture hearth runs, any shape and any quantization, with random
// weights.
//
// The weights are a pure function of (seed, tensor name, row): the same spec gives the same bytes whatever
// the number of threads. They are scaled so that activations stay of ordinary size at any depth and greedy
// text does not fall into a short loop. A model is written tensor by tensor in blocks of rows; memory stays
// below ~100 MB at any size. A file appears under its name only when it is complete.
//
// write_model() may be called from any thread; it starts and joins its own workers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hearth::synth {

struct Shape {
  std::uint32_t n_layer = 8;
  std::uint32_t n_embd = 256;
  std::uint32_t n_head = 4;
  std::uint32_t n_head_kv = 2;
  std::uint32_t head_dim = 64;
  std::uint32_t n_ff = 512;
  std::uint32_t n_expert = 0;  // > 0: feed-forward is a mixture of experts of width n_ff each
  std::uint32_t n_expert_used = 2;
  std::uint32_t n_swa = 0;    // > 0: the window of layers with a sliding one, where the architecture has such
  std::uint32_t n_rot = 0;    // values of a head that RoPE turns (phi3); 0: all
  std::uint32_t n_vocab = 0;  // 0: as many as the tokenizer has; more: padded with unused tokens
  std::uint32_t n_ctx = 4096;
  bool tied = false;  // no output.weight: token_embd.weight is the output head
};

// Whether block pools are used: see SynthSpec::pool.
enum class Pool : std::uint8_t { kAuto, kOff, kOn };

struct SynthSpec {
  std::string arch = "llama";
  Shape shape;
  // A ggml type name ("F16", "Q4_K", any case) for all matrices, or a mix ("Q4_K_M", "Q5_K_M", "MXFP4_MOE")
  // as llama.cpp makes it. Routers of experts are F32.
  std::string type = "F16";
  // GGUF whose tokenizer.* keys are copied. Empty: an SPM vocabulary of bytes is made (260 tokens).
  std::filesystem::path vocab_from;
  std::uint64_t seed = 1;
  bool qkv_bias = false;    // attn_{q,k,v}.bias where the architecture may have them
  bool rope_freqs = false;  // rope_freqs.weight with the factors of Llama 3.1 (llama, granite); phi3: long
                            // and short factors, the long ones for contexts beyond 256
  float rope_scale_linear = 0;  // > 0: rope.scaling.type linear with this factor
  float rope_yarn = 0;          // > 0: rope.scaling.type yarn with this factor, trained for 128 tokens
  float rope_freq_base = 0;     // 0: the architecture's usual one
  float attention_cap = 0;      // > 0: soft caps (gemma2; gemma3 of logits) instead of the usual ones
  float logit_cap = 0;
  bool outliers =
      false;  // some residual channels reach 1e6 from the second layer on, as massive activations do
  std::uint32_t split_files = 1;  // > 1: split GGUF, OUT-00001-of-0000N.gguf
  // With a pool, blocks come from 2^20 quantized random weights per (type, scale), each row picking its own
  // sequence of blocks: memory-copy speed instead of quantizer speed. Auto: on from 150 M weights.
  Pool pool = Pool::kAuto;
  std::uint32_t n_threads = 0;  // 0: all cores
};

struct SynthReport {
  std::vector<std::filesystem::path> files;
  std::uint64_t file_bytes = 0;
  std::uint64_t n_weights = 0;
  bool pooled = false;
};

// "tiny", "small", "600m", "1b", "8b", "70b". Error kInvalidArgument lists them.
[[nodiscard]] Result<Shape> preset(std::string_view name);
[[nodiscard]] std::span<const std::string_view> preset_names();
[[nodiscard]] std::vector<std::string_view> arch_names();
// Types and mixes that SynthSpec::type accepts.
[[nodiscard]] std::vector<std::string> type_names();

// Writes the model to `path` (see split_files for several files). Errors: kInvalidArgument (a shape, type or
// option that cannot be: the message names the tensor and what would fit), kInvalidFile (vocab_from), kIo (no
// space, not writable); nothing is left behind then.
[[nodiscard]] Result<SynthReport> write_model(const SynthSpec& spec, const std::filesystem::path& path);

// Name of file `index` (from 0) of `count` for an output `path`: "dir/name-00001-of-00003.gguf".
[[nodiscard]] std::filesystem::path split_path(const std::filesystem::path& path, std::uint32_t index,
                                               std::uint32_t count);

}  // namespace hearth::synth
