// What a quantized KV cache and coarser links change in what a model says, within bounds; and the bytes on
// the wire, worked out by hand. `./dev bench precision` measures the same on 1,000 positions.
#include "support/precision.h"

#include <cmath>
#include <format>

#include <gtest/gtest.h>

#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::testing {
namespace {

using wire::HiddenEncoding;
using wire::KvType;

constexpr std::uint32_t kDevices = 4;
constexpr std::size_t kText = 300, kPrompt = 128;
constexpr std::size_t kEmbd = 256;  // ember's

TEST(KlDivergence, ByHand) {
  // Probabilities 1/4, 3/4 and 1/2, 1/2: 1/4 ln(1/2) + 3/4 ln(3/2).
  const float p[] = {0, std::log(3.0F)}, q[] = {5, 5};
  EXPECT_NEAR(kl_divergence(p, q), 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-6);
  EXPECT_NEAR(kl_divergence(p, p), 0, 1e-12);
  const std::vector<std::vector<float>> a = {{0, 1}, {2, 0}}, b = {{0, 1}, {0, 2}};
  const Divergence d = divergence(a, b);
  EXPECT_EQ(d.n, 2U);
  EXPECT_EQ(d.n_same_top, 1U);
  EXPECT_NEAR(d.most, kl_divergence(a[1], b[1]), 1e-12);
  EXPECT_NEAR(d.mean, d.most / 2, 1e-12);
}

// A frame: 28 + 20 bytes, 10 for each token, its rows.
double frame_bytes(std::size_t n_tokens, double row_bytes, std::size_t n_rows) {
  return 48 + 10.0 * static_cast<double>(n_tokens) + row_bytes * static_cast<double>(n_rows);
}

TEST(Precision, OfKeysValuesAndLinksStaysWithinBounds) {
  const std::string model = shipped_model("ember-q8_0.gguf").string();
  const auto text = value_of(stories(model, kText));
  const engine::EpochOptions exact = {.n_ctx = 512, .n_ubatch = 128};
  const PrecisionRun reference = value_of(read_text(model, kDevices, exact, text, kPrompt));
  ASSERT_EQ(reference.rows.size(), kText);
  // Four hops of a token; of a prompt's 128, the last one has one row.
  const auto bytes = [](double row_bytes) {
    return (3 * frame_bytes(128, row_bytes, 128) + frame_bytes(128, row_bytes, 1)) / 128;
  };
  EXPECT_EQ(reference.bytes_per_decode_token, 4 * frame_bytes(1, 4 * kEmbd, 1));
  EXPECT_EQ(reference.bytes_per_prompt_token, bytes(4 * kEmbd));

  struct Case {
    const char* name;
    wire::KvTypes kv;
    HiddenEncoding hidden;
    bool always;
    double most_mean;  // ten times what was measured
    double row_bytes;  // of one token
    double prompt_row_bytes;
  };
  constexpr double kF32Row = 4 * kEmbd, kF16Row = 2 + 2 * kEmbd, kQ8Row = 2 + kEmbd / 32 * 34;
  const Case cases[] = {
      {"q8_0 keys and values", KvType::kQ8_0, HiddenEncoding::kF32, false, 1e-4, kF32Row, kF32Row},
      {"f16 links for prompts", {}, HiddenEncoding::kF16Scaled, false, 1e-4, kF32Row, kF16Row},
      {"f16 links", {}, HiddenEncoding::kF16Scaled, true, 1e-4, kF16Row, kF16Row},
      {"q8_0 links", {}, HiddenEncoding::kQ8Scaled, true, 2e-4, kQ8Row, kQ8Row},
      {"q8_0 keys, values and links", KvType::kQ8_0, HiddenEncoding::kQ8Scaled, true, 2e-4, kQ8Row, kQ8Row},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.name);
    engine::EpochOptions options = exact;
    options.kv_type = one.kv;
    options.hidden = one.hidden;
    options.hidden_always = one.always;
    const PrecisionRun run = value_of(read_text(model, kDevices, options, text, kPrompt));
    const Divergence d = divergence(reference.rows, run.rows);
    std::printf("[ figures  ] %s: KL divergence mean %.2g, most %.2g, same top token in %zu of %zu\n",
                one.name, d.mean, d.most, d.n_same_top, d.n);
    EXPECT_GT(d.mean, 0) << "it does change something";
    EXPECT_LE(d.mean, one.most_mean);
    EXPECT_GE(d.n_same_top * 100, 97 * d.n);
    EXPECT_EQ(run.bytes_per_decode_token, 4 * frame_bytes(1, one.row_bytes, 1));
    // One row comes back to the head: 1 KiB as f32, so small that `auto` leaves it so.
    const double last = one.always ? one.prompt_row_bytes : kF32Row;
    EXPECT_EQ(run.bytes_per_prompt_token,
              (3 * frame_bytes(128, one.prompt_row_bytes, 128) + frame_bytes(128, last, 1)) / 128);
  }
}

}  // namespace
}  // namespace hearth::testing
