// Player: the same requests, batch for batch, given to libllama (OraclePlayer) or to a ring of windows
// (RingPlayer), and a transcript of what was answered. Two transcripts of the same requests are then
// compared.
//
// The ring's cells are the lowest free ones, which are those that libllama takes too. Errors are thrown
// (std::runtime_error), so that the test that asked fails with their message.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "compute/cell_table.h"
#include "oracle_lib/oracle.h"
#include "support/equivalence.h"
#include "support/in_process_ring.h"

namespace hearth::testing {

struct Transcript {
  std::vector<std::int32_t> tokens;  // those chosen by greedy()
  LogitRows rows;                    // of every output, in order
};

// Which tokens of a prompt give logits.
enum class Outputs : std::uint8_t { kEnd, kEachChunk, kAll };

class Player {
 public:
  virtual ~Player() = default;

  // One batch; rows of its outputs, which also join the transcript.
  LogitRows decode(std::span<const oracle::BatchToken> tokens);
  // The prompt at the end of sequence `seq`, in batches of `chunk` tokens.
  void prompt(std::span<const std::int32_t> tokens, std::size_t chunk, Outputs outputs = Outputs::kEachChunk,
              std::int32_t seq = 0);
  // n tokens, each the best after the last row of `seq`: it starts from the transcript's last row, so a
  // prompt of that sequence or an earlier greedy() must stand before. All but the last are decoded.
  void greedy(std::size_t n, std::int32_t seq = 0);
  // Operations on the cells, before the next batch.
  void operate(const wire::KvOp& op);

  [[nodiscard]] const Transcript& transcript() const { return transcript_; }
  // The position of the next token of `seq`.
  [[nodiscard]] std::int32_t next_position(std::int32_t seq) const;

 protected:
  virtual LogitRows decode_batch(std::span<const oracle::BatchToken> tokens) = 0;
  virtual void apply(const wire::KvOp& op) = 0;

 private:
  Transcript transcript_;
  // What the sequences hold, kept apart from the cells of either side.
  struct Entry {
    std::int32_t position;
    std::set<std::int32_t> seqs;
  };
  std::vector<Entry> entries_;
};

class OraclePlayer final : public Player {
 public:
  // Starts from no cells. `oracle` must outlive the player.
  explicit OraclePlayer(oracle::Oracle& oracle) : oracle_(oracle) { oracle_.clear(); }

 protected:
  LogitRows decode_batch(std::span<const oracle::BatchToken> tokens) override;
  void apply(const wire::KvOp& op) override;

 private:
  oracle::Oracle& oracle_;
};

class RingPlayer final : public Player {
 public:
  // `ring` is new and outlives the player.
  explicit RingPlayer(InProcessRing& ring);

 protected:
  LogitRows decode_batch(std::span<const oracle::BatchToken> tokens) override;
  void apply(const wire::KvOp& op) override;

 private:
  InProcessRing& ring_;
  compute::CellTable cells_;  // the head's
  std::uint64_t batch_id_ = 0;
  std::vector<wire::KvOp> operations_;  // that travel with the next batch
};

// Options of libllama that compute the same as a ring with `ring` does. n_sequences > 1 share one buffer of
// cells.
[[nodiscard]] oracle::OracleOptions oracle_options(const RingOptions& ring, std::uint32_t n_sequences = 1);
[[nodiscard]] oracle::Oracle open_oracle(const std::filesystem::path& model, const RingOptions& ring,
                                         std::uint32_t n_sequences = 1);
[[nodiscard]] std::unique_ptr<InProcessRing> open_ring(const std::filesystem::path& model,
                                                       const RingOptions& options);

// n token ids below n_vocab: the start of a sentence and then anything, the same for the same seed.
[[nodiscard]] std::vector<std::int32_t> random_prompt(std::size_t n, std::uint32_t n_vocab,
                                                      std::uint32_t seed = 1);

// The same tokens and the same bits in every logit. The message says which row differs first and by how much.
[[nodiscard]] ::testing::AssertionResult exact(const Transcript& reference, const Transcript& transcript);

}  // namespace hearth::testing
