// SlidingCells: the KV cells of layers that attend to the last n_swa tokens of a sequence only.
//
// They are far fewer than those of other layers, so a batch's own cell numbers do not count here: each window
// places the tokens itself, in cells that are free or that no later token of their sequences can see. The
// rule is that of libllama's cache with a sliding window, so that sums run in the same order; it depends on
// the batches alone, so all windows of all devices place alike. What was overwritten is gone: a sequence
// cannot be cut back to before it. n_swa cells for each sequence and one for each token of the largest batch
// always suffice.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/result.h"
#include "compute/cell_table.h"
#include "wire/batch.h"

namespace hearth::compute {

class SlidingCells {
 public:
  SlidingCells(std::uint32_t n_cells, std::uint32_t n_swa) : table_(n_cells), n_swa_(n_swa) {}

  // As CellTable::apply.
  [[nodiscard]] Result<> apply(
      const wire::KvOp& op, const std::function<void(std::uint32_t cell, std::int32_t delta)>& shifted = {});

  // Chooses the tokens' cells, in order, and places them. kProtocol when they do not fit or are no tokens;
  // nothing has changed then,
  // where they are tokens that CellTable::place() takes.
  [[nodiscard]] Result<std::vector<std::uint32_t>> place(std::span<const wire::BatchToken> tokens);

  [[nodiscard]] const CellTable& table() const { return table_; }
  [[nodiscard]] std::uint32_t n_swa() const { return n_swa_; }

 private:
  CellTable table_;
  std::uint32_t n_swa_;
  std::uint32_t head_ = 0;  // the cell where the search begins
};

}  // namespace hearth::compute
