#include "engine/batcher.h"

#include <numeric>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "wire/limits.h"

namespace hearth::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<Token> tokens(int n, Token first = 100) {
  std::vector<Token> ids(static_cast<std::size_t>(n));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

std::vector<std::uint32_t> cells_of(const OutgoingBatch& batch) {
  std::vector<std::uint32_t> cells;
  for (const auto& token : batch.batch.tokens) cells.push_back(token.cell);
  return cells;
}

std::vector<std::int32_t> positions_of(const OutgoingBatch& batch) {
  std::vector<std::int32_t> positions;
  for (const auto& token : batch.batch.tokens) positions.push_back(token.position);
  return positions;
}

wire::KvOp removal(std::uint16_t seq) {
  return {.kind = wire::KvOpKind::kRemove, .seq = seq};
}

TEST(Batcher, CutsALonePromptEveryUbatchAndWantsTheLastRowOnly) {
  Batcher batcher({.n_ctx = 32, .n_ubatch = 4, .n_seq_max = 1, .max_in_flight = 8});
  ASSERT_EQ(batcher.start(tokens(10)).value(), 0u);
  std::vector<OutgoingBatch> batches;
  while (auto batch = batcher.next()) batches.push_back(*batch);
  ASSERT_EQ(batches.size(), 3u);
  EXPECT_THAT(cells_of(batches[0]), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(cells_of(batches[1]), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(cells_of(batches[2]), ElementsAre(8, 9));
  EXPECT_THAT(positions_of(batches[2]), ElementsAre(8, 9));
  EXPECT_THAT(batches[1].tokens, ElementsAre(104, 105, 106, 107));
  for (std::uint64_t i = 0; i < 3; ++i) EXPECT_EQ(batches[i].batch.id, i + 1);
  EXPECT_THAT(batches[0].outputs, IsEmpty());
  EXPECT_THAT(batches[1].outputs, IsEmpty());
  EXPECT_THAT(batches[2].outputs, ElementsAre(OutputRow{.seq = 0, .position = 9}));
  EXPECT_FALSE(batches[2].batch.tokens[0].output);
  EXPECT_TRUE(batches[2].batch.tokens[1].output);
  EXPECT_EQ(batcher.in_flight(), 3u);
}

TEST(Batcher, DecodesInTheNextCell) {
  Batcher batcher({.n_ctx = 8, .n_ubatch = 4, .n_seq_max = 1});
  const auto seq = batcher.start(tokens(3)).value();
  ASSERT_TRUE(batcher.next());
  EXPECT_FALSE(batcher.next());  // nothing was sampled yet
  EXPECT_THAT(batcher.done(1, false).value(), ElementsAre(OutputRow{.seq = 0, .position = 2}));
  ASSERT_TRUE(batcher.push(seq, 7));
  const auto batch = batcher.next();
  ASSERT_TRUE(batch);
  EXPECT_THAT(cells_of(*batch), ElementsAre(3));
  EXPECT_THAT(positions_of(*batch), ElementsAre(3));
  EXPECT_TRUE(batch->batch.tokens[0].output);
}

TEST(Batcher, KeepsTheLimitOfBatchesInFlight) {
  Batcher batcher({.n_ctx = 32, .n_ubatch = 2, .n_seq_max = 1, .max_in_flight = 3});
  ASSERT_TRUE(batcher.start(tokens(10)));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(batcher.next());
  EXPECT_FALSE(batcher.next());
  ASSERT_TRUE(batcher.done(1, false));
  EXPECT_TRUE(batcher.next());
  EXPECT_FALSE(batcher.next());
}

TEST(Batcher, PutsDecodingSequencesFirstAndFillsUpWithPrompts) {
  Batcher batcher({.n_ctx = 64, .n_ubatch = 4, .n_seq_max = 4, .max_in_flight = 8});
  const auto first = batcher.start(tokens(1)).value();
  const auto second = batcher.start(tokens(1)).value();
  ASSERT_TRUE(batcher.next());
  ASSERT_TRUE(batcher.done(1, false));
  const auto prompt = batcher.start(tokens(6, 200)).value();
  ASSERT_TRUE(batcher.push(second, 11));
  ASSERT_TRUE(batcher.push(first, 12));
  const auto mixed = batcher.next();
  ASSERT_TRUE(mixed);
  EXPECT_THAT(mixed->tokens, ElementsAre(11, 12, 200, 201));  // the one that waits longer comes first
  EXPECT_THAT(mixed->outputs,
              ElementsAre(OutputRow{.seq = second, .position = 1}, OutputRow{.seq = first, .position = 1}));
  EXPECT_TRUE(mixed->batch.tokens[2].sequences.has(prompt));
  EXPECT_THAT(batcher.next()->tokens, ElementsAre(202, 203, 204, 205));
}

TEST(Batcher, ServesMoreSequencesThanABatchHoldsInTurn) {
  Batcher batcher({.n_ctx = 64, .n_ubatch = 2, .n_seq_max = 3, .max_in_flight = 2});
  for (Token id : {1, 2, 3}) ASSERT_TRUE(batcher.start(std::vector{id}));
  EXPECT_THAT(batcher.next()->tokens, ElementsAre(1, 2));
  for (const OutputRow& row : batcher.done(1, false).value()) ASSERT_TRUE(batcher.push(row.seq, 10));
  EXPECT_THAT(batcher.next()->tokens, ElementsAre(3, 10));
}

TEST(Batcher, RefusesWhatDoesNotFitAndLetsOthersGoOn) {
  Batcher batcher({.n_ctx = 8, .n_ubatch = 8, .n_seq_max = 2, .max_in_flight = 8});
  const auto long_prompt = batcher.start(tokens(9));
  ASSERT_FALSE(long_prompt);
  EXPECT_EQ(long_prompt.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(long_prompt.error().message, HasSubstr("holds 0 tokens, 9 more do not fit into 8"));
  EXPECT_EQ(batcher.n_open(), 0u);

  const auto first = batcher.start(tokens(5)).value();
  const auto second = batcher.start(tokens(4));
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().message, HasSubstr("of 8 cells only 3 are free"));
  const auto small = batcher.start(tokens(2)).value();
  ASSERT_TRUE(batcher.next());
  ASSERT_TRUE(batcher.done(1, false));
  ASSERT_TRUE(batcher.push(first, 1));
  const auto full = batcher.push(small, 1);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(batcher.n_waiting(small), 0u);
  EXPECT_THAT(cells_of(*batcher.next()), ElementsAre(7));
}

TEST(Batcher, FreesTheCellsOfAFinishedSequenceWithTheNextBatch) {
  Batcher batcher({.n_ctx = 8, .n_ubatch = 8, .n_seq_max = 2, .max_in_flight = 8});
  const auto first = batcher.start(tokens(3)).value();
  ASSERT_TRUE(batcher.next());
  const auto second = batcher.start(tokens(2)).value();
  ASSERT_TRUE(batcher.next());
  batcher.finish(first);
  EXPECT_EQ(batcher.n_free(), 6u);
  EXPECT_FALSE(batcher.next());  // an operation alone can wait
  ASSERT_TRUE(batcher.push(second, 5));
  const auto batch = batcher.next();
  ASSERT_TRUE(batch);
  EXPECT_THAT(batch->batch.operations, ElementsAre(removal(0)));
  EXPECT_THAT(cells_of(*batch), ElementsAre(0));  // the lowest free one
  EXPECT_EQ(batcher.start(tokens(1)).value(), first);
}

TEST(Batcher, SendsOperationsAloneWhenToldTo) {
  Batcher batcher({.n_ctx = 8, .n_ubatch = 8, .n_seq_max = 1});
  const auto seq = batcher.start(tokens(3)).value();
  ASSERT_TRUE(batcher.next());
  ASSERT_TRUE(batcher.done(1, false));
  batcher.finish(seq);
  batcher.flush_operations();
  const auto batch = batcher.next();
  ASSERT_TRUE(batch);
  EXPECT_TRUE(batch->batch.operations_only);
  EXPECT_THAT(batch->batch.operations, ElementsAre(removal(0)));
  EXPECT_THAT(batch->batch.tokens, IsEmpty());
  EXPECT_FALSE(batcher.next());
  EXPECT_TRUE(batcher.done(2, true));
}

TEST(Batcher, SplitsMoreOperationsThanAFrameHolds) {
  Batcher batcher({.n_ctx = 64, .n_ubatch = 8, .n_seq_max = 1, .max_in_flight = 8});
  const auto seq = batcher.start(tokens(3)).value();
  ASSERT_TRUE(batcher.next());
  for (std::uint32_t i = 0; i < wire::kMaxBatchOperations + 1; ++i) ASSERT_TRUE(batcher.remove(seq, 50));
  ASSERT_TRUE(batcher.push(seq, 9));
  const auto first = batcher.next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->batch.operations.size(), wire::kMaxBatchOperations);
  EXPECT_THAT(first->tokens, IsEmpty());
  const auto second = batcher.next();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->batch.operations.size(), 1u);
  EXPECT_THAT(second->tokens, ElementsAre(9));
}

TEST(Batcher, TakesBatchesBackInOrderOnly) {
  Batcher batcher({.n_ctx = 32, .n_ubatch = 2, .n_seq_max = 1});
  EXPECT_EQ(batcher.done(1, false).error().code, ErrorCode::kProtocol);
  ASSERT_TRUE(batcher.start(tokens(6)));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(batcher.next());
  const auto early = batcher.done(2, false);
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code, ErrorCode::kProtocol);
  EXPECT_THAT(early.error().message, HasSubstr("expected batch 1"));
  const auto stripped = batcher.done(1, true);
  ASSERT_FALSE(stripped);
  EXPECT_THAT(stripped.error().message, HasSubstr("nobody cancelled it"));
  EXPECT_TRUE(batcher.done(1, false));
  EXPECT_EQ(batcher.done(1, false).error().code, ErrorCode::kProtocol);
  EXPECT_EQ(batcher.done(4, false).error().code, ErrorCode::kProtocol);
  EXPECT_TRUE(batcher.done(2, false));
  EXPECT_TRUE(batcher.done(3, false));
}

