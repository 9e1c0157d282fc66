#include "cli/model_facts.h"

#include <algorithm>
#include <charconv>
#include <format>

#include "compute/kv_storage.h"
#include "node/model_profile.h"
#include "node/weights.h"
#include "plan/planner.h"
#include "plan/shortage.h"

namespace hearth::cli {
namespace {

std::optional<std::uint32_t> layer_of(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  name.remove_prefix(4);
  std::uint32_t layer = 0;
  const auto parsed = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (parsed.ec != std::errc() || parsed.ptr == name.data() + name.size() || *parsed.ptr != '.')
    return std::nullopt;
  return layer;
}

void add(Segment& segment, const gguf::Tensor& tensor) {
  const auto n_values = static_cast<std::uint64_t>(tensor.n_values());
  ++segment.n_tensors;
  segment.n_values += n_values;
  segment.bytes += tensor.bytes;
  auto type = std::ranges::find(segment.types, tensor.type, &TypeShare::type);
  if (type == segment.types.end()) type = segment.types.insert(type, {.type = tensor.type});
  ++type->n_tensors;
  type->n_values += n_values;
  type->bytes += tensor.bytes;
}

void sort_types(Segment& segment) {
  std::ranges::stable_sort(segment.types, [](const TypeShare& a, const TypeShare& b) {
    return a.bytes != b.bytes ? a.bytes > b.bytes : a.type < b.type;
  });
}

// A number that may be missing or of another type: this is a description, not a judgement.
std::uint32_t number(const gguf::File& file, const std::string& key) {
  const auto value = file.optional_u32(key);
  return value ? value->value_or(0) : 0;
}

std::string string(const gguf::File& file, std::string_view key) {
  const auto value = file.optional_string(key);
  return value ? std::string(value->value_or("")) : "";
}

std::uint64_t array_size(const gguf::File& file, std::string_view key) {
  const gguf::Value* value = file.find(key);
  const auto* array = value == nullptr ? nullptr : std::get_if<gguf::StringArray>(value);
  return array == nullptr ? 0 : array->size();
}

}  // namespace

FileFacts facts_of(const gguf::File& file) {
  FileFacts facts;
  const std::string arch(architecture_name(file));
  const std::uint64_t n_experts = number(file, arch + ".expert_count");
  const std::uint64_t n_used = number(file, arch + ".expert_used_count");
  for (const gguf::Tensor& tensor : file.tensors()) {
    const std::string_view name = tensor.name;
    add(facts.all, tensor);
    if (const auto layer = layer_of(name))
      add(facts.layers[*layer], tensor);
    else
      add(name.starts_with("token_embd") ? facts.embedding
          : name.starts_with("output")   ? facts.output
                                         : facts.others,
          tensor);
    // The matrices of all experts are one tensor, "ffn_up_exps.weight" and its like.
    if (name.contains("_exps.") && n_used > 0 && n_used < n_experts)
      facts.n_idle_values += static_cast<std::uint64_t>(tensor.n_values()) / n_experts * (n_experts - n_used);
  }
  for (Segment* segment : {&facts.all, &facts.embedding, &facts.output, &facts.others}) sort_types(*segment);
  for (auto& [layer, segment] : facts.layers) sort_types(segment);
  return facts;
}

std::vector<LayerGroup> group_layers(const FileFacts& facts) {
  std::vector<LayerGroup> groups;
  std::vector<std::vector<std::uint32_t>> members;
  const auto less = [](const Segment* a, const Segment* b) { return *a < *b; };
  std::map<const Segment*, std::size_t, decltype(less)> index(less);
  for (const auto& [layer, segment] : facts.layers) {
    const auto [at, is_new] = index.emplace(&segment, groups.size());
    if (is_new) {
      groups.push_back({.layers = "", .n_layers = 0, .segment = &segment});
      members.emplace_back();
    }
    ++groups[at->second].n_layers;
    members[at->second].push_back(layer);
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const std::vector<std::uint32_t>& of = members[g];
    for (std::size_t i = 0; i < of.size();) {
      std::size_t end = i + 1;
      while (end < of.size() && of[end] == of[end - 1] + 1) ++end;
      groups[g].layers += std::format("{}{}", i == 0 ? "" : ",", of[i]);
      if (end - i > 1) groups[g].layers += std::format("-{}", of[end - 1]);
      i = end;
    }
  }
  return groups;
}

std::string_view architecture_name(const gguf::File& file) {
  const auto value = file.optional_string("general.architecture");
  return value ? value->value_or("") : "";
}

TokenizerFacts tokenizer_of(const gguf::File& file) {
  constexpr std::string_view kPrefix = "tokenizer.ggml.", kSpecial = "_token_id";
  TokenizerFacts facts = {.kind = string(file, "tokenizer.ggml.model"),
                          .pre = string(file, "tokenizer.ggml.pre"),
                          .n_vocab = array_size(file, "tokenizer.ggml.tokens"),
                          .n_merges = array_size(file, "tokenizer.ggml.merges"),
                          .special = {},
                          .adds = {}};
  const gguf::Value* tokens = file.find("tokenizer.ggml.tokens");
  const auto* pieces = tokens == nullptr ? nullptr : std::get_if<gguf::StringArray>(tokens);
  for (const gguf::KeyValue& kv : file.metadata()) {
    std::string_view key = kv.key;
    if (!key.starts_with(kPrefix)) continue;
    key.remove_prefix(kPrefix.size());
    if (const bool* flag = std::get_if<bool>(&kv.value); flag != nullptr && key.starts_with("add_"))
      facts.adds.emplace_back(key, *flag);
    if (!key.ends_with(kSpecial)) continue;
    const auto id = file.optional_u32(kv.key);
    if (!id || !*id) continue;
    TokenizerFacts::Special special = {
        .name = std::string(key.substr(0, key.size() - kSpecial.size())), .id = **id, .text = {}};
    if (pieces != nullptr && special.id < pieces->size()) special.text = std::string((*pieces)[special.id]);
    facts.special.push_back(std::move(special));
  }
  return facts;
}

TemplateFacts template_of(const gguf::File& file) {
  constexpr std::string_view kOther = "tokenizer.chat_template.";
  TemplateFacts facts = {.text = string(file, "tokenizer.chat_template"), .others = {}};
  for (const gguf::KeyValue& kv : file.metadata())
    if (kv.key.starts_with(kOther)) facts.others.push_back(kv.key.substr(kOther.size()));
  return facts;
}

MemoryNeeds memory_needs(const model::ModelFile& model, const NeedsRequest& request) {
  plan::RingProfile ring = {
      .model = node::model_profile(model, {.n_ctx = request.n_ctx, .n_ubatch = request.n_ubatch}),
      .devices = {{.name = "this device", .memory_bytes = 0, .cpu = {}}},
      .links = {}};
  const plan::BatchNeeds& batch = ring.model.batches.front();
  MemoryNeeds needs = {.n_ctx = request.n_ctx,
                       .n_ubatch = batch.n_tokens,
                       .weight_bytes = ring.model.weight_bytes(),
                       .kv_bytes = ring.model.kv_bytes_of({0, ring.model.n_layer()}),
                       .buffer_bytes = ring.model.buffer_bytes(batch, 0, 1),
                       .least_bytes = plan::shortage_of(ring, 1, {}).bytes,
                       .lends_bytes = node::memory_for_epochs(request.memory_bytes),
                       .use = {}};
  ring.devices[0].memory_bytes = needs.lends_bytes;
  const auto made = plan::propose(ring, {.traffic = {}, .rounds = 1, .windows = {ring.model.n_layer()}});
  if (!made) return needs;
  const plan::DeviceUse& use = made->prediction.devices[0];
  needs.use = {.n_ubatch = made->n_ubatch,
               .streamed_bytes = use.streamed_bytes,
               .kept_bytes = use.weight_bytes - use.streamed_bytes};
  return needs;
}

std::vector<std::pair<std::string, std::uint64_t>> kv_bytes(const model::ModelFile& model,
                                                            std::uint32_t n_ctx) {
  std::vector<std::pair<std::string, std::uint64_t>> all;
  for (const wire::KvTypeTraits& one : wire::kKvTypes) {
    if (!compute::KvStorage::check(model.params(), one.type, true)) continue;
    const plan::ModelProfile profile = node::model_profile(model, {.n_ctx = n_ctx, .kv_type = one.type});
    all.emplace_back(one.name, profile.kv_bytes_of({0, profile.n_layer()}));
  }
  return all;
}

}  // namespace hearth::cli
