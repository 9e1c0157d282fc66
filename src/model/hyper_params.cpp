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

  [[nodiscard]] Result<> must_be_zero(std::string_view suffix, std::string_view meaning) const {
    HEARTH_TRY(const auto value, file_.optional_f32(key(suffix)));
    if (value.value_or(0) == 0) return {};
    return fail(ErrorCode::kUnsupported, "key {} is {}: {} cannot be run yet", shown(suffix), *value,
                meaning);
  }
  // Refuses a number that would change the computation in a way hearth's graphs do not have.
  [[nodiscard]] Result<> must_be_off(std::string_view suffix, std::string_view meaning) const {
    HEARTH_TRY(const auto value, file_.optional_u32(key(suffix)));
    if (value.value_or(0) == 0) return {};
    return fail(ErrorCode::kUnsupported, "key {} is {}: {} models with {} cannot be run yet", shown(suffix),
                *value, arch_.name, meaning);
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

// A number that may be missing.
Result<float> number_or(const gguf::File& file, const Reader& reader, std::string_view suffix,
                        float default_value) {
  HEARTH_TRY(const auto value, file.optional_f32(reader.key(suffix)));
  return value.value_or(default_value);
}

Result<RopeScaling> read_scaling_type(const gguf::File& file, const Reader& reader, const ArchTraits& arch) {
  HEARTH_TRY(const auto type, file.optional_string(reader.key("rope.scaling.type")));
  const std::string_view name = type.value_or("linear");
  if (name == "none") return RopeScaling::kNone;
  if (name == "linear") return RopeScaling::kLinear;
  if (name == "yarn") return RopeScaling::kYarn;
  if (name == "longrope" && arch.fused) return RopeScaling::kLongRope;
  return fail(ErrorCode::kUnsupported,
              "key {} is {}: of the RoPE scalings 'none', 'linear', 'yarn', phi3's 'longrope' and Llama 3's "
              "factors (tensor rope_freqs.weight) can be run",
              reader.shown("rope.scaling.type"), quote(name));
}

// YaRN (Peng et al. 2023) makes queries and keys longer by 1 + 0.1 ln(factor). ggml does so wherever
// ext_factor is not 0; libllama passes what cancels it times that very length, and so does hearth, in the
// same order.
float yarn_attn_factor(float freq_scale) {
  const float factor = 1.0F / freq_scale;
  const float length = factor <= 1.0F ? 1.0F : 0.1F * std::log(factor) + 1.0F;
  return length * (1.0F / (1.0F + 0.1F * std::log(factor)));
}

// What libllama does: the type defaults to linear, a missing or zero factor means 1, "none" ignores the
// factor.
Result<> read_rope(const gguf::File& file, const Reader& reader, const ArchTraits& arch,
                   HyperParams& params) {
  HEARTH_TRY(const float freq_base, number_or(file, reader, "rope.freq_base", 10000.0F));
  HEARTH_TRY(params.rope_freq_base, reader.positive("rope.freq_base", freq_base));
  params.no_rope_period = arch.no_rope_period;
  HEARTH_TRY(const auto finetuned, file.optional_bool(reader.key("rope.scaling.finetuned")));
  if (arch.file_scales && !finetuned.value_or(true))
    return fail(ErrorCode::kUnsupported, "key {} is false: {} models without RoPE cannot be run",
                reader.shown("rope.scaling.finetuned"), arch.name);
  HEARTH_TRY(const RopeScaling scaling, read_scaling_type(file, reader, arch));
  HEARTH_TRY(params.n_ctx_orig,
             reader.count_or("rope.scaling.original_context_length", kMaxContext, params.n_ctx_train));
  HEARTH_TRY(const float attn_factor, number_or(file, reader, "rope.scaling.attn_factor", 1.0F));
  HEARTH_TRY(params.rope_attn_factor, reader.positive("rope.scaling.attn_factor", attn_factor));

  std::string_view factor_key = "rope.scaling.factor";
  HEARTH_TRY(auto factor, file.optional_f32(reader.key(factor_key)));
  if (!factor) {
    factor_key = "rope.scale_linear";  // older files
    HEARTH_TRY(factor, file.optional_f32(reader.key(factor_key)));
  }
  if (scaling != RopeScaling::kNone && factor.value_or(0.0F) != 0.0F) {
    HEARTH_TRY(const float checked, reader.positive(factor_key, *factor));
    params.rope_freq_scale = 1.0F / checked;
    if (checked != 1.0F) params.rope_scaling = scaling;
    if (!std::isnormal(params.rope_freq_scale))
      return fail(ErrorCode::kInvalidFile, "key {} is {}, far outside every useful range",
                  reader.shown(factor_key), checked);
  }
  if (scaling == RopeScaling::kLongRope) params.rope_scaling = scaling;
  if (scaling != RopeScaling::kYarn) return {};

  params.rope_scaling = scaling;
  HEARTH_TRY_VOID(reader.must_be_zero("rope.scaling.yarn_log_multiplier", "YaRN of DeepSeek's kind"));
  HEARTH_TRY(params.yarn_ext_factor, number_or(file, reader, "rope.scaling.yarn_ext_factor", 1.0F));
  if (params.yarn_ext_factor < 0) params.yarn_ext_factor = 1;  // libllama's "not said"
  HEARTH_TRY(const float fast, number_or(file, reader, "rope.scaling.yarn_beta_fast", 32.0F));
  HEARTH_TRY(params.yarn_beta_fast, reader.positive("rope.scaling.yarn_beta_fast", fast));
  HEARTH_TRY(const float slow, number_or(file, reader, "rope.scaling.yarn_beta_slow", 1.0F));
  HEARTH_TRY(params.yarn_beta_slow, reader.positive("rope.scaling.yarn_beta_slow", slow));
  if (params.yarn_ext_factor != 0)
    params.rope_attn_factor = yarn_attn_factor(params.rope_freq_scale) * params.rope_attn_factor;
  if (!std::isnormal(params.rope_attn_factor))
    return fail(ErrorCode::kInvalidFile, "key {} is {}, far outside every useful range",
                reader.shown(factor_key), factor.value_or(1.0F));
  return {};
}

// Which layers see a window only, from `attention.sliding_window_pattern`: a period or a flag for each layer.
Result<> read_pattern(const gguf::File& file, const Reader& reader, const ArchTraits& arch,
                      HyperParams& params) {
  constexpr std::string_view kPattern = "attention.sliding_window_pattern";
  params.sliding.assign(params.n_layer, false);
  const gguf::Value* value = file.find(reader.key(kPattern));
  if (const auto* flags = value == nullptr ? nullptr : std::get_if<std::vector<bool>>(value)) {
    if (flags->size() != params.n_layer)
      return fail(ErrorCode::kInvalidFile, "key {} has {} flags, expected one for each of the {} layers",
                  reader.shown(kPattern), flags->size(), params.n_layer);
    params.sliding = *flags;
    return {};
  }
  // 0: all of them.
  HEARTH_TRY(const auto given, file.optional_u32(reader.key(kPattern)));
  const std::uint32_t period = given.value_or(arch.sliding_period);
  for (std::uint32_t il = 0; il < params.n_layer; ++il)
    params.sliding[il] = period == 0 || il % period < period - 1;
  return {};
}

Result<> read_sliding(const gguf::File& file, const Reader& reader, const ArchTraits& arch,
                      HyperParams& params) {
  if (arch.sliding_period == 0) return {};
  constexpr std::string_view kWindow = "attention.sliding_window";
  HEARTH_TRY(const auto given, file.optional_u32(reader.key(kWindow)));
  const std::uint32_t n_swa = given.value_or(arch.default_window);
  if (n_swa > kMaxContext)
    return fail(ErrorCode::kInvalidFile, "key {} is {}, expected at most {}", reader.shown(kWindow), n_swa,
                kMaxContext);
  if (n_swa == 0) return {};
  params.n_swa = n_swa;
  HEARTH_TRY_VOID(read_pattern(file, reader, arch, params));
  params.sliding_rope_scaled = arch.sliding_rope_scaled;
  const float usual = arch.sliding_rope_base > 0 ? arch.sliding_rope_base : params.rope_freq_base;
  HEARTH_TRY(const float base, number_or(file, reader, "rope.freq_base_swa", usual));
  HEARTH_TRY(params.sliding_freq_base, reader.positive("rope.freq_base_swa", base));
  return {};
}

Result<> read_experts(const gguf::File& file, const Reader& reader, const ArchTraits& arch,
                      HyperParams& params) {
  if (arch.experts == Presence::kNo) return reader.must_be_off("expert_count", "a mixture of experts");
  HEARTH_TRY(const auto given, file.optional_u32(reader.key("expert_count")));
  if (given.value_or(0) == 0 && arch.experts == Presence::kOptional) return {};
  HEARTH_TRY(params.n_expert, reader.count("expert_count", kMaxExperts));
  // ggml takes a stack of one matrix for a matrix.
  if (params.n_expert < 2)
    return fail(ErrorCode::kUnsupported, "key {} is {}: a mixture of fewer than 2 experts cannot be run",
                reader.shown("expert_count"), params.n_expert);
  HEARTH_TRY(params.n_expert_used, reader.count("expert_used_count", kMaxExpertsUsed));
  if (params.n_expert_used > params.n_expert)
    return fail(ErrorCode::kInvalidFile, "key {} is {}, but there are {} experts",
                reader.shown("expert_used_count"), params.n_expert_used, params.n_expert);
  const auto width = [&](std::string_view key, std::uint32_t otherwise) {
    return otherwise == 0 ? reader.count(key, kMaxFf) : reader.count_or(key, kMaxFf, otherwise);
  };
  // As libllama: llama's experts have the dense width, others an own one or their share of it.
  const std::uint32_t usual =
      arch.experts == Presence::kOptional ? params.n_ff : params.n_ff / params.n_expert_used;
  if (usual == 0 || arch.experts == Presence::kYes) {
    HEARTH_TRY(params.n_ff_exp, width("expert_feed_forward_length", usual));
  } else {
    params.n_ff_exp = usual;
  }
  if (arch.shared_expert) {
    HEARTH_TRY(params.n_ff_shared, width("expert_shared_feed_forward_length", params.n_ff));
  }
  return reader.must_be_off("expert_group_count", "experts in groups");
}

// Scales and soft caps.
Result<> read_scales(const gguf::File& file, const Reader& reader, const ArchTraits& arch,
                     HyperParams& params) {
  const float n_embd = static_cast<float>(params.n_embd);
  const bool wide = arch.n_layer_wide_scale != 0 && params.n_layer == arch.n_layer_wide_scale;
  const std::uint32_t scaled_by = wide ? params.n_embd / params.n_head : params.head_dim_k;
  params.attention_scale = 1.0F / std::sqrt(static_cast<float>(scaled_by));
  if (arch.embedding_scaled) params.embedding_scale = std::sqrt(n_embd);
  params.attention_cap = arch.attention_cap;
  params.logit_cap = arch.logit_cap;
  if (arch.attention_cap > 0) {
    HEARTH_TRY(const float cap, number_or(file, reader, "attn_logit_softcapping", arch.attention_cap));
    HEARTH_TRY(params.attention_cap, reader.positive("attn_logit_softcapping", cap));
  }
  if (arch.may_cap_logits) {
    HEARTH_TRY(const float cap, number_or(file, reader, "final_logit_softcapping", arch.logit_cap));
    params.logit_cap = 0;
    if (cap != 0) {
      HEARTH_TRY(params.logit_cap, reader.positive("final_logit_softcapping", cap));
    }
  }
  if (!arch.file_scales) return {};
  // 0: none.
  const auto scale = [&](std::string_view suffix, float& into) -> Result<> {
    HEARTH_TRY(const float value, number_or(file, reader, suffix, 0));
    if (value != 0) {
      HEARTH_TRY(into, reader.positive(suffix, value));
    }
    return {};
  };
  HEARTH_TRY_VOID(scale("embedding_scale", params.embedding_scale));
  HEARTH_TRY_VOID(scale("residual_scale", params.residual_scale));
  HEARTH_TRY_VOID(scale("attention.scale", params.attention_scale));
  HEARTH_TRY(const float divisor, file.f32(reader.key("logit_scale")));
  HEARTH_TRY(const float checked, reader.positive("logit_scale", divisor));
  params.logit_scale = 1.0F / checked;
  return {};
}

Result<> read_heads(const gguf::File& file, const Reader& reader, const ArchTraits& arch,
                    HyperParams& params) {
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
  if (params.n_rot > params.head_dim_k)
    return fail(ErrorCode::kInvalidFile, "key {} is {}, but a head has {} values",
                reader.shown("rope.dimension_count"), params.n_rot, params.head_dim_k);
  if (params.n_rot != params.head_dim_k && !arch.fused)
    return fail(ErrorCode::kUnsupported, "key {} is {}; only RoPE over whole heads ({} values) can be run",
                reader.shown("rope.dimension_count"), params.n_rot, params.head_dim_k);
  return {};
}

}  // namespace

