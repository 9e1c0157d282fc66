#include "synth/metadata.h"

#include <algorithm>
#include <format>
#include <string>
#include <string_view>
#include <vector>

#include "synth/tensor_plan.h"

namespace hearth::synth {
namespace {

constexpr std::int32_t kTypeNormal = 1, kTypeUnknown = 2, kTypeControl = 3, kTypeUnused = 5, kTypeByte = 6;

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<float> scores;  // empty: the tokenizer has none
};

void set_strings(gguf_context* to, const char* key, const std::vector<std::string>& values) {
  std::vector<const char*> pointers;
  pointers.reserve(values.size());
  for (const std::string& v : values) pointers.push_back(v.c_str());
  gguf_set_arr_str(to, key, pointers.data(), pointers.size());
}

// Copies one key of any type but an array of arrays, which GGUF does not use.
void copy_key(gguf_context* to, const gguf_context* from, std::int64_t id) {
  const char* key = gguf_get_key(from, id);
  switch (gguf_get_kv_type(from, id)) {
    case GGUF_TYPE_UINT8:
      return gguf_set_val_u8(to, key, gguf_get_val_u8(from, id));
    case GGUF_TYPE_INT8:
      return gguf_set_val_i8(to, key, gguf_get_val_i8(from, id));
    case GGUF_TYPE_UINT16:
      return gguf_set_val_u16(to, key, gguf_get_val_u16(from, id));
    case GGUF_TYPE_INT16:
      return gguf_set_val_i16(to, key, gguf_get_val_i16(from, id));
    case GGUF_TYPE_UINT32:
      return gguf_set_val_u32(to, key, gguf_get_val_u32(from, id));
    case GGUF_TYPE_INT32:
      return gguf_set_val_i32(to, key, gguf_get_val_i32(from, id));
    case GGUF_TYPE_FLOAT32:
      return gguf_set_val_f32(to, key, gguf_get_val_f32(from, id));
    case GGUF_TYPE_UINT64:
      return gguf_set_val_u64(to, key, gguf_get_val_u64(from, id));
    case GGUF_TYPE_INT64:
      return gguf_set_val_i64(to, key, gguf_get_val_i64(from, id));
    case GGUF_TYPE_FLOAT64:
      return gguf_set_val_f64(to, key, gguf_get_val_f64(from, id));
    case GGUF_TYPE_BOOL:
      return gguf_set_val_bool(to, key, gguf_get_val_bool(from, id));
    case GGUF_TYPE_STRING:
      return gguf_set_val_str(to, key, gguf_get_val_str(from, id));
    case GGUF_TYPE_ARRAY:
      break;
    case GGUF_TYPE_COUNT:
      return;
  }
  const std::size_t n = gguf_get_arr_n(from, id);
  if (gguf_get_arr_type(from, id) == GGUF_TYPE_STRING) {
    std::vector<std::string> values;
    for (std::size_t i = 0; i < n; ++i) values.emplace_back(gguf_get_arr_str(from, id, i));
    set_strings(to, key, values);
  } else {
    gguf_set_arr_data(to, key, gguf_get_arr_type(from, id), gguf_get_arr_data(from, id), n);
  }
}

Result<std::size_t> array_length(const gguf_context* gguf, const char* key, gguf_type type,
                                 const std::string& path) {
  const std::int64_t id = gguf_find_key(gguf, key);
  if (id < 0) return 0;
  if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY || gguf_get_arr_type(gguf, id) != type) {
    return fail(ErrorCode::kInvalidFile, "{}: {} is no array of {}", path, key, gguf_type_name(type));
  }
  return gguf_get_arr_n(gguf, id);
}

