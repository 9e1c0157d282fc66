#include "synth/tensor_plan.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <format>
#include <optional>

namespace hearth::synth {
namespace {

constexpr std::array kArchs{
    //      name     bias:always may   qk_norm rope_freqs  base       eps
    ArchRow{"llama", false, true, false, true, 10000.0f, 1e-5f},
    ArchRow{"qwen2", true, true, false, false, 1000000.0f, 1e-6f},
    ArchRow{"qwen3", false, false, true, false, 1000000.0f, 1e-6f},
};

struct Preset {
  std::string_view name;
  Shape shape;
};

constexpr std::array kPresets{
    Preset{"tiny", {.n_layer = 8, .n_embd = 256, .n_head = 4, .n_head_kv = 2, .head_dim = 64, .n_ff = 512}},
    Preset{"small",
           {.n_layer = 16, .n_embd = 512, .n_head = 8, .n_head_kv = 4, .head_dim = 64, .n_ff = 1536}},
    Preset{"600m",
           {.n_layer = 28,
            .n_embd = 1024,
            .n_head = 16,
            .n_head_kv = 8,
            .head_dim = 128,
            .n_ff = 3072,
            .n_vocab = 151936,
            .n_ctx = 32768,
            .tied = true}},
    Preset{"1b",
           {.n_layer = 16,
            .n_embd = 2048,
            .n_head = 32,
            .n_head_kv = 8,
            .head_dim = 64,
            .n_ff = 8192,
            .n_vocab = 128256,
            .n_ctx = 131072,
            .tied = true}},
    Preset{"8b",
           {.n_layer = 32,
            .n_embd = 4096,
            .n_head = 32,
            .n_head_kv = 8,
            .head_dim = 128,
            .n_ff = 14336,
            .n_vocab = 128256,
            .n_ctx = 131072}},
    Preset{"70b",
           {.n_layer = 80,
            .n_embd = 8192,
            .n_head = 64,
            .n_head_kv = 8,
            .head_dim = 128,
            .n_ff = 28672,
            .n_vocab = 128256,
            .n_ctx = 131072}},
};
constexpr auto kPresetNames = [] {
  std::array<std::string_view, kPresets.size()> names{};
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = kPresets[i].name;
  return names;
}();

// Types that ggml_quantize_chunk makes from f32, with the llama_ftype number of a file made of them.
struct TypeRow {
  ggml_type type;
  std::int32_t file_type;
};
constexpr std::array kTypes{
    TypeRow{GGML_TYPE_F32, 0},      TypeRow{GGML_TYPE_F16, 1},     TypeRow{GGML_TYPE_BF16, 32},
    TypeRow{GGML_TYPE_Q4_0, 2},     TypeRow{GGML_TYPE_Q4_1, 3},    TypeRow{GGML_TYPE_Q5_0, 8},
    TypeRow{GGML_TYPE_Q5_1, 9},     TypeRow{GGML_TYPE_Q8_0, 7},    TypeRow{GGML_TYPE_Q2_K, 10},
    TypeRow{GGML_TYPE_Q3_K, 12},    TypeRow{GGML_TYPE_Q4_K, 15},   TypeRow{GGML_TYPE_Q5_K, 17},
    TypeRow{GGML_TYPE_Q6_K, 18},    TypeRow{GGML_TYPE_IQ1_S, 24},  TypeRow{GGML_TYPE_IQ1_M, 31},
    TypeRow{GGML_TYPE_IQ2_XXS, 19}, TypeRow{GGML_TYPE_IQ2_XS, 20}, TypeRow{GGML_TYPE_IQ2_S, 28},
    TypeRow{GGML_TYPE_IQ3_XXS, 23}, TypeRow{GGML_TYPE_IQ3_S, 26},  TypeRow{GGML_TYPE_IQ4_NL, 25},
    TypeRow{GGML_TYPE_IQ4_XS, 30},  TypeRow{GGML_TYPE_TQ1_0, 36},  TypeRow{GGML_TYPE_TQ2_0, 37},
    TypeRow{GGML_TYPE_MXFP4, 38},   TypeRow{GGML_TYPE_NVFP4, 39},  TypeRow{GGML_TYPE_Q1_0, 40},
    TypeRow{GGML_TYPE_Q2_0, 41},
};

// A mix: `base` everywhere, Q6_K for the output head and, in part of the layers, for attn_v and ffn_down.
struct MixRow {
  std::string_view name;
  ggml_type base;
  std::int32_t file_type;
};
constexpr std::array kMixes{MixRow{"Q4_K_M", GGML_TYPE_Q4_K, 15}, MixRow{"Q5_K_M", GGML_TYPE_Q5_K, 17}};

std::string upper(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return result;
}

// The type of each tensor: the base and what a mix raises.
struct TypeChoice {
  ggml_type base = GGML_TYPE_F16;
  bool mix = false;
};

std::optional<TypeChoice> choose_type(const std::string& name) {
  for (const MixRow& mix : kMixes) {
    if (upper(name) == mix.name) return TypeChoice{mix.base, true};
  }
  for (const TypeRow& row : kTypes) {
    if (upper(name) == upper(ggml_type_name(row.type))) return TypeChoice{row.type, false};
  }
  return std::nullopt;
}

// The layers whose attn_v and ffn_down a _M mix keeps at Q6_K: the first and last eighth and every third
// between.
bool gets_more_bits(std::uint32_t il, std::uint32_t n_layer) {
  return il < n_layer / 8 || il >= 7 * n_layer / 8 || (il - n_layer / 8) % 3 == 2;
}

// Rows of the embedding are read one by one; ggml has no such operation for these types.
bool can_be_embedding(ggml_type type) {
  return ggml_get_type_traits(type)->to_float != nullptr || type == GGML_TYPE_F32;
}

constexpr float kEmbeddingStd =
    0.1f;  // small against what the layers add, so that tied heads do not repeat the input
constexpr float kQueryKeyGain =
    2.0f;  // attention scores with a deviation of 4: peaked, so that text does not loop
constexpr float kFfnDownGain = 1.7f;  // the mean square of silu(g) u is about 1/3 for unit normal g and u
constexpr float kLogitStd = 3.0f;
constexpr float kOutlierTarget = 1.5e6f;
constexpr float kOutlierUpGain =
    64.0f;  // shared out between ffn_up and ffn_down so that f16 weights do not overflow
constexpr std::uint32_t kOutlierChannels = 8;

Result<> check_shape(const SynthSpec& spec, const ArchRow& arch) {
  const Shape& s = spec.shape;
  struct Bound {
    const char* what;
    std::uint32_t value, low, high;
  };
  for (const Bound& b : {Bound{"--layers", s.n_layer, 1, 4096}, Bound{"--embd", s.n_embd, 32, 1u << 20},
                         Bound{"--heads", s.n_head, 1, 4096}, Bound{"--kv-heads", s.n_head_kv, 1, 4096},
                         Bound{"--head-dim", s.head_dim, 2, 4096}, Bound{"--ff", s.n_ff, 32, 1u << 22},
                         Bound{"--vocab", s.n_vocab, 0, 1u << 24}, Bound{"--ctx", s.n_ctx, 1, 1u << 24},
                         Bound{"--split-files", spec.split_files, 1, 1000}}) {
    if (b.value < b.low || b.value > b.high) {
      return fail(ErrorCode::kInvalidArgument, "{} is {}; it must be from {} to {}", b.what, b.value, b.low,
                  b.high);
    }
  }
  if (s.n_head % s.n_head_kv != 0) {
    return fail(ErrorCode::kInvalidArgument, "--heads {} is no multiple of --kv-heads {}", s.n_head,
                s.n_head_kv);
  }
  if (s.head_dim % 2 != 0) {
    return fail(ErrorCode::kInvalidArgument, "--head-dim is {}; RoPE needs an even one", s.head_dim);
  }
  if (spec.qkv_bias && !arch.may_qkv_bias) {
    return fail(ErrorCode::kInvalidArgument, "--qkv-bias: the architecture {} has no biases", arch.name);
  }
  if (spec.rope_freqs && !arch.may_rope_freqs) {
    return fail(ErrorCode::kInvalidArgument, "--rope-freqs: the architecture {} has no rope_freqs.weight",
                arch.name);
  }
  if (!(spec.rope_scale_linear >= 0) || !std::isfinite(spec.rope_scale_linear)) {
    return fail(ErrorCode::kInvalidArgument, "--rope-scale-linear is {}; give a factor above 0",
                spec.rope_scale_linear);
  }
  if (!(spec.rope_freq_base >= 0) || !std::isfinite(spec.rope_freq_base)) {
    return fail(ErrorCode::kInvalidArgument, "--rope-freq-base is {}; give a base above 0",
                spec.rope_freq_base);
  }
  return {};
}

}  // namespace

const ArchRow* find_arch(std::string_view name) {
  const auto it = std::ranges::find(kArchs, name, &ArchRow::name);
  return it == kArchs.end() ? nullptr : &*it;
}

std::vector<std::string_view> arch_names() {
  std::vector<std::string_view> names;
  for (const ArchRow& arch : kArchs) names.push_back(arch.name);
  return names;
}

std::span<const std::string_view> preset_names() {
  return kPresetNames;
}

Result<Shape> preset(std::string_view name) {
  for (const Preset& p : kPresets) {
    if (p.name == name) return p.shape;
  }
  std::string known;
  for (const std::string_view n : kPresetNames) known += std::format(" {}", n);
  return fail(ErrorCode::kInvalidArgument, "no shape '{}'; there are:{}", name, known);
}

std::vector<std::string> type_names() {
  std::vector<std::string> names;
  for (const TypeRow& row : kTypes) names.push_back(upper(ggml_type_name(row.type)));
  for (const MixRow& mix : kMixes) names.emplace_back(mix.name);
  return names;
}

std::int32_t file_type(const std::string& type) {
  for (const MixRow& mix : kMixes) {
    if (upper(type) == mix.name) return mix.file_type;
  }
  for (const TypeRow& row : kTypes) {
    if (upper(type) == upper(ggml_type_name(row.type))) return row.file_type;
  }
  return -1;
}

bool is_outlier_channel(std::int64_t channel, std::uint32_t n_embd) {
  const std::int64_t step = std::max<std::int64_t>(1, n_embd / kOutlierChannels);
  return channel % step == step / 2;
}

Result<std::vector<PlannedTensor>> plan_tensors(const SynthSpec& spec, std::uint32_t n_vocab) {
  const ArchRow* arch = find_arch(spec.arch);
  if (arch == nullptr) {
    std::string known;
    for (const ArchRow& a : kArchs) known += std::format(" {}", a.name);
    return fail(ErrorCode::kInvalidArgument, "no architecture '{}'; there are:{}", spec.arch, known);
  }
  const std::optional<TypeChoice> types = choose_type(spec.type);
  if (!types) {
    std::string known;
    for (const std::string& name : type_names()) known += " " + name;
    return fail(ErrorCode::kInvalidArgument, "no type or mix '{}'; there are:{}", spec.type, known);
  }
  HEARTH_TRY_VOID(check_shape(spec, *arch));

  const Shape& s = spec.shape;
  const std::int64_t n_embd = s.n_embd, n_ff = s.n_ff, head_dim = s.head_dim;
  const std::int64_t n_embd_q = head_dim * s.n_head, n_embd_kv = head_dim * s.n_head_kv;
  const bool bias = arch->always_qkv_bias || spec.qkv_bias;
  // Past the outlier layer a norm divides by the outliers' root mean square, whatever the other channels are:
  // nothing holds those back any more, and the feed-forward part is quadratic. So inside the layers their
  // gain stays small.
  const std::uint32_t outlier_layer = std::min<std::uint32_t>(1, s.n_layer - 1);
  const float outlier_rms =
      kOutlierTarget * std::sqrt(static_cast<float>(kOutlierChannels) / static_cast<float>(n_embd));
  const float layer_norm_gain = outlier_rms * 0.1f, output_norm_gain = outlier_rms * 0.5f;

  std::vector<PlannedTensor> tensors;
  const auto matrix = [&](std::string name, ggml_type type, std::int64_t n_in, std::int64_t n_out,
                          float gain) -> PlannedTensor& {
    return tensors.emplace_back(PlannedTensor{.name = std::move(name),
                                              .type = type,
                                              .n_in = n_in,
                                              .n_out = n_out,
                                              .scale = gain / std::sqrt(static_cast<float>(n_in))});
  };
  const auto vector = [&](std::string name, std::int64_t n, Fill fill, float scale) -> PlannedTensor& {
    return tensors.emplace_back(PlannedTensor{
        .name = std::move(name), .n_in = n, .one_dimensional = true, .fill = fill, .scale = scale});
  };
  const auto residual_norm = [&](std::string name, bool after_outliers, float gain_after) {
    PlannedTensor& t = vector(std::move(name), n_embd, Fill::kNorm, 1);
    if (spec.outliers && after_outliers) {
      t.scale = gain_after;
      t.outlier_gain = 0;
    }
  };

  const ggml_type head_type = types->mix ? GGML_TYPE_Q6_K : types->base;
  PlannedTensor& embedding =
      matrix("token_embd.weight", s.tied ? head_type : types->base, n_embd, n_vocab, 1);
  embedding.scale = kEmbeddingStd;
  if (!can_be_embedding(embedding.type)) embedding.type = GGML_TYPE_F16;
  residual_norm("output_norm.weight", true, output_norm_gain);
  if (!s.tied) matrix("output.weight", head_type, n_embd, n_vocab, kLogitStd);
  if (spec.rope_freqs) vector("rope_freqs.weight", head_dim / 2, Fill::kRopeFreqs, 1);

  for (std::uint32_t il = 0; il < s.n_layer; ++il) {
    const auto name = [il](std::string_view part) { return std::format("blk.{}.{}", il, part); };
    const ggml_type raised = types->mix && gets_more_bits(il, s.n_layer) ? GGML_TYPE_Q6_K : types->base;
    const float qk_gain = arch->qk_norm ? 1.0f : kQueryKeyGain;
    residual_norm(name("attn_norm.weight"), il > outlier_layer, layer_norm_gain);
    matrix(name("attn_q.weight"), types->base, n_embd, n_embd_q, qk_gain);
    if (bias) vector(name("attn_q.bias"), n_embd_q, Fill::kNormal, 0.5f);
    matrix(name("attn_k.weight"), types->base, n_embd, n_embd_kv, qk_gain);
    if (bias) vector(name("attn_k.bias"), n_embd_kv, Fill::kNormal, 0.5f);
    matrix(name("attn_v.weight"), raised, n_embd, n_embd_kv, 1);
    if (bias) vector(name("attn_v.bias"), n_embd_kv, Fill::kNormal, 0.2f);
    if (arch->qk_norm) {
      vector(name("attn_q_norm.weight"), head_dim, Fill::kNorm, kQueryKeyGain);
      vector(name("attn_k_norm.weight"), head_dim, Fill::kNorm, kQueryKeyGain);
    }
    matrix(name("attn_output.weight"), types->base, n_embd_q, n_embd, 1);
    residual_norm(name("ffn_norm.weight"), il > outlier_layer, layer_norm_gain);
    matrix(name("ffn_gate.weight"), types->base, n_embd, n_ff, 1);
    PlannedTensor& up = matrix(name("ffn_up.weight"), types->base, n_embd, n_ff, 1);
    if (spec.outliers && il == outlier_layer) up.scale *= kOutlierUpGain;
    PlannedTensor& down = matrix(name("ffn_down.weight"), raised, n_ff, n_embd, kFfnDownGain);
    if (spec.outliers && il == outlier_layer) {
      down.scale /= kOutlierUpGain;
      down.outlier_gain = kOutlierTarget;
    }
  }

  for (const PlannedTensor& t : tensors) {
    const std::int64_t block = ggml_blck_size(t.type);
    if (t.n_in % block != 0) {
      return fail(ErrorCode::kInvalidArgument,
                  "{} has rows of {} weights, which is no multiple of {}, the block of {}; change the shape "
                  "or the type",
                  t.name, t.n_in, block, upper(ggml_type_name(t.type)));
    }
  }
  return tensors;
}

}  // namespace hearth::synth
