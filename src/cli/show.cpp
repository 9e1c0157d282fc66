#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "base/units.h"
#include "cli/console.h"
#include "cli/verbs.h"
#include "compute/kv_storage.h"
#include "compute/scratch.h"
#include "model/model_file.h"

namespace hearth::cli {
namespace {

struct Flags {
  std::string model;
  bool json = false;
};

nlohmann::ordered_json facts(const model::ModelFile& model) {
  const model::HyperParams& p = model.params();
  nlohmann::ordered_json j;
  j["architecture"] = model.arch().name;
  j["name"] = p.name;
  j["n_layer"] = p.n_layer;
  j["n_embd"] = p.n_embd;
  j["n_head"] = p.n_head;
  j["n_head_kv"] = p.n_head_kv;
  j["head_dim"] = p.head_dim_k;
  j["n_ff"] = p.n_ff;
  j["n_vocab"] = p.n_vocab;
  j["n_ctx_train"] = p.n_ctx_train;
  j["rope_freq_base"] = p.rope_freq_base;
  j["tied_embeddings"] = model.tied_embeddings();
  j["tensor_bytes"] = model.file().tensor_bytes();
  std::map<std::string, std::uint64_t> types;
  for (const gguf::Tensor& tensor : model.file().tensors())
    types[std::string(gguf::type_info(tensor.type).name)] += tensor.bytes;
  j["bytes_by_type"] = types;
  j["embedding_bytes"] = model.segment_bytes(model::SegmentId::embedding());
  j["output_bytes"] = model.segment_bytes(model::SegmentId::output());
  std::vector<std::uint64_t> layers;
  for (std::uint32_t il = 0; il < p.n_layer; ++il)
    layers.push_back(model.segment_bytes(model::SegmentId::of_layer(il)));
  j["layer_bytes"] = layers;
  j["kv_bytes_per_1024_tokens"] = compute::KvStorage::bytes(p, p.n_layer, wire::KvType::kF16, 1024);
  j["files"] = model.file().paths().size();
  return j;
}

int run(const Flags& flags) {
  const auto model = model::ModelFile::open(flags.model);
  if (!model) return report(model.error());
  const auto j = facts(*model);
  const auto chat_template = model->file().optional_string("tokenizer.chat_template");
  const bool has_template = chat_template && chat_template->has_value();
  if (flags.json) {
    auto with_template = j;
    if (has_template) with_template["chat_template"] = std::string(**chat_template);
    // Text from the file may hold invalid UTF-8.
    std::printf("%s\n", with_template.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return kOk;
  }
  const model::HyperParams& p = model->params();
  const auto layers = j["layer_bytes"].get<std::vector<std::uint64_t>>();
  const auto [least, most] = std::ranges::minmax(layers);
  std::printf("%s  %s\n", std::string(model->arch().name).c_str(), quote(p.name).c_str());
  std::printf("  layers %u, width %u, heads %u (%u for keys and values, %u wide), feed-forward %u\n",
              p.n_layer, p.n_embd, p.n_head, p.n_head_kv, p.head_dim_k, p.n_ff);
  std::printf("  vocabulary %u, trained context %u, embeddings %s\n", p.n_vocab, p.n_ctx_train,
              model->tied_embeddings() ? "tied" : "untied");
  std::printf("  weights %s in %zu file%s:", format_bytes(model->file().tensor_bytes()).c_str(),
              model->file().paths().size(), model->file().paths().size() == 1 ? "" : "s");
  for (const auto& [type, bytes] : j["bytes_by_type"].items())
    std::printf(" %s %s", type.c_str(), format_bytes(bytes.get<std::uint64_t>()).c_str());
  std::printf("\n  a layer %s", format_bytes(least).c_str());
  if (least != most) std::printf(" to %s", format_bytes(most).c_str());
  std::printf(", embedding %s, output head %s\n",
              format_bytes(j["embedding_bytes"].get<std::uint64_t>()).c_str(),
              format_bytes(j["output_bytes"].get<std::uint64_t>()).c_str());
  std::printf("  KV cache %s per 1,024 tokens (f16)\n",
              format_bytes(j["kv_bytes_per_1024_tokens"].get<std::uint64_t>()).c_str());
  std::printf("  chat template: %s\n", has_template ? "yes (--json prints it)" : "none");
  return kOk;
}

}  // namespace

void add_show(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("show", "what a model file holds and needs");
  const auto flags = std::make_shared<Flags>();
  verb->add_option("MODEL", flags->model, "GGUF model file")->required();
  verb->add_flag("--json", flags->json, "as JSON, with every layer and the chat template; sizes in bytes");
  verb->footer("Example: hearth show model.gguf");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
