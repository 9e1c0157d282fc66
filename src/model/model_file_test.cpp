#include "model/model_file.h"

#include <functional>
#include <map>
#include <ranges>

#include <ggml.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/limits.h"
#include "model/test_model.h"

namespace hearth::model {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

Result<ModelFile> read(const TinyModel& tiny) {
  auto file = tiny.parse();
  if (!file) {
    ADD_FAILURE() << "the view of the file refused it: " << file.error().message;
    return pass(std::move(file));
  }
  return ModelFile::from(std::move(*file));
}

std::vector<std::string> names(const std::vector<SegmentTensor>& segment) {
  std::vector<std::string> result;
  for (const SegmentTensor& t : segment) result.push_back(t.tensor->name);
  return result;
}

TEST(Architectures, Rows) {
  std::vector<std::string> found;
  for (const ArchTraits& arch : architectures()) found.emplace_back(arch.name);
  EXPECT_THAT(found, ElementsAre("gemma2", "gemma3", "gpt-oss", "granite", "llama", "olmo2", "phi3", "qwen2",
                                 "qwen2moe", "qwen3", "qwen3moe", "smollm3"));
  ASSERT_NE(find_architecture("qwen3"), nullptr);
  EXPECT_EQ(find_architecture("qwen3")->qk_norm, QkNorm::kHead);
  EXPECT_EQ(find_architecture("llama")->rope, RopeKind::kInterleaved);
  EXPECT_EQ(find_architecture("qwen2")->rope, RopeKind::kHalves);
  EXPECT_EQ(find_architecture("gpt2"), nullptr);
  EXPECT_EQ(find_architecture(""), nullptr);
}

TEST(ModelFile, Llama) {
  const auto model = read(TinyModel("llama"));
  ASSERT_TRUE(model) << model.error().message;
  const HyperParams& p = model->params();
  EXPECT_EQ(p.name, "Tiny");
  EXPECT_EQ(p.n_layer, 2U);
  EXPECT_EQ(p.n_embd, 64U);
  EXPECT_EQ(p.n_vocab, 48U);
  EXPECT_EQ(p.n_ctx_train, 128U);
  EXPECT_EQ(p.n_head, 4U);
  EXPECT_EQ(p.n_head_kv, 2U);
  EXPECT_EQ(p.n_ff, 96U);
  EXPECT_EQ(p.head_dim_k, 16U);
  EXPECT_EQ(p.head_dim_v, 16U);
  EXPECT_EQ(p.n_rot, 16U);
  EXPECT_EQ(p.n_embd_q(), 64U);
  EXPECT_EQ(p.n_embd_k(), 32U);
  EXPECT_EQ(p.n_embd_v(), 32U);
  EXPECT_EQ(p.rms_eps, 1e-5F);
  EXPECT_EQ(p.rope_freq_base, 10000.0F);
  EXPECT_EQ(p.rope_freq_scale, 1.0F);
  EXPECT_EQ(p.rope_scaling, RopeScaling::kNone);
  EXPECT_EQ(model->arch().name, "llama");
  EXPECT_FALSE(model->tied_embeddings());

  EXPECT_THAT(names(model->segment(SegmentId::embedding())), ElementsAre("token_embd.weight"));
  EXPECT_THAT(names(model->segment(SegmentId::output())), ElementsAre("output_norm.weight", "output.weight"));
  EXPECT_THAT(names(model->segment(SegmentId::of_layer(1))),
              ElementsAre("blk.1.attn_norm.weight", "blk.1.attn_q.weight", "blk.1.attn_k.weight",
                          "blk.1.attn_v.weight", "blk.1.attn_output.weight", "blk.1.ffn_norm.weight",
                          "blk.1.ffn_gate.weight", "blk.1.ffn_up.weight", "blk.1.ffn_down.weight"));
  EXPECT_EQ(model->segment(SegmentId::of_layer(0))[2].role, Role::kAttnK);
  // F16 matrices, F32 norms.
  EXPECT_EQ(model->segment_bytes(SegmentId::embedding()), 64U * 48 * 2);
  EXPECT_EQ(model->segment_bytes(SegmentId::output()), 64U * 48 * 2 + 64 * 4);
  EXPECT_EQ(model->segment_bytes(SegmentId::of_layer(0)),
            (64U * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96) * 2 + 2 * 64 * 4);
}

TEST(ModelFile, Qwen2HasBiases) {
  const auto model = read(TinyModel("qwen2"));
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_THAT(names(model->segment(SegmentId::of_layer(0))),
              ElementsAre("blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight",
                          "blk.0.attn_v.weight", "blk.0.attn_q.bias", "blk.0.attn_k.bias",
                          "blk.0.attn_v.bias", "blk.0.attn_output.weight", "blk.0.ffn_norm.weight",
                          "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"));
}

TEST(ModelFile, Qwen3HasHeadNorms) {
  const auto model = read(TinyModel("qwen3"));
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_THAT(names(model->segment(SegmentId::of_layer(0))),
              ElementsAre("blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight",
                          "blk.0.attn_v.weight", "blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight",
                          "blk.0.attn_output.weight", "blk.0.ffn_norm.weight", "blk.0.ffn_gate.weight",
                          "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"));
}

TEST(ModelFile, HeadsNeedNotDivideTheEmbedding) {
  // Qwen3's heads are longer than n_embd / n_head.
  TinyModel tiny("qwen3");
  tiny.set(tiny.u32("attention.key_length", 32)).set(tiny.u32("attention.value_length", 32));
  for (const std::string il : {"0", "1"}) {
    tiny.add("blk." + il + ".attn_q.weight", {64, 128}, kF16)
        .add("blk." + il + ".attn_k.weight", {64, 64}, kF16);
    tiny.add("blk." + il + ".attn_v.weight", {64, 64}, kF16)
        .add("blk." + il + ".attn_output.weight", {128, 64}, kF16);
    tiny.add("blk." + il + ".attn_q_norm.weight", {32}, kF32)
        .add("blk." + il + ".attn_k_norm.weight", {32}, kF32);
  }
  const auto model = read(tiny);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->params().head_dim_k, 32U);
  EXPECT_EQ(model->params().n_rot, 32U);
  EXPECT_EQ(model->params().n_embd_q(), 128U);
}

