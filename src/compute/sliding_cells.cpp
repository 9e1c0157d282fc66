#include "compute/sliding_cells.h"

#include <algorithm>
#include <array>
#include <bit>

namespace hearth::compute {
namespace {

using Positions = std::array<std::int32_t, wire::kMaxSequences>;  // by sequence

template <class Function>
void for_each_sequence(const wire::SequenceSet& set, Function each) {
  for (std::size_t word = 0; word < set.words.size(); ++word)
    for (std::uint64_t left = set.words[word]; left != 0; left &= left - 1)
      each(static_cast<std::uint32_t>(word * 64 + static_cast<std::size_t>(std::countr_zero(left))));
}

// The highest position of each sequence among `cells`, -1 where it has none.
Positions last_positions(const CellTable& table, std::span<const std::uint32_t> cells) {
  Positions last;
  last.fill(-1);
  for (const std::uint32_t cell : cells)
    for_each_sequence(table.sequences(cell),
                      [&](std::uint32_t seq) { last[seq] = std::max(last[seq], table.position(cell)); });
  return last;
}

std::vector<std::uint32_t> used_cells(const CellTable& table) {
  std::vector<std::uint32_t> cells;
  for (std::uint32_t cell = 0; cell < table.used_end(); ++cell)
    if (!table.is_free(cell)) cells.push_back(cell);
  return cells;
}

}  // namespace

Result<> SlidingCells::apply(const wire::KvOp& op,
                             const std::function<void(std::uint32_t, std::int32_t)>& shifted) {
  const std::vector<std::uint32_t> used = used_cells(table_);
  HEARTH_TRY_VOID(table_.apply(op, shifted));
  // The search goes on at the first cell that became free; after a shift that freed none, from the beginning.
  const auto freed = std::ranges::find_if(used, [&](std::uint32_t cell) { return table_.is_free(cell); });
  if (freed != used.end())
    head_ = std::min(head_, *freed);
  else if (op.kind == wire::KvOpKind::kShift)
    head_ = 0;
  return {};
}

Result<std::vector<std::uint32_t>> SlidingCells::place(std::span<const wire::BatchToken> tokens) {
  const Positions last = last_positions(table_, used_cells(table_));
  // No token that comes next sees it, in none of its sequences.
  const auto is_unseen = [&](std::uint32_t cell) {
    bool unseen = true;
    for_each_sequence(table_.sequences(cell), [&](std::uint32_t seq) {
      unseen = unseen && std::int64_t{last[seq]} + 1 - table_.position(cell) >= std::int64_t{n_swa_};
    });
    return unseen;
  };

  std::uint32_t at = head_ > table_.n_used() + 2 * tokens.size() ? 0 : head_;
  std::vector<std::uint32_t> cells, overwritten;
  for (std::uint32_t tested = 0; cells.size() < tokens.size(); ++tested) {
    if (tested == table_.size())
      return fail(ErrorCode::kProtocol,
                  "a batch of {} tokens does not fit the {} KV cells of the layers with a sliding window",
                  tokens.size(), table_.size());
    if (at == table_.size()) at = 0;
    if (table_.is_free(at) || is_unseen(at)) {
      cells.push_back(at);
      if (!table_.is_free(at)) overwritten.push_back(at);
    }
    ++at;
  }

  // What a sequence keeps has no gaps: all up to the last position that it loses goes.
  const Positions lost = last_positions(table_, overwritten);
  for (const std::uint32_t cell : overwritten) table_.clear(cell);
  std::vector<wire::BatchToken> placed(tokens.begin(), tokens.end());
  for (std::size_t i = 0; i < placed.size(); ++i) placed[i].cell = cells[i];
  HEARTH_TRY_VOID(table_.place(placed));
  for (std::uint32_t seq = 0; seq < lost.size(); ++seq)
    if (lost[seq] >= 0)
      HEARTH_TRY_VOID(table_.apply({.kind = wire::KvOpKind::kRemove,
                                    .seq = static_cast<std::uint16_t>(seq),
                                    .p0 = 0,
                                    .p1 = lost[seq] + 1}));
  if (!tokens.empty()) head_ = at;
  return cells;
}

}  // namespace hearth::compute