// Copies every tokenizer.* key and returns the token list for padding.
Result<Vocabulary> copy_tokenizer(gguf_context* to, const std::filesystem::path& file) {
  const std::string path = file.string();
  const GgufPtr from(gguf_init_from_file(path.c_str(), gguf_init_params{.no_alloc = true, .ctx = nullptr}));
  if (!from) return fail(ErrorCode::kInvalidFile, "{}: cannot be read as GGUF to copy its tokenizer", path);
  for (std::int64_t id = 0; id < gguf_get_n_kv(from.get()); ++id) {
    if (std::string_view(gguf_get_key(from.get(), id)).starts_with("tokenizer."))
      copy_key(to, from.get(), id);
  }
  HEARTH_TRY(const std::size_t n, array_length(to, "tokenizer.ggml.tokens", GGUF_TYPE_STRING, path));
  HEARTH_TRY(const std::size_t n_types, array_length(to, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, path));
  HEARTH_TRY(const std::size_t n_scores, array_length(to, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, path));
  if (n == 0) return fail(ErrorCode::kInvalidFile, "{}: has no tokenizer.ggml.tokens to copy", path);
  if ((n_types != 0 && n_types != n) || (n_scores != 0 && n_scores != n)) {
    return fail(ErrorCode::kInvalidFile, "{}: {} tokens but {} token types and {} scores", path, n, n_types,
                n_scores);
  }
  Vocabulary v;
  const std::int64_t tokens = gguf_find_key(to, "tokenizer.ggml.tokens");
  for (std::size_t i = 0; i < n; ++i) v.tokens.emplace_back(gguf_get_arr_str(to, tokens, i));
  v.types.assign(n, kTypeNormal);
  if (n_types != 0) {
    const auto* data = static_cast<const std::int32_t*>(
        gguf_get_arr_data(to, gguf_find_key(to, "tokenizer.ggml.token_type")));
    v.types.assign(data, data + n);
  }
  if (n_scores != 0) {
    const auto* data =
        static_cast<const float*>(gguf_get_arr_data(to, gguf_find_key(to, "tokenizer.ggml.scores")));
    v.scores.assign(data, data + n);
  }
  return v;
}

// <unk>, <s>, </s>, the 256 bytes and the space, which SPM writes as U+2581: the smallest vocabulary for any
// text.
Vocabulary make_tokenizer(gguf_context* to) {
  Vocabulary v{.tokens = {"<unk>", "<s>", "</s>"},
               .types = {kTypeUnknown, kTypeControl, kTypeControl},
               .scores = {0, 0, 0}};
  for (int byte = 0; byte < 256; ++byte) {
    v.tokens.push_back(std::format("<0x{:02X}>", byte));
    v.types.push_back(kTypeByte);
    v.scores.push_back(0);
  }
  v.tokens.emplace_back("\xE2\x96\x81");
  v.types.push_back(kTypeNormal);
  v.scores.push_back(0);
  gguf_set_val_str(to, "tokenizer.ggml.model", "llama");
  gguf_set_val_str(to, "tokenizer.ggml.pre", "default");
  gguf_set_val_u32(to, "tokenizer.ggml.unknown_token_id", 0);
  gguf_set_val_u32(to, "tokenizer.ggml.bos_token_id", 1);
  gguf_set_val_u32(to, "tokenizer.ggml.eos_token_id", 2);
  gguf_set_val_bool(to, "tokenizer.ggml.add_bos_token", true);
  gguf_set_val_bool(to, "tokenizer.ggml.add_space_prefix", false);
  return v;
}

// libllama asks a phi3 vocabulary for these by name and loads none without.
void add_phi_tokens(Vocabulary& v) {
  for (const char* token : {"<unk>", "<s>", "</s>", "<|endoftext|>"}) {
    if (std::ranges::contains(v.tokens, token)) continue;
    v.tokens.emplace_back(token);
    v.types.push_back(kTypeControl);
    if (!v.scores.empty()) v.scores.push_back(0);
  }
}

