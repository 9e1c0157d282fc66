// plan-baselines: how others would split layers over devices, for bench/plan.
#include <cstdint>
#include <cstdio>
#include <format>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "plan/testing/halda.h"

namespace {

using namespace hearth;

std::string windows_text(const std::vector<std::uint32_t>& layers) {
  std::string text;
  for (const std::uint32_t n : layers) text += (text.empty() ? "" : ",") + std::to_string(n);
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Splits of a model's layers as others make them. Reads JSON from standard input: a model {n_layer, "
      "layer_bytes, kv_bytes, embedding_bytes, output_bytes, n_vocab, layer_flop, output_flop} and devices "
      "[{name, flops, memory_bytes_per_s, disk_bytes_per_s, memory_bytes, buffer_bytes, hop_s}], the head "
      "first. Prints for each "
      "split its windows and rounds."};
  CLI11_PARSE(app, argc, argv);
  nlohmann::ordered_json made;
  try {
    const auto input = nlohmann::json::parse(stdin);
    const auto& model = input.at("model");
    plan::HaldaCluster cluster = {.model = {.n_layer = model.at("n_layer"),
                                            .layer_bytes = model.at("layer_bytes"),
                                            .kv_bytes = model.at("kv_bytes"),
                                            .embedding_bytes = model.at("embedding_bytes"),
                                            .output_bytes = model.at("output_bytes"),
                                            .n_vocab = model.at("n_vocab"),
                                            .layer_flop = model.at("layer_flop"),
                                            .output_flop = model.at("output_flop")},
                                  .devices = {}};
    std::vector<std::uint64_t> memory;
    for (const auto& device : input.at("devices")) {
      plan::HaldaDevice one;
      one.name = device.at("name");
      one.cpu_flops = device.at("flops");
      one.ram_bytes_per_s = device.at("memory_bytes_per_s");
      one.hop_s = device.at("hop_s");
      one.disk_bytes_per_s = device.at("disk_bytes_per_s");
      one.ram_bytes = device.at("memory_bytes");
      one.cpu_buffer_bytes = device.at("buffer_bytes");
      memory.push_back(one.ram_bytes);
      cluster.devices.push_back(one);
    }
    const auto add = [&](const char* name, const std::vector<std::uint32_t>& layers, std::uint32_t rounds) {
      made[name] = {{"windows", windows_text(layers)}, {"rounds", rounds}};
    };
    add("even", plan::even_split(cluster.model.n_layer, memory.size()), 1);
    if (const auto split = plan::memory_split(cluster.model.n_layer, memory)) add("memory", *split, 1);
    for (const auto& [name, terms] : {std::pair("halda", plan::HaldaTerms::kPaper),
                                      std::pair("halda_as_coded", plan::HaldaTerms::kAsCoded)}) {
      plan::HaldaOptions options;
      if (terms == plan::HaldaTerms::kAsCoded) options = plan::kHaldaAsCoded;
      const auto plan = plan::halda(cluster, options);
      if (!plan) {
        made[name] = {{"error", plan.error().message}};
        continue;
      }
      std::vector<std::uint32_t> layers;
      for (const plan::HaldaWindow& window : plan->windows) layers.push_back(window.layers);
      add(name, layers, plan->rounds);
      made[name]["objective_s"] = plan->objective_s;
    }
  } catch (const nlohmann::json::exception& error) {
    std::fprintf(stderr, "plan-baselines: the input is not as --help says: %s\n", error.what());
    return 2;
  }
  std::printf("%s\n", made.dump().c_str());
  return 0;
}
