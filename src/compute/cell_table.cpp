#include "compute/cell_table.h"

#include <algorithm>
#include <limits>

namespace hearth::compute {

CellTable::CellTable(std::uint32_t n_cells) : positions_(n_cells, -1), sequences_(n_cells) {}

void CellTable::release(std::uint32_t cell) {
  positions_[cell] = -1;
  sequences_[cell] = {};
  --n_used_;
}

void CellTable::lower_used_end() {
  while (used_end_ > 0 && positions_[used_end_ - 1] < 0) --used_end_;
}

void CellTable::clear(std::uint32_t cell) {
  release(cell);
  lower_used_end();
}

Result<> CellTable::apply(const wire::KvOp& op,
                          const std::function<void(std::uint32_t, std::int32_t)>& shifted) {
  if (op.seq >= wire::kMaxSequences || op.seq_to >= wire::kMaxSequences)
    return fail(ErrorCode::kProtocol, "KV operation names sequence {}, there are 0..{}",
                std::max(op.seq, op.seq_to), wire::kMaxSequences - 1);
  for (std::uint32_t cell = 0; cell < used_end_; ++cell) {
    if (positions_[cell] < 0) continue;
    const bool in_range = positions_[cell] >= op.p0 && positions_[cell] < op.p1;
    const bool member = sequences_[cell].has(op.seq);
    switch (op.kind) {
      case wire::KvOpKind::kRemove:
        if (member && in_range) {
          sequences_[cell].remove(op.seq);
          if (sequences_[cell].empty()) release(cell);
        }
        break;
      case wire::KvOpKind::kCopy:
        if (member && in_range) sequences_[cell].add(op.seq_to);
        break;
      case wire::KvOpKind::kKeep:
        if (member)
          sequences_[cell] = wire::SequenceSet::of(op.seq);
        else
          release(cell);
        break;
      case wire::KvOpKind::kShift:
        if (member && in_range) {
          const std::int64_t moved = std::int64_t{positions_[cell]} + op.delta;
          if (moved < 0 || moved > std::numeric_limits<std::int32_t>::max()) {
            release(cell);
          } else {
            positions_[cell] = static_cast<std::int32_t>(moved);
            if (shifted) shifted(cell, op.delta);
          }
        }
        break;
    }
  }
  lower_used_end();
  return {};
}

Result<> CellTable::place_one(const wire::BatchToken& token) {
  if (token.cell >= size())
    return fail(ErrorCode::kProtocol, "token at position {} names KV cell {}, there are {}", token.position,
                token.cell, size());
  if (!is_free(token.cell))
    return fail(ErrorCode::kProtocol, "token at position {} names KV cell {}, which holds position {}",
                token.position, token.cell, positions_[token.cell]);
  if (token.position < 0 || token.sequences.empty())
    return fail(ErrorCode::kProtocol, "token for KV cell {} has position {} and {} sequence", token.cell,
                token.position, token.sequences.empty() ? "no" : "a");
  positions_[token.cell] = token.position;
  sequences_[token.cell] = token.sequences;
  used_end_ = std::max(used_end_, token.cell + 1);
  ++n_used_;
  return {};
}

Result<> CellTable::place(std::span<const wire::BatchToken> tokens) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    Result<> placed = place_one(tokens[i]);
    if (placed) continue;
    for (const wire::BatchToken& token : tokens.first(i)) release(token.cell);
    lower_used_end();
    return placed;
  }
  return {};
}

std::uint32_t CellTable::find_free(std::uint32_t from) const {
  for (std::uint32_t i = from; i < size(); ++i)
    if (is_free(i)) return i;
  for (std::uint32_t i = 0; i < std::min(from, size()); ++i)
    if (is_free(i)) return i;
  return size();
}

std::int32_t CellTable::last_position(std::uint32_t seq) const {
  std::int32_t last = -1;
  for (std::uint32_t cell = 0; cell < used_end_; ++cell)
    if (positions_[cell] >= 0 && sequences_[cell].has(seq)) last = std::max(last, positions_[cell]);
  return last;
}

}  // namespace hearth::compute
