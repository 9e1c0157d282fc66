// What a batch is: the tokens that pass the ring together, and the KV operations that precede them.
//
// The head alone allocates KV cells. Each window (plan step) applies a batch's operations exactly once, in
// batch order, to its own cell table, then places the batch's tokens, then computes.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace hearth::wire {

inline constexpr std::uint32_t kMaxSequences = 256;

// A set of sequence ids 0..255.
struct SequenceSet {
  std::array<std::uint64_t, 4> words{};

  [[nodiscard]] static SequenceSet of(std::uint32_t seq) {
    SequenceSet set;
    set.add(seq);
    return set;
  }
  void add(std::uint32_t seq) { words[seq / 64] |= std::uint64_t{1} << (seq % 64); }
  void remove(std::uint32_t seq) { words[seq / 64] &= ~(std::uint64_t{1} << (seq % 64)); }
  [[nodiscard]] bool has(std::uint32_t seq) const { return (words[seq / 64] >> (seq % 64)) & 1; }
  [[nodiscard]] bool empty() const { return (words[0] | words[1] | words[2] | words[3]) == 0; }
  [[nodiscard]] bool intersects(const SequenceSet& other) const {
    return ((words[0] & other.words[0]) | (words[1] & other.words[1]) | (words[2] & other.words[2]) |
            (words[3] & other.words[3])) != 0;
  }
  friend bool operator==(const SequenceSet&, const SequenceSet&) = default;
};

enum class KvOpKind : std::uint8_t {
  kRemove = 1,  // take `seq` out of every cell with p0 <= position < p1; a cell in no sequence is free
  kCopy = 2,    // add `seq_to` to every cell of `seq` with p0 <= position < p1
  kKeep = 3,    // take every sequence but `seq` out of every cell
  kShift = 4,   // add `delta` to the position of every cell of `seq` with p0 <= position < p1 (K is rotated
                // accordingly); a cell whose position would become negative is freed
};

struct KvOp {
  KvOpKind kind;
  std::uint16_t seq = 0;
  std::uint16_t seq_to = 0;     // kCopy
  std::int32_t p0 = 0;          // >= 0
  std::int32_t p1 = kToTheEnd;  // exclusive, > p0
  std::int32_t delta = 0;       // kShift
  static constexpr std::int32_t kToTheEnd = 0x7fffffff;
  friend bool operator==(const KvOp&, const KvOp&) = default;
};

struct BatchToken {
  std::int32_t position = 0;  // 0 <= position < n_ctx of the plan
  std::uint32_t cell = 0;     // 0 <= cell < n_ctx; distinct within a batch, free before it
  SequenceSet sequences{};    // not empty
  bool output = false;        // the head wants this row's hidden state after the last layer
  friend bool operator==(const BatchToken&, const BatchToken&) = default;
};

struct Batch {
  std::uint64_t id = 0;  // 1, 2, 3 … within an epoch, without gaps
  bool operations_only =
      false;  // a cancelled batch: operations and cell placement are applied, nothing is computed
  std::vector<KvOp> operations{};
  std::vector<BatchToken> tokens{};  // may be empty when there are only operations

  [[nodiscard]] std::uint32_t n_outputs() const {
    std::uint32_t n = 0;
    for (const BatchToken& token : tokens) n += token.output ? 1 : 0;
    return n;
  }
  friend bool operator==(const Batch&, const Batch&) = default;
};

}  // namespace hearth::wire
