#include "compute/cell_table.h"

#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

namespace hearth::compute {
namespace {

using wire::BatchToken;
using wire::KvOp;
using wire::KvOpKind;
using wire::SequenceSet;

BatchToken token(std::int32_t position, std::uint32_t cell, std::uint32_t seq = 0) {
  return {.position = position, .cell = cell, .sequences = SequenceSet::of(seq), .output = false};
}
KvOp operation(KvOpKind kind, std::uint16_t seq, std::int32_t p0 = 0, std::int32_t p1 = KvOp::kToTheEnd) {
  return {.kind = kind, .seq = seq, .p0 = p0, .p1 = p1};
}

// Cells 0..4 hold positions 0..4 of sequence 0, cells 5..6 positions 0..1 of sequence 1.
CellTable filled() {
  CellTable table(8);
  std::vector<BatchToken> tokens;
  for (std::uint32_t i = 0; i < 5; ++i) tokens.push_back(token(static_cast<std::int32_t>(i), i));
  tokens.push_back(token(0, 5, 1));
  tokens.push_back(token(1, 6, 1));
  EXPECT_TRUE(table.place(tokens));
  return table;
}

TEST(CellTable, StartsEmpty) {
  const CellTable table(4);
  EXPECT_EQ(table.size(), 4U);
  EXPECT_EQ(table.n_used(), 0U);
  EXPECT_EQ(table.used_end(), 0U);
  EXPECT_EQ(table.find_free(), 0U);
  EXPECT_EQ(table.last_position(0), -1);
  EXPECT_EQ(table.position(3), -1);
  EXPECT_TRUE(table.is_free(3));
}

TEST(CellTable, PlacesTokens) {
  CellTable table = filled();
  EXPECT_EQ(table.n_used(), 7U);
  EXPECT_EQ(table.used_end(), 7U);
  EXPECT_EQ(table.position(4), 4);
  EXPECT_EQ(table.position(5), 0);
  EXPECT_TRUE(table.sequences(5).has(1));
  EXPECT_FALSE(table.sequences(5).has(0));
  EXPECT_EQ(table.last_position(0), 4);
  EXPECT_EQ(table.last_position(1), 1);
  EXPECT_EQ(table.last_position(255), -1);
  EXPECT_EQ(table.find_free(), 7U);
  EXPECT_TRUE(table.place(std::vector{token(5, 7)}));
  EXPECT_EQ(table.find_free(), table.size()) << "no cell is free";
}

TEST(CellTable, FindsTheNextFreeCellAndWraps) {
  CellTable table = filled();
  ASSERT_TRUE(table.apply(operation(KvOpKind::kRemove, 0, 1, 3)));  // cells 1 and 2
  EXPECT_EQ(table.find_free(), 1U);
  EXPECT_EQ(table.find_free(2), 2U);
  EXPECT_EQ(table.find_free(3), 7U);
  ASSERT_TRUE(table.place(std::vector{token(5, 7)}));
  EXPECT_EQ(table.find_free(3), 1U);
  EXPECT_EQ(table.find_free(8), 1U);
}

TEST(CellTable, RefusesTokensAndPlacesNoneThen) {
  const std::pair<BatchToken, const char*> cases[] = {
      {token(5, 8), "names KV cell 8, there are 8"},
      {token(5, 0xFFFFFFFF), "names KV cell 4294967295"},
      {token(5, 4), "names KV cell 4, which holds position 4"},
      {token(-1, 7), "position -1"},
      {BatchToken{.position = 5, .cell = 7, .sequences = {}, .output = false}, "no sequence"},
  };
  for (const auto& [bad, message] : cases) {
    CellTable table = filled();
    const CellTable before = table;
    ASSERT_TRUE(table.apply(operation(KvOpKind::kRemove, 1)));
    const CellTable without = table;
    const auto placed = table.place(std::vector{token(9, 5), bad});
    ASSERT_FALSE(placed) << message;
    EXPECT_EQ(placed.error().code, ErrorCode::kProtocol);
    EXPECT_NE(placed.error().message.find(message), std::string::npos) << placed.error().message;
    EXPECT_EQ(table, without);
    EXPECT_NE(table, before);
  }
}

// A peer decides the cells of a batch: two tokens may not share one.
TEST(CellTable, RefusesACellTwiceInABatch) {
  CellTable table(8);
  const auto placed = table.place(std::vector{token(0, 3), token(1, 3)});
  ASSERT_FALSE(placed);
  EXPECT_EQ(placed.error().code, ErrorCode::kProtocol);
  EXPECT_EQ(table, CellTable(8));
}

TEST(CellTable, RemoveTakesASequenceOut) {
  CellTable table = filled();
  ASSERT_TRUE(table.apply(operation(KvOpKind::kRemove, 0, 2, 4)));
  EXPECT_FALSE(table.is_free(1));
  EXPECT_TRUE(table.is_free(2));
  EXPECT_TRUE(table.is_free(3));
  EXPECT_FALSE(table.is_free(4));
  EXPECT_EQ(table.n_used(), 5U);
  EXPECT_EQ(table.used_end(), 7U);
  ASSERT_TRUE(table.apply(operation(KvOpKind::kRemove, 1)));
  EXPECT_EQ(table.used_end(), 5U);
  ASSERT_TRUE(table.apply(operation(KvOpKind::kRemove, 0)));
  EXPECT_EQ(table, CellTable(8));
}

TEST(CellTable, CopySharesCellsAndRemoveFreesThemLast) {
  CellTable table = filled();
  ASSERT_TRUE(table.apply({.kind = KvOpKind::kCopy, .seq = 0, .seq_to = 200, .p0 = 0, .p1 = 3}));
  EXPECT_EQ(table.n_used(), 7U);
  EXPECT_EQ(table.last_position(200), 2);
  ASSERT_TRUE(table.apply(operation(KvOpKind::kRemove, 0)));
  EXPECT_EQ(table.n_used(), 5U);
  EXPECT_FALSE(table.is_free(2));
  EXPECT_TRUE(table.is_free(3));
  EXPECT_FALSE(table.sequences(2).has(0));
  ASSERT_TRUE(table.apply(operation(KvOpKind::kRemove, 200)));
  EXPECT_EQ(table.n_used(), 2U);
}

TEST(CellTable, KeepFreesWhatIsNotOfTheSequence) {
  CellTable table = filled();
  ASSERT_TRUE(table.apply({.kind = KvOpKind::kCopy, .seq = 0, .seq_to = 2, .p0 = 1, .p1 = 3}));
  ASSERT_TRUE(table.apply(operation(KvOpKind::kKeep, 2)));
  EXPECT_EQ(table.n_used(), 2U);
  EXPECT_EQ(table.used_end(), 3U);
  EXPECT_EQ(table.sequences(1), SequenceSet::of(2));
  EXPECT_EQ(table.last_position(0), -1);
}

TEST(CellTable, ShiftMovesPositionsAndFreesNegativeOnes) {
  CellTable table = filled();
  std::vector<std::pair<std::uint32_t, std::int32_t>> shifted;
  KvOp op = operation(KvOpKind::kShift, 0, 1, 4);
  op.delta = -2;
  ASSERT_TRUE(
      table.apply(op, [&](std::uint32_t cell, std::int32_t delta) { shifted.emplace_back(cell, delta); }));
  EXPECT_TRUE(table.is_free(1)) << "1 - 2 < 0";
  EXPECT_EQ(table.position(0), 0);
  EXPECT_EQ(table.position(2), 0);
  EXPECT_EQ(table.position(3), 1);
  EXPECT_EQ(table.position(4), 4);
  EXPECT_EQ(table.position(5), 0) << "another sequence";
  EXPECT_EQ(shifted, (std::vector<std::pair<std::uint32_t, std::int32_t>>{{2, -2}, {3, -2}}));

  op = operation(KvOpKind::kShift, 1);
  op.delta = KvOp::kToTheEnd;
  ASSERT_TRUE(table.apply(op));
  EXPECT_EQ(table.position(5), 0x7fffffff);
  EXPECT_TRUE(table.is_free(6)) << "1 + 2^31 - 1 is no position";
}

TEST(CellTable, RefusesSequencesOutOfRange) {
  CellTable table = filled();
  const CellTable before = table;
  for (const KvOp& op :
       {operation(KvOpKind::kRemove, 256), KvOp{.kind = KvOpKind::kCopy, .seq = 0, .seq_to = 256},
        operation(KvOpKind::kKeep, 0xFFFF)}) {
    const auto applied = table.apply(op);
    ASSERT_FALSE(applied);
    EXPECT_EQ(applied.error().code, ErrorCode::kProtocol);
    EXPECT_EQ(table, before);
  }
}

// The same rules, written down for sets of (cell, sequence) pairs.
struct Model {
  struct Cell {
    std::int64_t position;
    std::set<std::uint32_t> sequences;
  };
  std::map<std::uint32_t, Cell> cells;

