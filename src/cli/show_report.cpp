#include "cli/show_report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <format>
#include <iterator>

#include "base/text.h"
#include "base/units.h"
#include "wire/text.h"

namespace hearth::cli {
namespace {

constexpr std::size_t kMostName = 128;  // bytes of a key or name
constexpr std::size_t kMostText = 200;  // of a text in the list of keys

std::string printable(std::string_view text, std::size_t most = kMostName) {
  return wire::to_printable(text, most);
}

// "8.4 M": values and tokens, by thousands.
std::string count_text(std::uint64_t count) {
  if (count < 10'000) return std::format("{}", count);
  constexpr std::pair<double, const char*> kUnits[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}};
  for (const auto& [unit, name] : kUnits)
    if (static_cast<double>(count) >= unit)
      return std::format("{:.1f} {}", static_cast<double>(count) / unit, name);
  return std::format("{}", count);
}

double bits_of(std::uint64_t bytes, std::uint64_t n_values) {
  return n_values == 0 ? 0 : 8 * static_cast<double>(bytes) / static_cast<double>(n_values);
}

// "Q4_K 5: 120.0 MB, F32 2: 32.8 kB"
std::string types_text(const Segment& segment) {
  std::string text;
  for (const TypeShare& type : segment.types)
    text += std::format("{}{} {}: {}", text.empty() ? "" : ", ", gguf::type_info(type.type).name,
                        type.n_tensors, format_bytes(type.bytes));
  return text;
}

// A value of a key; large numbers as people write them: a RoPE base is 1000000, not 1e+06.
std::string value_text(const gguf::Value& value) {
  const float* number = std::get_if<float>(&value);
  if (number == nullptr || std::abs(*number) < 1 || std::abs(*number) > 1e15F)
    return gguf::to_text(value, 4, kMostText);
  return std::trunc(*number) == *number ? std::format("{:.0f}", *number) : std::format("{}", *number);
}

using Line = std::back_insert_iterator<std::string>;

void add_head(Line line, const ShowReport& report) {
  const auto name = report.file.optional_string("general.name");
  const std::string_view shown = name ? name->value_or("") : "";
  const std::string_view arch = architecture_name(report.file);
  std::format_to(line, "{}: {}, {} parameters", shown.empty() ? "model without a name" : quote(shown),
                 arch.empty() ? "no architecture" : printable(arch), count_text(report.facts.all.n_values));
  if (report.facts.n_idle_values > 0)
    std::format_to(line, " ({} used for a token)",
                   count_text(report.facts.all.n_values - report.facts.n_idle_values));
  std::format_to(line, ", {} of weights, {:.2f} bits each\n", format_bytes(report.facts.all.bytes),
                 bits_of(report.facts.all.bytes, report.facts.all.n_values));
  for (std::size_t i = 0; i < report.file.paths().size(); ++i) {
    const auto& path = report.file.paths()[i];
    std::error_code none;
    const std::uint64_t bytes = std::filesystem::file_size(path, none);
    const auto n_tensors = std::ranges::count(report.file.tensors(), i, &gguf::Tensor::file_index);
    std::format_to(line, "  {}  {}, {} tensors\n", printable(path.string(), 4096),
                   none ? "?" : format_bytes(bytes), n_tensors);
  }
  if (report.model == nullptr)
    std::format_to(line, "hearth cannot run it: {}\n", printable(report.why_not, 1024));
}

// What the file says of itself, and the numbers of its architecture, as they are called in the file.
void add_keys(Line line, const ShowReport& report, std::string_view title, std::string_view prefix) {
  bool first = true;
  for (const gguf::KeyValue& kv : report.file.metadata()) {
    if (!kv.key.starts_with(prefix)) continue;
    if (first) std::format_to(line, "\n{}\n", title);
    first = false;
    std::format_to(line, "  {:<34}  {}\n", printable(std::string_view(kv.key).substr(prefix.size())),
                   value_text(kv.value));
  }
}

void add_derived(Line line, const model::ModelFile& model) {
  const model::HyperParams& p = model.params();
  std::format_to(line, "  read as: {} layers of width {}, {} heads and {} for keys and values, {} wide; ",
                 p.n_layer, p.n_embd, p.n_head, p.n_head_kv, p.head_dim_k);
  if (p.n_expert == 0)
    std::format_to(line, "feed-forward {}; ", p.n_ff);
  else
    std::format_to(line, "{} experts of width {}, {} for each token{}; ", p.n_expert, p.n_ff_exp,
                   p.n_expert_used,
                   p.n_ff_shared > 0 ? std::format(" and a shared one of width {}", p.n_ff_shared) : "");
  std::format_to(line, "vocabulary {}; embeddings {}\n", p.n_vocab,
                 model.tied_embeddings() ? "tied: the output head is the embedding table" : "untied");
  std::format_to(line, "  RoPE: base {:.7g}, {}\n", p.rope_freq_base,
                 p.rope_scaling == model::RopeScaling::kNone
                     ? std::string("not scaled")
                     : std::format("scaled ({}), positions times {}",
                                   model::rope_scaling_name(p.rope_scaling), p.rope_freq_scale));
  if (!p.sliding.empty())
    std::format_to(line, "  sliding window: {} of the layers see the last {} tokens only\n",
                   std::ranges::count(p.sliding, true), p.n_swa);
}

void add_weights(Line line, const ShowReport& report) {
  const FileFacts& facts = report.facts;
  std::format_to(line, "\n{:<12}  {:>8}  {:>10}  {:>10}  {:>13}\n", "types", "tensors", "values", "bytes",
                 "bits a weight");
  for (const TypeShare& type : facts.all.types)
    std::format_to(line, "  {:<10}  {:>8}  {:>10}  {:>10}  {:>13.2f}\n", gguf::type_info(type.type).name,
                   type.n_tensors, count_text(type.n_values), format_bytes(type.bytes),
                   bits_of(type.bytes, type.n_values));

  const std::vector<LayerGroup> groups = group_layers(facts);
  std::size_t width = 12;
  for (const LayerGroup& group : groups) width = std::max(width, group.layers.size() + 7);
  width = std::min<std::size_t>(width, 48);
  std::format_to(line, "\n{:<{}}  {:>6}  {:>8}  {:>10}  {}\n", "segments", width, "layers", "tensors",
                 "bytes each", "types");
  const auto row = [&](const std::string& name, const std::string& n_layers, const Segment& segment) {
    if (segment.n_tensors == 0) return;
    std::format_to(line, "  {:<{}}  {:>6}  {:>8}  {:>10}  {}\n", name, width - 2, n_layers, segment.n_tensors,
                   format_bytes(segment.bytes), types_text(segment));
  };
  row("embedding", "", facts.embedding);
  for (const LayerGroup& group : groups)
    row("layer " + group.layers, std::to_string(group.n_layers), *group.segment);
  row("output head", "", facts.output);
  row("others", "", facts.others);
}

void add_needs(Line line, const ShowReport& report) {
  const auto row = [&](const std::string& what, std::uint64_t bytes, const std::string& text) {
    std::format_to(line, "  {:<34}  {:>10}{}{}\n", what, format_bytes(bytes), text.empty() ? "" : "  ", text);
  };
  std::format_to(line, "\nmemory\n");
  for (const auto& [type, bytes] : report.kv_bytes_per_1024)
    if (type == "f16" || type == "q8_0" || type == "q4_0")
      row(std::format("KV cache of 1024 tokens, {}", type), bytes, "");
  if (!report.needs) return;
  const MemoryNeeds& needs = *report.needs;
  row(std::format("to hold all, -c {} -ub {}", needs.n_ctx, needs.n_ubatch), needs.all_bytes(),
      std::format("weights {}, KV cache {} (f16), buffers {}", format_bytes(needs.weight_bytes),
                  format_bytes(needs.kv_bytes), format_bytes(needs.buffer_bytes)));
  row("to run at all", needs.least_bytes, "all weights read from the disk for every token");
  std::string verdict = "it holds all";
  if (!needs.use)
    verdict = "too little for this context: make it smaller (-c), or add devices (hearth plan)";
  else if (needs.use->streamed_bytes > 0)
    verdict =
        std::format("it keeps about {} of the weights, reads {} for every token (hearth plan: how fast)",
                    format_bytes(needs.use->kept_bytes), format_bytes(needs.use->streamed_bytes));
  else if (needs.use->n_ubatch != needs.n_ubatch)
    verdict += std::format(" with -ub {}", needs.use->n_ubatch);
  row("this device has for it now", needs.lends_bytes, verdict);
}

void add_tokenizer(Line line, const TokenizerFacts& tokenizer) {
  if (tokenizer.n_vocab == 0) {
    std::format_to(line, "\nTokenizer: none in this file\n");
    return;
  }
  std::format_to(line, "\nTokenizer: {}", printable(tokenizer.kind));
  if (!tokenizer.pre.empty()) std::format_to(line, ", pre-tokenizer {}", printable(tokenizer.pre));
  std::format_to(line, ", {} tokens", tokenizer.n_vocab);
  if (tokenizer.n_merges > 0) std::format_to(line, ", {} merges", tokenizer.n_merges);
  std::format_to(line, "\n");
  for (const TokenizerFacts::Special& special : tokenizer.special)
    std::format_to(line, "  {:<16}  {:>7}  {}\n", printable(special.name), special.id,
                   special.text ? quote(*special.text) : "(beyond the vocabulary)");
  for (const auto& [name, value] : tokenizer.adds)
    std::format_to(line, "  {:<16}  {:>7}\n", printable(name), value);
}

void add_template(Line line, const TemplateFacts& chat) {
  if (chat.text.empty()) {
    std::format_to(line, "\nChat template: none; hearth run needs --raw\n");
  } else {
    std::format_to(line, "\nChat template: {} bytes{}{} (--template prints it)\n", chat.text.size(),
                   chat.text.contains("tools") ? ", knows tools" : "",
                   chat.text.contains("think") ? ", knows reasoning" : "");
  }
  for (const std::string& other : chat.others)
    std::format_to(line, "  another one, not used: {}\n", quote(other));
}

}  // namespace

std::string describe(const ShowReport& report) {
  std::string text;
  const auto line = std::back_inserter(text);
  const std::string arch(architecture_name(report.file));
  add_head(line, report);
  add_keys(line, report, "about", "general.");
  if (!arch.empty())
    add_keys(line, report, std::format("hyper-parameters ({}.)", printable(arch)), arch + ".");
  if (report.model != nullptr) add_derived(line, *report.model);
  add_weights(line, report);
  if (report.model != nullptr) add_needs(line, report);
  add_tokenizer(line, report.tokenizer);
  add_template(line, report.chat_template);
  return printable_lines(text);
}

std::string describe_metadata(const gguf::File& file) {
  std::string text;
  for (const gguf::KeyValue& kv : file.metadata())
    std::format_to(std::back_inserter(text), "{:<48}  {:<16}  {}\n", printable(kv.key),
                   gguf::type_name(kv.value), gguf::to_text(kv.value, 8, kMostText));
  return printable_lines(text);
}

std::string describe_tensors(const gguf::File& file) {
  std::string text = std::format("{:<36}  {:<8}  {:<26}  {:>12}  {:>4}  {:>14}\n", "tensor", "type", "shape",
                                 "bytes", "file", "offset");
  for (const gguf::Tensor& tensor : file.tensors()) {
    std::string shape = "[";
    for (std::uint32_t i = 0; i < tensor.n_dims; ++i)
      shape += std::format("{}{}", i == 0 ? "" : ", ", tensor.ne[i]);
    std::format_to(std::back_inserter(text), "{:<36}  {:<8}  {:<26}  {:>12}  {:>4}  {:>14}\n",
                   printable(tensor.name), gguf::type_info(tensor.type).name, shape + "]", tensor.bytes,
                   tensor.file_index + 1, tensor.offset);
  }
  return printable_lines(text);
}

std::string printable_lines(std::string_view text) {
  std::string out;
  while (true) {
    const std::size_t end = text.find('\n');
    out += wire::to_printable(text.substr(0, end), text.size());
    if (end == std::string_view::npos) return out;
    out += '\n';
    text.remove_prefix(end + 1);
  }
}

}  // namespace hearth::cli