TEST(Batcher, CancelNamesTheBatchesOfOneSequenceOnce) {
  Batcher batcher({.n_ctx = 32, .n_ubatch = 2, .n_seq_max = 2, .max_in_flight = 8});
  const auto seq = batcher.start(tokens(7)).value();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(batcher.next());
  EXPECT_THAT(batcher.cancel(seq), ElementsAre(BatchRange{1, 3}));
  EXPECT_THAT(batcher.cancel(seq), IsEmpty());
  EXPECT_EQ(batcher.n_free(), 32u);
  EXPECT_FALSE(batcher.next());  // the rest of the prompt is dropped
  // Both answers are possible: the cancel may come too late for the ring.
  EXPECT_THAT(batcher.done(1, true).value(), IsEmpty());
  EXPECT_THAT(batcher.done(2, false).value(), IsEmpty());
}

TEST(Batcher, CancelSparesBatchesThatOthersShare) {
  Batcher batcher({.n_ctx = 32, .n_ubatch = 2, .n_seq_max = 2, .max_in_flight = 8});
  const auto cancelled = batcher.start(tokens(3)).value();
  const auto other = batcher.start(tokens(3, 200)).value();
  ASSERT_TRUE(batcher.next());  // 1: two of the first
  ASSERT_TRUE(batcher.next());  // 2: one of each
  ASSERT_TRUE(batcher.next());  // 3: two of the second
  EXPECT_THAT(batcher.cancel(cancelled), ElementsAre(BatchRange{1, 1}));
  EXPECT_THAT(batcher.done(1, true).value(), IsEmpty());
  const auto rows = batcher.done(2, false).value();
  EXPECT_THAT(rows, ElementsAre(OutputRow{.seq = cancelled, .position = 2, .wanted = false}));
  EXPECT_THAT(batcher.done(3, false).value(), ElementsAre(OutputRow{.seq = other, .position = 2}));
}

