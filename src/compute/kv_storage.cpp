#include "compute/kv_storage.h"

#include <algorithm>

#include "residency/ggml_tensors.h"

namespace hearth::compute {
namespace {

ggml_type storage_type(wire::KvType type) {
  return type == wire::KvType::kF32 ? GGML_TYPE_F32 : GGML_TYPE_F16;
}

}  // namespace

struct KvStorage::Impl {
  plan::LayerRange layers;
  residency::ContextPtr ctx;
  residency::BufferPtr buffer;
  std::vector<ggml_tensor*> k, v;
};

KvStorage::KvStorage(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KvStorage::~KvStorage() = default;

std::uint64_t KvStorage::bytes(const model::HyperParams& params, std::uint32_t n_layers, wire::KvType type,
                               std::uint32_t n_cells) {
  const std::uint64_t row = ggml_row_size(storage_type(type), params.n_embd_k()) +
                            ggml_row_size(storage_type(type), params.n_embd_v());
  return row * n_cells * n_layers;
}

Result<std::unique_ptr<KvStorage>> KvStorage::create(Backend& backend, const model::HyperParams& params,
                                                     plan::LayerRange layers, wire::KvType type,
                                                     std::span<const std::uint32_t> n_cells) {
  HEARTH_CHECK(n_cells.size() == layers.size());
  auto impl = std::make_unique<Impl>();
  impl->layers = layers;
  impl->ctx = residency::make_context(std::size_t{2} * layers.size());
  std::uint64_t needed = 0;
  for (const std::uint32_t cells : n_cells) {
    impl->k.push_back(ggml_new_tensor_2d(impl->ctx.get(), storage_type(type), params.n_embd_k(), cells));
    impl->v.push_back(ggml_new_tensor_2d(impl->ctx.get(), storage_type(type), params.n_embd_v(), cells));
    needed += bytes(params, 1, type, cells);
  }
  impl->buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(impl->ctx.get(), backend.buffer_type()));
  if (!impl->buffer)
    return fail(ErrorCode::kOutOfMemory,
                "the KV cache of layers {}..{} needs {} bytes for {} cells a layer, which are not "
                "free; ask for a smaller context (-c)",
                layers.begin, layers.end - 1, needed, std::ranges::max(n_cells));
  // A masked cell still takes part in sums with weight 0: it must not hold NaN.
  ggml_backend_buffer_clear(impl->buffer.get(), 0);
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
    ggml_backend_tensor_get(k(layer), out, cell * k_row, k_row);
    ggml_backend_tensor_get(v(layer), out + k_row, cell * v_row, v_row);
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
    ggml_backend_tensor_set(k(layer), in, cell * k_row, k_row);
    ggml_backend_tensor_set(v(layer), in + k_row, cell * v_row, v_row);
    in += k_row + v_row;
  }
  return {};
}

}  // namespace hearth::compute
