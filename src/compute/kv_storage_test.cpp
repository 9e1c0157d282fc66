#include "compute/kv_storage.h"

#include <vector>

#include <ggml-backend.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include "support/one_device.h"

namespace hearth::compute {
namespace {

using testing::value_of;

model::HyperParams params() {
  model::HyperParams p;
  p.n_layer = 6;
  p.n_embd = 96;
  p.n_head = 6;
  p.n_head_kv = 2;
  p.head_dim_k = 16;
  p.head_dim_v = 24;
  return p;
}

// Layers of so many cells.
std::vector<KvCells> on(Backend& backend, const std::vector<std::uint32_t>& n_cells) {
  std::vector<KvCells> cells;
  for (const std::uint32_t n : n_cells) cells.push_back({.backend = &backend, .n_cells = n});
  return cells;
}

struct Storage {
  explicit Storage(wire::KvType type, std::vector<std::uint32_t> n_cells = {256, 256, 256})
      : backend(value_of(Backend::cpu(1))),
        kv(value_of(KvStorage::create(params(), {2, 5}, type, on(*backend, n_cells)))) {}
  std::unique_ptr<Backend> backend;
  std::unique_ptr<KvStorage> kv;
};

TEST(KvStorage, TakesWhatBytesSays) {
  // 3 layers of 256 cells, each 2 heads of 16 + 24 values.
  EXPECT_EQ(KvStorage::bytes(params(), 3, wire::KvType::kF16, 256), 3U * 256 * 2 * (16 + 24) * 2);
  EXPECT_EQ(KvStorage::bytes(params(), 3, wire::KvType::kF32, 256), 3U * 256 * 2 * (16 + 24) * 4);
  for (const wire::KvType type : {wire::KvType::kF16, wire::KvType::kF32}) {
    const Storage s(type);
    EXPECT_EQ(ggml_backend_buffer_get_size(s.kv->k(2)->buffer), KvStorage::bytes(params(), 3, type, 256));
    EXPECT_EQ(s.kv->k(2)->buffer, s.kv->v(4)->buffer) << "one buffer for all";
    EXPECT_EQ(s.kv->n_cells(4), 256U);
  }
}

// A block of 32 values takes 34 bytes as q8_0, 18 as q4_0.
TEST(KvStorage, TakesTheBytesOfEachType) {
  model::HyperParams p = params();
  p.head_dim_k = 32;
  p.head_dim_v = 64;
  using wire::KvType;
  EXPECT_EQ(KvStorage::bytes(p, 3, KvType::kQ8_0, 256), 3U * 256 * 2 * (34 + 68));
  EXPECT_EQ(KvStorage::bytes(p, 3, {KvType::kQ8_0, KvType::kF16}, 256), 3U * 256 * 2 * (34 + 128));
  EXPECT_EQ(KvStorage::bytes(p, 1, {KvType::kF32, KvType::kQ4_0}, 1), 2U * (128 + 36));
  EXPECT_EQ(KvStorage::bytes(p, 1, {KvType::kQ5_1, KvType::kQ5_0}, 1), 2U * (24 + 44));
  EXPECT_EQ(KvStorage::bytes(p, 1, {KvType::kQ4_1, KvType::kF16}, 1), 2U * (20 + 128));
  const auto backend = value_of(Backend::cpu(1));
  for (const wire::KvTypeTraits& type : wire::kKvTypes) {
    const auto kv = value_of(KvStorage::create(p, {0, 2}, type.type, on(*backend, {256, 512})));
    EXPECT_EQ(ggml_backend_buffer_get_size(kv->k(0)->buffer), KvStorage::bytes(p, 1, type.type, 768));
    EXPECT_EQ(ggml_type_name(kv->k(1)->type), type.name);
    EXPECT_EQ(ggml_type_name(kv->v(1)->type), type.name);
    // Zeroed bytes are zeros, not NaN.
    std::vector<float> values(p.n_embd_v(), 1.0F);
    const auto* stored = ggml_get_type_traits(kv->v(1)->type);
    if (stored->to_float != nullptr)
      stored->to_float(kv->v(1)->data, values.data(), static_cast<std::int64_t>(values.size()));
    else
      std::copy_n(static_cast<const float*>(kv->v(1)->data), values.size(), values.begin());
    EXPECT_EQ(values, std::vector<float>(p.n_embd_v()));
  }
}

TEST(KvStorage, RefusesTypesThatCannotBe) {
  using wire::KvType;
  const auto refusal = [](const model::HyperParams& p, wire::KvTypes types, bool flash) {
    const auto can = KvStorage::check(p, types, flash);
    return can ? std::string() : can.error().message;
  };
  model::HyperParams p = params();  // heads of 16 and 24
  EXPECT_EQ(refusal(p, KvType::kF16, true), "");
  EXPECT_EQ(refusal(p, KvType::kF32, false), "");
  EXPECT_EQ(refusal(p, {KvType::kQ8_0, KvType::kF16}, true),
            "the keys of this model have 16 values a head, q8_0 stores blocks of 32; use -ctk f16");
  EXPECT_EQ(refusal(p, {KvType::kF16, KvType::kQ4_1}, true),
            "the values of this model have 24 values a head, q4_1 stores blocks of 32; use -ctv f16");
  p.head_dim_k = p.head_dim_v = 96;
  EXPECT_EQ(refusal(p, KvType::kQ8_0, true), "");
  EXPECT_EQ(refusal(p, {KvType::kQ8_0, KvType::kF16}, false), "") << "keys alone need no flash attention";
  EXPECT_EQ(refusal(p, {KvType::kF16, KvType::kQ8_0}, false),
            "values stored as q8_0 (-ctv) need flash attention; leave out --no-flash-attn, or use -ctv f16");
}

TEST(KvStorage, IsZeroAtFirst) {
  const Storage s(wire::KvType::kF16);
  std::vector<std::uint32_t> all(256);
  for (std::uint32_t i = 0; i < 256; ++i) all[i] = i;
  for (std::uint32_t il = 2; il < 5; ++il) {
    const auto bytes = value_of(s.kv->export_cells(il, all));
    EXPECT_EQ(bytes, std::vector<std::uint8_t>(256 * 2 * (16 + 24) * 2));
  }
}

TEST(KvStorage, ExportsKeysThenValuesOfEachCell) {
  const Storage s(wire::KvType::kF32);
  // Value c of cell n of layer il is il * 1e6 + n * 1e3 + c, V's c from 500 on.
  for (std::uint32_t il = 2; il < 5; ++il) {
    for (std::uint32_t cell = 0; cell < 256; ++cell) {
      for (std::uint32_t c = 0; c < 32; ++c)
        static_cast<float*>(s.kv->k(il)->data)[cell * 32 + c] =
            static_cast<float>(il * 1000000 + cell * 1000 + c);
      for (std::uint32_t c = 0; c < 48; ++c)
        static_cast<float*>(s.kv->v(il)->data)[cell * 48 + c] =
            static_cast<float>(il * 1000000 + cell * 1000 + 500 + c);
    }
  }
  const std::vector<std::uint32_t> cells = {7, 255, 0};
  const auto bytes = value_of(s.kv->export_cells(3, cells));
  ASSERT_EQ(bytes.size(), 3U * (32 + 48) * 4);
  const auto* values = reinterpret_cast<const float*>(bytes.data());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    EXPECT_EQ(values[i * 80], static_cast<float>(3000000 + cells[i] * 1000));
    EXPECT_EQ(values[i * 80 + 31], static_cast<float>(3000000 + cells[i] * 1000 + 31));
    EXPECT_EQ(values[i * 80 + 32], static_cast<float>(3000000 + cells[i] * 1000 + 500));
    EXPECT_EQ(values[i * 80 + 79], static_cast<float>(3000000 + cells[i] * 1000 + 547));
  }

