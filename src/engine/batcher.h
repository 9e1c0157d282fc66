// Batcher: the head's view of all sequences; cuts their tokens into batches and allocates KV cells.
//
// A sequence is a queue of tokens that still have to pass the ring. next() takes, in order of waiting: one
// token of every sequence that decodes, then prompt chunks until n_ubatch tokens are together. A lone prompt
// is cut every n_ubatch tokens, as libllama does; chunks do not wait for each other, so several are in
// flight. Cells are the lowest free ones: 0, 1, 2 … for a lone sequence. KV operations ride on the next
// batch, in the order of the calls, before its tokens. Room is checked when tokens are pushed, so next()
// cannot fail and one full sequence never harms another.
//
// The batcher's CellTable is in the state *after* the last composed batch and all pending operations.
// Thread contract: none; one thread owns it.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "base/result.h"
#include "compute/cell_table.h"
#include "wire/batch.h"

namespace hearth::engine {

struct BatcherOptions {
  std::uint32_t n_ctx = 0;          // KV cells, shared by all sequences; also the limit of a position
  std::uint32_t n_ubatch = 512;     // most tokens of a batch
  std::uint32_t n_seq_max = 1;      // 1..wire::kMaxSequences
  std::uint32_t max_in_flight = 4;  // batches composed and not done
};

using Token = std::int32_t;

// One row that the ring brings back, in the order of the batch's output tokens.
struct OutputRow {
  std::uint32_t seq = 0;
  std::int32_t position = 0;  // of the token whose logits these are
  bool wanted = true;         // false: its sequence was finished or cancelled meanwhile, ignore the row
  friend bool operator==(const OutputRow&, const OutputRow&) = default;
};

struct OutgoingBatch {
  wire::Batch batch;          // without tokens it is `operations_only`: nothing to embed or compute
  std::vector<Token> tokens;  // ids, one per batch.tokens
  std::vector<OutputRow> outputs;
};

struct BatchRange {
  std::uint64_t first = 0;  // inclusive
  std::uint64_t last = 0;   // inclusive
  friend bool operator==(const BatchRange&, const BatchRange&) = default;
};

enum class Outputs : std::uint8_t { kLast, kAll };

class Batcher {
 public:
  explicit Batcher(const BatcherOptions& options);  // HEARTH_CHECKs the ranges above

  // A sequence without cells. kInvalidArgument when all n_seq_max are in use.
  [[nodiscard]] Result<std::uint32_t> open();
  // open() and push(prompt). The prompt is not empty.
  [[nodiscard]] Result<std::uint32_t> start(std::span<const Token> prompt);
  // Appends tokens to a sequence: what was sampled, a next turn, a text to score. kInvalidArgument with the
  // numbers when they do not fit into the context; the sequence is as before then and may be finished,
  // shortened or shifted.
  [[nodiscard]] Result<> push(std::uint32_t seq, std::span<const Token> tokens,
                              Outputs outputs = Outputs::kLast);
  [[nodiscard]] Result<> push(std::uint32_t seq, Token token) { return push(seq, std::span(&token, 1)); }

  // Closes a sequence: what is queued is dropped, its cells are free for the next batch, rows in flight
  // become unwanted.
  void finish(std::uint32_t seq);
  // finish(), and the batches in flight that nobody needs any more: no open sequence sees their cells, or
  // ever saw them through a copy. Each range is one wire::Cancel; a batch is named at most once.
  [[nodiscard]] std::vector<BatchRange> cancel(std::uint32_t seq);