TEST(ModelFile, TiedEmbeddings) {
  TinyModel tiny("llama");
  tiny.drop_tensor("output.weight");
  const auto model = read(tiny);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_TRUE(model->tied_embeddings());
  const auto& output = model->segment(SegmentId::output());
  EXPECT_THAT(names(output), ElementsAre("output_norm.weight", "token_embd.weight"));
  EXPECT_EQ(output[1].role, Role::kOutput);
  EXPECT_EQ(output[1].tensor, model->segment(SegmentId::embedding())[0].tensor);
}

TEST(ModelFile, RopeFactorsBelongToEveryLayer) {
  TinyModel tiny("llama");
  tiny.add("rope_freqs.weight", {8}, kF32);
  const auto plain = read(TinyModel("llama"));
  const auto model = read(tiny);
  ASSERT_TRUE(plain && model);
  for (const std::uint32_t il : {0U, 1U}) {
    const auto& layer = model->segment(SegmentId::of_layer(il));
    // Read with the rotations: after the projections, before the attention's output.
    EXPECT_EQ(layer[4].role, Role::kRopeFactors);
    EXPECT_EQ(layer[4].tensor->name, "rope_freqs.weight");
    EXPECT_EQ(layer[5].role, Role::kAttnOutput);
    // They are shared, so no layer is charged for them.
    EXPECT_EQ(model->segment_bytes(SegmentId::of_layer(il)), plain->segment_bytes(SegmentId::of_layer(il)));
  }
}

TEST(ModelFile, OptionalBiasesOfLlama) {
  TinyModel tiny("llama");
  for (const std::string il : {"0", "1"}) {
    tiny.add("blk." + il + ".attn_q.bias", {64}, kF32).add("blk." + il + ".attn_output.bias", {64}, kF32);
  }
  const auto model = read(tiny);
  ASSERT_TRUE(model) << model.error().message;
  std::vector<Role> roles;
  for (const SegmentTensor& t : model->segment(SegmentId::of_layer(1))) roles.push_back(t.role);
  EXPECT_THAT(roles, ElementsAre(Role::kAttnNorm, Role::kAttnQ, Role::kAttnK, Role::kAttnV, Role::kAttnQBias,
                                 Role::kAttnOutput, Role::kAttnOutputBias, Role::kFfnNorm, Role::kFfnGate,
                                 Role::kFfnUp, Role::kFfnDown));
}

TEST(ModelFile, SurvivesAMove) {
  auto model = read(TinyModel("llama"));
  ASSERT_TRUE(model);
  const ModelFile moved = std::move(*model);
  EXPECT_EQ(moved.segment(SegmentId::embedding())[0].tensor->name, "token_embd.weight");
  EXPECT_EQ(moved.file().tensors().data(), moved.segment(SegmentId::embedding())[0].tensor);
}

TEST(ModelFile, RopeScaling) {
  struct Case {
    const char* what;
    std::function<void(TinyModel&)> change;
    float scale;
    RopeScaling scaling;
  };
  const Case cases[] = {
      {"linear",
       [](TinyModel& m) {
         m.set(m.text("rope.scaling.type", "linear")).set(m.f32("rope.scaling.factor", 4));
       },
       0.25F, RopeScaling::kLinear},
      {"linear is the default type", [](TinyModel& m) { m.set(m.f32("rope.scaling.factor", 2)); }, 0.5F,
       RopeScaling::kLinear},
      {"old key", [](TinyModel& m) { m.set(m.f32("rope.scale_linear", 2)); }, 0.5F, RopeScaling::kLinear},
      {"the new key wins",
       [](TinyModel& m) { m.set(m.f32("rope.scale_linear", 2)).set(m.f32("rope.scaling.factor", 8)); },
       0.125F, RopeScaling::kLinear},
      {"factor 0 means none", [](TinyModel& m) { m.set(m.f32("rope.scaling.factor", 0)); }, 1.0F,
       RopeScaling::kNone},
      {"factor 1", [](TinyModel& m) { m.set(m.f32("rope.scaling.factor", 1)); }, 1.0F, RopeScaling::kNone},
      {"linear without factor", [](TinyModel& m) { m.set(m.text("rope.scaling.type", "linear")); }, 1.0F,
       RopeScaling::kNone},
      {"none ignores the factor",
       [](TinyModel& m) { m.set(m.text("rope.scaling.type", "none")).set(m.f32("rope.scaling.factor", 4)); },
       1.0F, RopeScaling::kNone},
  };
  for (const Case& c : cases) {
    TinyModel tiny("llama");
    c.change(tiny);
    const auto model = read(tiny);
    ASSERT_TRUE(model) << c.what << ": " << model.error().message;
    EXPECT_EQ(model->params().rope_freq_scale, c.scale) << c.what;
    EXPECT_EQ(model->params().rope_scaling, c.scaling) << c.what;
  }
}