TEST(Batcher, CancelSparesWhatACopyStillSees) {
  Batcher batcher({.n_ctx = 32, .n_ubatch = 4, .n_seq_max = 2, .max_in_flight = 8});
  const auto from = batcher.start(tokens(8)).value();
  ASSERT_TRUE(batcher.next());
  ASSERT_TRUE(batcher.next());
  const auto to = batcher.open().value();
  ASSERT_TRUE(batcher.copy(from, to, 0, 3));
  EXPECT_EQ(batcher.next_position(to), 3);
  EXPECT_THAT(batcher.cancel(from), IsEmpty());
  EXPECT_THAT(batcher.cancel(to), ElementsAre(BatchRange{1, 2}));
}

TEST(Batcher, CancelSparesWhatANeededBatchAttendedTo) {
  Batcher batcher({.n_ctx = 32, .n_ubatch = 4, .n_seq_max = 3, .max_in_flight = 8});
  const auto a = batcher.start(tokens(4)).value();
  ASSERT_TRUE(batcher.next());  // 1: of a
  const auto b = batcher.open().value();
  ASSERT_TRUE(batcher.copy(a, b));
  ASSERT_TRUE(batcher.push(b, 7));
  ASSERT_TRUE(batcher.next());  // 2: of b, computed from the cells of 1
  const auto c = batcher.open().value();
  ASSERT_TRUE(batcher.copy(b, c, 4));
  ASSERT_TRUE(batcher.remove(c, 0, 4));
  EXPECT_THAT(batcher.cancel(a), IsEmpty());
  EXPECT_THAT(batcher.cancel(b), IsEmpty());  // c holds the cell of 2, whose content depends on 1
  EXPECT_THAT(batcher.cancel(c), ElementsAre(BatchRange{1, 2}));
}

