#include "compute/slices.h"

#include <algorithm>
#include <array>
#include <cstdint>

namespace hearth::compute {
namespace {

constexpr int kNone = -1;

// The part whose weight the node reads, kNone for a node that reads none.
int part_read(const ggml_tensor* node, std::span<ggml_tensor* const> weights,
              std::span<const std::size_t> first) {
  int part = kNone;
  for (const ggml_tensor* source : node->src) {
    if (source == nullptr) continue;
    const auto at = static_cast<std::size_t>(std::ranges::find(weights, source) - weights.begin());
    if (at == weights.size()) continue;
    const auto holder = static_cast<int>(std::ranges::upper_bound(first, at) - first.begin()) - 1;
    HEARTH_CHECK(part == kNone || part == holder, "a node reads weights of two parts");
    part = holder;
  }
  HEARTH_CHECK(node->view_src == nullptr || !std::ranges::contains(weights, node->view_src),
               "a view of a weight that moves");
  return part;
}

// Backends compute x / rms(x) * weight in one go where the two nodes follow each other.
bool is_pair(const ggml_tensor* first, const ggml_tensor* second) {
  return first->op == GGML_OP_RMS_NORM && second->op == GGML_OP_MUL && second->src[0] == first;
}

// What makes a tensor a node of a graph; without, it counts as an input.
struct Origin {
  ggml_op op;
  std::array<ggml_tensor*, GGML_MAX_SRC> sources;
};

Origin take_origin(ggml_tensor* node) {
  Origin origin = {.op = node->op, .sources = {}};
  std::ranges::copy(node->src, origin.sources.begin());
  node->op = GGML_OP_NONE;
  std::ranges::fill(node->src, nullptr);
  return origin;
}

void give_back(ggml_tensor* node, const Origin& origin) {
  node->op = origin.op;
  std::ranges::copy(origin.sources, node->src);
}

}  // namespace

Slices cut(ggml_cgraph* graph, std::span<ggml_tensor* const> weights, std::span<const std::size_t> first) {
  const std::size_t n_parts = first.size();
  HEARTH_CHECK(n_parts > 0 && first.front() == 0);
  const std::span<ggml_tensor*> nodes(ggml_graph_nodes(graph),
                                      static_cast<std::size_t>(ggml_graph_n_nodes(graph)));
  // Where each slice begins; a node that reads no weight goes with those before it.
  std::vector<std::size_t> begin(n_parts + 1, nodes.size());
  int current = 0;
  begin[0] = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const int part = part_read(nodes[i], weights, first);
    HEARTH_CHECK(part == kNone || part >= current, "a layer's nodes do not follow the order of its weights");
    const std::size_t with_pair = i > 0 && is_pair(nodes[i - 1], nodes[i]) ? i - 1 : i;
    while (current < part) begin[static_cast<std::size_t>(++current)] = with_pair;
  }

  Slices slices;
  slices.graphs.resize(n_parts);
  const auto graph_size = [&](std::size_t part) { return 4 * (begin[part + 1] - begin[part]) + 8; };
  std::size_t bytes = 0;
  for (std::size_t part = 0; part < n_parts; ++part)
    if (begin[part] < begin[part + 1]) bytes += ggml_graph_overhead_custom(graph_size(part), false) + 64;
  slices.ctx = residency::make_context(0, bytes);

  // ggml counts the uses of a node where it follows a graph from its end, and fuses by these counts: so the
  // nodes of earlier slices are made inputs for that time. What a later slice reads is marked, that no fusion
  // leaves it out.
  std::vector<Origin> origins;
  for (std::size_t part = 0; part < n_parts; ++part) {
    while (origins.size() < begin[part]) origins.push_back(take_origin(nodes[origins.size()]));
    const auto own = nodes.subspan(begin[part], begin[part + 1] - begin[part]);
    if (own.empty()) continue;
    for (const ggml_tensor* node : own)
      for (ggml_tensor* source : node->src) {
        if (source == nullptr || std::ranges::contains(own, source)) continue;
        if (!std::ranges::contains(nodes.first(begin[part]), source)) continue;
        ggml_set_output(source);
        if (source->view_src != nullptr) ggml_set_output(source->view_src);
      }
    ggml_cgraph* slice = ggml_new_graph_custom(slices.ctx.get(), graph_size(part), false);
    for (ggml_tensor* node : own) ggml_build_forward_expand(slice, node);
    HEARTH_CHECK(
        std::ranges::equal(
            std::span(ggml_graph_nodes(slice), static_cast<std::size_t>(ggml_graph_n_nodes(slice))), own),
        "a slice is not the piece of the graph that was cut");
    slices.graphs[part] = slice;
  }
  for (std::size_t i = 0; i < origins.size(); ++i) give_back(nodes[i], origins[i]);
  return slices;
}

}  // namespace hearth::compute