TEST(ModelFile, Yarn) {
  TinyModel tiny("llama");
  tiny.set(tiny.text("rope.scaling.type", "yarn")).set(tiny.f32("rope.scaling.factor", 4));
  tiny.set(tiny.u32("rope.scaling.original_context_length", 32));
  const auto model = read(tiny);
  ASSERT_TRUE(model) << model.error().message;
  const HyperParams& p = model->params();
  EXPECT_EQ(p.rope_scaling, RopeScaling::kYarn);
  EXPECT_EQ(p.n_ctx_orig, 32U);
  const Rope rope = p.rope(1);
  EXPECT_EQ(rope.freq_scale, 0.25F);
  EXPECT_EQ(rope.ext_factor, 1.0F);
  // ggml makes it longer by 1 + 0.1 ln 4 on its own, and that is all it should be.
  EXPECT_NEAR(rope.attn_factor, 1.0F, 1e-6F);
  EXPECT_EQ(p.yarn_beta_fast, 32.0F);
  EXPECT_EQ(p.yarn_beta_slow, 1.0F);
}

TEST(ModelFile, Gemma2) {
  TinyModel tiny("gemma2");
  const auto model = read(tiny);
  ASSERT_TRUE(model) << model.error().message;
  const HyperParams& p = model->params();
  EXPECT_TRUE(model->tied_embeddings());
  EXPECT_EQ(p.n_swa, 4096U);
  EXPECT_THAT(p.sliding, ElementsAre(true, false));
  EXPECT_EQ(p.embedding_scale, 8.0F);   // sqrt(64)
  EXPECT_EQ(p.attention_scale, 0.25F);  // 1 / sqrt(16)
  EXPECT_EQ(p.attention_cap, 50.0F);
  EXPECT_EQ(p.logit_cap, 30.0F);
  EXPECT_THAT(
      names(model->segment(SegmentId::of_layer(0))),
      ElementsAre("blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight",
                  "blk.0.attn_v.weight", "blk.0.attn_output.weight", "blk.0.post_attention_norm.weight",
                  "blk.0.ffn_norm.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight",
                  "blk.0.ffn_down.weight", "blk.0.post_ffw_norm.weight"));

  tiny.set(tiny.u32("attention.sliding_window", 100)).set(tiny.f32("final_logit_softcapping", 20));
  tiny.set(gguf::array_key("gemma2.attention.sliding_window_pattern", 7, 2, std::string("\0\1", 2)));
  const auto other = read(tiny);
  ASSERT_TRUE(other) << other.error().message;
  EXPECT_EQ(other->params().n_swa, 100U);
  EXPECT_THAT(other->params().sliding, ElementsAre(false, true));
  EXPECT_EQ(other->params().logit_cap, 20.0F);
  tiny.set(tiny.f32("final_logit_softcapping", 0));
  const auto uncapped = read(tiny);
  ASSERT_TRUE(uncapped) << uncapped.error().message;
  EXPECT_EQ(uncapped->params().logit_cap, 0.0F);
  // 100 tokens back for each of 2 sequences, and a batch of 64: 264, padded to 512; never more than all.
  EXPECT_EQ(other->params().kv_cells(1, 1024, 64, 2, 256), 512U);
  EXPECT_EQ(other->params().kv_cells(1, 256, 64, 2, 256), 256U);
  EXPECT_EQ(other->params().kv_cells(0, 1024, 64, 2, 256), 1024U);
}

TEST(ModelFile, Experts) {
  TinyModel tiny("qwen3moe");
  const auto model = read(tiny);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->params().n_expert, 4U);
  EXPECT_EQ(model->params().n_expert_used, 2U);
  EXPECT_EQ(model->params().n_ff_exp, 32U);
  const auto& layer = model->segment(SegmentId::of_layer(1));
  EXPECT_EQ(layer.back().role, Role::kExpertsDown);
  EXPECT_EQ(layer.back().tensor->n_rows(), 4 * 64);

  tiny.drop("expert_feed_forward_length");  // then 96 / 2
  const auto share = read(tiny);
  ASSERT_FALSE(share);
  EXPECT_THAT(share.error().message,
              HasSubstr("'blk.0.ffn_gate_exps.weight' has shape [64, 32, 4], expected [64, 48, 4]"));
}

TEST(ModelFile, Phi3) {
  TinyModel tiny("phi3");
  tiny.set(tiny.u32("rope.dimension_count", 12)).set(tiny.f32("rope.scaling.attn_factor", 1.25F));
  tiny.set(tiny.u32("attention.sliding_window", 64));
  tiny.add("rope_factors_long.weight", {6}, kF32).add("rope_factors_short.weight", {6}, kF32);
  const auto model = read(tiny);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->params().n_rot, 12U);
  EXPECT_EQ(model->params().rope(0).attn_factor, 1.25F);
  EXPECT_TRUE(model->params().sliding.empty()) << "as libllama";
  EXPECT_THAT(names(model->segment(SegmentId::of_layer(1))),
              ElementsAre("blk.1.attn_norm.weight", "blk.1.attn_qkv.weight", "rope_factors_long.weight",
                          "rope_factors_short.weight", "blk.1.attn_output.weight", "blk.1.ffn_norm.weight",
                          "blk.1.ffn_up.weight", "blk.1.ffn_down.weight"));
}

