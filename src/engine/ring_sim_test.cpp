// The data side of a whole ring, simulated: batcher, member cores and cell tables of all windows, with
// messages in any order that keeps each link's, cancels that overtake, and operations at random. What must
// come out is what a naive serial model computes, which knows neither rounds nor batches in flight nor
// suppressed computation.
#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "compute/cell_table.h"
#include "engine/batcher.h"
#include "engine/member.h"
#include "engine/plan_rules.h"
#include "engine/test_plan.h"

namespace hearth::engine {
namespace {

using Value = std::uint64_t;  // stands for a row of floats

Value mix(Value a, Value b) {
  Value x = a * 0x9e3779b97f4a7c15u + b + 0x7f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

Value embedding(Token token) {
  return mix(7, static_cast<Value>(token));
}
Value key_value(Value hidden, std::size_t step) {
  return mix(hidden, 1000 + step);
}
// What a token reads from one cell: only the distance counts, as with rotated keys.
Value attention(Value cell, std::int32_t distance) {
  return mix(cell, static_cast<Value>(distance));
}

struct Cell {
  std::int32_t position = -1;
  std::set<std::uint32_t> sequences;
  std::vector<Value> content;  // per step
};
using Cells = std::map<std::uint32_t, Cell>;

void apply_naively(const wire::KvOp& op, Cells& cells) {
  for (auto it = cells.begin(); it != cells.end();) {
    Cell& cell = it->second;
    const bool hit = cell.sequences.contains(op.seq) && cell.position >= op.p0 && cell.position < op.p1;
    bool freed = false;
    switch (op.kind) {
      case wire::KvOpKind::kRemove:
        if (hit) cell.sequences.erase(op.seq);
        freed = cell.sequences.empty();
        break;
      case wire::KvOpKind::kCopy:
        if (hit) cell.sequences.insert(op.seq_to);
        break;
      case wire::KvOpKind::kKeep:
        freed = !cell.sequences.contains(op.seq);
        cell.sequences = {op.seq};
        break;
      case wire::KvOpKind::kShift:
        if (hit) cell.position += op.delta;
        freed = cell.position < 0;
        break;
    }
    it = freed ? cells.erase(it) : std::next(it);
  }
}

// One device, one batch after the other, everything computed.
class SerialModel {
 public:
  explicit SerialModel(std::size_t n_steps) : n_steps_(n_steps) {}

  // The values of the output rows.
  std::vector<Value> run(const OutgoingBatch& out) {
    for (const wire::KvOp& op : out.batch.operations) apply_naively(op, cells_);
    std::vector<Value> hidden;
    for (std::size_t i = 0; i < out.tokens.size(); ++i) {
      hidden.push_back(embedding(out.tokens[i]));
      const wire::BatchToken& token = out.batch.tokens[i];
      EXPECT_FALSE(cells_.contains(token.cell)) << "cell " << token.cell << " was not free";
      Cell cell{.position = token.position, .sequences = {}, .content = std::vector<Value>(n_steps_)};
      for (std::uint32_t seq = 0; seq < wire::kMaxSequences; ++seq)
        if (token.sequences.has(seq)) cell.sequences.insert(seq);
      cells_[token.cell] = cell;
    }
    for (std::size_t step = 0; step < n_steps_; ++step) {
      for (std::size_t i = 0; i < hidden.size(); ++i)
        cells_[out.batch.tokens[i].cell].content[step] = key_value(hidden[i], step);
      for (std::size_t i = 0; i < hidden.size(); ++i) {
        const Cell& own = cells_[out.batch.tokens[i].cell];
        Value sum = 0;
        for (const auto& [index, cell] : cells_) {
          const bool shared =
              std::ranges::any_of(own.sequences, [&](auto seq) { return cell.sequences.contains(seq); });
          if (shared && cell.position <= own.position)
            sum += attention(cell.content[step], own.position - cell.position);
        }
        hidden[i] = mix(hidden[i], sum);
      }
    }
    std::vector<Value> rows;
    for (std::size_t i = 0; i < hidden.size(); ++i)
      if (out.batch.tokens[i].output) rows.push_back(hidden[i]);
    return rows;
  }

  [[nodiscard]] const Cells& cells() const { return cells_; }

 private:
  std::size_t n_steps_;
  Cells cells_;
};

bool same_cells(const compute::CellTable& table, const Cells& cells) {
  for (std::uint32_t i = 0; i < table.size(); ++i) {
    const auto found = cells.find(i);
    if (table.is_free(i) != (found == cells.end())) return false;
    if (found == cells.end()) continue;
    if (table.position(i) != found->second.position) return false;
    wire::SequenceSet set;
    for (const std::uint32_t seq : found->second.sequences) set.add(seq);
    if (!(table.sequences(i) == set)) return false;
  }
  return true;
}

struct Frame {
  wire::FrameHead head;
  wire::Batch batch;
  std::vector<Value> hidden;
};

struct Window {
  explicit Window(std::uint32_t n_ctx) : table(n_ctx), content(n_ctx) {}
  compute::CellTable table;
  std::vector<Value> content;
  std::uint64_t last_batch = 0;
};

struct Counts {
  std::size_t batches = 0, operations = 0, suppressed = 0, cancelled = 0, wanted_rows = 0, hostile = 0,
              shifts = 0;
  std::size_t three_in_flight = 0;  // batches that were the third on its way, or a later one, in three rounds
};

class Ring {
 public:
  Ring(std::uint64_t seed, Counts& counts) : random_(seed), counts_(counts) {
    n_devices_ = pick(1, 4);
    const int rounds = pick(1, 3);
    three_rounds_ = rounds == 3;
    std::vector<std::uint16_t> steps;
    for (int round = 0; round < rounds; ++round)
      for (int device = 0; device < n_devices_; ++device)
        if (chance(85)) steps.push_back(static_cast<std::uint16_t>(device));
    if (steps.empty()) steps.push_back(static_cast<std::uint16_t>(n_devices_ - 1));
    plan_ = test_plan(5, n_devices_, steps);
    n_steps_ = steps.size();
    options_ = {.n_ctx = static_cast<std::uint32_t>(pick(6, 28)),
                .n_ubatch = static_cast<std::uint32_t>(pick(1, 5)),
                .n_seq_max = static_cast<std::uint32_t>(pick(1, 5)),
                .max_in_flight = static_cast<std::uint32_t>(pick(3, 8))};
    batcher_.emplace(options_);
    serial_.emplace(n_steps_);
    for (int device = 0; device < n_devices_; ++device)
      cores_.emplace_back(plan_, static_cast<std::uint16_t>(device));
    windows_.assign(n_steps_, Window(options_.n_ctx));
    waiting_.resize(static_cast<std::size_t>(n_devices_));
    cancels_.resize(static_cast<std::size_t>(n_devices_));
  }

  void run(int n_events) {
    if (chance(40)) inherit();
    for (int i = 0; i < n_events && !failed(); ++i) {
      const int what = pick(0, 99);
      if (what < 20)
        compose();
      else if (what < 45)
        user();
      else
        (void)network();
    }
    // Everything that is under way must arrive, whatever happened.
    for (std::uint32_t seq = 0; seq < options_.n_seq_max; ++seq)
      if (chance(50)) cancel(seq);
    while (!failed()) {
      batcher_->flush_operations();
      const bool composed = compose();
      if (!network() && !composed) break;
    }
    EXPECT_EQ(batcher_->in_flight(), 0u) << "the ring stands still";
    for (const Window& window : windows_) {
      EXPECT_EQ(window.last_batch, batcher_->last_batch());
      EXPECT_TRUE(window.table == batcher_->cells());
    }
    EXPECT_TRUE(same_cells(batcher_->cells(), serial_->cells()));
  }

 private:
  int pick(int low, int high) { return std::uniform_int_distribution(low, high)(random_); }
  bool chance(int percent) { return pick(0, 99) < percent; }
  static bool failed() { return ::testing::Test::HasFailure(); }

  bool compose() {
    const auto out = batcher_->next();
    if (!out) return false;
    ++counts_.batches;
    counts_.operations += out->batch.operations.size();
    if (three_rounds_ && batcher_->in_flight() >= 3) ++counts_.three_in_flight;
    expected_rows_.push_back(serial_->run(*out));
    snapshots_.push_back(serial_->cells());
    Frame frame{{5, 0, out->batch.id}, out->batch, {}};
    for (const Token token : out->tokens) frame.hidden.push_back(embedding(token));
    const auto entry = cores_[0].entry();
    links_[{0, entry.device}].push_back(std::move(frame));
    return true;
  }

  void user() {
    const auto seq = static_cast<std::uint32_t>(pick(0, static_cast<int>(options_.n_seq_max) - 1));
    const auto other = static_cast<std::uint32_t>(pick(0, static_cast<int>(options_.n_seq_max) - 1));
    const int p0 = pick(0, 6);
    const int p1 = chance(40) ? wire::KvOp::kToTheEnd : p0 + pick(1, 6);
    if (chance(5)) return inherit();
    // An operation may be refused; what matters is that the ring and the serial model see the same.
    switch (pick(0, 9)) {
      case 0:
      case 1:
      case 2: {
        std::vector<Token> prompt(static_cast<std::size_t>(pick(1, 12)));
        for (Token& token : prompt) token = pick(0, 50);
        (void)batcher_->start(prompt);
        break;
      }
      case 3:
      case 4: {
        std::vector<Token> more(static_cast<std::size_t>(pick(1, 3)));
        for (Token& token : more) token = pick(0, 50);
        (void)batcher_->push(seq, more, chance(30) ? Outputs::kAll : Outputs::kLast);
        break;
      }
      case 5:
        chance(50) ? cancel(seq) : batcher_->finish(seq);
        break;
      case 6:
        (void)batcher_->remove(seq, p0, p1);
        break;
      case 7: {
        if (!batcher_->is_open(other)) (void)batcher_->open();
        (void)batcher_->copy(seq, other, p0, p1);
        // What is left of a sequence may depend on batches of which no cell is left.
        if (chance(30)) (void)batcher_->remove(other, 0, p0 + 1);
        if (chance(30)) cancel(seq);
        break;
      }
      case 8:
        if (chance(10))
          (void)batcher_->keep(seq);
        else
          batcher_->flush_operations();
        break;
      case 9:
        if (batcher_->shift(seq, p0, p1, pick(-6, 6))) ++counts_.shifts;
        break;
    }
  }

  // A token is copied to a third sequence, and what it was computed from is cancelled while all is in flight.
  void inherit() {
    const auto first = batcher_->start(std::vector<Token>{1, 2});
    if (!first || !compose()) return;
    const auto second = batcher_->open();
    if (!second || !batcher_->copy(*first, *second) || !batcher_->push(*second, 3) || !compose()) return;
    const auto third = batcher_->open();
    if (!third || !batcher_->copy(*second, *third, 2)) return;
    cancel(*first);
    cancel(*second);
    if (batcher_->push(*third, 4)) (void)compose();
  }

  void cancel(std::uint32_t seq) {
    for (const BatchRange& range : batcher_->cancel(seq)) {
      counts_.cancelled += range.last - range.first + 1;
      for (auto& queue : cancels_) queue.push_back(range);
    }
  }

  // One event of the network or of a compute thread; false when there is none.
  bool network() {
    std::vector<std::pair<int, int>> data;
    for (const auto& [link, frames] : links_)
      if (!frames.empty()) data.push_back(link);
    std::vector<std::size_t> control, compute;
    for (std::size_t device = 0; device < cores_.size(); ++device) {
      if (!cancels_[device].empty()) control.push_back(device);
      if (!waiting_[device].empty()) compute.push_back(device);
    }
    const auto n = data.size() + control.size() + compute.size();
    if (n == 0) return false;
    auto choice = static_cast<std::size_t>(pick(0, static_cast<int>(n) - 1));
    if (choice < data.size()) {
      deliver(data[choice].first, data[choice].second);
    } else if ((choice -= data.size()) < control.size()) {
      const std::size_t device = control[choice];
      const BatchRange range = cancels_[device].front();
      cancels_[device].pop_front();
      cores_[device].cancel(range.first, range.last);
    } else {
      work(compute[choice - control.size()]);
    }
    return true;
  }

  void deliver(int from, int to) {
    auto& link = links_[{from, to}];
    Frame frame = std::move(link.front());
    link.pop_front();
    auto& core = cores_[static_cast<std::size_t>(to)];
    if (chance(10)) attack(core, frame, from);
    const auto verdict = core.on_frame(frame.head, static_cast<std::uint16_t>(from));
    ASSERT_TRUE(verdict) << verdict.error().message;
    ASSERT_TRUE(std::holds_alternative<MemberCore::Run>(*verdict));
    waiting_[static_cast<std::size_t>(to)].push_back(std::move(frame));
    if (chance(5)) {
      const auto again =
          core.on_frame(waiting_[static_cast<std::size_t>(to)].back().head, static_cast<std::uint16_t>(from));
      ASSERT_FALSE(again) << "a replayed frame was accepted";
      EXPECT_EQ(again.error().code, ErrorCode::kProtocol);
    }
  }

  // A member sends what it may not, just before the frame that is due.
  void attack(MemberCore& core, const Frame& due, int from) {
    wire::FrameHead head = due.head;
    auto sender = static_cast<std::uint16_t>(from);
    bool other_epoch = false;
    switch (pick(0, 4)) {
      case 0:
        head.batch += static_cast<std::uint64_t>(pick(1, 3));
        break;
      case 1:
        head.batch -= static_cast<std::uint64_t>(pick(1, 3));
        break;
      case 2:
        sender = static_cast<std::uint16_t>(sender + pick(1, 5));
        break;
      case 3:
        head.epoch += 1, other_epoch = true;
        break;
      case 4: {
        // A step that belongs to somebody else, or follows another device.
        head.step = static_cast<std::uint16_t>(pick(0, static_cast<int>(n_steps_) + 2));
        const auto owner = [&](std::size_t step) {
          return step < n_steps_ ? plan_.steps[step].device : std::uint16_t{0};
        };
        const bool legal = head.step <= n_steps_ && owner(head.step) == core.device() &&
                           (head.step == 0 ? 0 : owner(head.step - 1u)) == sender;
        if (legal) return;
        break;
      }
    }
    ++counts_.hostile;
    const auto verdict = core.on_frame(head, sender);
    if (other_epoch) {
      ASSERT_TRUE(verdict);
      EXPECT_TRUE(std::holds_alternative<MemberCore::Drop>(*verdict));
    } else {
      ASSERT_FALSE(verdict) << "batch " << head.batch << " step " << head.step << " from " << sender;
      EXPECT_EQ(verdict.error().code, ErrorCode::kProtocol);
    }
  }

  void work(std::size_t device) {
    Frame frame = std::move(waiting_[device].front());
    waiting_[device].pop_front();
    if (frame.head.step == n_steps_) return arrive(frame);
    const MemberCore& core = cores_[device];
    const std::size_t step = frame.head.step;
    Window& window = windows_[step];
    EXPECT_EQ(frame.batch.id, window.last_batch + 1);
    window.last_batch = frame.batch.id;
    for (const wire::KvOp& op : frame.batch.operations) ASSERT_TRUE(window.table.apply(op));
    const auto placed = window.table.place(frame.batch.tokens);
    ASSERT_TRUE(placed) << placed.error().message;
    ASSERT_TRUE(same_cells(window.table, snapshots_[frame.batch.id - 1]))
        << "batch " << frame.batch.id << " step " << step;

    if (frame.batch.operations_only || core.suppressed(frame.batch.id)) {
      ++counts_.suppressed;
      frame.batch.operations_only = true;
      frame.hidden.clear();
      for (const auto& token : frame.batch.tokens) window.content[token.cell] = random_();
    } else {
      compute(frame, step, window);
    }
    const auto to = core.destination(static_cast<std::uint16_t>(step));
    frame.head.step = to.step;
    links_[{static_cast<int>(device), to.device}].push_back(std::move(frame));
  }

  static void compute(Frame& frame, std::size_t step, Window& window) {
    const auto& tokens = frame.batch.tokens;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      window.content[tokens[i].cell] = key_value(frame.hidden[i], step);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      Value sum = 0;
      for (std::uint32_t cell = 0; cell < window.table.used_end(); ++cell) {
        if (window.table.is_free(cell) || window.table.position(cell) > tokens[i].position) continue;
        if (!window.table.sequences(cell).intersects(tokens[i].sequences)) continue;
        sum += attention(window.content[cell], tokens[i].position - window.table.position(cell));
      }
      frame.hidden[i] = mix(frame.hidden[i], sum);
    }
  }

  void arrive(const Frame& frame) {
    const auto rows = batcher_->done(frame.batch.id, frame.batch.operations_only);
    ASSERT_TRUE(rows) << rows.error().message;
    const auto& expected = expected_rows_[frame.batch.id - 1];
    ASSERT_EQ(rows->size(), expected.size());
    std::size_t at = 0;
    for (std::size_t i = 0; i < frame.batch.tokens.size(); ++i) {
      if (!frame.batch.tokens[i].output) continue;
      const OutputRow& row = (*rows)[at];
      EXPECT_EQ(row.position, frame.batch.tokens[i].position);
      EXPECT_TRUE(frame.batch.tokens[i].sequences.has(row.seq));
      if (row.wanted) {
        ++counts_.wanted_rows;
        ASSERT_FALSE(frame.batch.operations_only) << "a wanted row was not computed";
        EXPECT_EQ(frame.hidden[i], expected[at]) << "batch " << frame.batch.id << " row " << at;
        if (chance(60)) (void)batcher_->push(row.seq, static_cast<Token>(frame.hidden[i] % 50));
      }
      ++at;
    }
  }

  std::mt19937_64 random_;
  Counts& counts_;
  int n_devices_ = 1;
  std::size_t n_steps_ = 1;
  wire::Prepare plan_;
  BatcherOptions options_;
  std::optional<Batcher> batcher_;
  std::optional<SerialModel> serial_;
  std::vector<MemberCore> cores_;
  std::vector<Window> windows_;
  std::map<std::pair<int, int>, std::deque<Frame>> links_;
  std::vector<std::deque<BatchRange>> cancels_;
  bool three_rounds_ = false;
  std::vector<std::deque<Frame>> waiting_;         // per device: accepted, not yet computed
  std::vector<std::vector<Value>> expected_rows_;  // by batch id - 1
  std::vector<Cells> snapshots_;                   // the serial model's cells after each batch
};

TEST(RingSimulation, EveryWindowPassesThroughTheStatesOfASerialModel) {
  const std::uint64_t n_schedules = schedules(3000);
  Counts counts;
  for (std::uint64_t seed = 1; seed <= n_schedules; ++seed) {
    SCOPED_TRACE(std::format("seed {}", seed));
    Ring ring(seed, counts);
    ring.run(160);
    if (::testing::Test::HasFailure()) return;
  }
  std::printf(
      "%llu schedules: %zu batches, %zu operations (%zu shifts), %zu batches cancelled, %zu steps "
      "suppressed, "
      "%zu wanted rows equal, %zu hostile frames, %zu batches with two others in flight in three rounds\n",
      static_cast<unsigned long long>(n_schedules), counts.batches, counts.operations, counts.shifts,
      counts.cancelled, counts.suppressed, counts.wanted_rows, counts.hostile, counts.three_in_flight);
  // The schedules are worth something only when all of this happened often.
  EXPECT_GT(counts.operations, n_schedules);
  EXPECT_GT(counts.shifts, n_schedules / 10);
  EXPECT_GT(counts.cancelled, n_schedules / 3);
  EXPECT_GT(counts.suppressed, n_schedules);
  EXPECT_GT(counts.wanted_rows, n_schedules);
  EXPECT_GT(counts.hostile, n_schedules / 3);
  EXPECT_GT(counts.three_in_flight, n_schedules);
}

// A prompt of many batches through a ring in lockstep: in a tick every device with a frame computes one, and
// what it sends has arrived at the next. The busiest device has to compute `rounds` windows for each batch:
// that many ticks at least, and no more than the first batch's way to the last step on top.
TEST(LongPrompt, KeepsEveryDeviceBusy) {
  for (const int n_devices : {1, 2, 3, 4, 7})
    for (const int rounds : {1, 2, 3}) {
      SCOPED_TRACE(std::format("{} devices, {} rounds", n_devices, rounds));
      std::vector<std::uint16_t> steps;
      for (int round = 0; round < rounds; ++round)
        for (int device = 0; device < n_devices; ++device)
          steps.push_back(static_cast<std::uint16_t>(device));
      const wire::Prepare plan = test_plan(5, n_devices, steps);
      std::vector<MemberCore> cores;
      for (int device = 0; device < n_devices; ++device)
        cores.emplace_back(plan, static_cast<std::uint16_t>(device));

      constexpr std::uint32_t kBatches = 60, kBatch = 4;
      Batcher batcher({.n_ctx = kBatches * kBatch,
                       .n_ubatch = kBatch,
                       .n_seq_max = 1,
                       .max_in_flight = batches_to_keep_busy(steps.size())});
      ASSERT_TRUE(batcher.start(std::vector<Token>(kBatches * kBatch, 1)));
      std::vector<std::deque<wire::FrameHead>> waiting(static_cast<std::size_t>(n_devices));
      const auto deliver = [&](const wire::FrameHead& frame, std::uint16_t from, std::uint16_t to) {
        const auto verdict = cores[to].on_frame(frame, from);
        ASSERT_TRUE(verdict) << verdict.error().message;
        waiting[to].push_back(frame);
      };
      const auto compose = [&] {
        while (const auto out = batcher.next()) deliver({5, 0, out->batch.id}, 0, cores[0].entry().device);
      };
      compose();
      std::size_t ticks = 0, done = 0;
      for (; done < kBatches; ++ticks) {
        ASSERT_LT(ticks, kBatches * steps.size()) << "no faster than one batch after the other";
        std::vector<std::pair<wire::FrameHead, std::uint16_t>> sent;  // and by whom
        for (std::size_t device = 0; device < waiting.size(); ++device) {
          if (waiting[device].empty()) continue;
          sent.emplace_back(waiting[device].front(), static_cast<std::uint16_t>(device));
          waiting[device].pop_front();
        }
        for (auto& [frame, from] : sent) {
          const auto to = cores[from].destination(frame.step);
          frame.step = to.step;
          if (to.step == steps.size()) {
            ASSERT_TRUE(batcher.done(frame.batch, false));
            ++done;
            compose();
          } else {
            deliver(frame, from, to.device);
          }
        }
        if (HasFatalFailure()) return;
      }
      EXPECT_LE(ticks, kBatches * static_cast<std::size_t>(rounds) + steps.size() - 1);
    }
}

}  // namespace
}  // namespace hearth::engine
