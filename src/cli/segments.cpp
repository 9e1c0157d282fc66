#include "cli/segments.h"

#include <algorithm>
#include <charconv>
#include <format>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace hearth::cli {
namespace {

using model::SegmentId;

std::optional<std::uint32_t> number(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

Result<std::vector<SegmentId>> parse_segments(std::string_view text, std::uint32_t n_layer) {
  std::set<SegmentId> ids;
  if (text.empty()) {
    for (std::uint32_t il = 0; il < n_layer; ++il) ids.insert(SegmentId::of_layer(il));
    ids.insert(SegmentId::output());
  }
  for (std::size_t at = 0; at < text.size() || (at == text.size() && text.ends_with(','));) {
    const std::string_view part = text.substr(at, std::min(text.find(',', at), text.size()) - at);
    at += part.size() + 1;
    if (part == "head") {
      ids.insert(SegmentId::output());
      continue;
    }
    const std::size_t dash = part.find('-');
    const auto first = number(part.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : number(part.substr(dash + 1));
    if (!first || !last || *first > *last || *last >= n_layer)
      return fail(ErrorCode::kInvalidArgument,
                  "--layers: {} is no layer or range of them; this model has layers 0-{}, write for example "
                  "0-{},head",
                  quote(part), n_layer - 1, (n_layer - 1) / 2);
    for (std::uint32_t il = *first; il <= *last; ++il) ids.insert(SegmentId::of_layer(il));
  }
  return std::vector<SegmentId>(ids.begin(), ids.end());
}

std::string describe_segments(std::span<const SegmentId> ids, std::uint32_t n_segments) {
  const std::uint32_t n_layer = n_segments == 0 ? 0 : n_segments - 1;
  const bool head = std::ranges::contains(ids, SegmentId::output());
  const std::size_t n_present = ids.size() - (head ? 1 : 0);
  if (ids.empty()) return "nothing";
  std::string layers;
  for (std::size_t i = 0; i < n_present;) {
    std::size_t end = i + 1;
    while (end < n_present && ids[end].layer == ids[end - 1].layer + 1) ++end;
    if (!layers.empty()) layers += ",";
    layers += end - i == 1 ? std::format("{}", ids[i].layer)
                           : std::format("{}-{}", ids[i].layer, ids[end - 1].layer);
    i = end;
  }
  std::string text;
  if (n_present == n_layer && n_layer > 0)
    text = std::format("all {} layers", n_layer);
  else if (n_present > 0)
    text = std::format("layer{} {} of {}", n_present == 1 ? "" : "s", layers, n_layer);
  if (head) text += text.empty() ? "the output head" : " and the output head";
  return text;
}

void add_segments(nlohmann::ordered_json& j, std::span<const SegmentId> ids) {
  auto layers = nlohmann::ordered_json::array();
  for (const SegmentId id : ids)
    if (id.kind == SegmentId::Kind::kLayer) layers.push_back(id.layer);
  j["layers"] = layers;
  j["output_head"] = std::ranges::contains(ids, SegmentId::output());
}

}  // namespace hearth::cli