  void apply(const KvOp& op) {
    for (auto& [number, cell] : cells) {
      const bool chosen = cell.sequences.contains(op.seq) && cell.position >= op.p0 && cell.position < op.p1;
      if (op.kind == KvOpKind::kRemove && chosen) cell.sequences.erase(op.seq);
      if (op.kind == KvOpKind::kCopy && chosen) cell.sequences.insert(op.seq_to);
      if (op.kind == KvOpKind::kShift && chosen) cell.position += op.delta;
      if (op.kind == KvOpKind::kKeep)
        std::erase_if(cell.sequences, [&](std::uint32_t seq) { return seq != op.seq; });
    }
    std::erase_if(
        cells, [](const auto& entry) { return entry.second.sequences.empty() || entry.second.position < 0; });
  }
};

RC_GTEST_PROP(CellTable, AgreesWithTheModelOnAnyHistory, ()) {
  const auto n_cells = *rc::gen::inRange<std::uint32_t>(1, 40);
  CellTable table(n_cells);
  Model model;
  const int n_steps = *rc::gen::inRange(1, 40);
  for (int step = 0; step < n_steps; ++step) {
    if (*rc::gen::inRange(0, 3) > 0) {
      const auto cell = *rc::gen::inRange<std::uint32_t>(0, n_cells);
      const auto position = *rc::gen::inRange<std::int32_t>(0, 50);
      const auto seq = *rc::gen::element<std::uint32_t>(0, 1, 63, 64, 255);
      const bool placed = table.place(std::vector{token(position, cell, seq)}).has_value();
      RC_ASSERT(placed == !model.cells.contains(cell));
      if (placed) model.cells[cell] = {position, {seq}};
    } else {
      KvOp op;
      op.kind = *rc::gen::element(KvOpKind::kRemove, KvOpKind::kCopy, KvOpKind::kKeep, KvOpKind::kShift);
      op.seq = *rc::gen::element<std::uint16_t>(0, 1, 63, 64, 255);
      op.seq_to = *rc::gen::element<std::uint16_t>(0, 1, 63, 64, 255);
      op.p0 = *rc::gen::inRange(0, 50);
      op.p1 = *rc::gen::inRange(op.p0 + 1, 60);
      op.delta = *rc::gen::inRange(-20, 20);
      RC_ASSERT(table.apply(op).has_value());
      model.apply(op);
    }
    RC_ASSERT(table.n_used() == model.cells.size());
    RC_ASSERT(table.used_end() == (model.cells.empty() ? 0 : model.cells.rbegin()->first + 1));
    std::uint32_t lowest_free = 0;
    while (model.cells.contains(lowest_free)) ++lowest_free;
    RC_ASSERT(table.find_free() == lowest_free);
    for (std::uint32_t cell = 0; cell < n_cells; ++cell) {
      const auto found = model.cells.find(cell);
      RC_ASSERT(table.is_free(cell) == (found == model.cells.end()));
      if (found == model.cells.end()) continue;
      RC_ASSERT(table.position(cell) == found->second.position);
      for (const std::uint32_t seq : {0U, 1U, 63U, 64U, 255U})
        RC_ASSERT(table.sequences(cell).has(seq) == found->second.sequences.contains(seq));
    }
  }
}

}  // namespace
}  // namespace hearth::compute