TEST(ModelFile, AcceptsOtherSpellings) {
  struct Case {
    const char* what;
    std::function<void(TinyModel&)> change;
  };
  const Case cases[] = {
      {"no KV heads given: as many as heads",
       [](TinyModel& m) {
         m.drop("attention.head_count_kv");
         for (const std::string il : {"0", "1"})
           m.add("blk." + il + ".attn_k.weight", {64, 64}, kF16)
               .add("blk." + il + ".attn_v.weight", {64, 64}, kF16);
       }},
      {"equal numbers per layer",
       [](TinyModel& m) {
         m.set(m.u32s("attention.head_count", {4, 4})).set(m.u32s("attention.head_count_kv", {2, 2}));
         m.set(m.u32s("feed_forward_length", {96, 96}));
       }},
      {"other integer types",
       [](TinyModel& m) {
         m.set(gguf::u16_key("llama.block_count", 2)).set(gguf::i32_key("llama.embedding_length", 64));
       }},
      {"no experts", [](TinyModel& m) { m.set(m.u32("expert_count", 0)); }},
      {"causal", [](TinyModel& m) { m.set(gguf::bool_key("llama.attention.causal", 1)); }},
      {"no name", [](TinyModel& m) { m.drop_key("general.name"); }},
      {"quantized", [](TinyModel& m) { m.add("token_embd.weight", {64, 48}, kQ8_0); }},
      {"F32 matrices", [](TinyModel& m) { m.add("blk.0.attn_q.weight", {64, 64}, kF32); }},
      {"a matching vocabulary",
       [](TinyModel& m) {
         m.set(gguf::string_array_key("tokenizer.ggml.tokens", std::vector<std::string>(48, "x")));
       }},
      {"a factor of attention that does nothing",
       [](TinyModel& m) { m.set(m.f32("rope.scaling.attn_factor", 1)); }},
  };
  for (const Case& c : cases) {
    TinyModel tiny("llama");
    c.change(tiny);
    const auto model = read(tiny);
    EXPECT_TRUE(model) << c.what << ": " << model.error().message;
  }
}

struct BadCase {
  const char* name;
  const char* arch;
  std::function<void(TinyModel&)> change;
  ErrorCode code;
  const char* message;
};

void PrintTo(const BadCase& c, std::ostream* out) {
  *out << c.name;
}

class BadModel : public testing::TestWithParam<BadCase> {};

TEST_P(BadModel, IsRefusedByName) {
  const BadCase& c = GetParam();
  TinyModel tiny(c.arch);
  c.change(tiny);
  const auto model = read(tiny);
  ASSERT_FALSE(model);
  EXPECT_EQ(name(model.error().code), name(c.code)) << model.error().message;
  EXPECT_THAT(model.error().message, AllOf(StartsWith("GGUF header: "), HasSubstr(c.message)));
}

constexpr auto kInvalid = ErrorCode::kInvalidFile;
constexpr auto kUnsupported = ErrorCode::kUnsupported;

