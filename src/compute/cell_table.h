// CellTable: which KV cell holds which position of which sequences.
//
// Pure bookkeeping, no tensor data. The head has one for allocating; every window (plan step) has its own, to
// which it applies each batch's operations and placements once, in batch order: so all tables pass through
// the same states.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/result.h"
#include "wire/batch.h"

namespace hearth::compute {

class CellTable {
 public:
  explicit CellTable(std::uint32_t n_cells);
  [[nodiscard]] static std::uint64_t bytes(std::uint32_t n_cells) {
    return n_cells * (sizeof(std::int32_t) + sizeof(wire::SequenceSet));
  }

  // Applies one operation. For kShift, `shifted` (if given) receives every cell that stays with its change of
  // position. kProtocol when a sequence id is out of range.
  [[nodiscard]] Result<> apply(
      const wire::KvOp& op, const std::function<void(std::uint32_t cell, std::int32_t delta)>& shifted = {});

  // Places tokens: each cell must be in range and free (kProtocol otherwise; nothing is placed then).
  [[nodiscard]] Result<> place(std::span<const wire::BatchToken> tokens);
  // Frees a cell that is used.
  void clear(std::uint32_t cell);

  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(positions_.size()); }
  [[nodiscard]] bool is_free(std::uint32_t cell) const { return positions_[cell] < 0; }
  [[nodiscard]] std::int32_t position(std::uint32_t cell) const { return positions_[cell]; }  // -1: free
  [[nodiscard]] const wire::SequenceSet& sequences(std::uint32_t cell) const { return sequences_[cell]; }
  [[nodiscard]] std::uint32_t n_used() const { return n_used_; }
  // One past the highest used cell, 0 when empty.
  [[nodiscard]] std::uint32_t used_end() const { return used_end_; }
  // The lowest free cell at or after `from`, wrapping; size() when none is free.
  [[nodiscard]] std::uint32_t find_free(std::uint32_t from = 0) const;
  // The highest position of `seq`, -1 when it has no cell.
  [[nodiscard]] std::int32_t last_position(std::uint32_t seq) const;

  friend bool operator==(const CellTable&, const CellTable&) = default;

 private:
  [[nodiscard]] Result<> place_one(const wire::BatchToken& token);
  void release(std::uint32_t cell);
  void lower_used_end();

  std::vector<std::int32_t> positions_;
  std::vector<wire::SequenceSet> sequences_;
  std::uint32_t n_used_ = 0;
  std::uint32_t used_end_ = 0;
};

}  // namespace hearth::compute
