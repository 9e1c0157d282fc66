#include "oracle/player.h"

#include <algorithm>
#include <cstring>
#include <format>
#include <random>
#include <stdexcept>
#include <utility>

#include "support/value_of.h"

namespace hearth::testing {
namespace {

LogitRows split_rows(std::span<const float> values, std::size_t n_vocab) {
  LogitRows rows;
  for (; !values.empty(); values = values.subspan(n_vocab)) {
    const auto row = values.first(n_vocab);
    rows.emplace_back(row.begin(), row.end());
  }
  return rows;
}

}  // namespace

LogitRows Player::decode(std::span<const oracle::BatchToken> tokens) {
  for (const oracle::BatchToken& token : tokens)
    entries_.push_back({token.pos, {token.seqs.begin(), token.seqs.end()}});
  LogitRows rows = decode_batch(tokens);
  transcript_.rows.insert(transcript_.rows.end(), rows.begin(), rows.end());
  return rows;
}

void Player::prompt(std::span<const std::int32_t> tokens, std::size_t chunk, Outputs outputs,
                    std::int32_t seq) {
  std::int32_t position = next_position(seq);
  while (!tokens.empty()) {
    std::vector<oracle::BatchToken> batch;
    const std::size_t n = std::min(chunk, tokens.size());
    for (const std::int32_t token : tokens.first(n))
      batch.push_back({.token = token, .pos = position++, .seqs = {seq}, .output = outputs == Outputs::kAll});
    tokens = tokens.subspan(n);
    if (outputs == Outputs::kEachChunk || tokens.empty()) batch.back().output = true;
    decode(batch);
  }
}

void Player::greedy(std::size_t n, std::int32_t seq) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::int32_t token = argmax(transcript_.rows.back());
    transcript_.tokens.push_back(token);
    if (i + 1 == n) break;
    const oracle::BatchToken next = {
        .token = token, .pos = next_position(seq), .seqs = {seq}, .output = true};
    decode({&next, 1});
  }
}

void Player::operate(const wire::KvOp& op) {
  for (Entry& entry : entries_) {
    const bool chosen = entry.seqs.contains(op.seq) && entry.position >= op.p0 && entry.position < op.p1;
    switch (op.kind) {
      case wire::KvOpKind::kRemove:
        if (chosen) entry.seqs.erase(op.seq);
        break;
      case wire::KvOpKind::kCopy:
        if (chosen) entry.seqs.insert(op.seq_to);
        break;
      case wire::KvOpKind::kKeep:
        entry.seqs = entry.seqs.contains(op.seq) ? std::set<std::int32_t>{op.seq} : std::set<std::int32_t>{};
        break;
      case wire::KvOpKind::kShift:
        if (chosen) entry.position += op.delta;
        break;
    }
  }
  std::erase_if(entries_, [](const Entry& entry) { return entry.seqs.empty() || entry.position < 0; });
  apply(op);
}

std::int32_t Player::next_position(std::int32_t seq) const {
  std::int32_t next = 0;
  for (const Entry& entry : entries_)
    if (entry.seqs.contains(seq)) next = std::max(next, entry.position + 1);
  return next;
}

LogitRows OraclePlayer::decode_batch(std::span<const oracle::BatchToken> tokens) {
  return split_rows(value_of(oracle_.decode(tokens)).values, oracle_.n_vocab());
}

void OraclePlayer::apply(const wire::KvOp& op) {
  const std::int32_t p1 = op.p1 == wire::KvOp::kToTheEnd ? -1 : op.p1;
  switch (op.kind) {
    case wire::KvOpKind::kRemove:
      if (!oracle_.seq_rm(op.seq, op.p0, p1)) throw std::runtime_error("libllama cannot remove this range");
      break;
    case wire::KvOpKind::kCopy:
      oracle_.seq_cp(op.seq, op.seq_to, op.p0, p1);
      break;
    case wire::KvOpKind::kKeep:
      oracle_.seq_keep(op.seq);
      break;
    case wire::KvOpKind::kShift:
      oracle_.seq_add(op.seq, op.p0, p1, op.delta);
      break;
  }
}

RingPlayer::RingPlayer(InProcessRing& ring) : ring_(ring), cells_(ring.windows()[0]->cells().size()) {}

LogitRows RingPlayer::decode_batch(std::span<const oracle::BatchToken> tokens) {
  wire::Batch batch;
  batch.id = ++batch_id_;
  batch.operations = std::exchange(operations_, {});
  std::vector<std::int32_t> ids;
  std::uint32_t cell = 0;
  for (const oracle::BatchToken& token : tokens) {
    ids.push_back(token.token);
    while (cell < cells_.size() && !cells_.is_free(cell)) ++cell;
    wire::BatchToken placed = {
        .position = token.pos, .cell = cell++, .sequences = {}, .output = token.output};
    for (const std::int32_t seq : token.seqs) placed.sequences.add(static_cast<std::uint32_t>(seq));
    batch.tokens.push_back(placed);
  }
  value_of(cells_.place(batch.tokens));
  return split_rows(value_of(ring_.run(batch, ids)), ring_.model().params().n_vocab);
}

void RingPlayer::apply(const wire::KvOp& op) {
  value_of(cells_.apply(op));
  operations_.push_back(op);
}

oracle::OracleOptions oracle_options(const RingOptions& ring, std::uint32_t n_sequences) {
  return {.n_ctx = ring.n_ctx,
          .n_batch = ring.n_ubatch,
          .n_ubatch = ring.n_ubatch,
          .n_threads = static_cast<std::int32_t>(ring.n_threads),
          .repack = ring.repack,
          .flash = ring.flash_attention ? oracle::Flash::kOn : oracle::Flash::kOff,
          .kv_type = ring.kv_type,
          .n_seq_max = n_sequences,
          .kv_unified = true,
          .load = oracle::Load::kMmap,
          .observer = {},
          .gpu = ring.gpu,
          .gpu_layers = static_cast<std::int32_t>(ring.gpu_layers)};
}

oracle::Oracle open_oracle(const std::filesystem::path& model, const RingOptions& ring,
                           std::uint32_t n_sequences) {
  return value_of(oracle::Oracle::open(model, oracle_options(ring, n_sequences)));
}

std::unique_ptr<InProcessRing> open_ring(const std::filesystem::path& model, const RingOptions& options) {
  return value_of(InProcessRing::create(model.string(), options));
}

std::vector<std::int32_t> random_prompt(std::size_t n, std::uint32_t n_vocab, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> tokens = {1};
  while (tokens.size() < n) tokens.push_back(static_cast<std::int32_t>(random() % n_vocab));
  return tokens;
}

::testing::AssertionResult exact(const Transcript& reference, const Transcript& transcript) {
  const auto n = reference.rows.size();
  if (n == 0 || transcript.rows.size() != n)
    return ::testing::AssertionFailure()
           << transcript.rows.size() << " rows of logits, expected " << n << ", not 0";
  std::size_t n_different = 0, first = n;
  float largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto &a = reference.rows[i], &b = transcript.rows[i];
    if (a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0) continue;
    ++n_different;
    first = std::min(first, i);
    for (std::size_t j = 0; j < std::min(a.size(), b.size()); ++j)
      largest = std::max(largest, std::abs(a[j] - b[j]));
  }
  if (n_different > 0)
    return ::testing::AssertionFailure()
           << std::format("{} of {} rows differ in their bits, row {} first, by {:.3g} at most", n_different,
                          n, first, largest);
  if (transcript.tokens != reference.tokens) return ::testing::AssertionFailure() << "other tokens";
  return ::testing::AssertionSuccess();
}

}  // namespace hearth::testing