  // Into other cells of another storage, the neighbours untouched.
  const Storage other(wire::KvType::kF32);
  const std::vector<std::uint32_t> to = {10, 12, 14};
  ASSERT_TRUE(other.kv->import_cells(3, to, bytes));
  EXPECT_EQ(value_of(other.kv->export_cells(3, to)), bytes);
  for (const std::uint32_t cell : {9U, 11U, 13U, 15U})
    EXPECT_EQ(value_of(other.kv->export_cells(3, std::vector{cell})), std::vector<std::uint8_t>(80 * 4));
  EXPECT_EQ(value_of(other.kv->export_cells(2, to)), std::vector<std::uint8_t>(3 * 80 * 4))
      << "another layer";
}

TEST(KvStorage, HasTheCellsOfEachLayer) {
  const Storage s(wire::KvType::kF16, {512, 32, 256});
  const std::uint32_t n_cells[] = {512, 32, 256};
  const std::vector<std::uint8_t> cell(2 * (16 + 24) * 2, 7);
  for (std::uint32_t il = 2; il < 5; ++il) {
    const std::uint32_t cells = n_cells[il - 2];
    EXPECT_EQ(s.kv->n_cells(il), cells);
    EXPECT_TRUE(s.kv->import_cells(il, std::vector{cells - 1}, cell));
    EXPECT_EQ(value_of(s.kv->export_cells(il, std::vector{cells - 1})), cell);
    EXPECT_FALSE(s.kv->import_cells(il, std::vector{cells}, cell));
    EXPECT_FALSE(s.kv->export_cells(il, std::vector{cells}));
  }
  EXPECT_EQ(ggml_backend_buffer_get_size(s.kv->k(2)->buffer), (512U + 32 + 256) * 2 * (16 + 24) * 2);
}

TEST(KvStorage, RefusesCellsAndSizesOutOfRange) {
  const Storage s(wire::KvType::kF16);
  const std::size_t cell_bytes = 2 * (16 + 24) * 2;
  const auto exported = s.kv->export_cells(2, std::vector<std::uint32_t>{3, 256});
  ASSERT_FALSE(exported);
  EXPECT_EQ(exported.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(exported.error().message.find("256"), std::string::npos) << exported.error().message;

  std::vector<std::uint8_t> ones(2 * cell_bytes, 1);
  const auto imported = s.kv->import_cells(2, std::vector<std::uint32_t>{3, 256}, ones);
  ASSERT_FALSE(imported);
  EXPECT_EQ(imported.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(value_of(s.kv->export_cells(2, std::vector<std::uint32_t>{3})),
            std::vector<std::uint8_t>(cell_bytes))
      << "nothing is imported when one cell is wrong";

  for (const std::size_t size : {std::size_t{0}, 2 * cell_bytes - 1, 2 * cell_bytes + 1}) {
    ones.resize(size);
    const auto wrong = s.kv->import_cells(2, std::vector<std::uint32_t>{3, 4}, ones);
    ASSERT_FALSE(wrong);
    EXPECT_EQ(wrong.error().code, ErrorCode::kInvalidArgument);
  }
  EXPECT_TRUE(value_of(s.kv->export_cells(2, {})).empty());
  EXPECT_TRUE(s.kv->import_cells(2, {}, {}));
}

TEST(KvStorage, SaysHowMuchIsMissing) {
  const auto backend = value_of(Backend::cpu(1));
  model::HyperParams huge = params();
  huge.head_dim_k = huge.head_dim_v = 1U << 20;
  const auto kv = KvStorage::create(huge, {0, 2}, wire::KvType::kF32, on(*backend, {1U << 24, 1U << 24}));
  ASSERT_FALSE(kv);
  EXPECT_EQ(kv.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(kv.error().message.find("562949953421312 bytes"), std::string::npos) << kv.error().message;
}

}  // namespace
}  // namespace hearth::compute
