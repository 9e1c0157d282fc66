// What a model file holds, counted from its header alone: for files that can be run and those that cannot.
//
// Names of tensors and keys are those of the GGUF standard: "blk.N." begins the tensors of layer N, the first
// part of others says what they are. Pure but for memory_needs(), which asks the system; any thread.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "model/model_file.h"

namespace hearth::cli {

// The tensors of one type.
struct TypeShare {
  gguf::TensorType type;
  std::uint32_t n_tensors = 0;
  std::uint64_t n_values = 0;
  std::uint64_t bytes = 0;
  friend auto operator<=>(const TypeShare&, const TypeShare&) = default;
};

struct Segment {
  std::uint32_t n_tensors = 0;
  std::uint64_t n_values = 0;
  std::uint64_t bytes = 0;
  std::vector<TypeShare> types;  // the most bytes first
  friend auto operator<=>(const Segment&, const Segment&) = default;
};

struct FileFacts {
  Segment all;
  Segment embedding;                        // token_embd…
  std::map<std::uint32_t, Segment> layers;  // blk.N.…
  Segment output;                           // output…
  Segment others;
  // Of a mixture of experts: what a token is not computed with.
  std::uint64_t n_idle_values = 0;
};
[[nodiscard]] FileFacts facts_of(const gguf::File& file);

// Layers that are alike, in the order of the first of each: "0-3,6" and one of them.
struct LayerGroup {
  std::string layers;
  std::uint32_t n_layers = 0;
  const Segment* segment;  // of the facts
};
[[nodiscard]] std::vector<LayerGroup> group_layers(const FileFacts& facts);

// "general.architecture"; "" when there is none.
[[nodiscard]] std::string_view architecture_name(const gguf::File& file);

struct TokenizerFacts {
  struct Special {
    std::string name;  // "bos", "eos" …: the key without "_token_id"
    std::uint32_t id = 0;
    std::optional<std::string> text;  // none: the vocabulary has no such token
  };
  std::string kind, pre;      // "" where the file does not say
  std::uint64_t n_vocab = 0;  // 0: no vocabulary
  std::uint64_t n_merges = 0;
  std::vector<Special> special;                    // in file order
  std::vector<std::pair<std::string, bool>> adds;  // "add_bos_token": true …
};
[[nodiscard]] TokenizerFacts tokenizer_of(const gguf::File& file);

// It is not rendered: a template is a program of whoever made the file.
struct TemplateFacts {
  std::string text;                 // "" when there is none
  std::vector<std::string> others;  // names of further templates, which hearth does not use
};
[[nodiscard]] TemplateFacts template_of(const gguf::File& file);

// What it takes to run the model alone on this device, counted as a plan counts it.
struct MemoryNeeds {
  std::uint32_t n_ctx = 0, n_ubatch = 0;
  std::uint64_t weight_bytes = 0;  // of all layers and the output head
  std::uint64_t kv_bytes = 0, buffer_bytes = 0;
  std::uint64_t least_bytes = 0;  // with the smallest batches, all weights streamed
  [[nodiscard]] std::uint64_t all_bytes() const { return weight_bytes + kv_bytes + buffer_bytes; }

  std::uint64_t lends_bytes = 0;  // this device, now
  // What it would do; only where it lends at least least_bytes.
  struct Use {
    std::uint32_t n_ubatch = 0;
    std::uint64_t streamed_bytes = 0;  // read from the disk for each token
    std::uint64_t kept_bytes = 0;      // of the weights, in memory
  };
  std::optional<Use> use;
};
struct NeedsRequest {
  std::uint32_t n_ctx = 0;
  std::uint32_t n_ubatch = 0;      // 0: the plan chooses
  std::uint64_t memory_bytes = 0;  // what the user lends; 0: what is available
};
[[nodiscard]] MemoryNeeds memory_needs(const model::ModelFile& model, const NeedsRequest& request);

// The KV cache of all layers for a context of so many tokens, by type: "f16" first.
[[nodiscard]] std::vector<std::pair<std::string, std::uint64_t>> kv_bytes(const model::ModelFile& model,
                                                                          std::uint32_t n_ctx);

}  // namespace hearth::cli
