#include "compute/sliding_cells.h"

#include <map>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

namespace hearth::compute {
namespace {

std::vector<wire::BatchToken> tokens(std::uint32_t seq, std::int32_t first, std::int32_t n) {
  std::vector<wire::BatchToken> result;
  for (std::int32_t i = 0; i < n; ++i)
    result.push_back({.position = first + i, .sequences = wire::SequenceSet::of(seq)});
  return result;
}

std::vector<std::uint32_t> place(SlidingCells& cells, const std::vector<wire::BatchToken>& batch) {
  auto placed = cells.place(batch);
  EXPECT_TRUE(placed) << placed.error().message;
  return placed.value_or(std::vector<std::uint32_t>{});
}

using Cells = std::vector<std::uint32_t>;

TEST(SlidingCells, GoesRoundTheRing) {
  SlidingCells cells(8, 3);
  EXPECT_EQ(place(cells, tokens(0, 0, 4)), (Cells{0, 1, 2, 3}));
  EXPECT_EQ(place(cells, tokens(0, 4, 4)), (Cells{4, 5, 6, 7}));
  // The next token is 8: it and those after it see 6 and 7 at most.
  EXPECT_EQ(place(cells, tokens(0, 8, 4)), (Cells{0, 1, 2, 3}));
  EXPECT_EQ(cells.table().position(3), 11);
  EXPECT_EQ(cells.table().position(4), 4);
  EXPECT_EQ(place(cells, tokens(0, 12, 1)), (Cells{4}));
  // With 4 went all before it, of which there was nothing left.
  EXPECT_EQ(cells.table().position(5), 5);
  EXPECT_EQ(cells.table().n_used(), 8U);
}

TEST(SlidingCells, WhatIsLostLeavesNoGaps) {
  SlidingCells cells(8, 2);
  EXPECT_EQ(place(cells, tokens(0, 0, 2)), (Cells{0, 1}));
  EXPECT_EQ(place(cells, tokens(1, 0, 3)), (Cells{2, 3, 4}));
  EXPECT_EQ(place(cells, tokens(0, 2, 3)), (Cells{5, 6, 7}));
  // Of sequence 0 the positions 0 to 2 are past, in cells 0, 1 and 5: the first two are taken.
  EXPECT_EQ(place(cells, tokens(1, 3, 2)), (Cells{0, 1}));
  EXPECT_FALSE(cells.table().is_free(5));
  // 0 of sequence 1 is past, then 2 of sequence 0.
  EXPECT_EQ(place(cells, tokens(0, 5, 2)), (Cells{2, 3}));
  EXPECT_EQ(cells.table().last_position(1), 4);
  EXPECT_EQ(cells.table().last_position(0), 6);
}

TEST(SlidingCells, SharedCellsStayWhileAnySequenceSeesThem) {
  SlidingCells cells(6, 2);
  EXPECT_EQ(place(cells, tokens(0, 0, 3)), (Cells{0, 1, 2}));
  ASSERT_TRUE(cells.apply({.kind = wire::KvOpKind::kCopy, .seq = 0, .seq_to = 1}));
  EXPECT_EQ(place(cells, tokens(0, 3, 3)), (Cells{3, 4, 5}));
  // Sequence 1 goes on at 3 and sees 2; of 0 and 1 no one sees anything.
  EXPECT_EQ(place(cells, tokens(1, 3, 2)), (Cells{0, 1}));
  EXPECT_EQ(cells.table().position(2), 2);
}

TEST(SlidingCells, ABatchThatDoesNotFitIsAnErrorAndChangesNothing) {
  SlidingCells cells(4, 3);
  EXPECT_EQ(place(cells, tokens(0, 0, 3)), (Cells{0, 1, 2}));
  const CellTable before = cells.table();
  const auto placed = cells.place(tokens(0, 3, 3));
  ASSERT_FALSE(placed);
  EXPECT_EQ(placed.error().code, ErrorCode::kProtocol);
  EXPECT_EQ(cells.table(), before);
}

TEST(SlidingCells, FreedCellsAreFoundAgain) {
  SlidingCells cells(8, 4);
  EXPECT_EQ(place(cells, tokens(0, 0, 5)), (Cells{0, 1, 2, 3, 4}));
  ASSERT_TRUE(cells.apply({.kind = wire::KvOpKind::kRemove, .seq = 0, .p0 = 3}));
  EXPECT_EQ(place(cells, tokens(0, 3, 2)), (Cells{3, 4}));
  std::map<std::uint32_t, std::int32_t> moved;
  ASSERT_TRUE(cells.apply({.kind = wire::KvOpKind::kShift, .seq = 0, .p0 = 2, .delta = 7},
                          [&](std::uint32_t cell, std::int32_t delta) { moved[cell] = delta; }));
  EXPECT_EQ(moved, (std::map<std::uint32_t, std::int32_t>{{2, 7}, {3, 7}, {4, 7}}));
}

// n_swa cells a sequence and those of the largest batch suffice, and all that a token may see is there.
RC_GTEST_PROP(SlidingCells, KeepsWhatTokensSee, ()) {
  const auto n_swa = *rc::gen::inRange<std::uint32_t>(1, 20);
  const auto n_seq = *rc::gen::inRange<std::uint32_t>(1, 4);
  const auto n_ubatch = *rc::gen::inRange<std::uint32_t>(1, 24);
  SlidingCells cells(n_swa * n_seq + n_ubatch, n_swa);
  std::vector<std::int32_t> next(n_seq, 0);
  for (int step = 0; step < 60; ++step) {
    const auto seq = *rc::gen::inRange<std::uint32_t>(0, n_seq);
    const auto n = *rc::gen::inRange<std::uint32_t>(1, n_ubatch + 1);
    const auto placed = cells.place(tokens(seq, next[seq], static_cast<std::int32_t>(n)));
    RC_ASSERT(placed.has_value());
    next[seq] += static_cast<std::int32_t>(n);
    for (std::uint32_t s = 0; s < n_seq; ++s) {
      std::map<std::int32_t, int> count;
      for (std::uint32_t cell = 0; cell < cells.table().size(); ++cell)
        if (!cells.table().is_free(cell) && cells.table().sequences(cell).has(s))
          ++count[cells.table().position(cell)];
      // The batch's first token looks furthest back.
      const std::int32_t first = s == seq ? next[s] - static_cast<std::int32_t>(n) : next[s];
      for (std::int32_t p = std::max(0, first + 1 - static_cast<std::int32_t>(n_swa)); p < next[s]; ++p)
        RC_ASSERT(count[p] == 1);
    }
  }
}

}  // namespace
}  // namespace hearth::compute