const BadCase kKeyCases[] = {
    {"UnknownArchitecture", "llama",
     [](TinyModel& m) { m.set(gguf::string_key("general.architecture", "gpt2")); }, kUnsupported,
     "architecture 'gpt2' cannot be run; supported are: gemma2, gemma3, gpt-oss, granite, llama, "},
    {"HostileArchitectureName", "llama",
     [](TinyModel& m) { m.set(gguf::string_key("general.architecture", "\x1b[2Jx")); }, kUnsupported,
     "architecture '\\x1b[2Jx' cannot be run"},
    {"NoArchitecture", "llama", [](TinyModel& m) { m.drop_key("general.architecture"); }, kInvalid,
     "key 'general.architecture' is missing"},
    {"ArchitectureIsANumber", "llama", [](TinyModel& m) { m.set(gguf::u32_key("general.architecture", 1)); },
     kInvalid, "key 'general.architecture' has type u32, expected string"},
    {"NameIsANumber", "llama", [](TinyModel& m) { m.set(gguf::u32_key("general.name", 1)); }, kInvalid,
     "key 'general.name' has type u32"},
    {"NoBlockCount", "llama", [](TinyModel& m) { m.drop("block_count"); }, kInvalid,
     "key 'llama.block_count' is missing"},
    {"NoContextLength", "qwen2", [](TinyModel& m) { m.drop("context_length"); }, kInvalid,
     "key 'qwen2.context_length' is missing"},
    {"NoEmbeddingLength", "llama", [](TinyModel& m) { m.drop("embedding_length"); }, kInvalid,
     "key 'llama.embedding_length' is missing"},
    {"NoFeedForwardLength", "llama", [](TinyModel& m) { m.drop("feed_forward_length"); }, kInvalid,
     "key 'llama.feed_forward_length' is missing"},
    {"NoHeadCount", "llama", [](TinyModel& m) { m.drop("attention.head_count"); }, kInvalid,
     "key 'llama.attention.head_count' is missing"},
    {"NoEpsilon", "qwen3", [](TinyModel& m) { m.drop("attention.layer_norm_rms_epsilon"); }, kInvalid,
     "key 'qwen3.attention.layer_norm_rms_epsilon' is missing"},
    {"ZeroLayers", "llama", [](TinyModel& m) { m.set(m.u32("block_count", 0)); }, kInvalid,
     "key 'llama.block_count' is 0, expected 1 to 512"},
    {"WildLayers", "llama", [](TinyModel& m) { m.set(m.u32("block_count", 0xFFFFFFFF)); }, kInvalid,
     "key 'llama.block_count' is 4294967295, expected 1 to 512"},
    {"NegativeLayers", "llama", [](TinyModel& m) { m.set(gguf::i32_key("llama.block_count", -2)); }, kInvalid,
     "key 'llama.block_count' is -2"},
    {"ZeroContext", "llama", [](TinyModel& m) { m.set(m.u32("context_length", 0)); }, kInvalid,
     "key 'llama.context_length' is 0"},
    {"WildEmbedding", "llama", [](TinyModel& m) { m.set(m.u32("embedding_length", 1U << 31)); }, kInvalid,
     "key 'llama.embedding_length' is 2147483648, expected 1 to 131072"},
    {"ZeroHeads", "llama", [](TinyModel& m) { m.set(m.u32("attention.head_count", 0)); }, kInvalid,
     "key 'llama.attention.head_count' is 0, expected 1 to 1024"},
    {"ZeroKvHeads", "llama", [](TinyModel& m) { m.set(m.u32("attention.head_count_kv", 0)); }, kInvalid,
     "key 'llama.attention.head_count_kv' is 0"},
    {"KvHeadsDoNotDivide", "llama", [](TinyModel& m) { m.set(m.u32("attention.head_count_kv", 3)); },
     kInvalid, "key 'llama.attention.head_count_kv' is 3, which does not divide the 4 heads"},
    {"MoreKvHeadsThanHeads", "llama", [](TinyModel& m) { m.set(m.u32("attention.head_count_kv", 8)); },
     kInvalid, "does not divide"},
    {"HeadsDoNotDivideTheEmbedding", "llama",
     [](TinyModel& m) { m.set(m.u32("attention.head_count", 3)).set(m.u32("attention.head_count_kv", 3)); },
     kInvalid, "the embedding length 64 is no multiple of the 3 heads"},
    {"HeadsDifferBetweenLayers", "llama",
     [](TinyModel& m) { m.set(m.u32s("attention.head_count_kv", {2, 4})); }, kUnsupported,
     "key 'llama.attention.head_count_kv' differs between layers (2 in layer 0, 4 in layer 1)"},
    {"HeadsForTooFewLayers", "llama", [](TinyModel& m) { m.set(m.u32s("attention.head_count", {4})); },
     kInvalid,
     "key 'llama.attention.head_count' has 1 numbers, expected one, or one for each of the 2 layers"},
    {"HeadsForNoLayers", "llama", [](TinyModel& m) { m.set(m.u32s("attention.head_count", {})); }, kInvalid,
     "has 0 numbers"},
    {"NegativeHeadsPerLayer", "llama",
     [](TinyModel& m) {
       m.set(gguf::array_key("llama.attention.head_count", 5, 2, gguf::encoded(-4) + gguf::encoded(-4)));
     },
     kInvalid, "key 'llama.attention.head_count' is -4"},
    {"HeadsAreText", "llama", [](TinyModel& m) { m.set(m.text("attention.head_count", "4")); }, kInvalid,
     "key 'llama.attention.head_count' has type string"},
    {"HeadsAreFloats", "llama", [](TinyModel& m) { m.set(m.f32("attention.head_count", 4)); }, kInvalid,
     "key 'llama.attention.head_count' has type f32"},
    {"FeedForwardDiffers", "llama", [](TinyModel& m) { m.set(m.u32s("feed_forward_length", {96, 128})); },
     kUnsupported, "key 'llama.feed_forward_length' differs between layers"},
    {"ZeroKeyLength", "llama", [](TinyModel& m) { m.set(m.u32("attention.key_length", 0)); }, kInvalid,
     "key 'llama.attention.key_length' is 0, expected 1 to 1024"},
    {"KeysAndValuesDiffer", "llama", [](TinyModel& m) { m.set(m.u32("attention.value_length", 8)); },
     kUnsupported, "heads have 16 values for keys and 8 for values"},
    {"OddRope", "llama", [](TinyModel& m) { m.set(m.u32("rope.dimension_count", 15)); }, kInvalid,
     "must be even"},
    {"PartialRope", "qwen2", [](TinyModel& m) { m.set(m.u32("rope.dimension_count", 8)); }, kUnsupported,
     "key 'qwen2.rope.dimension_count' is 8; only RoPE over whole heads (16 values) can be run"},
    {"EpsilonZero", "llama", [](TinyModel& m) { m.set(m.f32("attention.layer_norm_rms_epsilon", 0)); },
     kInvalid, "key 'llama.attention.layer_norm_rms_epsilon' is 0, expected a finite number above 0"},
    {"EpsilonIsNotANumber", "llama",
     [](TinyModel& m) {
       m.set(m.f32("attention.layer_norm_rms_epsilon", std::numeric_limits<float>::quiet_NaN()));
     },
     kInvalid, "key 'llama.attention.layer_norm_rms_epsilon' is nan"},
    {"NegativeFreqBase", "llama", [](TinyModel& m) { m.set(m.f32("rope.freq_base", -1)); }, kInvalid,
     "key 'llama.rope.freq_base' is -1"},
    {"InfiniteFreqBase", "llama",
     [](TinyModel& m) { m.set(m.f32("rope.freq_base", std::numeric_limits<float>::infinity())); }, kInvalid,
     "key 'llama.rope.freq_base' is inf"},
    {"NegativeScale", "llama", [](TinyModel& m) { m.set(m.f32("rope.scaling.factor", -2)); }, kInvalid,
     "key 'llama.rope.scaling.factor' is -2"},
    {"AbsurdScale", "llama", [](TinyModel& m) { m.set(m.f32("rope.scaling.factor", 1e-39F)); }, kInvalid,
     "key 'llama.rope.scaling.factor' is"},
    {"DynamicRope", "qwen2", [](TinyModel& m) { m.set(m.text("rope.scaling.type", "dynamic")); },
     kUnsupported,
     "key 'qwen2.rope.scaling.type' is 'dynamic': of the RoPE scalings 'none', 'linear', 'yarn'"},
    {"YarnOfDeepSeek", "qwen2",
     [](TinyModel& m) {
       m.set(m.text("rope.scaling.type", "yarn")).set(m.f32("rope.scaling.yarn_log_multiplier", 0.1F));
     },
     kUnsupported, "key 'qwen2.rope.scaling.yarn_log_multiplier' is 0.1"},
    {"YarnOfATinyFactor", "qwen2",
     [](TinyModel& m) {
       // 1 + 0.1 ln(factor) is 0 there.
       m.set(m.text("rope.scaling.type", "yarn")).set(m.f32("rope.scaling.factor", 4.539993e-05F));
     },
     kInvalid, "key 'qwen2.rope.scaling.factor' is"},
    {"YarnWithoutBeta", "qwen2",
     [](TinyModel& m) {
       m.set(m.text("rope.scaling.type", "yarn")).set(m.f32("rope.scaling.yarn_beta_fast", 0));
     },
     kInvalid, "key 'qwen2.rope.scaling.yarn_beta_fast' is 0"},
    {"Longrope", "llama", [](TinyModel& m) { m.set(m.text("rope.scaling.type", "longrope")); }, kUnsupported,
     "is 'longrope'"},
    {"UnknownScaling", "llama", [](TinyModel& m) { m.set(m.text("rope.scaling.type", "")); }, kUnsupported,
     "is ''"},
    {"AttentionFactor", "llama", [](TinyModel& m) { m.set(m.f32("rope.scaling.attn_factor", -1.5)); },
     kInvalid, "key 'llama.rope.scaling.attn_factor' is -1.5"},
    {"ExpertsOfADenseArchitecture", "qwen2", [](TinyModel& m) { m.set(m.u32("expert_count", 8)); },
     kUnsupported, "key 'qwen2.expert_count' is 8: qwen2 models with a mixture of experts cannot be run"},
    {"ExpertsWithoutUse", "llama", [](TinyModel& m) { m.set(m.u32("expert_count", 8)); }, kInvalid,
     "key 'llama.expert_used_count' is missing"},
    {"NoExperts", "qwen3moe", [](TinyModel& m) { m.set(m.u32("expert_count", 0)); }, kInvalid,
     "key 'qwen3moe.expert_count' is 0, expected 1 to 4096"},
    {"OneExpert", "qwen3moe", [](TinyModel& m) { m.set(m.u32("expert_count", 1)); }, kUnsupported,
     "a mixture of fewer than 2 experts"},
    {"MoreExpertsUsedThanThereAre", "qwen3moe", [](TinyModel& m) { m.set(m.u32("expert_used_count", 5)); },
     kInvalid, "key 'qwen3moe.expert_used_count' is 5, but there are 4 experts"},
    {"TooManyExpertsUsed", "qwen3moe", [](TinyModel& m) { m.set(m.u32("expert_used_count", 65)); }, kInvalid,
     "key 'qwen3moe.expert_used_count' is 65, expected 1 to 64"},
    {"ExpertsInGroups", "qwen3moe", [](TinyModel& m) { m.set(m.u32("expert_group_count", 2)); }, kUnsupported,
     "key 'qwen3moe.expert_group_count' is 2"},
    {"ZeroCap", "gemma2", [](TinyModel& m) { m.set(m.f32("attn_logit_softcapping", 0)); }, kInvalid,
     "key 'gemma2.attn_logit_softcapping' is 0, expected a finite number above 0"},
    {"WindowTooLarge", "gemma2", [](TinyModel& m) { m.set(m.u32("attention.sliding_window", 0xFFFFFFFF)); },
     kInvalid, "key 'gemma2.attention.sliding_window' is 4294967295, expected at most 2147483647"},
    {"PatternOfAnotherLength", "gemma2",
     [](TinyModel& m) {
       m.set(gguf::array_key("gemma2.attention.sliding_window_pattern", 7, 3, std::string(3, 1)));
     },
     kInvalid, "key 'gemma2.attention.sliding_window_pattern' has 3 flags, expected one for each of the 2"},
    {"RopeLongerThanAHead", "phi3", [](TinyModel& m) { m.set(m.u32("rope.dimension_count", 32)); }, kInvalid,
     "key 'phi3.rope.dimension_count' is 32, but a head has 16 values"},
    {"NextTokenLayers", "qwen3", [](TinyModel& m) { m.set(m.u32("nextn_predict_layers", 1)); }, kUnsupported,
     "key 'qwen3.nextn_predict_layers' is 1"},
    {"NotCausal", "llama", [](TinyModel& m) { m.set(gguf::bool_key("llama.attention.causal", 0)); },
     kUnsupported, "key 'llama.attention.causal' is false"},
    {"VocabularyOfAnotherSize", "llama",
     [](TinyModel& m) { m.set(gguf::string_array_key("tokenizer.ggml.tokens", {"a", "b"})); }, kInvalid,
     "key 'tokenizer.ggml.tokens' has 2 pieces, but tensor 'token_embd.weight' has 48 rows"},
    {"VocabularyOfNumbers", "llama",
     [](TinyModel& m) { m.set(gguf::array_key("tokenizer.ggml.tokens", 4, 1, gguf::encoded(1U))); }, kInvalid,
     "key 'tokenizer.ggml.tokens' is array of u32, expected an array of strings"},
};

