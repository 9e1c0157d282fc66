#include "compute/gpu_needs.h"

#include <format>

#include <ggml.h>

namespace hearth::compute {

std::optional<std::string> first_unsupported(const Backend& device, ggml_cgraph* graph) {
  for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
    const ggml_tensor* node = ggml_graph_node(graph, i);
    if (device.supports(node)) continue;
    const ggml_tensor* source = node->src[0] != nullptr ? node->src[0] : node;
    return std::format("{} of {}", ggml_op_desc(node), ggml_type_name(source->type));
  }
  return std::nullopt;
}

}  // namespace hearth::compute
