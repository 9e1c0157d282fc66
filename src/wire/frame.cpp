// Batch frames: the data lane's only message.
#include <algorithm>
#include <bit>
#include <optional>

#include "wire/bytes.h"
#include "wire/codec.h"
#include "wire/header.h"
#include "wire/limits.h"

namespace hearth::wire {
namespace {

constexpr std::size_t kFixedBytes = 20;      // counts, n_embd, encoding, width of a sequence set
constexpr std::size_t kOperationBytes = 17;  // kind, seq, seq_to, p0, p1, delta
constexpr std::size_t kTokenBytes = 9;       // position, cell, flags; the sequence set follows
constexpr std::uint8_t kTokenOutput = 1;
constexpr std::size_t kMaxSetBytes = kMaxSequences / 8;

// Bytes needed for a set, without its zero bytes at the end.
std::size_t set_bytes(const SequenceSet& set) {
  for (std::size_t word = set.words.size(); word-- > 0;)
    if (set.words[word] != 0)
      return word * 8 + (static_cast<std::size_t>(std::bit_width(set.words[word])) + 7) / 8;
  return 0;
}

bool fits_kind(const KvOp& op) {
  constexpr KvOp kDefault{.kind = KvOpKind::kKeep};
  if (op.kind != KvOpKind::kCopy && op.seq_to != kDefault.seq_to) return false;
  if (op.kind != KvOpKind::kShift && op.delta != kDefault.delta) return false;
  return op.kind != KvOpKind::kKeep || (op.p0 == kDefault.p0 && op.p1 == kDefault.p1);
}

void put_operation(const KvOp& op, std::uint8_t* to) {
  HEARTH_CHECK(op.seq < kMaxSequences && op.seq_to < kMaxSequences,
               "a KV operation names a sequence beyond 255");
  HEARTH_CHECK(op.p0 >= 0 && op.p1 > op.p0, "a KV operation has an empty range of positions");
  HEARTH_CHECK(fits_kind(op), "a KV operation sets a field that its kind does not use");
  to[0] = static_cast<std::uint8_t>(op.kind);
  store_le<std::uint16_t>(op.seq, to + 1);
  store_le<std::uint16_t>(op.seq_to, to + 3);
  store_le(static_cast<std::uint32_t>(op.p0), to + 5);
  store_le(static_cast<std::uint32_t>(op.p1), to + 9);
  store_le(static_cast<std::uint32_t>(op.delta), to + 13);
}

Result<KvOp> get_operation(const std::uint8_t* from, std::size_t index, const FrameLimits& limits) {
  KvOp op{.kind = static_cast<KvOpKind>(from[0]),
          .seq = load_le<std::uint16_t>(from + 1),
          .seq_to = load_le<std::uint16_t>(from + 3),
          .p0 = static_cast<std::int32_t>(load_le<std::uint32_t>(from + 5)),
          .p1 = static_cast<std::int32_t>(load_le<std::uint32_t>(from + 9)),
          .delta = static_cast<std::int32_t>(load_le<std::uint32_t>(from + 13))};
  if (op.kind < KvOpKind::kRemove || op.kind > KvOpKind::kShift)
    return fail(ErrorCode::kProtocol, "batch frame: operation {} has the unknown kind {}", index, from[0]);
  if (op.seq >= kMaxSequences || op.seq_to >= kMaxSequences)
    return fail(ErrorCode::kProtocol, "batch frame: operation {} names sequence {}, the last one is {}",
                index, std::max(op.seq, op.seq_to), kMaxSequences - 1);
  if (op.p0 < 0 || op.p1 <= op.p0)
    return fail(ErrorCode::kProtocol, "batch frame: operation {} has the positions [{}, {})", index, op.p0,
                op.p1);
  const auto most = static_cast<std::int64_t>(limits.n_ctx);
  if (op.delta < -most || op.delta > most)
    return fail(ErrorCode::kProtocol, "batch frame: operation {} shifts by {}, the context has {} positions",
                index, op.delta, limits.n_ctx);
  if (!fits_kind(op))
    return fail(ErrorCode::kProtocol, "batch frame: operation {} sets a field that its kind does not use",
                index);
  return op;
}

void put_token(const BatchToken& token, std::size_t width, std::uint8_t* to) {
  store_le(static_cast<std::uint32_t>(token.position), to);
  store_le(token.cell, to + 4);
  to[8] = token.output ? kTokenOutput : 0;
  for (std::size_t i = 0; i < width; ++i)
    to[kTokenBytes + i] = static_cast<std::uint8_t>(token.sequences.words[i / 8] >> (8 * (i % 8)));
}

Result<BatchToken> get_token(const std::uint8_t* from, std::size_t width, std::size_t index,
                             const FrameLimits& limits) {
  BatchToken token{.position = static_cast<std::int32_t>(load_le<std::uint32_t>(from)),
                   .cell = load_le<std::uint32_t>(from + 4),
                   .sequences = {},
                   .output = from[8] == kTokenOutput};
  for (std::size_t i = 0; i < width; ++i)
    token.sequences.words[i / 8] |= static_cast<std::uint64_t>(from[kTokenBytes + i]) << (8 * (i % 8));
  if (token.position < 0 || static_cast<std::uint32_t>(token.position) >= limits.n_ctx)
    return fail(ErrorCode::kProtocol, "batch frame: token {} has position {}, the context has {}", index,
                token.position, limits.n_ctx);
  if (token.cell >= limits.n_ctx)
    return fail(ErrorCode::kProtocol, "batch frame: token {} has cell {}, there are {}", index, token.cell,
                limits.n_ctx);
  if (from[8] > kTokenOutput)
    return fail(ErrorCode::kProtocol, "batch frame: token {} has the unknown flags 0x{:02x}", index, from[8]);
  if (token.sequences.empty())
    return fail(ErrorCode::kProtocol, "batch frame: token {} belongs to no sequence", index);
  return token;
}

// The first cell that two tokens share. A batch's cells nearly always ascend; only when not are they sorted.
std::optional<std::uint32_t> shared_cell(const std::vector<BatchToken>& tokens) {
  const auto not_above = [](const BatchToken& a, const BatchToken& b) { return a.cell >= b.cell; };
  if (std::ranges::adjacent_find(tokens, not_above) == tokens.end()) return std::nullopt;
  std::vector<std::uint32_t> cells(tokens.size());
  std::ranges::transform(tokens, cells.begin(), &BatchToken::cell);
  std::ranges::sort(cells);
  const auto twice = std::ranges::adjacent_find(cells);
  if (twice == cells.end()) return std::nullopt;
  return *twice;
}

Result<Message> split_batch_frame(std::span<const std::uint8_t> bytes) {
  HEARTH_TRY(const Message message, split_message(bytes, kMaxFrameBytes));
  const Header& header = message.header;
  if (header.type != MessageType::kBatch)
    return fail(ErrorCode::kProtocol, "{} arrived on the data lane, which is for batch frames",
                name(header.type));
  if ((header.flags & kFlagAncestorMask) != 0)
    return fail(ErrorCode::kProtocol, "batch frame: an ancestor mask is announced, this version has none");
  if ((header.flags & ~kFlagOperationsOnly) != 0)
    return fail(ErrorCode::kProtocol, "batch frame: the flags 0x{:02x} hold bits this version does not know",
                header.flags);
  if (header.epoch == 0) return fail(ErrorCode::kProtocol, "batch frame: epoch is 0, epochs begin at 1");
  if (header.batch == 0) return fail(ErrorCode::kProtocol, "batch frame: batch is 0, batches begin at 1");
  return message;
}

// The counts of a frame, checked against the limits and against the frame's length.
struct Layout {
  std::uint32_t n_operations, n_tokens, n_rows;
  std::size_t set_width;
};

Result<Layout> read_layout(const Message& message, const FrameLimits& limits, BatchFrame& out) {
  Reader from(message.body, "batch frame");
  Layout layout{};
  const auto most_tokens = std::min(limits.n_ubatch, kMaxBatchTokens);
  layout.n_operations = from.number<std::uint32_t>("operation count", 0, kMaxBatchOperations);
  layout.n_tokens = from.number<std::uint32_t>("token count", 0, most_tokens);
  layout.n_rows = from.number<std::uint32_t>("row count", 0, most_tokens);
  out.n_embd = from.number<std::uint32_t>("n_embd");
  out.encoding =
      static_cast<HiddenEncoding>(from.number<std::uint8_t>("hidden encoding", 1, kHiddenEncodings));
  layout.set_width = from.number<std::uint8_t>("sequence set width", 0, kMaxSetBytes);
  (void)from.number<std::uint16_t>("reserved field", 0, 0);
  if (from.failed()) return pass(from.finish());
  if (out.n_embd != limits.n_embd)
    return fail(ErrorCode::kProtocol, "batch frame: rows have {} values, the model has {}", out.n_embd,
                limits.n_embd);
  const std::uint64_t expected = std::uint64_t{layout.n_operations} * kOperationBytes +
                                 std::uint64_t{layout.n_tokens} * (kTokenBytes + layout.set_width) +
                                 hidden_bytes(out.encoding, layout.n_rows, out.n_embd);
  if (from.left() != expected)
    return fail(ErrorCode::kProtocol,
                "batch frame: {} operations, {} tokens and {} rows need {} bytes, {} are there",
                layout.n_operations, layout.n_tokens, layout.n_rows, expected, from.left());
  return layout;
}

}  // namespace

void encode(const BatchFrame& frame, std::vector<std::uint8_t>& out) {
  const Batch& batch = frame.batch;
  HEARTH_CHECK(frame.epoch > 0 && batch.id > 0, "epochs and batch ids begin at 1");
  HEARTH_CHECK(batch.operations.size() <= kMaxBatchOperations, "too many KV operations in a batch");
  HEARTH_CHECK(batch.tokens.size() <= kMaxBatchTokens, "too many tokens in a batch");
  HEARTH_CHECK(frame.n_embd > 0 && frame.n_embd <= kMaxEmbd, "n_embd out of range");
  HEARTH_CHECK(frame.hidden.size() <= kMaxHiddenBytes, "too many bytes of hidden state in a frame");
  const std::size_t row_bytes = hidden_bytes(frame.encoding, 1, frame.n_embd);
  const std::size_t n_rows = frame.hidden.size() / row_bytes;
  HEARTH_CHECK(n_rows * row_bytes == frame.hidden.size(), "the hidden state is not a whole number of rows");
  HEARTH_CHECK(n_rows <= batch.tokens.size(), "more hidden rows than tokens");
  HEARTH_CHECK(!batch.operations_only || n_rows == 0, "an operations-only frame has hidden rows");
  std::size_t width = 0;
  for (const BatchToken& token : batch.tokens) width = std::max(width, set_bytes(token.sequences));

  out.clear();
  out.reserve(kHeaderBytes + kFixedBytes + batch.operations.size() * kOperationBytes +
              batch.tokens.size() * (kTokenBytes + width) + frame.hidden.size());
  begin_message({.version = kProtocolMajor,
                 .type = MessageType::kBatch,
                 .flags = batch.operations_only ? kFlagOperationsOnly : std::uint8_t{0},
                 .epoch = frame.epoch,
                 .batch = batch.id,
                 .step = frame.step},
                out);
  Writer to(out);
  to.count<std::uint32_t>(batch.operations.size());
  to.count<std::uint32_t>(batch.tokens.size());
  to.count<std::uint32_t>(n_rows);
  to.number<std::uint32_t>(frame.n_embd);
  to.number<std::uint8_t>(static_cast<std::uint8_t>(frame.encoding));
  to.count<std::uint8_t>(width);
  to.number<std::uint16_t>(0);
  for (const KvOp& op : batch.operations) put_operation(op, to.grow(kOperationBytes));
  for (const BatchToken& token : batch.tokens) {
    HEARTH_CHECK(token.position >= 0 && !token.sequences.empty(), "a token without position or sequence");
    put_token(token, width, to.grow(kTokenBytes + width));
  }
  to.raw(frame.hidden);
  finish_message(out);
}

Result<FrameHead> peek_batch_frame(std::span<const std::uint8_t> bytes) {
  HEARTH_TRY(const Message message, split_batch_frame(bytes));
  return FrameHead{.epoch = message.header.epoch, .step = message.header.step, .batch = message.header.batch};
}

Result<> decode_batch_frame(std::span<const std::uint8_t> bytes, const FrameLimits& limits, BatchFrame& out) {
  HEARTH_TRY(const Message message, split_batch_frame(bytes));
  out.epoch = message.header.epoch;
  out.step = message.header.step;
  out.batch.id = message.header.batch;
  out.batch.operations_only = (message.header.flags & kFlagOperationsOnly) != 0;
  if (out.step > limits.n_steps)
    return fail(ErrorCode::kProtocol, "batch frame: step is {}, the plan has {} and the output stage",
                out.step, limits.n_steps);
  HEARTH_TRY(const Layout layout, read_layout(message, limits, out));

  const std::uint8_t* at = message.body.data() + kFixedBytes;
  out.batch.operations.clear();
  out.batch.operations.reserve(layout.n_operations);
  for (std::size_t i = 0; i < layout.n_operations; ++i, at += kOperationBytes) {
    HEARTH_TRY(const KvOp op, get_operation(at, i, limits));
    out.batch.operations.push_back(op);
  }
  out.batch.tokens.clear();
  out.batch.tokens.reserve(layout.n_tokens);
  std::size_t needed_width = 0;
  for (std::size_t i = 0; i < layout.n_tokens; ++i, at += kTokenBytes + layout.set_width) {
    HEARTH_TRY(const BatchToken token, get_token(at, layout.set_width, i, limits));
    out.batch.tokens.push_back(token);
    needed_width = std::max(needed_width, set_bytes(token.sequences));
  }
  if (needed_width != layout.set_width)
    return fail(ErrorCode::kProtocol, "batch frame: sequence sets are {} bytes wide, {} are needed",
                layout.set_width, needed_width);
  if (const auto cell = shared_cell(out.batch.tokens))
    return fail(ErrorCode::kProtocol, "batch frame: cell {} is given to two tokens", *cell);

  const std::uint32_t expected_rows = out.batch.operations_only    ? 0
                                      : out.step == limits.n_steps ? out.batch.n_outputs()
                                                                   : layout.n_tokens;
  if (layout.n_rows != expected_rows)
    return fail(ErrorCode::kProtocol, "batch frame: {} hidden rows at step {} of {}, expected {}",
                layout.n_rows, out.step, limits.n_steps, expected_rows);
  out.hidden.assign(at, message.body.data() + message.body.size());
  return {};
}

Result<BatchFrame> decode_batch_frame(std::span<const std::uint8_t> bytes, const FrameLimits& limits) {
  BatchFrame frame;
  HEARTH_TRY_VOID(decode_batch_frame(bytes, limits, frame));
  return frame;
}

}  // namespace hearth::wire