const BadCase kTensorCases[] = {
    {"NoEmbedding", "llama", [](TinyModel& m) { m.drop_tensor("token_embd.weight"); }, kInvalid,
     "tensor 'token_embd.weight' is missing"},
    {"NoOutputNorm", "llama", [](TinyModel& m) { m.drop_tensor("output_norm.weight"); }, kInvalid,
     "tensor 'output_norm.weight' is missing"},
    {"NoAttnNorm", "qwen3", [](TinyModel& m) { m.drop_tensor("blk.1.attn_norm.weight"); }, kInvalid,
     "tensor 'blk.1.attn_norm.weight' is missing"},
    {"NoQuery", "llama", [](TinyModel& m) { m.drop_tensor("blk.1.attn_q.weight"); }, kInvalid,
     "tensor 'blk.1.attn_q.weight' is missing"},
    {"FusedQkv", "llama",
     [](TinyModel& m) {
       m.drop_tensor("blk.0.attn_q.weight")
           .drop_tensor("blk.0.attn_k.weight")
           .drop_tensor("blk.0.attn_v.weight");
       m.add("blk.0.attn_qkv.weight", {64, 128}, kF16);
     },
     kInvalid, "tensor 'blk.0.attn_q.weight' is missing; the file has them fused as attn_qkv.weight"},
    {"NoDown", "llama", [](TinyModel& m) { m.drop_tensor("blk.0.ffn_down.weight"); }, kInvalid,
     "tensor 'blk.0.ffn_down.weight' is missing"},
    {"NoQwen2Bias", "qwen2", [](TinyModel& m) { m.drop_tensor("blk.0.attn_k.bias"); }, kInvalid,
     "tensor 'blk.0.attn_k.bias' is missing"},
    {"NoQwen3HeadNorm", "qwen3", [](TinyModel& m) { m.drop_tensor("blk.1.attn_q_norm.weight"); }, kInvalid,
     "tensor 'blk.1.attn_q_norm.weight' is missing"},
    {"LayersThatAreNotThere", "llama", [](TinyModel& m) { m.set(m.u32("block_count", 3)); }, kInvalid,
     "tensor 'blk.2.attn_norm.weight' is missing"},
    {"LayersTooMany", "llama", [](TinyModel& m) { m.set(m.u32("block_count", 1)); }, kUnsupported,
     "tensor 'blk.1.attn_norm.weight' plays no part in hearth's llama models"},
    {"EmbeddingOfAnotherWidth", "llama", [](TinyModel& m) { m.add("token_embd.weight", {32, 48}, kF16); },
     kInvalid, "tensor 'token_embd.weight' has shape [32, 48], expected [64, 48]"},
    {"OutputOfAnotherVocabulary", "llama", [](TinyModel& m) { m.add("output.weight", {64, 47}, kF16); },
     kInvalid, "tensor 'output.weight' has shape [64, 47], expected [64, 48]"},
    {"TransposedUp", "llama", [](TinyModel& m) { m.add("blk.0.ffn_up.weight", {96, 64}, kF16); }, kInvalid,
     "tensor 'blk.0.ffn_up.weight' has shape [96, 64], expected [64, 96]"},
    {"ThreeDimensions", "llama", [](TinyModel& m) { m.add("blk.0.attn_q.weight", {64, 64, 2}, kF16); },
     kInvalid, "tensor 'blk.0.attn_q.weight' has shape [64, 64, 2], expected [64, 64]"},
    {"NormIsAMatrix", "llama", [](TinyModel& m) { m.add("blk.0.attn_norm.weight", {64, 2}, kF32); }, kInvalid,
     "tensor 'blk.0.attn_norm.weight' has shape [64, 2], expected [64]"},
    {"ShortBias", "qwen2", [](TinyModel& m) { m.add("blk.0.attn_v.bias", {64}, kF32); }, kInvalid,
     "tensor 'blk.0.attn_v.bias' has shape [64], expected [32]"},
    {"LongHeadNorm", "qwen3", [](TinyModel& m) { m.add("blk.0.attn_k_norm.weight", {64}, kF32); }, kInvalid,
     "tensor 'blk.0.attn_k_norm.weight' has shape [64], expected [16]"},
    {"RopeFactorsOfAnotherLength", "llama", [](TinyModel& m) { m.add("rope_freqs.weight", {16}, kF32); },
     kInvalid, "tensor 'rope_freqs.weight' has shape [16], expected [8]"},
    {"RopeFactorsInF16", "llama", [](TinyModel& m) { m.add("rope_freqs.weight", {8}, kF16); }, kUnsupported,
     "tensor 'rope_freqs.weight' is F16; norms, biases and RoPE factors must be F32"},
    {"NormInF16", "llama", [](TinyModel& m) { m.add("output_norm.weight", {64}, kF16); }, kUnsupported,
     "tensor 'output_norm.weight' is F16"},
    {"BiasInF16", "qwen2", [](TinyModel& m) { m.add("blk.0.attn_q.bias", {64}, kF16); }, kUnsupported,
     "tensor 'blk.0.attn_q.bias' is F16"},
    {"MatrixOfIntegers", "llama", [](TinyModel& m) { m.add("blk.0.attn_q.weight", {64, 64}, 26); },
     kUnsupported, "tensor 'blk.0.attn_q.weight' is I32, a type that no weight matrix can have"},
    {"MatrixOfDoubles", "llama", [](TinyModel& m) { m.add("blk.0.attn_q.weight", {64, 64}, 28); },
     kUnsupported, "tensor 'blk.0.attn_q.weight' is F64"},
    {"MatrixOfActivations", "llama", [](TinyModel& m) { m.add("output.weight", {64, 48}, 9); }, kUnsupported,
     "tensor 'output.weight' is Q8_1"},
    {"LeftOverTensor", "llama", [](TinyModel& m) { m.add("blk.0.ffn_gate.bias", {96}, kF32); }, kUnsupported,
     "tensor 'blk.0.ffn_gate.bias' plays no part in hearth's llama models"},
    {"RopeFactorsInQwen", "qwen2", [](TinyModel& m) { m.add("rope_freqs.weight", {8}, kF32); }, kUnsupported,
     "tensor 'rope_freqs.weight' plays no part in hearth's qwen2 models"},
    {"HeadNormInLlama", "llama", [](TinyModel& m) { m.add("blk.0.attn_q_norm.weight", {16}, kF32); },
     kUnsupported, "plays no part"},
    {"ScaleTensor", "qwen3", [](TinyModel& m) { m.add("blk.0.ffn_up.scale", {1}, kF32); }, kUnsupported,
     "tensor 'blk.0.ffn_up.scale' plays no part"},
};

