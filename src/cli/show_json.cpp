// The JSON of `hearth show`; docs/reference/show.md says what each key is.
#include <algorithm>
#include <filesystem>
#include <format>
#include <type_traits>
#include <variant>

#include <nlohmann/json.hpp>

#include "cli/show_report.h"

namespace hearth::cli {
namespace {

using Json = nlohmann::ordered_json;

// Longer arrays are cut: a vocabulary is of no use here.
constexpr std::size_t kMostElements = 64;

template <class T>
Json scalar(const T& value) {
  if constexpr (std::is_convertible_v<T, std::string_view>)
    return std::string(value);
  else
    return value;
}

Json value_json(const gguf::Value& value) {
  Json j = {{"type", gguf::type_name(value)}};
  std::visit(
      [&]<class T>(const T& held) {
        if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
          j["value"] = scalar(held);
        } else {
          j["count"] = held.size();
          auto& first = j["first"] = Json::array();
          for (const auto& element : held) {
            if (first.size() == kMostElements) break;
            if constexpr (std::is_same_v<T, std::vector<bool>>)
              first.push_back(static_cast<bool>(element));
            else
              first.push_back(scalar(element));
          }
        }
      },
      value);
  return j;
}

Json types_json(const Segment& segment) {
  auto types = Json::array();
  for (const TypeShare& type : segment.types)
    types.push_back({{"type", gguf::type_info(type.type).name},
                     {"tensors", type.n_tensors},
                     {"values", type.n_values},
                     {"bytes", type.bytes}});
  return types;
}

Json segment_json(const Segment& segment) {
  return {{"tensors", segment.n_tensors},
          {"values", segment.n_values},
          {"bytes", segment.bytes},
          {"types", types_json(segment)}};
}

void add_params(Json& j, const model::ModelFile& model) {
  const model::HyperParams& p = model.params();
  j["n_layer"] = p.n_layer;
  j["n_embd"] = p.n_embd;
  j["n_head"] = p.n_head;
  j["n_head_kv"] = p.n_head_kv;
  j["head_dim"] = p.head_dim_k;
  j["n_ff"] = p.n_ff;
  j["n_vocab"] = p.n_vocab;
  j["n_ctx_train"] = p.n_ctx_train;
  j["rope_freq_base"] = p.rope_freq_base;
  j["rope_freq_scale"] = p.rope_freq_scale;
  j["rope_scaling"] = model::rope_scaling_name(p.rope_scaling);
  if (p.n_expert > 0)
    j["experts"] = {{"count", p.n_expert},
                    {"used", p.n_expert_used},
                    {"n_ff", p.n_ff_exp},
                    {"shared_n_ff", p.n_ff_shared}};
  if (!p.sliding.empty())
    j["sliding_window"] = {{"tokens", p.n_swa}, {"layers", std::ranges::count(p.sliding, true)}};
  j["tied_embeddings"] = model.tied_embeddings();
}

// What a plan counts, of files that can be run: the output head of tied embeddings is the embedding table.
void add_segments(Json& j, const model::ModelFile& model) {
  j["embedding_bytes"] = model.segment_bytes(model::SegmentId::embedding());
  j["output_bytes"] = model.segment_bytes(model::SegmentId::output());
  auto& layers = j["layer_bytes"] = Json::array();
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il)
    layers.push_back(model.segment_bytes(model::SegmentId::of_layer(il)));
}

void add_needs(Json& j, const ShowReport& report) {
  for (const auto& [type, bytes] : report.kv_bytes_per_1024) {
    if (type == "f16") j["kv_bytes_per_1024_tokens"] = bytes;
    j["kv_bytes_per_1024_tokens_by_type"][type] = bytes;
  }
  if (!report.needs) return;
  const MemoryNeeds& needs = *report.needs;
  j["needs"] = {{"n_ctx", needs.n_ctx},
                {"n_ubatch", needs.n_ubatch},
                {"weight_bytes", needs.weight_bytes},
                {"kv_bytes", needs.kv_bytes},
                {"buffer_bytes", needs.buffer_bytes},
                {"all_bytes", needs.all_bytes()},
                {"least_bytes", needs.least_bytes}};
  auto& here = j["this_device"] = {{"lends_bytes", needs.lends_bytes}};
  if (!needs.use) {
    here["verdict"] = "too_small";
    return;
  }
  here["verdict"] = needs.use->streamed_bytes == 0 ? "holds_all" : "streams";
  here["n_ubatch"] = needs.use->n_ubatch;
  here["kept_bytes"] = needs.use->kept_bytes;
  here["streamed_bytes_per_token"] = needs.use->streamed_bytes;
}