TEST(Batcher, AContextShiftKeepsEarlierBatchesAlive) {
  Batcher batcher({.n_ctx = 8, .n_ubatch = 4, .n_seq_max = 2, .max_in_flight = 8});
  const auto seq = batcher.start(tokens(7)).value();
  ASSERT_TRUE(batcher.next());
  ASSERT_TRUE(batcher.next());
  const auto other = batcher.start(tokens(1)).value();
  ASSERT_TRUE(batcher.next());
  EXPECT_FALSE(batcher.push(seq, 9));
  ASSERT_TRUE(batcher.remove(seq, 0, 4));
  ASSERT_TRUE(batcher.shift(seq, 4, 7, -4));
  EXPECT_EQ(batcher.next_position(seq), 3);
  ASSERT_TRUE(batcher.push(seq, 9));
  const auto batch = batcher.next();
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->batch.operations.size(), 2u);
  EXPECT_THAT(positions_of(*batch), ElementsAre(3));
  EXPECT_THAT(cells_of(*batch), ElementsAre(0));
  // Batch 1 holds no cell any more, but what came later was computed from it.
  EXPECT_THAT(batcher.cancel(other), ElementsAre(BatchRange{3, 3}));
}

TEST(Batcher, RowsOfAnEarlierUseOfASequenceAreUnwanted) {
  Batcher batcher({.n_ctx = 8, .n_ubatch = 4, .n_seq_max = 1, .max_in_flight = 8});
  const auto seq = batcher.start(tokens(1)).value();
  ASSERT_TRUE(batcher.next());
  batcher.finish(seq);
  ASSERT_EQ(batcher.start(tokens(1)).value(), seq);
  ASSERT_TRUE(batcher.next());
  EXPECT_FALSE(batcher.done(1, false).value().front().wanted);
  EXPECT_TRUE(batcher.done(2, false).value().front().wanted);
}

TEST(Batcher, WantsEveryRowWhenAsked) {
  Batcher batcher({.n_ctx = 8, .n_ubatch = 2, .n_seq_max = 1, .max_in_flight = 8});
  const auto seq = batcher.open().value();
  ASSERT_TRUE(batcher.push(seq, tokens(3), Outputs::kAll));
  EXPECT_EQ(batcher.next()->outputs.size(), 2u);
  EXPECT_EQ(batcher.next()->outputs.size(), 1u);
}

