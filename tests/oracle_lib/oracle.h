// Oracle: libllama in this process on a GGUF, the reference that hearth's own computing is compared with and
// the baseline its speed is measured against.
//
// It runs on the CPU alone, whatever devices there are, or on the one GPU named, with exactly the options
// given. libllama's OpenMP team belongs to the calling thread and its environment (OMP_*) is that of the
// process, so hearth and the oracle run under the same rules. One oracle is used by one thread at a time;
// several may exist, also on one loaded model (another()). libllama's log is silent; its last error is part
// of the message when something fails.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "wire/kv_type.h"

namespace hearth::oracle {

enum class Flash : std::uint8_t { kAuto, kOff, kOn };
enum class Load : std::uint8_t { kMmap, kRead };  // kRead: the file is copied into memory

// Sees the f32 results of graph nodes as they are computed. `wants` is asked by node name ("l_out-3",
// "result_norm"); what it wants is computed apart from its neighbours, so times mean nothing then.
struct NodeObserver {
  std::function<bool(std::string_view name)> wants;
  // `row` is the row length; `values` has ne[0] * ne[1] * … elements, rows first.
  std::function<void(std::string_view name, std::span<const float> values, std::size_t row)> seen;
};

struct OracleOptions {
  std::uint32_t n_ctx = 512;  // cells; libllama rounds up to 256
  std::uint32_t n_batch = 512;
  std::uint32_t n_ubatch = 512;
  std::int32_t n_threads = 1;  // for one token and for many
  bool repack = true;          // use_extra_bufts: repacked weights where the CPU has kernels for them
  Flash flash = Flash::kAuto;
  wire::KvTypes kv_type = {};
  std::uint32_t n_seq_max = 1;
  bool kv_unified = true;  // one buffer of cells for all sequences
  Load load = Load::kMmap;
  NodeObserver observer = {};   // empty: none
  std::string gpu = {};         // ggml's name of it, e.g. "Vulkan0"; empty: none
  std::int32_t gpu_layers = 0;  // the output head, then the last layers
};

struct BatchToken {
  std::int32_t token = 0;
  std::int32_t pos = 0;
  std::vector<std::int32_t> seqs = {0};
  bool output = false;
};

// Rows of n_vocab logits.
struct Logits {
  std::size_t n_vocab = 0;
  std::vector<float> values = {};
  [[nodiscard]] std::size_t n_rows() const { return n_vocab == 0 ? 0 : values.size() / n_vocab; }
  [[nodiscard]] std::span<const float> row(std::size_t i) const {
    return std::span(values).subspan(i * n_vocab, n_vocab);
  }
};

// Row i of `logits` is the one tokens[i] was chosen from.
struct Generation {
  std::vector<std::int32_t> tokens = {};
  Logits logits = {};
};

// The index of the largest value; the lowest of equal ones.
[[nodiscard]] std::int32_t argmax(std::span<const float> row);

class Oracle {
 public:
  // Errors: kInvalidFile (libllama refuses the file), kOutOfMemory or kUnsupported (no context with these
  // options).
  [[nodiscard]] static Result<Oracle> open(const std::filesystem::path& model,
                                           const OracleOptions& options = {});
  // A second context with other options on the same loaded weights; `repack`, `load` and the GPU's layers
  // stay as they are.
  [[nodiscard]] Result<Oracle> another(OracleOptions options) const;

  Oracle(Oracle&&) noexcept;
  Oracle& operator=(Oracle&&) noexcept;
  ~Oracle();

  [[nodiscard]] std::size_t n_vocab() const;
  [[nodiscard]] std::uint32_t n_layer() const;
  [[nodiscard]] std::uint32_t n_embd() const;
  [[nodiscard]] std::uint32_t n_ctx() const;        // after rounding
  [[nodiscard]] std::uint64_t model_bytes() const;  // of all tensors

  // One llama_decode of up to n_batch tokens; the logits of the tokens marked output, in batch order.
  // Errors: kInvalidArgument (empty, too long, token out of range), kOutOfMemory (no free cells).
  [[nodiscard]] Result<Logits> decode(std::span<const BatchToken> batch);
  // The same without copying logits: seconds of llama_decode and llama_synchronize.
  [[nodiscard]] Result<double> timed_decode(std::span<const BatchToken> batch);
  // Seconds of the last decode, without copying logits.
  [[nodiscard]] double last_decode_seconds() const;

  // Clears the cells, runs the prompt in batches of n_batch in sequence 0 and then n greedy steps (n >= 1);
  // the last token is not decoded.
  [[nodiscard]] Result<Generation> greedy(std::span<const std::int32_t> prompt, std::size_t n);
  // Clears the cells; a row for each token of the prompt.
  [[nodiscard]] Result<Logits> logits_for_prompt(std::span<const std::int32_t> prompt);

  // Cells of sequences; [p0, p1) with negative p0 = 0 and negative p1 = end, as in llama.h.
  void clear();
  [[nodiscard]] bool seq_rm(std::int32_t seq, std::int32_t p0, std::int32_t p1);
  void seq_cp(std::int32_t from, std::int32_t to, std::int32_t p0, std::int32_t p1);
  void seq_keep(std::int32_t seq);
  void seq_add(std::int32_t seq, std::int32_t p0, std::int32_t p1, std::int32_t delta);
  [[nodiscard]] std::int32_t seq_pos_max(std::int32_t seq) const;  // -1: empty

  [[nodiscard]] std::vector<std::int32_t> tokenize(std::string_view text, bool add_special,
                                                   bool parse_special) const;
  [[nodiscard]] std::string detokenize(std::span<const std::int32_t> tokens, bool special = false) const;

 private:
  struct Impl;
  explicit Oracle(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::oracle
