// KvStorage: keys and values of a window of layers, addressed by (layer, cell).
//
// One K and one V tensor per layer, [n_embd_k or n_embd_v, cells of that layer], in one buffer of each device
// that computes layers, zeroed at creation. Layers may have different numbers of cells: one with a sliding
// window needs fewer. Which cell holds what is CellTable's business. Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "compute/backend.h"
#include "model/model_file.h"
#include "plan/plan.h"
#include "wire/kv_type.h"

struct ggml_tensor;

namespace hearth::compute {

// Of a layer.
struct KvCells {
  Backend* backend = nullptr;  // that computes it
  std::uint32_t n_cells = 0;
};

class KvStorage {
 public:
  // `cells`: of each layer, in order; types that check() takes. kOutOfMemory, with the bytes.
  [[nodiscard]] static Result<std::unique_ptr<KvStorage>> create(const model::HyperParams& params,
                                                                 plan::LayerRange layers, wire::KvTypes types,
                                                                 std::span<const KvCells> cells);
  ~KvStorage();

  // Whether keys and values of this model can be stored so: kInvalidArgument where quantized values have no
  // flash attention, kUnsupported where blocks do not divide a head.
  [[nodiscard]] static Result<> check(const model::HyperParams& params, wire::KvTypes types,
                                      bool flash_attention);
  // Bytes that create() will take for layers of `n_cells` each.
  [[nodiscard]] static std::uint64_t bytes(const model::HyperParams& params, std::uint32_t n_layers,
                                           wire::KvTypes types, std::uint32_t n_cells);

  // `layer` is counted from the model's first.
  [[nodiscard]] std::uint32_t n_cells(std::uint32_t layer) const;
  [[nodiscard]] ggml_tensor* k(std::uint32_t layer) const;
  [[nodiscard]] ggml_tensor* v(std::uint32_t layer) const;

  // Moves cells between devices: for each cell its K row, then its V row, as stored. kInvalidArgument for a
  // cell or size out of range.
  [[nodiscard]] Result<std::vector<std::uint8_t>> export_cells(std::uint32_t layer,
                                                               std::span<const std::uint32_t> cells) const;
  [[nodiscard]] Result<> import_cells(std::uint32_t layer, std::span<const std::uint32_t> cells,
                                      std::span<const std::uint8_t> bytes);

 private:
  struct Impl;
  explicit KvStorage(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::compute