TEST(Batcher, RefusesOperationsThatCannotBe) {
  Batcher batcher({.n_ctx = 8, .n_ubatch = 8, .n_seq_max = 3, .max_in_flight = 8});
  const auto seq = batcher.start(tokens(4)).value();
  ASSERT_TRUE(batcher.next());
  const auto to = batcher.open().value();
  const auto code = [](const Result<>& result) { return result ? ErrorCode::kIo : result.error().code; };
  EXPECT_EQ(code(batcher.remove(2, 0)), ErrorCode::kInvalidArgument);   // not open
  EXPECT_EQ(code(batcher.remove(99, 0)), ErrorCode::kInvalidArgument);  // no such sequence
  EXPECT_EQ(code(batcher.remove(seq, 3, 3)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(batcher.remove(seq, -1, 3)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(batcher.copy(seq, seq)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(batcher.copy(seq, 2)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(batcher.keep(2)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(batcher.shift(seq, 0, 4, 5)), ErrorCode::kInvalidArgument);  // position 8 of 8
  EXPECT_EQ(code(batcher.shift(seq, 0, 4, 9)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(batcher.push(2, 1)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(batcher.push(seq, std::vector<Token>{})), ErrorCode::kInvalidArgument);
  EXPECT_TRUE(batcher.shift(seq, 0, 4, 4));
  EXPECT_EQ(batcher.next_position(seq), 8);
  // Five tokens wait for `to`: a copy up to position 8 would push them over the end.
  ASSERT_TRUE(batcher.push(to, 1));
  EXPECT_EQ(code(batcher.copy(seq, to)), ErrorCode::kInvalidArgument);
  EXPECT_TRUE(batcher.keep(to));
  EXPECT_EQ(batcher.next_position(seq), 0);
  EXPECT_EQ(batcher.n_free(), 7u);
}

TEST(Batcher, HasNoMoreSequencesThanAsked) {
  Batcher batcher({.n_ctx = 8, .n_ubatch = 8, .n_seq_max = 2});
  ASSERT_TRUE(batcher.open());
  ASSERT_TRUE(batcher.open());
  const auto third = batcher.open();
  ASSERT_FALSE(third);
  EXPECT_THAT(third.error().message, HasSubstr("all 2 sequences are in use"));
  batcher.finish(0);
  batcher.finish(0);  // closing twice is harmless
  EXPECT_EQ(batcher.open().value(), 0u);
}

// 12 positions of 12: 3 stay, of the 9 others the first 4 go.
TEST(Batcher, DiscardsHalfOfWhatIsNotKept) {
  Batcher batcher({.n_ctx = 12, .n_ubatch = 16});
  const std::vector<Token> prompt(12, 7);
  const auto seq = batcher.start(prompt);
  ASSERT_TRUE(seq);
  const auto first = batcher.next();
  ASSERT_TRUE(first);
  ASSERT_TRUE(batcher.done(1, false));
  EXPECT_FALSE(batcher.push(*seq, 8));
  const auto n = batcher.discard_half(*seq, 3);
  ASSERT_TRUE(n) << n.error().message;
  EXPECT_EQ(*n, 4U);
  EXPECT_EQ(batcher.next_position(*seq), 8);
  ASSERT_TRUE(batcher.push(*seq, 8));
  const auto batch = batcher.next();
  ASSERT_TRUE(batch);
  EXPECT_THAT(
      batch->batch.operations,
      ::testing::ElementsAre(wire::KvOp{.kind = wire::KvOpKind::kRemove, .seq = 0, .p0 = 3, .p1 = 7},
                             wire::KvOp{.kind = wire::KvOpKind::kShift, .seq = 0, .p0 = 7, .delta = -4}));
  EXPECT_EQ(batch->batch.tokens[0].position, 8);
  EXPECT_EQ(batch->batch.tokens[0].cell, 3U) << "the lowest that became free";

  for (const std::uint32_t keep : {8U, 9U, 400U}) {
    const auto refused = batcher.discard_half(*seq, keep);
    ASSERT_FALSE(refused) << keep;
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(refused.error().message, ::testing::HasSubstr("nothing to discard; keep fewer (--keep)"));
  }
  EXPECT_FALSE(batcher.discard_half(5, 0)) << "not open";
}

}  // namespace
}  // namespace hearth::engine
