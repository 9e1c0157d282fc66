// What a model needs, with numbers of a real model file.
#include "node/model_profile.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/backend.h"
#include "compute/kv_storage.h"
#include "compute/scratch.h"
#include "residency/division.h"
#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::node {
namespace {

using hearth::testing::small_spec;
using hearth::testing::test_model;
using hearth::testing::value_of;
using ::testing::ElementsAre;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

class Profiling : public ::testing::Test {
 protected:
  Profiling() : model(value_of(model::ModelFile::open(test_model(small_spec("llama", "F16"))))) {}
  [[nodiscard]] std::vector<std::uint32_t> batches(const ModelRequest& request) const {
    std::vector<std::uint32_t> sizes;
    for (const plan::BatchNeeds& batch : model_profile(model, request).batches)
      sizes.push_back(batch.n_tokens);
    return sizes;
  }
  model::ModelFile model;
};

TEST_F(Profiling, WeightsAreThoseOfTheSegments) {
  const plan::ModelProfile profile = model_profile(model, {.n_ctx = 256});
  ASSERT_EQ(profile.layer_bytes.size(), model.params().n_layer);
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il)
    EXPECT_EQ(profile.layer_bytes[il], model.segment_bytes(model::SegmentId::of_layer(il)));
  EXPECT_EQ(profile.output_bytes, model.segment_bytes(model::SegmentId::output()));
  EXPECT_EQ(profile.n_embd, model.params().n_embd);
  EXPECT_LE(profile.parts.mean_bytes, profile.parts.largest_bytes);
  EXPECT_LE(profile.parts.largest_bytes, residency::kPartBytes);
  EXPECT_GT(profile.parts.mean_bytes, 0U);
}

TEST_F(Profiling, KvCacheIsThatOfTheContextAndType) {
  const auto& p = model.params();
  const auto kv = [&](const ModelRequest& request) { return model_profile(model, request).kv_bytes; };
  // Keys and values, two bytes or four each, of cells in whole hundreds (256).
  EXPECT_EQ(kv({.n_ctx = 256}), 2ULL * 256 * (p.n_embd_k() + p.n_embd_v()));
  EXPECT_EQ(kv({.n_ctx = 256, .kv_type = wire::KvType::kF32}), 4ULL * 256 * (p.n_embd_k() + p.n_embd_v()));
  // A block of 32 keys takes 34 bytes.
  EXPECT_EQ(kv({.n_ctx = 256, .kv_type = {wire::KvType::kQ8_0, wire::KvType::kF16}}),
            256ULL * (p.n_embd_k() / 32 * 34 + 2 * p.n_embd_v()));
  EXPECT_EQ(kv({.n_ctx = 257}), 2ULL * 512 * (p.n_embd_k() + p.n_embd_v()));
}

// 256 values a row: 1,024 bytes, 514 as f16, 2 + 8 * 34 as q8_0. A link of 1 MB/s without delay.
TEST_F(Profiling, HopsTakeTheBytesOfTheLinkType) {
  ASSERT_EQ(model.params().n_embd, 256U);
  const auto hop_us = [&](wire::HiddenEncoding hidden, bool always, std::uint32_t n_tokens) {
    const plan::RingProfile ring = {
        .model =
            model_profile(model, {.n_ctx = 256, .n_devices = 2, .hidden = hidden, .hidden_always = always}),
        .devices = {},
        .links = {{{}, {.latency_s = 0, .bytes_per_s = 1e6}}, {{}, {}}}};
    return std::lround(ring.hop_s(0, 1, n_tokens) * 1e6);
  };
  using wire::HiddenEncoding;
  EXPECT_EQ(hop_us(HiddenEncoding::kF32, false, 100), 102'400);
  EXPECT_EQ(hop_us(HiddenEncoding::kF16Scaled, false, 64), 65'536) << "64 KiB stay f32";
  EXPECT_EQ(hop_us(HiddenEncoding::kF16Scaled, false, 65), 65 * 514);
  EXPECT_EQ(hop_us(HiddenEncoding::kF16Scaled, true, 1), 514);
  EXPECT_EQ(hop_us(HiddenEncoding::kQ8Scaled, true, 1), 274);
  EXPECT_EQ(hop_us(HiddenEncoding::kQ8Scaled, true, 100), 27'400);
}

TEST_F(Profiling, BuffersAreCountedAsTheExecutorTakesThem) {
  const auto& p = model.params();
  const plan::ModelProfile alone = model_profile(model, {.n_ctx = 256, .n_ubatch = 128});
  ASSERT_EQ(alone.batches.size(), 1U);
  const std::uint64_t buffers =
      128 * (256 * 4ULL + 16ULL * (p.n_embd + p.n_ff) + 2ULL * p.n_ff) + kMiB / 4 + 4 * kMiB;
  EXPECT_EQ(alone.batches[0].worker_bytes, buffers);
  EXPECT_EQ(alone.batches[0].head_bytes, buffers + 4ULL * p.n_vocab);
  // Five frames of f32 rows in a ring.
  const plan::ModelProfile in_ring = model_profile(model, {.n_ctx = 256, .n_ubatch = 128, .n_devices = 2});
  EXPECT_EQ(in_ring.batches[0].worker_bytes, buffers + 5ULL * 128 * 4 * p.n_embd);
  // A window knows 44 bytes of a cell, and graphs.
  EXPECT_EQ(alone.window_bytes, 44ULL * 256 + kMiB / 2);
  // Logits of all rows.
  EXPECT_EQ(model_profile(model, {.n_ctx = 256, .max_outputs = 10, .n_ubatch = 128}).batches[0].head_bytes,
            buffers + 40ULL * p.n_vocab);
}

// What is promised before anything is loaded suffices.
TEST(BuffersOf, EveryArchitectureSuffice) {
  const auto backend = value_of(compute::Backend::cpu(2));
  for (const model::ArchTraits& arch : model::architectures()) {
    const auto model = value_of(model::ModelFile::open(test_model(small_spec(arch.name, "Q8_0"))));
    for (const bool flash : {true, false}) {
      const plan::ModelProfile profile =
          model_profile(model, {.n_ctx = 1024, .flash_attention = flash, .n_ubatch = 128});
      const auto scratch = value_of(compute::Scratch::create(
          *backend, model, {.n_cells = 1024, .n_ubatch = 128, .flash_attention = flash}));
      EXPECT_GE(profile.batches[0].worker_bytes, scratch->bytes()) << arch.name << ", flash " << flash;
      std::uint64_t kv = 0;
      for (std::uint32_t il = 0; il < model.params().n_layer; ++il)
        kv += compute::KvStorage::bytes(model.params(), 1, wire::KvType::kF16,
                                        compute::layer_cells(model.params(), il, scratch->options()));
      EXPECT_EQ(profile.kv_bytes_of({0, model.params().n_layer}), kv) << arch.name;
    }
  }
}

TEST_F(Profiling, BatchesAreNoLargerThanTheContextAndAsAsked) {
  EXPECT_THAT(batches({.n_ctx = 4096}), ElementsAre(512, 256, 128, 64, 32));
  EXPECT_THAT(batches({.n_ctx = 100}), ElementsAre(100, 64, 32));
  EXPECT_THAT(batches({.n_ctx = 16}), ElementsAre(16));
  EXPECT_THAT(batches({.n_ctx = 4096, .n_ubatch = 48}), ElementsAre(48));
}

}  // namespace
}  // namespace hearth::node