void add_parts(Json& j, const gguf::File& file) {
  auto& parts = j["parts"] = Json::array();
  for (std::size_t i = 0; i < file.paths().size(); ++i) {
    std::error_code none;
    const std::uint64_t bytes = std::filesystem::file_size(file.paths()[i], none);
    parts.push_back({{"path", file.paths()[i].string()},
                     {"bytes", none ? Json(nullptr) : Json(bytes)},
                     {"tensors", std::ranges::count(file.tensors(), i, &gguf::Tensor::file_index)}});
  }
  std::string digits;
  for (const std::uint8_t byte : file.fingerprint()) digits += std::format("{:02x}", byte);
  j["fingerprint"] = digits;
}

void add_text(Json& j, const ShowReport& report) {
  const TokenizerFacts& tokenizer = report.tokenizer;
  auto& t = j["tokenizer"] = {{"model", tokenizer.kind},
                              {"pre", tokenizer.pre},
                              {"n_vocab", tokenizer.n_vocab},
                              {"n_merges", tokenizer.n_merges}};
  auto& special = t["special"] = Json::object();
  for (const TokenizerFacts::Special& token : tokenizer.special)
    special[token.name] = {{"id", token.id}, {"text", token.text ? Json(*token.text) : Json(nullptr)}};
  for (const auto& [name, value] : tokenizer.adds) t[name] = value;
  const TemplateFacts& chat = report.chat_template;
  if (!chat.text.empty()) j["chat_template"] = chat.text;
  if (!chat.others.empty()) j["other_chat_templates"] = chat.others;
}

}  // namespace

nlohmann::ordered_json to_json(const ShowReport& report) {
  const FileFacts& facts = report.facts;
  const gguf::File& file = report.file;
  const std::string arch(architecture_name(file));
  const auto name = file.optional_string("general.name");
  Json j = {{"architecture", arch},
            {"name", name ? std::string(name->value_or("")) : ""},
            {"runnable", report.model != nullptr}};
  if (report.model == nullptr)
    j["why_not"] = report.why_not;
  else
    add_params(j, *report.model);
  j["parameters"] = facts.all.n_values;
  j["parameters_per_token"] = facts.all.n_values - facts.n_idle_values;
  j["tensor_bytes"] = facts.all.bytes;
  auto& by_type = j["bytes_by_type"] = Json::object();
  for (const TypeShare& type : facts.all.types)
    by_type[std::string(gguf::type_info(type.type).name)] = type.bytes;
  j["types"] = types_json(facts.all);
  if (report.model != nullptr) add_segments(j, *report.model);
  j["embedding"] = segment_json(facts.embedding);
  auto& layers = j["layers"] = Json::array();
  for (const auto& [layer, segment] : facts.layers) {
    Json one = {{"layer", layer}};
    one.update(segment_json(segment));
    layers.push_back(std::move(one));
  }
  j["output"] = segment_json(facts.output);
  j["others"] = segment_json(facts.others);
  add_needs(j, report);
  j["gguf_version"] = file.version();
  j["files"] = file.paths().size();
  add_parts(j, file);
  add_text(j, report);
  auto& metadata = j["metadata"] = Json::object();
  auto& hyper_parameters = j["hyper_parameters"] = Json::object();
  for (const gguf::KeyValue& kv : file.metadata()) {
    metadata[kv.key] = value_json(kv.value);
    if (!arch.empty() && kv.key.starts_with(arch + "."))
      hyper_parameters[kv.key.substr(arch.size() + 1)] =
          metadata[kv.key].contains("value") ? metadata[kv.key]["value"] : metadata[kv.key]["first"];
  }
  auto& tensors = j["tensors"] = Json::array();
  for (const gguf::Tensor& tensor : file.tensors())
    tensors.push_back({{"name", tensor.name},
                       {"type", gguf::type_info(tensor.type).name},
                       {"shape", std::vector(tensor.ne.begin(), tensor.ne.begin() + tensor.n_dims)},
                       {"bytes", tensor.bytes},
                       {"file", tensor.file_index},
                       {"offset", tensor.offset}});
  return j;
}

}  // namespace hearth::cli
