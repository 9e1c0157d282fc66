#include "model/hyper_params.h"

#include <algorithm>
#include <cmath>
#include <format>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/text.h"
#include "model/limits.h"

namespace hearth::model {
namespace {

// Reads hyper-parameters of one architecture and checks each against its bounds.
class Reader {
 public:
  Reader(const gguf::File& file, const ArchTraits& arch) : file_(file), arch_(arch) {}

  [[nodiscard]] std::string key(std::string_view suffix) const {
    return std::format("{}.{}", arch_.name, suffix);
  }
  // As messages show it.
  [[nodiscard]] std::string shown(std::string_view suffix) const { return quote(key(suffix)); }

  // A count that must be there, in 1..max.
  [[nodiscard]] Result<std::uint32_t> count(std::string_view suffix, std::uint32_t max) const {
    HEARTH_TRY(const std::uint32_t value, file_.u32(key(suffix)));
    return in_range(suffix, value, max);
  }
  [[nodiscard]] Result<std::uint32_t> count_or(std::string_view suffix, std::uint32_t max,
                                               std::uint32_t default_value) const {
    HEARTH_TRY(const auto value, file_.optional_u32(key(suffix)));
    return in_range(suffix, value.value_or(default_value), max);
  }

  // A count that files give as one number or as one per layer. hearth's graphs have the same shape in all
  // layers, so the numbers must agree. nullopt when the key is missing.
  [[nodiscard]] Result<std::optional<std::uint32_t>> uniform_count(std::string_view suffix, std::uint32_t max,
                                                                   std::uint32_t n_layer) const {
    const gguf::Value* value = file_.find(key(suffix));
    if (value == nullptr) return std::nullopt;
    std::optional<Result<std::uint32_t>> from_array;
    std::visit(
        [&]<class T>(const T& v) {
          if constexpr (requires { requires std::is_integral_v<typename T::value_type>; } &&
                        !std::is_same_v<T, std::string> && !std::is_same_v<T, std::vector<bool>>)
            from_array = uniform(suffix, v, max, n_layer);
        },
        *value);
    if (from_array) {
      HEARTH_TRY(const std::uint32_t uniform_value, *std::move(from_array));
      return uniform_value;
    }
    HEARTH_TRY(const std::uint32_t scalar, count(suffix, max));
    return scalar;
  }

  // A number that must be finite and above zero.
  [[nodiscard]] Result<float> positive(std::string_view suffix, float value) const {
    if (!std::isfinite(value) || value <= 0)
      return fail(ErrorCode::kInvalidFile, "key {} is {}, expected a finite number above 0", shown(suffix),
                  value);
    return value;
  }

  // Refuses a number that would change the computation in a way hearth's graphs do not have.
  [[nodiscard]] Result<> must_be_off(std::string_view suffix, std::string_view meaning) const {
    HEARTH_TRY(const auto value, file_.optional_u32(key(suffix)));
    if (value.value_or(0) == 0) return {};
    return fail(ErrorCode::kUnsupported, "key {} is {}: {} cannot be run yet, only dense {} models can",
                shown(suffix), *value, meaning, arch_.name);
  }

 private:
  [[nodiscard]] Result<std::uint32_t> in_range(std::string_view suffix, std::uint32_t value,
                                               std::uint32_t max) const {
    if (value >= 1 && value <= max) return value;
    return fail(ErrorCode::kInvalidFile, "key {} is {}, expected 1 to {}", shown(suffix), value, max);
  }

  template <class T>
  [[nodiscard]] Result<std::uint32_t> uniform(std::string_view suffix, const std::vector<T>& values,
                                              std::uint32_t max, std::uint32_t n_layer) const {
    if (values.size() != n_layer)
      return fail(ErrorCode::kInvalidFile,
                  "key {} has {} numbers, expected one, or one for each of the {} layers", shown(suffix),
                  values.size(), n_layer);
    const auto other = std::ranges::find_if(values, [&](T v) { return v != values[0]; });
    if (other != values.end())
      return fail(ErrorCode::kUnsupported,
                  "key {} differs between layers ({} in layer 0, {} in layer {}); only models whose layers "
                  "all have the same shape can be run",
                  shown(suffix), +values[0], +*other, other - values.begin());
    if (!std::in_range<std::uint32_t>(values[0]))
      return fail(ErrorCode::kInvalidFile, "key {} is {}, expected 1 to {}", shown(suffix), +values[0], max);
    return in_range(suffix, static_cast<std::uint32_t>(values[0]), max);
  }