  // KV operations on open sequences (context shift, prefix reuse, tests); see wire::KvOpKind. Ranges are [p0,
  // p1). A sequence goes on behind its last position. kInvalidArgument when a position would reach n_ctx or a
  // range is empty.
  [[nodiscard]] Result<> remove(std::uint32_t seq, std::int32_t p0, std::int32_t p1 = wire::KvOp::kToTheEnd);
  [[nodiscard]] Result<> copy(std::uint32_t from, std::uint32_t to, std::int32_t p0 = 0,
                              std::int32_t p1 = wire::KvOp::kToTheEnd);
  [[nodiscard]] Result<> keep(std::uint32_t seq);
  [[nodiscard]] Result<> shift(std::uint32_t seq, std::int32_t p0, std::int32_t p1, std::int32_t delta);
  // Makes room in a sequence whose context is full, as llama.cpp's context shift does: half of what stands
  // behind its first n_keep positions is removed, the rest moves up. Returns how many were removed;
  // kInvalidArgument when less than two stand there.
  [[nodiscard]] Result<std::uint32_t> discard_half(std::uint32_t seq, std::uint32_t n_keep);
  // Lets the next batch leave with operations alone when no token waits; else operations wait for tokens.
  void flush_operations() { flush_operations_ = !operations_.empty(); }

  // The next batch; nothing when no token waits or max_in_flight batches are out. Ids are 1, 2, 3 …
  [[nodiscard]] std::optional<OutgoingBatch> next();
  // The batch came back; `operations_only` as its last frame says. Batches come back in order: another id, or
  // operations_only on a batch that was never cancelled, is kProtocol.
  [[nodiscard]] Result<std::vector<OutputRow>> done(std::uint64_t batch, bool operations_only);

  [[nodiscard]] std::uint32_t in_flight() const { return static_cast<std::uint32_t>(flying_.size()); }
  [[nodiscard]] std::uint64_t last_batch() const { return last_batch_; }  // 0: none yet
  [[nodiscard]] bool is_open(std::uint32_t seq) const;
  [[nodiscard]] std::uint32_t n_open() const;
  [[nodiscard]] std::size_t n_waiting(std::uint32_t seq) const;  // tokens pushed and not yet in a batch
  [[nodiscard]] std::int32_t next_position(
      std::uint32_t seq) const;                // of the next token that goes into a batch
  [[nodiscard]] std::uint32_t n_free() const;  // cells that no token holds or waits for
  [[nodiscard]] const compute::CellTable& cells() const { return cells_; }
  [[nodiscard]] const BatcherOptions& options() const { return options_; }

 private:
  struct Waiting {
    Token token;
    bool output;
  };
  struct Sequence {
    bool open = false;
    std::uint64_t life = 0;    // unique for each open(): rows of an earlier use of this id are unwanted
    std::uint64_t ticket = 0;  // order of waiting
    std::int32_t next_position = 0;
    std::deque<Waiting> waiting{};
  };
  struct FlyingRow {
    OutputRow row;
    std::uint64_t life;
  };
  struct Flying {
    std::uint64_t id = 0;
    bool cancelled = false;
    std::set<std::uint64_t> viewers{};  // lives whose tokens it holds, or that copied from those
    std::vector<FlyingRow> rows{};
  };

  [[nodiscard]] Result<> check_open(std::uint32_t seq, const char* what) const;
  [[nodiscard]] Result<> check_range(std::uint32_t seq, std::int32_t p0, std::int32_t p1,
                                     const char* what) const;
  [[nodiscard]] Result<> check_shift(std::uint32_t seq, std::int32_t p0, std::int32_t p1,
                                     std::int32_t delta) const;
  void queue_operation(const wire::KvOp& op);
  void follow_cells();  // after operations a sequence goes on behind its last cell
  void compose(OutgoingBatch& out, Flying& flying);
  void take(std::uint32_t seq, std::size_t n, OutgoingBatch& out, Flying& flying);
  [[nodiscard]] bool is_alive(std::uint64_t life) const;

  BatcherOptions options_;
  compute::CellTable cells_;
  std::uint32_t lowest_free_ = 0;  // no cell below it is free
  std::vector<Sequence> sequences_;
  std::vector<wire::KvOp> operations_;  // for the next batch
  std::deque<Flying> flying_;
  std::size_t n_waiting_ = 0;
  std::uint64_t last_batch_ = 0;
  std::uint64_t last_ticket_ = 0;
  std::uint64_t last_life_ = 0;
  bool flush_operations_ = false;
};

}  // namespace hearth::engine
