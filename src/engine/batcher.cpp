#include "engine/batcher.h"

#include <algorithm>
#include <utility>

#include "wire/limits.h"

namespace hearth::engine {

namespace {

std::int64_t end_of(std::int32_t position) {
  return std::int64_t{position} + 1;
}

}  // namespace

Batcher::Batcher(const BatcherOptions& options)
    : options_(options), cells_(options.n_ctx), sequences_(options.n_seq_max) {
  HEARTH_CHECK(options.n_ctx > 0 && options.n_ctx <= wire::kMaxContext, "n_ctx out of range");
  HEARTH_CHECK(options.n_ubatch > 0 && options.n_ubatch <= wire::kMaxBatchTokens, "n_ubatch out of range");
  HEARTH_CHECK(options.n_seq_max > 0 && options.n_seq_max <= wire::kMaxSequences, "n_seq_max out of range");
  HEARTH_CHECK(options.max_in_flight > 0, "max_in_flight is 0");
}

bool Batcher::is_open(std::uint32_t seq) const {
  return seq < sequences_.size() && sequences_[seq].open;
}

std::uint32_t Batcher::n_open() const {
  return static_cast<std::uint32_t>(std::ranges::count_if(sequences_, &Sequence::open));
}

std::size_t Batcher::n_waiting(std::uint32_t seq) const {
  return is_open(seq) ? sequences_[seq].waiting.size() : 0;
}

std::int32_t Batcher::next_position(std::uint32_t seq) const {
  return is_open(seq) ? sequences_[seq].next_position : 0;
}

std::uint32_t Batcher::n_free() const {
  return options_.n_ctx - cells_.n_used() - static_cast<std::uint32_t>(n_waiting_);
}

Result<> Batcher::check_open(std::uint32_t seq, const char* what) const {
  if (!is_open(seq))
    return fail(ErrorCode::kInvalidArgument, "cannot {} sequence {}: it is not open", what, seq);
  return {};
}

Result<std::uint32_t> Batcher::open() {
  for (std::uint32_t seq = 0; seq < sequences_.size(); ++seq) {
    Sequence& sequence = sequences_[seq];
    if (sequence.open) continue;
    sequence = {.open = true, .life = ++last_life_};
    return seq;
  }
  return fail(ErrorCode::kInvalidArgument, "all {} sequences are in use", sequences_.size());
}

Result<std::uint32_t> Batcher::start(std::span<const Token> prompt) {
  HEARTH_TRY(const std::uint32_t seq, open());
  if (auto pushed = push(seq, prompt); !pushed) {
    finish(seq);
    return pass(std::move(pushed));
  }
  return seq;
}

Result<> Batcher::push(std::uint32_t seq, std::span<const Token> tokens, Outputs outputs) {
  HEARTH_TRY_VOID(check_open(seq, "add tokens to"));
  if (tokens.empty()) return fail(ErrorCode::kInvalidArgument, "no token to add to sequence {}", seq);
  Sequence& sequence = sequences_[seq];
  const std::size_t begin = static_cast<std::size_t>(sequence.next_position) + sequence.waiting.size();
  if (begin + tokens.size() > options_.n_ctx)
    return fail(
        ErrorCode::kInvalidArgument,
        "the context is full: sequence {} holds {} tokens, {} more do not fit into {}; use a larger context "
        "(-c) or a shorter text",
        seq, begin, tokens.size(), options_.n_ctx);
  if (tokens.size() > n_free())
    return fail(
        ErrorCode::kInvalidArgument,
        "the context is full: {} tokens for sequence {}, but of {} cells only {} are free, the others belong "
        "to {} running sequences; use a larger context (-c) or wait until one ends",
        tokens.size(), seq, options_.n_ctx, n_free(), n_open());
  if (sequence.waiting.empty()) sequence.ticket = ++last_ticket_;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    sequence.waiting.push_back({tokens[i], outputs == Outputs::kAll || i + 1 == tokens.size()});
  n_waiting_ += tokens.size();
  return {};
}

void Batcher::finish(std::uint32_t seq) {
  if (!is_open(seq)) return;
  Sequence& sequence = sequences_[seq];
  n_waiting_ -= sequence.waiting.size();
  sequence = {};
  // A sequence that never held a cell leaves nothing to remove.
  if (cells_.last_position(seq) >= 0)
    queue_operation({.kind = wire::KvOpKind::kRemove, .seq = static_cast<std::uint16_t>(seq)});
}

bool Batcher::is_alive(std::uint64_t life) const {
  return std::ranges::any_of(
      sequences_, [&](const Sequence& sequence) { return sequence.open && sequence.life == life; });
}

// Whoever sees a cell that was computed from a batch sees the batch as well: copies pass the view on,
// whatever their range. So a batch without living viewers is needed by nobody, not even indirectly.
std::vector<BatchRange> Batcher::cancel(std::uint32_t seq) {
  finish(seq);
  std::vector<BatchRange> ranges;
  for (Flying& flying : flying_) {
    if (flying.cancelled || std::ranges::any_of(flying.viewers, [&](auto life) { return is_alive(life); }))
      continue;
    flying.cancelled = true;
    if (!ranges.empty() && ranges.back().last + 1 == flying.id)
      ranges.back().last = flying.id;
    else
      ranges.push_back({flying.id, flying.id});
  }
  return ranges;
}

void Batcher::queue_operation(const wire::KvOp& op) {
  const auto applied = cells_.apply(op);
  HEARTH_CHECK(applied.has_value(), "the batcher made an operation that its own table refuses");
  operations_.push_back(op);
  lowest_free_ = 0;
}

void Batcher::follow_cells() {
  for (std::uint32_t seq = 0; seq < sequences_.size(); ++seq)
    if (sequences_[seq].open) sequences_[seq].next_position = cells_.last_position(seq) + 1;
}

Result<> Batcher::remove(std::uint32_t seq, std::int32_t p0, std::int32_t p1) {
  HEARTH_TRY_VOID(check_range(seq, p0, p1, "remove from"));
  queue_operation(
      {.kind = wire::KvOpKind::kRemove, .seq = static_cast<std::uint16_t>(seq), .p0 = p0, .p1 = p1});
  follow_cells();
  return {};
}

Result<> Batcher::copy(std::uint32_t from, std::uint32_t to, std::int32_t p0, std::int32_t p1) {
  HEARTH_TRY_VOID(check_range(from, p0, p1, "copy from"));
  HEARTH_TRY_VOID(check_open(to, "copy to"));
  if (from == to) return fail(ErrorCode::kInvalidArgument, "cannot copy sequence {} to itself", from);
  const std::int64_t copied_end = std::min<std::int64_t>(p1, end_of(cells_.last_position(from)));
  const std::int64_t end = std::max<std::int64_t>(copied_end, sequences_[to].next_position) +
                           static_cast<std::int64_t>(sequences_[to].waiting.size());
  if (end > options_.n_ctx)
    return fail(
        ErrorCode::kInvalidArgument,
        "cannot copy sequence {} to {}: with the {} tokens that wait it would reach position {}, the context "
        "ends at {}",
        from, to, sequences_[to].waiting.size(), end, options_.n_ctx);
  queue_operation({.kind = wire::KvOpKind::kCopy,
                   .seq = static_cast<std::uint16_t>(from),
                   .seq_to = static_cast<std::uint16_t>(to),
                   .p0 = p0,
                   .p1 = p1});
  for (Flying& flying : flying_)
    if (flying.viewers.contains(sequences_[from].life)) flying.viewers.insert(sequences_[to].life);
  follow_cells();
  return {};
}

Result<> Batcher::keep(std::uint32_t seq) {
  HEARTH_TRY_VOID(check_open(seq, "keep"));
  queue_operation({.kind = wire::KvOpKind::kKeep, .seq = static_cast<std::uint16_t>(seq)});
  follow_cells();
  return {};
}

Result<> Batcher::shift(std::uint32_t seq, std::int32_t p0, std::int32_t p1, std::int32_t delta) {
  HEARTH_TRY_VOID(check_range(seq, p0, p1, "shift"));
  const auto n_ctx = static_cast<std::int64_t>(options_.n_ctx);
  if (delta < -n_ctx || delta > n_ctx)
    return fail(ErrorCode::kInvalidArgument, "cannot shift sequence {} by {}: the context has {} positions",
                seq, delta, n_ctx);
  if (delta > 0) HEARTH_TRY_VOID(check_shift(seq, p0, p1, delta));
  if (delta == 0) return {};
  queue_operation({.kind = wire::KvOpKind::kShift,
                   .seq = static_cast<std::uint16_t>(seq),
                   .p0 = p0,
                   .p1 = p1,
                   .delta = delta});
  follow_cells();
  return {};
}

Result<std::uint32_t> Batcher::discard_half(std::uint32_t seq, std::uint32_t n_keep) {
  HEARTH_TRY_VOID(check_open(seq, "shift"));
  const auto n_past = static_cast<std::uint32_t>(sequences_[seq].next_position);
  const std::uint32_t n_discard = n_past > n_keep ? (n_past - n_keep) / 2 : 0;
  if (n_discard == 0)
    return fail(
        ErrorCode::kInvalidArgument,
        "the context is full: of the {} tokens of sequence {} {} are to stay, which leaves nothing to "
        "discard; keep fewer (--keep) or use a larger context (-c)",
        n_past, seq, n_keep);
  const auto first = static_cast<std::int32_t>(n_keep), end = static_cast<std::int32_t>(n_keep + n_discard);
  HEARTH_TRY_VOID(remove(seq, first, end));
  HEARTH_TRY_VOID(shift(seq, end, wire::KvOp::kToTheEnd, -static_cast<std::int32_t>(n_discard)));
  return n_discard;
}

Result<> Batcher::check_range(std::uint32_t seq, std::int32_t p0, std::int32_t p1, const char* what) const {
  HEARTH_TRY_VOID(check_open(seq, what));
  if (p0 < 0 || p1 <= p0)
    return fail(ErrorCode::kInvalidArgument, "cannot {} sequence {}: [{}, {}) is no range of positions", what,
                seq, p0, p1);
  return {};
}

// A shifted cell takes every sequence that shares it along.
Result<> Batcher::check_shift(std::uint32_t seq, std::int32_t p0, std::int32_t p1, std::int32_t delta) const {
  for (std::uint32_t cell = 0; cell < cells_.used_end(); ++cell) {
    if (cells_.is_free(cell) || !cells_.sequences(cell).has(seq)) continue;
    if (cells_.position(cell) < p0 || cells_.position(cell) >= p1) continue;
    const std::int64_t end = end_of(cells_.position(cell)) + delta;
    for (std::uint32_t other = 0; other < sequences_.size(); ++other) {
      if (!sequences_[other].open || !cells_.sequences(cell).has(other)) continue;
      const auto reach = end + static_cast<std::int64_t>(sequences_[other].waiting.size());
      if (reach > options_.n_ctx)
        return fail(
            ErrorCode::kInvalidArgument,
            "cannot shift sequence {} by {}: sequence {} would reach position {}, the context ends at {}",
            seq, delta, other, reach, options_.n_ctx);
    }
  }
  return {};
}

void Batcher::take(std::uint32_t seq, std::size_t n, OutgoingBatch& out, Flying& flying) {
  Sequence& sequence = sequences_[seq];
  flying.viewers.insert(sequence.life);
  for (std::size_t i = 0; i < n; ++i) {
    const Waiting waiting = sequence.waiting.front();
    sequence.waiting.pop_front();
    const std::uint32_t cell = cells_.find_free(lowest_free_);
    HEARTH_CHECK(cell < options_.n_ctx, "a token was accepted that has no cell");
    const wire::BatchToken token{.position = sequence.next_position++,
                                 .cell = cell,
                                 .sequences = wire::SequenceSet::of(seq),
                                 .output = waiting.output};
    const auto placed = cells_.place(std::span(&token, 1));
    HEARTH_CHECK(placed.has_value(), "the cell that is free cannot be filled");
    lowest_free_ = cell + 1;
    if (waiting.output) {
      out.outputs.push_back({.seq = seq, .position = token.position});
      flying.rows.push_back({out.outputs.back(), sequence.life});
    }
    out.batch.tokens.push_back(token);
    out.tokens.push_back(waiting.token);
  }
  n_waiting_ -= n;
}

std::optional<OutgoingBatch> Batcher::next() {
  if (flying_.size() >= options_.max_in_flight) return std::nullopt;
  const bool too_many = operations_.size() > wire::kMaxBatchOperations;
  if (n_waiting_ == 0 && !too_many && !flush_operations_) return std::nullopt;

  OutgoingBatch out;
  out.batch.id = ++last_batch_;
  Flying flying{.id = out.batch.id};
  if (too_many) {
    // Tokens must come after all operations, so this batch takes none.
    const auto end = operations_.begin() + wire::kMaxBatchOperations;
    out.batch.operations.assign(operations_.begin(), end);
    operations_.erase(operations_.begin(), end);
  } else {
    out.batch.operations = std::exchange(operations_, {});
    flush_operations_ = false;
    compose(out, flying);
  }
  if (out.batch.tokens.empty()) out.batch.operations_only = flying.cancelled = true;
  flying_.push_back(std::move(flying));
  return out;
}

// Those that decode come first: a token of theirs costs little and somebody reads along.
void Batcher::compose(OutgoingBatch& out, Flying& flying) {
  std::vector<std::uint32_t> order;
  for (std::uint32_t seq = 0; seq < sequences_.size(); ++seq)
    if (!sequences_[seq].waiting.empty()) order.push_back(seq);
  std::ranges::sort(order, {}, [&](std::uint32_t seq) {
    return std::pair(sequences_[seq].waiting.size() > 1, sequences_[seq].ticket);
  });
  for (const std::uint32_t seq : order) {
    const std::size_t room = options_.n_ubatch - out.tokens.size();
    if (room == 0) break;
    take(seq, std::min(room, sequences_[seq].waiting.size()), out, flying);
  }
}

Result<std::vector<OutputRow>> Batcher::done(std::uint64_t batch, bool operations_only) {
  if (flying_.empty())
    return fail(ErrorCode::kProtocol, "batch {} came back, but none is in flight; the last was {}", batch,
                last_batch_);
  const Flying& flying = flying_.front();
  if (batch != flying.id)
    return fail(ErrorCode::kProtocol, "batch {} came back, expected batch {}", batch, flying.id);
  if (operations_only && !flying.cancelled)
    return fail(ErrorCode::kProtocol, "batch {} came back without its {} rows, but nobody cancelled it",
                batch, flying.rows.size());
  std::vector<OutputRow> rows;
  rows.reserve(flying.rows.size());
  for (const FlyingRow& flown : flying.rows) {
    rows.push_back(flown.row);
    rows.back().wanted = is_alive(flown.life);
  }
  flying_.pop_front();
  return rows;
}

}  // namespace hearth::engine