  const gguf::File& file_;
  const ArchTraits& arch_;
};

// What libllama does: the type defaults to linear, a missing or zero factor means 1, "none" ignores the
// factor.
Result<> read_rope(const gguf::File& file, const Reader& reader, HyperParams& params) {
  HEARTH_TRY(const auto freq_base, file.optional_f32(reader.key("rope.freq_base")));
  HEARTH_TRY(params.rope_freq_base, reader.positive("rope.freq_base", freq_base.value_or(10000.0F)));

  HEARTH_TRY(const auto type, file.optional_string(reader.key("rope.scaling.type")));
  const std::string_view scaling = type.value_or("linear");
  if (scaling != "none" && scaling != "linear")
    return fail(ErrorCode::kUnsupported,
                "key {} is {}: of the RoPE scalings 'none', 'linear' and Llama 3's factors (tensor "
                "rope_freqs.weight) can be run",
                reader.shown("rope.scaling.type"), quote(scaling));

  HEARTH_TRY(const auto attn_factor, file.optional_f32(reader.key("rope.scaling.attn_factor")));
  if (attn_factor.value_or(1.0F) != 1.0F)
    return fail(ErrorCode::kUnsupported, "key {} is {}, only 1 can be run",
                reader.shown("rope.scaling.attn_factor"), *attn_factor);

  std::string_view factor_key = "rope.scaling.factor";
  HEARTH_TRY(auto factor, file.optional_f32(reader.key(factor_key)));
  if (!factor) {
    factor_key = "rope.scale_linear";  // older files
    HEARTH_TRY(factor, file.optional_f32(reader.key(factor_key)));
  }
  if (scaling == "none" || factor.value_or(0.0F) == 0.0F) return {};
  HEARTH_TRY(const float checked, reader.positive(factor_key, *factor));
  params.rope_freq_scale = 1.0F / checked;
  if (checked != 1.0F) params.rope_scaling = RopeScaling::kLinear;
  if (!std::isnormal(params.rope_freq_scale))
    return fail(ErrorCode::kInvalidFile, "key {} is {}, far outside every useful range",
                reader.shown(factor_key), checked);
  return {};
}

Result<> read_heads(const gguf::File& file, const Reader& reader, HyperParams& params) {
  HEARTH_TRY(const auto n_head, reader.uniform_count("attention.head_count", kMaxHeads, params.n_layer));
  if (!n_head)
    return fail(ErrorCode::kInvalidFile, "key {} is missing", reader.shown("attention.head_count"));
  params.n_head = *n_head;
  HEARTH_TRY(const auto n_head_kv,
             reader.uniform_count("attention.head_count_kv", kMaxHeads, params.n_layer));
  params.n_head_kv = n_head_kv.value_or(params.n_head);
  if (params.n_head % params.n_head_kv != 0)
    return fail(ErrorCode::kInvalidFile, "key {} is {}, which does not divide the {} heads of key {}",
                reader.shown("attention.head_count_kv"), params.n_head_kv, params.n_head,
                reader.shown("attention.head_count"));

  const bool has_key_length = file.find(reader.key("attention.key_length")) != nullptr;
  const bool has_value_length = file.find(reader.key("attention.value_length")) != nullptr;
  if ((!has_key_length || !has_value_length) && params.n_embd % params.n_head != 0)
    return fail(
        ErrorCode::kInvalidFile,
        "the embedding length {} is no multiple of the {} heads, and the keys {} and {} do not both say how "
        "long a head is",
        params.n_embd, params.n_head, reader.shown("attention.key_length"),
        reader.shown("attention.value_length"));
  const std::uint32_t even_split = std::max(1U, params.n_embd / params.n_head);
  HEARTH_TRY(params.head_dim_k, reader.count_or("attention.key_length", kMaxHeadDim, even_split));
  HEARTH_TRY(params.head_dim_v, reader.count_or("attention.value_length", kMaxHeadDim, even_split));
  HEARTH_TRY(params.n_rot, reader.count_or("rope.dimension_count", kMaxHeadDim, params.head_dim_k));
  if (params.n_rot % 2 != 0)
    return fail(ErrorCode::kInvalidFile,
                "RoPE turns pairs, so {} (or the length of a head) must be even, but it is {}",
                reader.shown("rope.dimension_count"), params.n_rot);
  // libllama asserts both for these architectures, so no working file breaks them.
  if (params.head_dim_v != params.head_dim_k)
    return fail(ErrorCode::kUnsupported,
                "heads have {} values for keys and {} for values; only equal ones can be run",
                params.head_dim_k, params.head_dim_v);
  if (params.n_rot != params.head_dim_k)
    return fail(ErrorCode::kUnsupported, "key {} is {}; only RoPE over whole heads ({} values) can be run",
                reader.shown("rope.dimension_count"), params.n_rot, params.head_dim_k);
  return {};
}

}  // namespace

Result<const ArchTraits*> read_architecture(const gguf::File& file) {
  HEARTH_TRY(const std::string_view name, file.string("general.architecture"));
  if (const ArchTraits* arch = find_architecture(name)) return arch;
  std::string supported;
  for (const ArchTraits& arch : architectures()) {
    if (!supported.empty()) supported += ", ";
    supported += arch.name;
  }
  return fail(ErrorCode::kUnsupported, "architecture {} cannot be run; supported are: {}", quote(name),
              supported);
}

Result<HyperParams> read_params(const gguf::File& file, const ArchTraits& arch) {
  const Reader reader(file, arch);
  HEARTH_TRY_VOID(reader.must_be_off("expert_count", "a mixture of experts"));
  HEARTH_TRY_VOID(reader.must_be_off("nextn_predict_layers", "layers that predict several tokens"));
  HEARTH_TRY(const auto causal, file.optional_bool(reader.key("attention.causal")));
  if (!causal.value_or(true))
    return fail(ErrorCode::kUnsupported,
                "key {} is false: only models that generate text left to right can be run",
                reader.shown("attention.causal"));

  HyperParams params;
  HEARTH_TRY(const auto name, file.optional_string("general.name"));
  params.name = name.value_or("");
  HEARTH_TRY(params.n_layer, reader.count("block_count", kMaxLayers));
  HEARTH_TRY(params.n_embd, reader.count("embedding_length", kMaxEmbd));
  HEARTH_TRY(params.n_ctx_train, reader.count("context_length", kMaxContext));
  HEARTH_TRY(const auto n_ff, reader.uniform_count("feed_forward_length", kMaxFf, params.n_layer));
  if (!n_ff) return fail(ErrorCode::kInvalidFile, "key {} is missing", reader.shown("feed_forward_length"));
  params.n_ff = *n_ff;
  HEARTH_TRY_VOID(read_heads(file, reader, params));
  HEARTH_TRY(const float eps, file.f32(reader.key("attention.layer_norm_rms_epsilon")));
  HEARTH_TRY(params.rms_eps, reader.positive("attention.layer_norm_rms_epsilon", eps));
  HEARTH_TRY_VOID(read_rope(file, reader, params));

  // The vocabulary's size is that of the embedding table; the tokenizer must agree, or ids would point past
  // its end.
  const gguf::Tensor* embedding = file.find_tensor(tensor_name(Role::kTokenEmbedding));
  if (embedding == nullptr)
    return fail(ErrorCode::kInvalidFile, "tensor {} is missing", quote(tensor_name(Role::kTokenEmbedding)));
  if (embedding->ne[1] < 1 || embedding->ne[1] > kMaxVocab)
    return fail(ErrorCode::kInvalidFile, "tensor {} has {} rows, expected 1 to {}", quote(embedding->name),
                embedding->ne[1], kMaxVocab);
  params.n_vocab = static_cast<std::uint32_t>(embedding->ne[1]);
  if (const gguf::Value* tokens = file.find("tokenizer.ggml.tokens")) {
    const auto* pieces = std::get_if<gguf::StringArray>(tokens);
    if (pieces == nullptr)
      return fail(ErrorCode::kInvalidFile, "key 'tokenizer.ggml.tokens' is {}, expected an array of strings",
                  gguf::type_name(*tokens));
    if (pieces->size() != params.n_vocab)
      return fail(ErrorCode::kInvalidFile,
                  "key 'tokenizer.ggml.tokens' has {} pieces, but tensor {} has {} rows", pieces->size(),
                  quote(embedding->name), params.n_vocab);
  }
  return params;
}

}  // namespace hearth::model