constexpr auto kCaseName = [](const auto& test) { return std::string(test.param.name); };
INSTANTIATE_TEST_SUITE_P(Keys, BadModel, testing::ValuesIn(kKeyCases), kCaseName);
INSTANTIATE_TEST_SUITE_P(Tensors, BadModel, testing::ValuesIn(kTensorCases), kCaseName);

TEST(Roles, EveryRoleIsInOneSegment) {
  std::map<Role, int> count;
  for (const auto kind : {SegmentId::Kind::kEmbedding, SegmentId::Kind::kLayer, SegmentId::Kind::kOutput}) {
    EXPECT_TRUE(std::ranges::is_sorted(roles_of(kind)));
    for (const Role role : roles_of(kind)) ++count[role];
  }
  for (std::size_t i = 0; i < kRoles; ++i) EXPECT_EQ(count[static_cast<Role>(i)], 1) << i;
}

TEST(Roles, Names) {
  const ArchTraits& llama = *find_architecture("llama");
  EXPECT_EQ(tensor_name(Role::kRopeFactors, llama, 7), "rope_freqs.weight");
  EXPECT_EQ(tensor_name(Role::kOutput, llama), "output.weight");
  EXPECT_EQ(tensor_name(Role::kAttnKNorm, llama, 7), "blk.7.attn_k_norm.weight");
  EXPECT_EQ(tensor_name(Role::kAttnOutputBias, llama, 0), "blk.0.attn_output.bias");
  EXPECT_EQ(tensor_name(Role::kFfnNorm, llama, 3), "blk.3.ffn_norm.weight");
  EXPECT_EQ(tensor_name(Role::kFfnNorm, *find_architecture("gpt-oss"), 3),
            "blk.3.post_attention_norm.weight");
  EXPECT_TRUE(is_vector(Role::kRopeFactors));
  EXPECT_FALSE(is_vector(Role::kTokenEmbedding));
}

