#include "synth/tensor_plan.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <format>
#include <optional>
#include <utility>

#include "model/limits.h"

namespace hearth::synth {
namespace {

using model::ArchTraits;
using model::HyperParams;
using model::Presence;
using model::Role;

// What published models of an architecture have, where it is not 10000 and 1e-6.
struct Usual {
  std::string_view arch;
  float rope_freq_base = 10000;
  float rms_eps = 1e-6F;
};
constexpr std::array kUsual{
    Usual{"llama", 10000, 1e-5F},    Usual{"qwen2", 1000000},        Usual{"qwen2moe", 1000000},
    Usual{"qwen3", 1000000},         Usual{"qwen3moe", 1000000},     Usual{"gemma3", 1000000},
    Usual{"gpt-oss", 150000, 1e-5F}, Usual{"smollm3", 2000000},      Usual{"olmo2", 500000},
    Usual{"phi3", 10000, 1e-5F},     Usual{"granite", 10000, 1e-5F},
};
constexpr float kGraniteEmbedding = 12, kGraniteResidual = 0.5F, kGraniteAttention = 0.15F,
                kGraniteLogits = 4;
constexpr std::uint32_t kYarnContext = 128;      // that a model with YaRN was trained for
constexpr std::uint32_t kLongRopeContext = 256;  // beyond it phi3 takes its long factors
constexpr float kLongRopeAttention = 1.19F;

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

// A mix of types.
struct MixRow {
  std::string_view name;
  ggml_type base;
  ggml_type raised;   // of part of the layers' attn_v and ffn_down, and of the output head
  ggml_type experts;  // of experts, but for raised ffn_down
  std::int32_t file_type;
};
constexpr std::array kMixes{MixRow{"Q4_K_M", GGML_TYPE_Q4_K, GGML_TYPE_Q6_K, GGML_TYPE_Q4_K, 15},
                            MixRow{"Q5_K_M", GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_Q5_K, 17},
                            MixRow{"MXFP4_MOE", GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, GGML_TYPE_MXFP4, 38}};

std::string upper(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return result;
}

// The type of each tensor: the base and what a mix raises.
struct TypeChoice {
  ggml_type base = GGML_TYPE_F16, raised = GGML_TYPE_F16, experts = GGML_TYPE_F16;
};

std::optional<TypeChoice> choose_type(const std::string& name) {
  for (const MixRow& mix : kMixes) {
    if (upper(name) == mix.name) return TypeChoice{mix.base, mix.raised, mix.experts};
  }
  for (const TypeRow& row : kTypes) {
    if (upper(name) == upper(ggml_type_name(row.type))) return TypeChoice{row.type, row.type, row.type};
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

Result<> check_shape(const SynthSpec& spec, const ArchTraits& arch) {
  const Shape& s = spec.shape;
  struct Bound {
    const char* what;
    std::uint32_t value, low, high;
  };
  for (const Bound& b : {Bound{"--layers", s.n_layer, 1, 4096}, Bound{"--embd", s.n_embd, 32, 1u << 20},
                         Bound{"--heads", s.n_head, 1, 4096}, Bound{"--kv-heads", s.n_head_kv, 1, 4096},
                         Bound{"--head-dim", s.head_dim, 2, 4096}, Bound{"--ff", s.n_ff, 32, 1u << 22},
                         Bound{"--experts", s.n_expert, 0, model::kMaxExperts},
                         Bound{"--experts-used", s.n_expert_used, 1, model::kMaxExpertsUsed},
                         Bound{"--window", s.n_swa, 0, 1u << 24}, Bound{"--rot", s.n_rot, 0, s.head_dim},
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
  const auto only = [&](bool asked, bool can, const char* option) -> Result<> {
    if (!asked || can) return {};
    return fail(ErrorCode::kInvalidArgument, "{}: {} models have no such thing", option, arch.name);
  };
  HEARTH_TRY_VOID(only(spec.qkv_bias, arch.qkv_bias != Presence::kNo, "--qkv-bias"));
  HEARTH_TRY_VOID(only(spec.rope_freqs, arch.rope_factors != Presence::kNo || arch.fused, "--rope-freqs"));
  HEARTH_TRY_VOID(only(s.n_expert > 0, arch.experts != Presence::kNo, "--experts"));
  HEARTH_TRY_VOID(only(s.n_swa > 0, arch.sliding_period > 0, "--window"));
  HEARTH_TRY_VOID(only(s.n_rot > 0, arch.fused, "--rot"));
  HEARTH_TRY_VOID(only(s.tied, arch.output_head != Presence::kYes, "--tied"));
  HEARTH_TRY_VOID(only(spec.attention_cap > 0, arch.attention_cap > 0, "--attention-cap"));
  HEARTH_TRY_VOID(only(spec.logit_cap > 0, arch.may_cap_logits, "--logit-cap"));
  if (arch.experts == Presence::kYes && s.n_expert < 2)
    return fail(ErrorCode::kInvalidArgument, "--experts is {}; {} models have at least 2", s.n_expert,
                arch.name);
  if (s.n_expert > 0 && s.n_expert_used > s.n_expert)
    return fail(ErrorCode::kInvalidArgument, "--experts-used is {} of {} experts", s.n_expert_used,
                s.n_expert);
  if (!(spec.rope_scale_linear >= 0) || !std::isfinite(spec.rope_scale_linear)) {
    return fail(ErrorCode::kInvalidArgument, "--rope-scale-linear is {}; give a factor above 0",
                spec.rope_scale_linear);
  }
  if (!(spec.rope_yarn >= 0) || !std::isfinite(spec.rope_yarn))
    return fail(ErrorCode::kInvalidArgument, "--rope-yarn is {}; give a factor above 0", spec.rope_yarn);
  if (!(spec.rope_freq_base >= 0) || !std::isfinite(spec.rope_freq_base)) {
    return fail(ErrorCode::kInvalidArgument, "--rope-freq-base is {}; give a base above 0",
                spec.rope_freq_base);
  }
  return {};
}

}  // namespace

std::vector<std::string_view> arch_names() {
  std::vector<std::string_view> names;
  for (const ArchTraits& arch : model::architectures()) names.push_back(arch.name);
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

Result<PlannedModel> plan_model(const SynthSpec& spec, std::uint32_t n_vocab) {
  const ArchTraits* arch = model::find_architecture(spec.arch);
  if (arch == nullptr) {
    std::string known;
    for (const std::string_view name : arch_names()) known += std::format(" {}", name);
    return fail(ErrorCode::kInvalidArgument, "no architecture '{}'; there are:{}", spec.arch, known);
  }
  HEARTH_TRY_VOID(check_shape(spec, *arch));
  const Shape& s = spec.shape;
  const auto* const row = std::ranges::find(kUsual, spec.arch, &Usual::arch);
  const Usual usual = row == kUsual.end() ? Usual{} : *row;
  PlannedModel planned = {.arch = arch, .params = {}};
  HyperParams& p = planned.params;
  p.n_layer = s.n_layer;
  p.n_embd = s.n_embd;
  p.n_vocab = n_vocab;
  p.n_ctx_train = s.n_ctx;
  p.n_head = s.n_head;
  p.n_head_kv = s.n_head_kv;
  p.n_ff = s.n_ff;
  p.head_dim_k = p.head_dim_v = s.head_dim;
  p.n_rot = s.n_rot > 0 ? s.n_rot : s.head_dim;
  p.rms_eps = usual.rms_eps;
  p.rope_freq_base = spec.rope_freq_base > 0 ? spec.rope_freq_base : usual.rope_freq_base;
  p.n_ctx_orig = spec.rope_yarn > 0               ? kYarnContext
                 : arch->fused && spec.rope_freqs ? kLongRopeContext
                                                  : s.n_ctx;
  p.rope_attn_factor = arch->fused && spec.rope_freqs ? kLongRopeAttention : 1;
  p.n_swa = s.n_swa;
  if (s.n_expert > 0) {
    p.n_expert = s.n_expert;
    p.n_expert_used = s.n_expert_used;
    p.n_ff_exp = s.n_ff;
    p.n_ff_shared = arch->shared_expert ? s.n_ff : 0;
  }
  p.attention_cap = spec.attention_cap > 0 ? spec.attention_cap : arch->attention_cap;
  p.logit_cap = spec.logit_cap > 0 ? spec.logit_cap : arch->logit_cap;
  if (arch->embedding_scaled) p.embedding_scale = std::sqrt(static_cast<float>(s.n_embd));
  if (arch->file_scales) {
    p.embedding_scale = kGraniteEmbedding;
    p.residual_scale = kGraniteResidual;
    p.attention_scale = kGraniteAttention;
    p.logit_scale = 1 / kGraniteLogits;
  }
  return planned;
}

namespace {

// Plans one tensor after another.
class Planner {
 public:
  Planner(const SynthSpec& spec, const PlannedModel& planned, const TypeChoice& types)
      : spec_(spec), arch_(*planned.arch), p_(planned.params), types_(types) {}

  void add_if_present(Role role, std::uint32_t il);
  [[nodiscard]] std::vector<PlannedTensor> take() { return std::move(tensors_); }

 private:
  [[nodiscard]] bool is_present(Role role) const;
  [[nodiscard]] ggml_type type_of(Role role, std::uint32_t il) const;
  // Normal weights of deviation gain / sqrt(n_in).
  void matrix(Role role, std::uint32_t il, float gain);
  void vector(Role role, std::uint32_t il, Fill fill, float scale);
  void residual_norm(Role role, std::uint32_t il);
  void add(Role role, std::uint32_t il);

  const SynthSpec& spec_;
  const ArchTraits& arch_;
  const HyperParams& p_;
  TypeChoice types_;
  // Past the outlier layer a norm divides by the outliers' root mean square, whatever the other channels are:
  // nothing holds those back any more, and the feed-forward part is quadratic. So inside the layers their
  // gain stays small.
  std::uint32_t outlier_layer_ = std::min<std::uint32_t>(1, p_.n_layer - 1);
  float outlier_rms_ =
      kOutlierTarget * std::sqrt(static_cast<float>(kOutlierChannels) / static_cast<float>(p_.n_embd));
  std::vector<PlannedTensor> tensors_;
};

bool Planner::is_present(Role role) const {
  switch (model::presence(role, arch_, p_)) {
    case Presence::kNo:
      return false;
    case Presence::kYes:
      return true;
    case Presence::kOptional:
      break;
  }
  switch (role) {
    case Role::kOutput:
      return !spec_.shape.tied;
    case Role::kAttnQBias:
    case Role::kAttnKBias:
    case Role::kAttnVBias:
      return spec_.qkv_bias;
    case Role::kRopeFactors:
    case Role::kRopeLong:
    case Role::kRopeShort:
      return spec_.rope_freqs;
    default:
      return false;
  }
}

ggml_type Planner::type_of(Role role, std::uint32_t il) const {
  const ggml_type in_layers = gets_more_bits(il, p_.n_layer) ? types_.raised : types_.base;
  switch (role) {
    case Role::kTokenEmbedding: {
      const bool is_head = !is_present(Role::kOutput);
      const ggml_type type = is_head ? types_.raised : types_.base;
      return can_be_embedding(type) ? type : GGML_TYPE_F16;
    }
    case Role::kOutput:
      return types_.raised;
    case Role::kRouter:
      return GGML_TYPE_F32;
    case Role::kAttnV:
    case Role::kFfnDown:
    case Role::kSharedDown:
      return in_layers;
    case Role::kExpertsDown:
      return types_.experts == types_.base ? in_layers : types_.experts;
    default:
      return model::is_vector(role) ? GGML_TYPE_F32 : model::is_experts(role) ? types_.experts : types_.base;
  }
}

void Planner::matrix(Role role, std::uint32_t il, float gain) {
  const auto shape = model::tensor_shape(role, arch_, p_);
  tensors_.push_back({.name = model::tensor_name(role, arch_, il),
                      .type = type_of(role, il),
                      .n_in = shape[0],
                      .n_out = shape[1] * shape[2],
                      .n_matrices = shape[2],
                      .scale = gain / std::sqrt(static_cast<float>(shape[0]))});
}

void Planner::vector(Role role, std::uint32_t il, Fill fill, float scale) {
  const auto shape = model::tensor_shape(role, arch_, p_);
  tensors_.push_back({.name = model::tensor_name(role, arch_, il),
                      .n_in = shape[0],
                      .n_out = shape[1],
                      .one_dimensional = shape[1] == 1,
                      .fill = fill,
                      .scale = scale});
}

void Planner::residual_norm(Role role, std::uint32_t il) {
  const bool is_output = role == Role::kOutputNorm;
  vector(role, il, Fill::kNorm, 1);
  PlannedTensor& t = tensors_.back();
  if (spec_.outliers && (is_output || il > outlier_layer_)) {
    t.scale = outlier_rms_ * (is_output ? 0.5F : 0.1F);
    t.outlier_gain = 0;
  }
  // An embedding that is the head, too, is as much smaller as it is scaled up when it is looked up.
  if (is_output && !is_present(Role::kOutput)) t.scale *= p_.embedding_scale / p_.logit_scale;
}

void Planner::add_if_present(Role role, std::uint32_t il) {
  if (is_present(role)) add(role, il);
}

void Planner::add(Role role, std::uint32_t il) {
  const bool qk_norm = arch_.qk_norm != model::QkNorm::kNone;
  const float qk_gain = qk_norm ? 1.0F : kQueryKeyGain;
  switch (role) {
    case Role::kTokenEmbedding:
      matrix(role, il, 1);
      tensors_.back().scale = kEmbeddingStd / p_.embedding_scale;
      return;
    case Role::kOutput:
      return matrix(role, il, kLogitStd / p_.logit_scale);
    case Role::kOutputNorm:
    case Role::kAttnNorm:
    case Role::kFfnNorm:
      return residual_norm(role, il);
    case Role::kAttnPostNorm:
    case Role::kFfnPostNorm:
    case Role::kRopeShort:
      return vector(role, il, Fill::kNorm, 1);
    case Role::kAttnQ:
    case Role::kAttnK:
      return matrix(role, il, qk_gain);
    case Role::kAttnQkv:
      return matrix(role, il, std::sqrt(kQueryKeyGain));
    case Role::kAttnQBias:
    case Role::kAttnKBias:
      return vector(role, il, Fill::kNormal, 0.5F);
    case Role::kAttnVBias:
    case Role::kAttnOutputBias:
    case Role::kRouterBias:
    case Role::kExpertsGateBias:
    case Role::kExpertsUpBias:
    case Role::kExpertsDownBias:
      return vector(role, il, Fill::kNormal, 0.2F);
    case Role::kAttnQNorm:
    case Role::kAttnKNorm:
      return vector(role, il, Fill::kNorm, kQueryKeyGain);
    case Role::kRopeFactors:
    case Role::kRopeLong:
      return vector(role, il, Fill::kRopeFreqs, 1);
    case Role::kAttnSinks:
      return vector(role, il, Fill::kNormal, 1);
    case Role::kSharedRouter:
      return vector(role, il, Fill::kNormal, 1 / std::sqrt(static_cast<float>(p_.n_embd)));
    case Role::kRouter:
      return matrix(role, il, 2);
    case Role::kAttnV:
    case Role::kAttnOutput:
    case Role::kFfnGate:
    case Role::kExpertsGate:
    case Role::kExpertsUp:
    case Role::kSharedGate:
    case Role::kSharedUp:
      return matrix(role, il, 1);
    case Role::kFfnUp:
      matrix(role, il, 1);
      if (spec_.outliers && il == outlier_layer_) tensors_.back().scale *= kOutlierUpGain;
      return;
    case Role::kFfnDown:
      matrix(role, il, kFfnDownGain);
      if (spec_.outliers && il == outlier_layer_) {
        tensors_.back().scale /= kOutlierUpGain;
        tensors_.back().outlier_gain = kOutlierTarget;
      }
      return;
    case Role::kExpertsDown:
    case Role::kSharedDown:
      return matrix(role, il, kFfnDownGain);
  }
}

}  // namespace

Result<std::vector<PlannedTensor>> plan_tensors(const SynthSpec& spec, std::uint32_t n_vocab) {
  const std::optional<TypeChoice> types = choose_type(spec.type);
  if (!types) {
    std::string known;
    for (const std::string& name : type_names()) known += " " + name;
    return fail(ErrorCode::kInvalidArgument, "no type or mix '{}'; there are:{}", spec.type, known);
  }
  HEARTH_TRY(const PlannedModel planned, plan_model(spec, n_vocab));
  Planner planner(spec, planned, *types);
  using Kind = model::SegmentId::Kind;
  for (const Kind kind : {Kind::kEmbedding, Kind::kOutput})
    for (const Role role : model::roles_of(kind)) planner.add_if_present(role, 0);
  for (std::uint32_t il = 0; il < spec.shape.n_layer; ++il)
    for (const Role role : model::roles_of(Kind::kLayer))
      if (il == 0 || !model::is_shared(role)) planner.add_if_present(role, il);

  std::vector<PlannedTensor> tensors = planner.take();
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