std::string_view rope_scaling_name(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone:
      return "none";
    case RopeScaling::kLinear:
      return "linear";
    case RopeScaling::kYarn:
      return "yarn";
    case RopeScaling::kLongRope:
      return "longrope";
  }
  std::unreachable();
}

Rope HyperParams::rope(std::uint32_t il) const {
  Rope rope = {.is_on = no_rope_period == 0 || (il + 1) % no_rope_period != 0,
               .freq_base = rope_freq_base,
               .freq_scale = rope_freq_scale,
               .ext_factor = yarn_ext_factor,
               .attn_factor = rope_attn_factor};
  if (!is_sliding(il)) return rope;
  rope.freq_base = sliding_freq_base;
  if (!sliding_rope_scaled) {
    rope.freq_scale = rope.attn_factor = 1;
    rope.ext_factor = 0;
  }
  return rope;
}

std::uint32_t HyperParams::kv_cells(std::uint32_t il, std::uint32_t n_cells, std::uint32_t n_ubatch,
                                    std::uint32_t n_seq, std::uint32_t padding) const {
  if (!is_sliding(il)) return n_cells;
  const std::uint64_t seen = std::uint64_t{n_swa} * n_seq + n_ubatch;
  const std::uint64_t padded = (seen + padding - 1) / padding * padding;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(padded, n_cells));
}

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
  params.n_ff = n_ff.value_or(0);
  HEARTH_TRY_VOID(read_heads(file, reader, arch, params));
  HEARTH_TRY_VOID(read_experts(file, reader, arch, params));
  if (params.n_ff == 0 && params.n_expert == 0)
    return fail(ErrorCode::kInvalidFile, "key {} is missing", reader.shown("feed_forward_length"));
  HEARTH_TRY(const float eps, file.f32(reader.key("attention.layer_norm_rms_epsilon")));
  HEARTH_TRY(params.rms_eps, reader.positive("attention.layer_norm_rms_epsilon", eps));
  HEARTH_TRY_VOID(read_rope(file, reader, arch, params));
  HEARTH_TRY_VOID(read_sliding(file, reader, arch, params));
  HEARTH_TRY_VOID(read_scales(file, reader, arch, params));

  // The vocabulary's size is that of the embedding table; the tokenizer must agree, or ids would point past
  // its end.
  const std::string table = tensor_name(Role::kTokenEmbedding, arch);
  const gguf::Tensor* embedding = file.find_tensor(table);
  if (embedding == nullptr) return fail(ErrorCode::kInvalidFile, "tensor {} is missing", quote(table));
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