void set_architecture_keys(gguf_context* to, const SynthSpec& spec, const PlannedModel& planned) {
  const Shape& s = spec.shape;
  const model::ArchTraits& arch = *planned.arch;
  const model::HyperParams& p = planned.params;
  const auto key = [&](std::string_view name) { return std::format("{}.{}", arch.name, name); };
  const auto u32 = [&](std::string_view name, std::uint32_t value) {
    gguf_set_val_u32(to, key(name).c_str(), value);
  };
  const auto f32 = [&](std::string_view name, float value) {
    gguf_set_val_f32(to, key(name).c_str(), value);
  };

  gguf_set_val_str(to, "general.architecture", std::string(arch.name).c_str());
  gguf_set_val_str(
      to, "general.name",
      std::format("synthetic {} {}x{} seed {}", arch.name, s.n_layer, s.n_embd, spec.seed).c_str());
  gguf_set_val_u32(to, "general.file_type", static_cast<std::uint32_t>(file_type(spec.type)));
  gguf_set_val_u32(to, "general.quantization_version", GGML_QNT_VERSION);
  u32("block_count", s.n_layer);
  u32("context_length", s.n_ctx);
  u32("embedding_length", s.n_embd);
  u32("feed_forward_length", s.n_ff);
  u32("attention.head_count", s.n_head);
  u32("attention.head_count_kv", s.n_head_kv);
  u32("attention.key_length", s.head_dim);
  u32("attention.value_length", s.head_dim);
  f32("attention.layer_norm_rms_epsilon", p.rms_eps);
  u32("rope.dimension_count", p.n_rot);
  f32("rope.freq_base", p.rope_freq_base);
  if (spec.rope_scale_linear > 0) {
    gguf_set_val_str(to, key("rope.scaling.type").c_str(), "linear");
    f32("rope.scaling.factor", spec.rope_scale_linear);
  }
  if (spec.rope_yarn > 0) {
    gguf_set_val_str(to, key("rope.scaling.type").c_str(), "yarn");
    f32("rope.scaling.factor", spec.rope_yarn);
  }
  if (p.n_ctx_orig != s.n_ctx) u32("rope.scaling.original_context_length", p.n_ctx_orig);
  if (p.rope_attn_factor != 1) f32("rope.scaling.attn_factor", p.rope_attn_factor);
  if (p.n_swa > 0) u32("attention.sliding_window", p.n_swa);
  if (p.n_expert > 0) {
    u32("expert_count", p.n_expert);
    u32("expert_used_count", p.n_expert_used);
    if (arch.experts == model::Presence::kYes) u32("expert_feed_forward_length", p.n_ff_exp);
    if (arch.shared_expert) u32("expert_shared_feed_forward_length", p.n_ff_shared);
  }
  if (p.attention_cap > 0) f32("attn_logit_softcapping", p.attention_cap);
  if (p.logit_cap > 0) f32("final_logit_softcapping", p.logit_cap);
  if (arch.file_scales) {
    f32("embedding_scale", p.embedding_scale);
    f32("residual_scale", p.residual_scale);
    f32("attention.scale", p.attention_scale);
    f32("logit_scale", 1 / p.logit_scale);
  }
  u32("vocab_size", p.n_vocab);
}

}  // namespace

Result<Metadata> make_metadata(const SynthSpec& spec) {
  Metadata result{.gguf = GgufPtr(gguf_init_empty()), .model = {}};
  gguf_context* gguf = result.gguf.get();

  Vocabulary vocabulary;
  if (spec.vocab_from.empty()) {
    vocabulary = make_tokenizer(gguf);
  } else {
    HEARTH_TRY(vocabulary, copy_tokenizer(gguf, spec.vocab_from));
  }
  if (spec.arch == "phi3") add_phi_tokens(vocabulary);
  const auto n_tokens = static_cast<std::uint32_t>(vocabulary.tokens.size());
  const std::uint32_t n_vocab = spec.shape.n_vocab == 0 ? n_tokens : spec.shape.n_vocab;
  if (n_vocab < n_tokens) {
    return fail(ErrorCode::kInvalidArgument,
                "--vocab is {} but the tokenizer has {} tokens; give at least as many", n_vocab, n_tokens);
  }
  for (std::uint32_t i = n_tokens; i < n_vocab; ++i) {
    vocabulary.tokens.push_back(std::format("<|unused_{}|>", i));
    vocabulary.types.push_back(kTypeUnused);
    if (!vocabulary.scores.empty()) vocabulary.scores.push_back(-1e6f);
  }
  set_strings(gguf, "tokenizer.ggml.tokens", vocabulary.tokens);
  gguf_set_arr_data(gguf, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, vocabulary.types.data(), n_vocab);
  if (!vocabulary.scores.empty()) {
    gguf_set_arr_data(gguf, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, vocabulary.scores.data(), n_vocab);
  }
  HEARTH_TRY(result.model, plan_model(spec, n_vocab));
  set_architecture_keys(gguf, spec, result.model);
  return result;
}

}  // namespace hearth::synth
