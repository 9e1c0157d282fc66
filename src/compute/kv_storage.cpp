#include "compute/kv_storage.h"

#include <algorithm>
#include <map>

#include "compute/layer_graph.h"
#include "residency/ggml_tensors.h"

namespace hearth::compute {
namespace {

// Of n values; ggml's own function ends the process where blocks do not divide them, which check() refuses.
std::uint64_t row_bytes(wire::KvType type, std::uint64_t n) {
  const ggml_type stored = storage_type(type);
  const auto block = static_cast<std::uint64_t>(ggml_blck_size(stored));
  return (n + block - 1) / block * ggml_type_size(stored);
}

Result<> check_heads(std::string_view what, std::string_view flag, wire::KvType type,
                     std::uint32_t head_dim) {
  if (!wire::traits(type).quantized || head_dim % wire::kKvBlock == 0) return {};
  return fail(ErrorCode::kUnsupported,
              "the {} of this model have {} values a head, {} stores blocks of {}; use {} f16", what,
              head_dim, wire::traits(type).name, wire::kKvBlock, flag);
}

}  // namespace

ggml_type storage_type(wire::KvType type) {
  switch (type) {
    case wire::KvType::kF32:
      return GGML_TYPE_F32;
    case wire::KvType::kF16:
      return GGML_TYPE_F16;
    case wire::KvType::kQ8_0:
      return GGML_TYPE_Q8_0;
    case wire::KvType::kQ5_1:
      return GGML_TYPE_Q5_1;
    case wire::KvType::kQ5_0:
      return GGML_TYPE_Q5_0;
    case wire::KvType::kQ4_1:
      return GGML_TYPE_Q4_1;
    case wire::KvType::kQ4_0:
      return GGML_TYPE_Q4_0;
  }
  return GGML_TYPE_F16;
}

struct KvStorage::Impl {
  plan::LayerRange layers;
  struct Store {
    residency::ContextPtr ctx;
    residency::BufferPtr buffer;
  };
  std::map<Backend*, Store> stores;
  std::vector<ggml_tensor*> k, v;
};

KvStorage::KvStorage(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KvStorage::~KvStorage() = default;

Result<> KvStorage::check(const model::HyperParams& params, wire::KvTypes types, bool flash_attention) {
  if (wire::traits(types.v).quantized && !flash_attention)
    return fail(ErrorCode::kInvalidArgument,
                "values stored as {} (-ctv) need flash attention; leave out --no-flash-attn, or use -ctv f16",
                wire::traits(types.v).name);
  HEARTH_TRY_VOID(check_heads("keys", "-ctk", types.k, params.head_dim_k));
  return check_heads("values", "-ctv", types.v, params.head_dim_v);
}

std::uint64_t KvStorage::bytes(const model::HyperParams& params, std::uint32_t n_layers, wire::KvTypes types,
                               std::uint32_t n_cells) {
  const std::uint64_t cell = row_bytes(types.k, params.n_embd_k()) + row_bytes(types.v, params.n_embd_v());
  return cell * n_cells * n_layers;
}

Result<std::unique_ptr<KvStorage>> KvStorage::create(const model::HyperParams& params,
                                                     plan::LayerRange layers, wire::KvTypes types,
                                                     std::span<const KvCells> cells) {
  HEARTH_CHECK(cells.size() == layers.size());
  auto impl = std::make_unique<Impl>();
  impl->layers = layers;
  std::uint64_t needed = 0;
  for (const auto& [backend, n_cells] : cells) {
    residency::ContextPtr& ctx = impl->stores[backend].ctx;
    if (!ctx) ctx = residency::make_context(std::size_t{2} * layers.size());
    impl->k.push_back(ggml_new_tensor_2d(ctx.get(), storage_type(types.k), params.n_embd_k(), n_cells));
    impl->v.push_back(ggml_new_tensor_2d(ctx.get(), storage_type(types.v), params.n_embd_v(), n_cells));
    needed += bytes(params, 1, types, n_cells);
  }
  for (auto& [backend, store] : impl->stores) {
    store.buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(store.ctx.get(), backend->buffer_type()));
    if (!store.buffer)
      return fail(ErrorCode::kOutOfMemory,
                  "the KV cache of layers {}..{} needs {} bytes for {} cells a layer, which are not "
                  "free; ask for a smaller context (-c) or smaller types (-ctk q8_0 -ctv q8_0)",
                  layers.begin, layers.end - 1, needed,
                  std::ranges::max(cells, {}, &KvCells::n_cells).n_cells);
    // A masked cell still takes part in sums with weight 0: it must not hold NaN. In every type zeros are 0.
    HEARTH_TRY_VOID(residency::guarded([&] { ggml_backend_buffer_clear(store.buffer.get(), 0); }));
  }
  return std::unique_ptr<KvStorage>(new KvStorage(std::move(impl)));
}

std::uint32_t KvStorage::n_cells(std::uint32_t layer) const {
  return static_cast<std::uint32_t>(k(layer)->ne[1]);
}
ggml_tensor* KvStorage::k(std::uint32_t layer) const {
  return impl_->k[layer - impl_->layers.begin];
}
ggml_tensor* KvStorage::v(std::uint32_t layer) const {
  return impl_->v[layer - impl_->layers.begin];
}

Result<std::vector<std::uint8_t>> KvStorage::export_cells(std::uint32_t layer,
                                                          std::span<const std::uint32_t> cells) const {
  const std::size_t k_row = k(layer)->nb[1], v_row = v(layer)->nb[1];
  std::vector<std::uint8_t> bytes(cells.size() * (k_row + v_row));
  std::uint8_t* out = bytes.data();
  for (const std::uint32_t cell : cells) {
    if (cell >= n_cells(layer))
      return fail(ErrorCode::kInvalidArgument, "KV cell {} of {} cannot be exported", cell, n_cells(layer));
    HEARTH_TRY_VOID(residency::guarded([&] {
      ggml_backend_tensor_get(k(layer), out, cell * k_row, k_row);
      ggml_backend_tensor_get(v(layer), out + k_row, cell * v_row, v_row);
    }));
    out += k_row + v_row;
  }
  return bytes;
}

Result<> KvStorage::import_cells(std::uint32_t layer, std::span<const std::uint32_t> cells,
                                 std::span<const std::uint8_t> bytes) {
  const std::size_t k_row = k(layer)->nb[1], v_row = v(layer)->nb[1];
  if (bytes.size() != cells.size() * (k_row + v_row))
    return fail(ErrorCode::kInvalidArgument, "{} KV cells of layer {} are {} bytes, got {}", cells.size(),
                layer, cells.size() * (k_row + v_row), bytes.size());
  for (const std::uint32_t cell : cells)
    if (cell >= n_cells(layer))
      return fail(ErrorCode::kInvalidArgument, "KV cell {} of {} cannot be imported", cell, n_cells(layer));
  const std::uint8_t* in = bytes.data();
  for (const std::uint32_t cell : cells) {
    HEARTH_TRY_VOID(residency::guarded([&] {
      ggml_backend_tensor_set(k(layer), in, cell * k_row, k_row);
      ggml_backend_tensor_set(v(layer), in + k_row, cell * v_row, v_row);
    }));
    in += k_row + v_row;
  }
  return {};
}

}  // namespace hearth::compute