// What ggml can turn into floats can be looked up and multiplied; what it cannot holds activations or
// integers.
TEST(MatrixTypes, AreThoseGgmlHasConversionsFor) {
  int accepted = 0;
  for (std::uint32_t number = 0; number < GGML_TYPE_COUNT; ++number) {
    if (gguf::type_info(number) == nullptr) continue;
    const auto type = static_cast<gguf::TensorType>(number);
    const bool converts =
        number == GGML_TYPE_F32 || ggml_get_type_traits(static_cast<ggml_type>(number))->to_float != nullptr;
    EXPECT_EQ(is_matrix_type(type), converts) << gguf::type_info(type).name;
    accepted += is_matrix_type(type);
  }
  EXPECT_EQ(accepted, 28);
}

struct ShippedCase {
  const char* file;
  std::uint32_t n_layer, n_embd, n_head, n_head_kv, n_ff;
};

TEST(ModelFile, OpensTheShippedModels) {
  for (const auto& c : {ShippedCase{"ember-q8_0.gguf", 8, 256, 8, 4, 768},
                        ShippedCase{"ember-q4_k_m.gguf", 8, 256, 8, 4, 768},
                        ShippedCase{"spark-q8_0.gguf", 2, 128, 4, 2, 384}}) {
    const auto model = ModelFile::open(std::string(HEARTH_SOURCE_DIR "/models/") + c.file);
    ASSERT_TRUE(model) << model.error().message;
    const HyperParams& p = model->params();
    EXPECT_EQ(p.n_layer, c.n_layer);
    EXPECT_EQ(p.n_embd, c.n_embd);
    EXPECT_EQ(p.n_head, c.n_head);
    EXPECT_EQ(p.n_head_kv, c.n_head_kv);
    EXPECT_EQ(p.n_ff, c.n_ff);
    EXPECT_EQ(p.n_vocab, 2048U);
    EXPECT_EQ(p.n_ctx_train, 1024U);
    EXPECT_EQ(p.head_dim_k, 32U);
    EXPECT_EQ(p.n_rot, 32U);
    EXPECT_FALSE(model->tied_embeddings());
    std::uint64_t bytes =
        model->segment_bytes(SegmentId::embedding()) + model->segment_bytes(SegmentId::output());
    for (std::uint32_t il = 0; il < p.n_layer; ++il) bytes += model->segment_bytes(SegmentId::of_layer(il));
    EXPECT_EQ(bytes, model->file().tensor_bytes());
  }
}

TEST(ModelFile, SaysWhichFile) {
  const auto missing = ModelFile::open("/nonexistent/model.gguf");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(missing.error().message, HasSubstr("/nonexistent/model.gguf"));
}

}  // namespace
}  // namespace hearth::model
