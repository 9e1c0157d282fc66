// What a GPU gets of a device's layers, before anything is taken of its memory.
#include "node/gpu_share.h"

#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "compute/kv_storage.h"
#include "residency/ggml_tensors.h"
#include "residency/gpu_source.h"
#include "support/one_device.h"
#include "support/test_models.h"
#include "support/value_of.h"
#include "support/vulkan.h"
#include "synth/synth.h"

namespace hearth::node {
namespace {

using model::SegmentId;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

class Sharing : public ::testing::Test {
 protected:
  Result<GpuShare> share(std::optional<std::uint32_t> n_layers,
                         std::uint64_t memory = std::numeric_limits<std::uint64_t>::max()) {
    return gpu_share({.backend = gpu_.get(), .n_layers = n_layers, .memory_bytes = memory}, *cpu_, model_,
                     options_, 1, segments_);
  }

  model::ModelFile model_ = value_of(model::ModelFile::open(test_model(small_spec("llama", "Q8_0"))));
  std::unique_ptr<compute::Backend> cpu_ = value_of(compute::Backend::cpu(1));
  std::unique_ptr<compute::Backend> gpu_ = value_of(compute::Backend::gpu(testing::test_gpu()));
  compute::ScratchOptions options_ = {.n_cells = 512, .n_ubatch = 64};
  // Of a head with two windows.
  std::vector<SegmentId> segments_ = {SegmentId::of_layer(0), SegmentId::of_layer(1), SegmentId::of_layer(5),
                                      SegmentId::of_layer(6), SegmentId::embedding(), SegmentId::output()};
};

TEST_F(Sharing, TheOutputHeadIsFirstThenTheLastLayers) {
  EXPECT_TRUE(value_of(share(0)).segments.empty());
  EXPECT_EQ(value_of(share(0)).bytes(), 0U);
  EXPECT_EQ(value_of(share(1)).segments, std::vector{SegmentId::output()});
  EXPECT_EQ(value_of(share(3)).segments,
            (std::vector{SegmentId::output(), SegmentId::of_layer(6), SegmentId::of_layer(5)}));
  for (const std::optional<std::uint32_t> all : {std::optional<std::uint32_t>(5), {kAllLayers}, {}}) {
    EXPECT_EQ(value_of(share(all)).n_layers(), 4U);
    EXPECT_EQ(value_of(share(all)).segments.size(), 5U) << "never the embedding";
  }
  segments_ = {SegmentId::of_layer(2), SegmentId::of_layer(3)};  // of a worker
  EXPECT_EQ(value_of(share(1)).segments, std::vector{SegmentId::of_layer(3)});
  EXPECT_EQ(value_of(share({})).n_layers(), 2U);
}

TEST_F(Sharing, CountsWeightsAndCells) {
  const GpuShare three = value_of(share(3));
  EXPECT_EQ(three.weight_bytes,
            residency::GpuSource::bytes(model_, std::vector{SegmentId::output()}, gpu_->device()) +
                residency::GpuSource::bytes(model_, std::vector{SegmentId::of_layer(5)}, gpu_->device()) +
                residency::GpuSource::bytes(model_, std::vector{SegmentId::of_layer(6)}, gpu_->device()));
  // 2 layers of 512 cells, K and V of 4 heads of 32 halves each.
  EXPECT_EQ(three.kv_bytes, 2U * 512 * 2 * 4 * 32 * 2);
  EXPECT_GT(three.buffer_bytes, 64U * 256 * 4) << "the rows alone";
}

// Whatever may be taken, no more is; and by asking for as many as fit nobody gets an error.
TEST_F(Sharing, TakesNoMoreThanItMay) {
  const std::uint64_t all = value_of(share({})).bytes();
  std::size_t before = 0;
  for (std::uint64_t memory = 0; memory <= all; memory += all / 40) {
    const GpuShare fitting = value_of(share({}, memory));
    EXPECT_LE(fitting.bytes(), memory);
    EXPECT_GE(fitting.segments.size(), before);
    before = fitting.segments.size();
  }
  EXPECT_EQ(value_of(share({}, all)).segments.size(), 5U);
  EXPECT_EQ(value_of(share({}, all - 1)).segments.size(), 4U);
  EXPECT_EQ(value_of(share(5, all)).segments.size(), 5U);
}

TEST_F(Sharing, SaysWhatWouldFit) {
  const std::uint64_t all = value_of(share({})).bytes();
  const auto refused = share(5, all - 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(refused.error().message.find("-ngl 4 would fit"), std::string::npos) << refused.error().message;
  EXPECT_NE(refused.error().message.find(gpu_->gpu_info().name), std::string::npos)
      << refused.error().message;
}

// What it cannot compute stays with the processor, and does not count as the GPU's.
TEST_F(Sharing, LeavesWhatItHasNoOperationsFor) {
  GpuNeeds needs = value_of(gpu_needs(*cpu_, *gpu_, model_, options_, 1));
  needs.of_layers.unsupported = {{0, "ROPE of f32"}, {1, "ROPE of f32"}, {6, "MUL_MAT of iq1_s"}};
  needs.of_output.unsupported = {{compute::GpuNeeds::kOutput, "MUL_MAT of iq1_s"}};
  const std::string name = gpu_->gpu_info().name;
  const GpuShare share = value_of(
      gpu_share({.backend = gpu_.get(), .n_layers = std::nullopt}, needs, model_, options_, segments_));
  EXPECT_EQ(share.segments, std::vector{SegmentId::of_layer(5)});
  EXPECT_EQ(share.notices,
            (std::vector<std::string>{
                "layers 6 and the output head: computed by the processor, " + name +
                    " has no MUL_MAT of iq1_s of these sizes",
                "layers 0-1: computed by the processor, " + name + " has no ROPE of f32 of these sizes"}));
}

// An operation of image models.
TEST_F(Sharing, FindsTheFirstOperationThatIsNotThere) {
  const residency::ContextPtr ctx = residency::make_context(16, ggml_graph_overhead_custom(16, false));
  ggml_cgraph* graph = ggml_new_graph_custom(ctx.get(), 16, false);
  ggml_tensor* x = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, 8, 8, 8);
  ggml_build_forward_expand(graph, ggml_scale(ctx.get(), x, 2));
  EXPECT_EQ(compute::first_unsupported(*gpu_, graph), std::nullopt);
  ggml_build_forward_expand(graph, ggml_win_part(ctx.get(), ggml_scale(ctx.get(), x, 3), 4));
  EXPECT_EQ(compute::first_unsupported(*gpu_, graph), "WIN_PART of f32");
}

TEST_F(Sharing, AGpuThatIsNotThereIsSaid) {
  const auto named = open_gpu({.device = "Vulkan7"});
  ASSERT_FALSE(named);
  EXPECT_EQ(named.error().code, ErrorCode::kNotFound);
  EXPECT_NE(named.error().message.find("there are: " + testing::test_gpu()), std::string::npos)
      << named.error().message;
  EXPECT_EQ(value_of(open_gpu({.device = "", .n_layers = 0})).backend, nullptr) << "nobody wants one";
  EXPECT_EQ(value_of(open_gpu({.device = "", .n_layers = 3})).backend->gpu_info().name, testing::test_gpu());
}

// Buffers are as large as was said before, and stay so while the largest batches are computed.
TEST(GpuBuffers, TakeWhatWasSaid) {
  const auto gpu = value_of(compute::Backend::gpu(testing::test_gpu()));
  struct Case {
    const char* family;
    bool flash_attention;
    wire::KvType kv_type;
  };
  for (const Case& c : {Case{"llama", true, wire::KvType::kF16}, Case{"llama", false, wire::KvType::kF16},
                        Case{"llama", true, wire::KvType::kQ8_0}, Case{"gemma3", true, wire::KvType::kF16},
                        Case{"qwen3moe", true, wire::KvType::kF16}}) {
    synth::SynthSpec spec = testing::family_spec(c.family, "Q4_K_M");
    spec.shape.n_layer = 2;
    if (spec.shape.n_swa > 0) spec.shape.n_layer = 6;  // with one that sees all
    const testing::OneDevice device(
        test_model(spec),
        {.n_cells = 512, .n_ubatch = 64, .flash_attention = c.flash_attention, .kv_type = c.kv_type});
    const auto needs = value_of(
        compute::Scratch::gpu_needs(*device.backend, *gpu, *device.model, device.scratch->options()));
    const auto beside = value_of(compute::Scratch::create_beside(*device.scratch, *gpu, *device.model));
    EXPECT_EQ(beside->bytes(), needs.bytes) << c.family;
    std::vector<SegmentId> all;
    for (std::uint32_t il = 0; il < spec.shape.n_layer; ++il) all.push_back(SegmentId::of_layer(il));
    const auto weights = value_of(residency::GpuSource::load(*device.model, all, gpu->device(), {}, nullptr));
    const auto window = value_of(compute::Window::create({*device.scratch, beside.get()}, *device.model,
                                                         {0, spec.shape.n_layer}, *weights, c.kv_type));
    std::uint64_t kv_bytes = 0;
    for (const SegmentId id : all)
      kv_bytes += compute::KvStorage::bytes(
          device.model->params(), 1, c.kv_type,
          compute::layer_cells(device.model->params(), id.layer, device.scratch->options()));
    EXPECT_EQ(ggml_backend_buffer_get_size(window->kv().k(0)->buffer), kv_bytes) << c.family;
    for (int chunk = 0; chunk < 8; ++chunk)
      device.run({window.get()}, testing::OneDevice::batch(64 * chunk, 64), device.tokens(64 * chunk, 64));
    EXPECT_EQ(beside->bytes(), needs.bytes) << c.family;
    EXPECT_EQ(beside->generation(), 0U) << c.family << ": buffers moved";
  }
}

// The table of docs/reference/gpu.md.
TEST(Unsupported, IsWhatThePageSays) {
  const auto cpu = value_of(compute::Backend::cpu(1));
  const auto gpu = value_of(compute::Backend::gpu(testing::test_gpu()));
  const auto lacking = [&](const synth::SynthSpec& spec, const compute::ScratchOptions& options) {
    const model::ModelFile model = value_of(model::ModelFile::open(test_model(spec)));
    return value_of(compute::Scratch::gpu_needs(*cpu, *gpu, model, options)).unsupported;
  };
  std::map<std::string, std::string> found;
  for (const std::string& type : synth::type_names()) {
    synth::SynthSpec spec = small_spec("llama", type);
    spec.shape.n_layer = 2;
    for (const auto& [layer, operation] : lacking(spec, {.n_cells = 256, .n_ubatch = 32}))
      found[type] = operation;
  }
  for (const char* family : {"gemma2", "gemma3", "gpt-oss", "granite", "mixtral", "olmo2", "olmo3", "phi3",
                             "qwen2", "qwen2moe", "qwen3", "qwen3moe", "smollm3"})
    for (const auto& [layer, operation] :
         lacking(testing::family_spec(family, "Q8_0"), {.n_cells = 256, .n_ubatch = 32}))
      found[family] = operation;
  for (const wire::KvTypeTraits& type : wire::kKvTypes) {
    const std::string name = "keys " + std::string(type.name);
    for (const auto& [layer, operation] :
         lacking(small_spec("llama", "F16"), {.n_cells = 256, .n_ubatch = 32, .kv_type = type.type}))
      found[name] = operation;
    for (const auto& [layer, operation] :
         lacking(small_spec("llama", "F16"), {.n_cells = 256,
                                              .n_ubatch = 32,
                                              .flash_attention = false,
                                              .kv_type = {type.type, wire::KvType::kF16}}))
      found[name + ", plain attention"] = operation;
  }
  EXPECT_EQ(found, (std::map<std::string, std::string>{{"keys q8_0, plain attention", "MUL_MAT of q8_0"},
                                                       {"keys q5_1, plain attention", "MUL_MAT of q5_1"},
                                                       {"keys q5_0, plain attention", "MUL_MAT of q5_0"},
                                                       {"keys q4_1, plain attention", "MUL_MAT of q4_1"},
                                                       {"keys q4_0, plain attention", "MUL_MAT of q4_0"}}));
}

}  // namespace
}  // namespace hearth::node
